//! SUBSCRIBE and UNSUBSCRIBE of one client.

use hpfeeds::wire::{Channel, FrameRef, Header, extension::Code};
use tracing::info;

use crate::{
    metrics::category::Category,
    net::endpoint::Mode,
    routing::patterns::prefixes,
    session::reader::{SessionReader, owned},
};

impl SessionReader {
    /// Processes the whole frame at the start of the buffer. An error is the ERROR text.
    pub(super) fn subscription(&mut self, header: Header) -> Result<(), String> {
        let body = header.body(&self.buffer.bytes).unwrap_or_default();
        match FrameRef::parse(header.opcode, body).map_err(|cause| cause.to_string())? {
            FrameRef::Subscribe { channel, .. } if self.mode == Mode::Publish && !self.replies() => {
                return Err(self.denial(channel));
            }
            FrameRef::Subscribe { channel, .. } => {
                self.subscribe(&owned(channel, header.opcode)?)?;
            }
            FrameRef::Unsubscribe { channel, .. } => {
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
    pub(super) fn subscribe(&mut self, channel: &Channel) -> Result<(), String> {
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
        let Some(changed) = self.subscriptions.add(channel.clone(), self.membership.key()) else {
            return self.deny(channel);
        };
        // The one too many goes with the connection.
        if full {
            return Err(too_many());
        }
        self.budget.charge_subscriptions(changed.saturating_sub(1));
        if replies { self.answer(channel, Code::DONE, String::new()) } else { Ok(()) }
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
        self.denial_text(channel)
    }

    fn denial_text(&self, channel: &str) -> String {
        format!("Authkey not allowed to sub here. ident={}, chan={channel}", self.membership.ident())
    }
}
