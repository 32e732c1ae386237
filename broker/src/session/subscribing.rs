//! SUBSCRIBE and UNSUBSCRIBE of one client.

use hpfeeds::wire::{
    Channel, FrameRef, Header,
    extension::{Code, Position},
};
use tracing::{info, warn};

use crate::{
    incidents::IncidentKind,
    metrics::category::Category,
    net::endpoint::Mode,
    routing::patterns::{allowed, prefixes},
    session::{
        mail::{Post, Unattached},
        reader::{SessionReader, owned},
    },
};

/// The place that the messages of a subscription come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// The ident's own mailbox, as far as it covers them; otherwise their last values, then live.
    Usual,
    Live,
    LastValue,
    /// A mailbox of this name, from its cursor or from a position on.
    Mailbox(&'a str, Position),
}

impl SessionReader {
    /// Processes the whole frame at the start of the buffer. An error is the ERROR text.
    pub(super) fn subscription(&mut self, header: Header) -> Result<(), String> {
        let body = header.body(&self.buffer.bytes).unwrap_or_default();
        match FrameRef::parse(header.opcode, body).map_err(|cause| cause.to_string())? {
            FrameRef::Subscribe { channel, .. } if self.mode == Mode::Publish && !self.replies() => {
                return Err(self.denial(channel));
            }
            FrameRef::Subscribe { channel, .. } => {
                self.subscribe(&owned(channel, header.opcode)?, Source::Usual)?;
            }
            FrameRef::Unsubscribe { channel, .. } => {
                if let Some(post) = &mut self.post {
                    post.unsubscribe(channel, self.subscriptions.outbox());
                }
                let changed = self.subscriptions.remove(channel, self.membership.key());
                self.budget.charge_subscriptions(changed.max(1));
                self.budget.charge(prefixes(channel).count());
                if self.replies() {
                    let channel = owned(channel, header.opcode)?;
                    self.answer(&channel, Code::DONE, String::new())?;
                }
            }
            _ => unreachable!("the opcode is SUBSCRIBE or UNSUBSCRIBE"),
        }
        self.buffer.skip(header.length);
        Ok(())
    }

    /// Subscribes to a channel or pattern. An error is the ERROR text for a client that gets no
    /// SUBACK.
    pub(super) fn subscribe(&mut self, channel: &Channel, source: Source<'_>) -> Result<(), String> {
        let (replies, limit) = (self.replies(), self.context.config.max_subscriptions);
        let full = self.subscriptions.len() >= limit && !self.subscriptions.contains(channel);
        let too_many = || format!("Too many subscriptions: the limit is {limit}");
        self.budget.charge_subscriptions(1);
        self.budget.charge(prefixes(channel).count());
        if self.mode == Mode::Publish {
            return self.deny(channel);
        }
        if full && replies {
            return self.answer(channel, Code::TOO_MANY, too_many());
        }
        let is_new = !self.subscriptions.contains(channel);
        if self.context.journal.is_some() && !full {
            if allowed(self.membership.key(), channel).is_empty() {
                return self.deny(channel);
            }
            // Before live messages come: what the mailbox covers comes from there alone.
            if let Err((code, text)) = self.attach(channel, source) {
                return self.answer(channel, code, text);
            }
        }
        let Some(changed) = self.subscriptions.add(channel.clone(), self.membership.key()) else {
            return self.deny(channel);
        };
        self.attendance.subscribes();
        // The one too many goes with the connection.
        if full {
            return Err(too_many());
        }
        self.budget.charge_subscriptions(changed.saturating_sub(1));
        if is_new && matches!(source, Source::Usual | Source::LastValue) {
            self.give_last_values(channel);
        }
        if replies { self.answer(channel, Code::DONE, String::new()) } else { Ok(()) }
    }

    /// Queues the newest messages of a subscription, but for what comes from a mailbox. After live
    /// ones may come: a newer one is kept before it is queued, so it stands behind these.
    fn give_last_values(&mut self, channel: &Channel) {
        let Some(store) = &self.context.journal else { return };
        let (outbox, key, budget) = (self.subscriptions.outbox(), self.membership.key(), &mut self.budget);
        let allows = |channel: &str| key.may_subscribe(channel) && !outbox.withholds(channel);
        store.last_values.each(channel, &allows, |frame| {
            budget.charge(1);
            outbox.push_message(frame.clone());
        });
    }

    /// Subscribes to a channel or pattern at a mailbox, as far as that covers it. An error is for
    /// SUBACK.
    #[cold]
    fn attach(&mut self, channel: &Channel, source: Source<'_>) -> Result<(), (Code, String)> {
        let Some(store) = &self.context.journal else { return Ok(()) };
        let (name, after) = match source {
            Source::Live | Source::LastValue => return Ok(()),
            Source::Usual => ("", None),
            // The cursor stands before the first that is wanted.
            Source::Mailbox(name, position) => {
                let before = Position::new(position.epoch, position.number.saturating_sub(1));
                (name, Some(before).filter(|_| position != Position::NONE))
            }
        };
        let (quota, ident, is_wanted) =
            (self.membership.quota(), self.membership.ident(), matches!(source, Source::Mailbox(..)));
        let Some(name) = store.mailboxes.find(name, |declared| quota.has_mailbox_of(declared, ident)) else {
            let text = || format!("{ident} has no mailbox {name:?} here");
            return if is_wanted { Err((Code::NO_MAILBOX, text())) } else { Ok(()) };
        };
        let acknowledges = self.extension.as_ref().is_some_and(|extension| extension.link().window.is_set());
        let key = self.membership.key();
        let post = self.post.get_or_insert_with(|| Box::new(Post::new(store.clone(), key)));
        let attached = post.subscribe(&name, channel, after, acknowledges, self.subscriptions.outbox());
        if post.is_empty() {
            self.post = None;
        }
        match attached {
            Err(Unattached::NoMailbox) if is_wanted => Err((Code::NO_MAILBOX, format!("there is no mailbox {name}"))),
            Err(Unattached::Uncovered) if is_wanted => {
                Err((Code::NO_MAILBOX, format!("the mailbox {name} does not cover {channel}")))
            }
            // The usual one need not be.
            Ok(()) | Err(Unattached::NoMailbox | Unattached::Uncovered) => Ok(()),
            Err(Unattached::TooManyTexts(cause)) if self.replies() => Err((Code::TOO_MANY, cause.to_string())),
            Err(Unattached::TooManyTexts(cause)) => {
                warn!(mailbox = %name, channel = channel.as_str(), "{cause}: it is live only");
                Ok(())
            }
        }
    }

    /// Denies a subscription.
    fn deny(&mut self, channel: &Channel) -> Result<(), String> {
        if self.replies() {
            let text = self.denial_text(channel);
            return self.answer(channel, Code::NOT_ALLOWED, text);
        }
        Err(self.denial(channel))
    }

    /// Counts and logs a subscription that is not allowed, and returns the ERROR text.
    pub(super) fn denial(&self, channel: &str) -> String {
        let (session, peer) = (self.outbox().session(), self.outbox().peer());
        session.error(Category::NoSubPermission);
        info!(ident = self.membership.ident().as_str(), %peer, channel, "denied: subscribe");
        let (text, ident) = (self.denial_text(channel), Some(self.membership.ident()));
        self.context.incidents.add(IncidentKind::DeniedSubscribe, ident, peer.ip(), Some(channel), &text);
        text
    }

    fn denial_text(&self, channel: &str) -> String {
        format!("Authkey not allowed to sub here. ident={}, chan={channel}", self.membership.ident())
    }
}
