//! The attachment of a connection to a mailbox: it waits for messages, reads them from memory or
//! from the file, and tells the mailbox what has become of them.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hpfeeds::{
    log::Reader,
    wire::{Channel, extension::Position},
};
use tokio::{sync::watch, time::Instant};

use super::{
    batch::Delivery,
    handle::{Entry, Found, Journal},
    mailbox::{
        claims::{Claim, ClaimId},
        core::{Taken, Taking, TooManyTexts, Took},
        losses::Reason,
        spec::MailboxName,
        window::End,
    },
    post::{Mailboxes, Slot},
};

/// So much is looked at in one go: some of it may be wanted.
const PORTION: usize = 256 << 10;

/// A connection at a mailbox: the part of it that reads. Dropped, it has ended as by a reset.
#[derive(Debug)]
pub(crate) struct Attachment {
    handle: Arc<Handle>,
    readable: watch::Receiver<Position>,
    page: Option<Piece>,
    reader: Option<Reader>,
}

/// The part of an attachment that tells the mailbox something, also while the other one waits.
#[derive(Debug)]
pub(crate) struct Handle {
    mailboxes: Mailboxes,
    journal: Journal,
    slot: Arc<Slot>,
    claim: Claim,
    /// The moment from which times are counted, the same for all attachments.
    start: Instant,
    is_ended: AtomicBool,
}

/// A part of the journal that was read from its file, and is not used up.
#[derive(Debug)]
struct Piece {
    after: Position,
    end: Position,
    entries: Vec<Entry>,
}

/// Messages for the collector.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) deliveries: Vec<Delivery>,
    /// Lost messages that it was not told of yet, and why most of them are.
    pub(crate) gap: Option<(u64, Reason)>,
}

/// The answer of the mailbox at the moment.
enum Look {
    Mail(Mail),
    /// The page is used up, or the head is elsewhere: look again.
    Again,
    /// Nothing before one of these happens.
    Wait(Option<Duration>),
    /// Ask the file for what comes after the position.
    File(Position),
}

impl Attachment {
    /// Attaches to a mailbox, without any text. `None` if there is no such mailbox.
    pub(crate) fn new(
        mailboxes: &Mailboxes,
        journal: &Journal,
        name: &MailboxName,
        claim: Claim,
        start: Instant,
    ) -> Option<Self> {
        let (slot, is_ended) = (mailboxes.slot(name)?, AtomicBool::new(false));
        let (mailboxes, readable, journal) = (mailboxes.clone(), journal.readable(), journal.clone());
        let handle = Arc::new(Handle { mailboxes, journal, slot, claim, start, is_ended });
        Some(Self { handle, readable, page: None, reader: None })
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }
}

impl Deref for Attachment {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Handle {
    pub(crate) fn name(&self) -> &MailboxName {
        &self.slot.name
    }

    /// Whether its collector acknowledges what it has processed.
    pub(crate) fn acknowledges(&self) -> bool {
        self.claim.acknowledges
    }

    /// Its number, and that of the mailbox's owner, as it changes.
    pub(crate) fn ownership(&self) -> (ClaimId, Arc<AtomicU64>) {
        (self.claim.id, self.slot.state.lock().claims.shared_owner())
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Subscribes to a text. Returns the parts of it that come from the mailbox, none if it is not
    /// covered; the rest is live. With an error it is subscribed to no more parts than those that it
    /// `holds` for other texts.
    pub(crate) fn subscribe(
        &self,
        text: &Channel,
        holds: impl Fn(&Channel) -> bool,
    ) -> Result<Vec<Channel>, TooManyTexts> {
        let mut mailbox = self.slot.state.lock();
        let parts = mailbox.parts(text);
        let end = self.journal.last();
        let result = parts.iter().try_for_each(|part| mailbox.subscribe(&self.claim, part, end));
        if result.is_err() {
            parts.iter().filter(|part| !holds(part)).for_each(|part| mailbox.unsubscribe(self.claim.id, part));
        }
        mailbox.seen_ms = self.mailboxes.unix_ms();
        drop(mailbox);
        self.slot.changed.notify_waiters();
        // An ident that subscribes wants more, perhaps.
        self.mailboxes.changed();
        result.map(|()| parts)
    }

    /// Sets the cursor of a text that it has subscribed to: everything after a position comes.
    pub(crate) fn seek(&self, text: &Channel, after: Position) {
        let mut mailbox = self.slot.state.lock();
        for part in mailbox.parts(text) {
            mailbox.seek(self.claim.id, &part, after);
        }
        drop(mailbox);
        self.slot.changed.notify_waiters();
    }

    /// Unsubscribes from parts of texts.
    pub(crate) fn unsubscribe(&self, parts: &[Channel]) {
        let mut mailbox = self.slot.state.lock();
        for part in parts {
            mailbox.unsubscribe(self.claim.id, part);
        }
        drop(mailbox);
        self.slot.changed.notify_waiters();
    }

    /// Whether it owns the mailbox: otherwise it gets covered channels live.
    #[cfg(test)]
    pub(crate) fn is_owner(&self) -> bool {
        self.slot.state.lock().claims.owner() == Some(self.claim.id)
    }
}

impl Attachment {
    /// The next messages for its collector, about so many bytes, at least one message or a gap. It
    /// waits while it does not own the mailbox. Channels that `allows` says no to are passed over.
    /// Cancel safe: what was returned was handed out, nothing else.
    pub(crate) async fn next(&mut self, bytes: u64, allows: &(dyn Fn(&str) -> bool + Sync)) -> Mail {
        let handle = Arc::clone(&self.handle);
        loop {
            let mut changed = std::pin::pin!(handle.slot.changed.notified());
            changed.as_mut().enable();
            self.readable.mark_unchanged();
            match self.look(bytes, allows) {
                Look::Mail(mail) => return mail,
                // Others have their turn, whatever there is to pass over.
                Look::Again => tokio::task::yield_now().await,
                Look::File(after) => match handle.journal.page(after, self.reader.take()).await {
                    Ok(page) => {
                        self.reader = Some(page.reader);
                        if page.entries.is_empty() && page.end <= after {
                            self.wait(changed, None).await;
                        } else {
                            self.page = Some(Piece { after, end: page.end, entries: page.entries });
                        }
                    }
                    // A disk that cannot be read: some of it may be, later.
                    Err(_) => self.wait(changed, Some(self.now() + Duration::from_secs(5))).await,
                },
                Look::Wait(until) => self.wait(changed, until).await,
            }
        }
    }

