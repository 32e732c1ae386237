//! The counts of a session, and the events that tell of them.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{Figures, Shared};
#[cfg(feature = "spool")]
use crate::client::spool::SpoolStatus;
use crate::{
    client::{
        error::{Cause, Error},
        event::SessionEvent,
        queue::in_flight::InFlight,
        receipt::{Flushed, SessionStats},
    },
    wire::{Channel, DecodeError},
};

/// How many channels of refused messages are told of in one [`TELL_AGAIN`].
const MAX_TOLD: usize = 16;

/// A broker that sends nothing else must not push every other event out: of messages that were
/// passed over, one event in this time tells.
const TELL_AGAIN: Duration = Duration::from_secs(1);

impl Shared {
    /// Counts a message that cannot be given to the program. The messages around it can.
    #[cold]
    pub(crate) fn skip(&self, cause: DecodeError) {
        self.skip_messages(1, || Cause::Skipped { addr: self.config.addr.clone(), cause });
    }

    /// Counts messages that came although the receive queue was full, over and over.
    #[cold]
    pub(crate) fn overflow(&self, messages: u64) {
        self.skip_messages(messages, || Cause::Overflow { addr: self.config.addr.clone() });
    }

    fn skip_messages(&self, count: u64, cause: impl FnOnce() -> Cause) {
        let mut skipped = self.skipped.lock();
        skipped.messages += count;
        let (messages, now) = (skipped.messages, Instant::now());
        if skipped.told.is_some_and(|told| now < told + TELL_AGAIN) {
            return;
        }
        skipped.told = Some(now);
        drop(skipped);
        let cause = Error::new(cause());
        tracing::warn!(%cause, messages, "message skipped");
        self.emit(SessionEvent::Skipped { messages, cause });
    }

    /// Counts messages that the broker refused.
    pub(crate) fn refused(&self, channel: Option<Channel>, messages: u64, cause: &Error) {
        let mut refused = self.refused.lock();
        refused.messages += messages;
        let (total, now) = (refused.messages, Instant::now());
        refused.told.retain(|(_, told)| now < *told + TELL_AGAIN);
        if messages == 0 || refused.told.len() >= MAX_TOLD || refused.told.iter().any(|(told, _)| *told == channel) {
            return;
        }
        refused.told.push((channel.clone(), now));
        drop(refused);
        tracing::warn!(%cause, messages = total, "message refused");
        self.emit(SessionEvent::Refused { channel, messages: total, cause: cause.clone() });
    }

    /// Counts messages that mailboxes have lost.
    pub(crate) fn missed(&self, messages: u64, event: impl FnOnce() -> SessionEvent) {
        let mut missed = self.missed.lock();
        missed.messages = missed.messages.saturating_add(messages);
        let now = Instant::now();
        if missed.since.is_none_or(|since| now >= since + TELL_AGAIN) {
            (missed.since, missed.told) = (Some(now), 0);
        }
        missed.told += 1;
        if missed.told <= MAX_TOLD {
            drop(missed);
            let event = event();
            tracing::warn!(%event, "messages missed");
            self.emit(event);
        }
    }

    /// Counts messages that were taken out of the queue, as they are too long for the broker.
    pub(crate) fn discarded(&self, messages: u64, cause: &Error) {
        self.count_discarded(messages);
        let refused = {
            let refused = self.refused.lock();
            refused.messages + refused.discarded
        };
        tracing::warn!(%cause, messages, "messages discarded");
        self.emit(SessionEvent::Refused { channel: None, messages: refused, cause: cause.clone() });
    }

    /// Counts messages that were taken out of the queue, as the broker would refuse them.
    pub(crate) fn count_discarded(&self, messages: u64) {
        self.refused.lock().discarded += messages;
    }

    /// Counts messages that are taken for delivered, as they were sent twice without an answer.
    pub(crate) fn assumed(&self, messages: u64) {
        if messages > 0 {
            self.assumed.fetch_add(messages, Relaxed);
            self.count_unconfirmed(messages);
            self.tell_assumed();
        }
    }

