//! The mail of a connection: its subscriptions at mailboxes, and the messages that it gets from there.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use hpfeeds::wire::{
    Channel, Pattern,
    extension::{BrokerFrame, GapReason, Position},
};
use tracing::warn;

use super::{extension::Extension, mail_writer::Letter, writer::Writer};
use crate::{
    auth::key::Key,
    delivery::{outbox::Outbox, withheld::Withheld},
    journal::{
        attachment::{Attachment, Handle, Mail},
        mailbox::{core::TooManyTexts, losses::Reason, spec::MailboxName, window::End},
        store::Store,
    },
};

/// So much is asked for at once: messages that a mailbox has handed out wait for this connection.
const PORTION: u64 = 128 << 10;

/// The mailboxes of one connection.
pub(super) struct Post {
    store: Arc<Store>,
    /// The key as it is now.
    key: Arc<ArcSwap<Key>>,
    boxes: Vec<Attached>,
    /// The next one that is looked at first.
    turn: usize,
}

/// The connection at one mailbox.
struct Attached {
    handle: Arc<Handle>,
    /// The texts that the client has subscribed to, with the parts that come from here.
    texts: BTreeMap<Channel, Vec<Channel>>,
    /// Unless it waits.
    idle: Option<Box<Attachment>>,
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = (Box<Attachment>, Mail)> + Send>>;

/// A subscription that a mailbox does not take.
pub(super) enum Unattached {
    NoMailbox,
    /// The mailbox does not cover it.
    Uncovered,
    TooManyTexts(TooManyTexts),
}

impl Post {
    pub(super) fn new(store: Arc<Store>, key: &Arc<Key>) -> Self {
        Self { store, key: Arc::new(ArcSwap::new(key.clone())), boxes: Vec::new(), turn: 0 }
    }

    /// Subscribes to a text at a mailbox: what that covers comes from there alone. `after` sets the
    /// cursor.
    pub(super) fn subscribe(
        &mut self,
        name: &MailboxName,
        text: &Channel,
        after: Option<Position>,
        acknowledges: bool,
        outbox: &Arc<Outbox>,
    ) -> Result<(), Unattached> {
        let at = self.boxes.iter().position(|attached| attached.handle.name() == name);
        if at.is_none() {
            let attachment = self.store.attach(name, outbox.peer().ip(), acknowledges);
            let attachment = attachment.ok_or(Unattached::NoMailbox)?;
            let handle = attachment.handle().clone();
            let idle = Some(Box::new(attachment));
            self.boxes.push(Attached { handle, texts: BTreeMap::new(), idle, waiting: None });
        }
        let at = at.unwrap_or(self.boxes.len() - 1);
        let Some(attached) = self.boxes.get_mut(at) else { return Err(Unattached::NoMailbox) };
        let holds = |part: &Channel| attached.texts.values().flatten().any(|held| held == part);
        let parts = attached.handle.subscribe(text, holds).map_err(Unattached::TooManyTexts)?;
        if parts.is_empty() {
            return Err(Unattached::Uncovered);
        }
        if let Some(after) = after {
            attached.handle.seek(text, after);
        }
        attached.texts.insert(text.clone(), parts);
        self.withhold(outbox);
        Ok(())
    }

    /// Unsubscribes from a text at all mailboxes.
    pub(super) fn unsubscribe(&mut self, text: &str, outbox: &Outbox) {
        for attached in &mut self.boxes {
            let Some(mut parts) = attached.texts.remove(text) else { continue };
            parts.retain(|part| !attached.texts.values().flatten().any(|other| other == part));
            attached.handle.unsubscribe(&parts);
        }
        self.withhold(outbox);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }

    /// Tells publishers what comes from mailboxes alone.
    fn withhold(&self, outbox: &Outbox) {
        let withheld = self.boxes.iter().filter(|attached| !attached.texts.is_empty()).map(|attached| {
            let (claim, owner) = attached.handle.ownership();
            let parts = attached.texts.values().flatten();
            Withheld::new(owner, claim, parts.filter_map(|part| Pattern::new(part.as_str()).ok()))
        });
        outbox.withhold(withheld.collect());
    }

    /// The key has changed: what it does not allow any more is passed over from now on.
    pub(super) fn rekey(&self, key: &Arc<Key>) {
        self.key.store(key.clone());
    }

    /// The client has processed everything up to a position of one of its mailboxes.
    pub(super) fn consumed(&self, mailbox: &str, position: Position) {
        for attached in self.boxes.iter().filter(|attached| &*attached.handle.name().name == mailbox) {
            attached.handle.consumed(position);
        }
    }

    /// Gives the writer what mailboxes have, while it has room. The task is woken up when there is
    /// more. Returns whether there was any.
    pub(super) fn poll(
        &mut self,
        writer: &mut Writer<'_>,
        extension: Option<&Extension>,
        cx: &mut Context<'_>,
    ) -> bool {
        let mut has_any = false;
        for step in 0..self.boxes.len() {
            if !writer.wants_mail() {
                break;
            }
            let at = (self.turn + step) % self.boxes.len();
            let Some(attached) = self.boxes.get_mut(at).filter(|attached| !attached.texts.is_empty()) else { continue };
            if let Poll::Ready(mail) = attached.poll(&self.key, cx) {
                has_any = true;
                self.turn = at + 1;
                attached.hand_over(mail, writer, extension);
            }
        }
        has_any
    }

    /// The connection has ended.
    pub(super) fn end(self, end: End) {
        for attached in &self.boxes {
            attached.handle.end(end);
        }
    }
}

impl Attached {
    fn poll(&mut self, key: &Arc<ArcSwap<Key>>, cx: &mut Context<'_>) -> Poll<Mail> {
        if let Some(mut attachment) = self.idle.take() {
            let key = key.clone();
            self.waiting = Some(Box::pin(async move {
                let mail = attachment.next(PORTION, &|channel| key.load().may_subscribe(channel)).await;
                (attachment, mail)
            }));
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        let Poll::Ready((attachment, mail)) = waiting.as_mut().poll(cx) else { return Poll::Pending };
        (self.idle, self.waiting) = (Some(attachment), None);
        Poll::Ready(mail)
    }

    fn hand_over(&self, mail: Mail, writer: &mut Writer<'_>, extension: Option<&Extension>) {
        let name = self.handle.name();
        if let Some((messages, reason)) = mail.gap {
            warn!(mailbox = %name, messages, ?reason, "messages are lost for a mailbox");
            if let Some(extension) = extension {
                let (reason, text) = match reason {
                    Reason::Damage => (GapReason::DAMAGE, "a part of the journal cannot be read"),
                    Reason::Retention => (GapReason::RETENTION, "they were too old, or the journal was full"),
                    Reason::Expired => (GapReason::RETENTION, "the mailbox was forgotten, as nobody came"),
                    Reason::Skipped => (GapReason::RETENTION, "they were passed over"),
                };
                extension.link().control().push(&BrokerFrame::Gap { messages, reason, mailbox: &name.name, text });
            }
        }
        let says_origin = extension.is_some_and(Extension::says_origin);
        for delivery in mail.deliveries {
            writer.mail(Letter { handle: self.handle.clone(), delivery, says_origin });
        }
    }
}