    /// Waits for new messages, another owner, or a time.
    async fn wait(&mut self, changed: impl Future<Output = ()>, until: Option<Duration>) {
        let deadline = until.map(|until| self.start + until);
        let timer = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = timer => {}
            // The journal lives as long as this handle.
            _ = self.readable.changed() => {}
        }
    }

    fn look(&mut self, bytes: u64, allows: &dyn Fn(&str) -> bool) -> Look {
        let (now, handle) = (self.now(), Arc::clone(&self.handle));
        let mut mailbox = handle.slot.state.lock();
        if mailbox.claims.owner() != Some(self.claim.id) {
            return Look::Wait(None);
        }
        let Some(head) = mailbox.head() else { return Look::Wait(None) };
        if let Some(gap) = mailbox.tell() {
            return Look::Mail(Mail { gap: Some(gap), ..Mail::default() });
        }
        if let Some(until) = mailbox.retry_at(now) {
            return Look::Wait(Some(until));
        }
        let piece = match self.page.take().filter(|page| page.after <= head && head < page.end) {
            Some(page) => page,
            None => match handle.journal.after(head, PORTION) {
                Found::Batches(batches) => {
                    let end = batches.last().map_or(head, |batch| batch.last());
                    Piece { after: head, end, entries: batches.into_iter().map(Entry::Batch).collect() }
                }
                Found::Older => return Look::File(head),
                Found::Nothing => return Look::Wait(None),
            },
        };
        let with = Taking { now, oldest_ms: handle.mailboxes.oldest_ms(mailbox.spec.max_age), allows };
        let mut taken = Taken::default();
        let mut took = Took::All;
        for entry in &piece.entries {
            match entry {
                Entry::Lost(lost) => mailbox.lost(lost.after, lost.last, lost.dropped),
                Entry::Batch(batch) if batch.last() <= mailbox.head().unwrap_or_default() => {}
                Entry::Batch(batch) => took = mailbox.take(batch, &with, bytes, &mut taken),
            }
            if took != Took::All {
                break;
            }
        }
        if took == Took::All {
            mailbox.pass(piece.end);
        } else {
            self.page = Some(piece);
        }
        drop(mailbox);
        if !taken.dead.is_empty() {
            handle.mailboxes.add_dead(&handle.slot.name, taken.dead);
        }
        match took {
            _ if !taken.deliveries.is_empty() => Look::Mail(Mail { deliveries: taken.deliveries, gap: None }),
            Took::Until(until) => Look::Wait(Some(until)),
            Took::All | Took::Full => Look::Again,
        }
    }
}

impl Handle {
    /// So many bytes of what it got are written to the socket.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.slot.state.lock().wrote(self.claim.id, bytes, self.now());
    }

    /// Its collector has processed everything up to a position. `false` if that was not handed out.
    pub(crate) fn consumed(&self, position: Position) -> bool {
        self.slot.state.lock().consumed(self.claim.id, position)
    }

    /// The connection has ended, for the reason that is given first.
    pub(crate) fn end(&self, end: End) {
        if self.is_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut mailbox = self.slot.state.lock();
        mailbox.end(self.claim.id, end, self.start.elapsed());
        mailbox.seen_ms = self.mailboxes.unix_ms();
        drop(mailbox);
        self.slot.changed.notify_waiters();
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.handle.end(End::Broken);
    }
}