    /// Tells that messages are, or from now on will be, taken for delivered.
    pub(crate) fn tell_assumed(&self) {
        let messages = self.assumed.load(Relaxed);
        tracing::warn!(addr = %self.config.addr, messages, "the broker does not confirm by ending its stream");
        self.emit(SessionEvent::DeliveryAssumed { messages });
    }

    /// Counts messages that were dropped for newer ones, and tells of them.
    pub(crate) fn dropped(&self, messages: u64) {
        let total = self.dropped.fetch_add(messages, Relaxed) + messages;
        let (mut told, now) = (self.told_dropped.lock(), Instant::now());
        if told.is_some_and(|told| now < told + TELL_AGAIN) {
            return;
        }
        *told = Some(now);
        drop(told);
        tracing::warn!(messages = total, "the send queue is full: its oldest messages are dropped");
        self.emit(SessionEvent::Dropped { messages: total });
    }

    /// Counts a message that was refused, as the queue is full.
    pub(crate) fn count_turned_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    /// Counts messages that were dropped in memory, as no disk could take them.
    #[cfg(feature = "spool")]
    pub(crate) fn count_dropped(&self, messages: u64) {
        self.dropped.fetch_add(messages, Relaxed);
    }

    /// The fates of everything that was accepted, if all of it is decided.
    pub(crate) fn flushed(&self) -> Option<Flushed> {
        // Read before what is decided, which is told late and never early.
        let accepted = self.outbox.accepted();
        let totals = self.figures.lock().totals;
        let decided =
            totals.confirmed + totals.refused + totals.unconfirmed + totals.lost + self.refused.lock().discarded;
        (decided == accepted && self.outcome.get().is_none()).then_some(totals)
    }

    /// See [`ClientSession::stats`](crate::ClientSession::stats).
    pub(crate) fn stats(&self) -> SessionStats {
        let figures = *self.figures.lock();
        let (discarded, refused) = {
            let refused = self.refused.lock();
            (refused.discarded, refused.messages)
        };
        SessionStats {
            queued: self.outbox.unsent().0 + figures.in_flight,
            unconfirmed: figures.unconfirmed,
            spooled: figures.spooled,
            oldest: figures.oldest.or_else(|| self.outbox.oldest()).map(|since| since.elapsed()),
            confirmed: figures.totals.confirmed,
            resent: figures.resent,
            refused: refused + discarded,
            lost: self.unconfirmed() + figures.lost + self.dropped.load(Relaxed),
            turned_away: self.turned_away.load(Relaxed),
            missed: self.missed.lock().messages,
        }
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.lock().messages
    }

    pub(crate) fn count_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// See [`Publisher::bytes_sent`](crate::Publisher::bytes_sent).
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(crate) fn count_unconfirmed(&self, messages: u64) {
        self.unconfirmed.fetch_add(messages, Relaxed);
    }

    /// See [`ClientSession::unconfirmed`](crate::ClientSession::unconfirmed).
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.unconfirmed.load(Relaxed)
    }

    /// Takes note of what the spool has, besides what `in_flight` has; `live` is what became of this
    /// program's messages while others are replayed.
    #[cfg(feature = "spool")]
    pub(crate) fn set_spool_figures(
        &self,
        in_flight: &InFlight,
        status: &SpoolStatus,
        tail: u64,
        live: Option<Flushed>,
    ) {
        let mut figures = Figures::of(in_flight);
        figures.in_flight += tail;
        figures.spooled = status.messages;
        figures.lost = status.dropped + status.damaged;
        let disk = status.oldest.and_then(|oldest| Instant::now().checked_sub(oldest));
        figures.oldest = figures.oldest.into_iter().chain(disk).min();
        if let Some(live) = live {
            figures.totals = live;
        }
        *self.figures.lock() = figures;
    }

    pub(crate) fn set_figures(&self, in_flight: &InFlight) {
        *self.figures.lock() = Figures::of(in_flight);
    }
}

impl Figures {
    fn of(in_flight: &InFlight) -> Self {
        let unconfirmed = &in_flight.unconfirmed;
        Self {
            in_flight: in_flight.unsent().0,
            unconfirmed: unconfirmed.waiting().0,
            oldest: in_flight.oldest(),
            resent: unconfirmed.resent(),
            totals: unconfirmed.totals(),
            spooled: 0,
            lost: 0,
        }
    }
}
