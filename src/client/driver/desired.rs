//! The desired state of a session, and all else that its handles share with the driver.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, oneshot, watch},
    time::Instant,
};

use super::wanted::{Intent, Wanted, Wish};
#[cfg(feature = "spool")]
use crate::client::spool::SpoolStatus;
use crate::{
    client::{
        config::Config,
        error::{Cause, Error},
        event::{Events, SessionEvent, SessionState},
        mailbox::SubscribeFrom,
        queue::{
            channels::{Channels, Surroundings},
            consumption::Consumption,
            in_flight::InFlight,
            receive::Inbox,
            send::Outbox,
        },
        receipt::{Flushed, SessionStats},
    },
    wire::{Channel, DecodeError},
};

/// The state that handles and driver share. Handles change what is wanted and wake the driver; only
/// the driver touches the connection.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) outbox: Outbox,
    pub(crate) inbox: Inbox,
    pub(crate) channels: Channels,
    pub(crate) consumption: Consumption,
    pub(crate) driver: AtomicWaker,
    /// The driver could go on, and lets others run.
    gave_way: AtomicBool,
    /// Bytes that were acknowledged, over all connections.
    sent: AtomicU64,
    /// Messages that were written to connections that ended without confirmation.
    unconfirmed: AtomicU64,
    /// Messages that were taken for delivered, as nothing confirmed them twice.
    assumed: AtomicU64,
    /// [`Confirms`] of the last broker that accepted the key.
    confirms: AtomicU8,
    figures: Mutex<Figures>,
    /// Messages that were dropped in memory: for newer ones, or as no disk could take them.
    dropped: AtomicU64,
    /// When an event told of messages that were dropped for newer ones.
    told_dropped: Mutex<Option<Instant>>,
    /// Messages that were refused, as the queue was full.
    turned_away: AtomicU64,
    /// Why nothing can be published.
    has_spool_fault: AtomicBool,
    spool_fault: Mutex<Option<Error>>,
    pub(crate) state: watch::Sender<SessionState>,
    pub(crate) events: broadcast::Sender<SessionEvent>,
    wanted: Mutex<Wanted>,
    /// Somebody may wait for the broker's answer about a channel.
    awaits: AtomicBool,
    skipped: Mutex<Skipped>,
    refused: Mutex<Refused>,
    missed: Mutex<Missed>,
    outcome: OnceLock<Result<(), Error>>,
}

/// Whether the broker confirms messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirms {
    Unknown,
    Yes,
    No,
}

/// The figures of the messages that the driver has, as of its last turn.
#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    in_flight: u64,
    unconfirmed: u64,
    oldest: Option<Instant>,
    resent: u64,
    totals: Flushed,
    /// On disk; dropped there, or damaged.
    spooled: u64,
    lost: u64,
}

/// Refused messages, and of which channels an event told lately.
#[derive(Debug, Default)]
struct Refused {
    messages: u64,
    /// Messages that were taken out of the queue.
    discarded: u64,
    told: Vec<(Option<Channel>, Instant)>,
}

/// How many channels of refused messages are told of in one [`TELL_AGAIN`].
const MAX_TOLD: usize = 16;

/// Messages that mailboxes have lost, and how many events have told of some lately.
#[derive(Debug, Default)]
struct Missed {
    messages: u64,
    told: usize,
    since: Option<Instant>,
}

/// Received messages that were passed over.
#[derive(Debug, Default)]
struct Skipped {
    messages: u64,
    /// When an event told of one.
    told: Option<Instant>,
}

/// A broker that sends nothing else must not push every other event out: of messages that were
/// passed over, one event in this time tells.
const TELL_AGAIN: Duration = Duration::from_secs(1);

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            outbox: Outbox::new(config.ident.clone(), config.limits, config.send_queue),
            inbox: Inbox::new(config.receive_queue),
            channels: Channels::default(),
            consumption: Consumption::new(config.manual_commit),
            driver: AtomicWaker::new(),
            gave_way: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            assumed: AtomicU64::new(0),
            confirms: AtomicU8::new(Confirms::Unknown as u8),
            figures: Mutex::default(),
            dropped: AtomicU64::new(0),
            told_dropped: Mutex::default(),
            turned_away: AtomicU64::new(0),
            has_spool_fault: AtomicBool::new(false),
            spool_fault: Mutex::default(),
            state: watch::Sender::new(SessionState::Connecting),
            events: broadcast::Sender::new(Events::CAPACITY),
            wanted: Mutex::default(),
            awaits: AtomicBool::new(false),
            skipped: Mutex::default(),
            refused: Mutex::default(),
            missed: Mutex::default(),
            outcome: OnceLock::new(),
            config,
        }
    }

    /// Wants a channel, or no longer; whether that is news. The driver sends what that takes, now or
    /// when it is connected.
    pub(crate) fn want(&self, channel: Channel, wanted: bool) -> bool {
        let changed = self.wanted.lock().want(channel, wanted);
        if changed {
            self.driver.wake();
        }
        changed
    }

    /// Wants a channel from some point on, in place of what was wanted of it before.
    pub(crate) fn want_from(&self, channel: Channel, from: SubscribeFrom) {
        self.wanted.lock().want_from(channel, from);
        self.driver.wake();
    }

    /// All wanted channels, for a new connection.
    pub(crate) fn channels(&self) -> BTreeMap<Channel, Wish> {
        self.wanted.lock().channels()
    }

    /// Whether a mailbox is among what is wanted.
    pub(crate) fn wants_mailbox(&self) -> bool {
        self.wanted.lock().has_mailbox()
    }

    /// The connection is over: what changes from now on is part of the next one's
    /// [`channels`](Self::channels), and what the broker was not told of as processed comes again.
    pub(crate) fn disconnected(&self) {
        self.wanted.lock().disconnected();
        self.consumption.disconnected();
        self.inbox.let_runs_go();
    }

    /// Channels whose wish changed, each with what is wanted of it now.
    pub(crate) fn changes(&self) -> Vec<(Channel, Wish)> {
        self.wanted.lock().changes()
    }

    /// Takes a channel that the broker denied out of what is wanted; says whether it was.
    pub(crate) fn unwant(&self, channel: &Channel, cause: &Error) -> bool {
        self.wanted.lock().unwant(channel, cause)
    }

    /// Whether the wish for a channel changed after the broker was asked.
    pub(crate) fn is_changed(&self, channel: &Channel) -> bool {
        self.wanted.lock().is_changed(channel)
    }

    /// The broker delivers a channel.
    pub(crate) fn granted(&self, channel: &Channel) {
        self.wanted.lock().grant(channel);
    }

    /// Waits for the broker's word about a channel that is [wanted](Self::want); the answer may be
    /// there already.
    pub(crate) fn await_grant(&self, channel: Channel) -> oneshot::Receiver<Result<(), Error>> {
        let receiver = self.wanted.lock().wait(channel);
        self.awaits.store(true, Relaxed);
        receiver
    }

    /// The channels that somebody waits for.
    pub(crate) fn awaited(&self) -> Vec<Channel> {
        if !self.awaits.load(Relaxed) {
            return Vec::new();
        }
        let wanted = self.wanted.lock();
        let awaited = wanted.waited_for();
        self.awaits.store(!awaited.is_empty(), Relaxed);
        awaited
    }

    pub(crate) fn intent(&self) -> Intent {
        self.wanted.lock().intent
    }

    /// Asks the driver to end. The intent that ends the session sooner wins over what was asked
    /// before.
    pub(crate) fn ask(&self, intent: Intent) {
        let mut state = self.wanted.lock();
        if state.intent != Intent::Abort {
            state.intent = intent;
        }
        drop(state);
        self.driver.wake();
    }

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

    pub(crate) fn confirms(&self) -> Confirms {
        match self.confirms.load(Relaxed) {
            1 => Confirms::Yes,
            2 => Confirms::No,
            _ => Confirms::Unknown,
        }
    }

    pub(crate) fn set_confirms(&self, confirms: Confirms) {
        self.confirms.store(confirms as u8, Relaxed);
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

impl Surroundings for Shared {
    fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    fn wants(&self, channel: &str) -> bool {
        self.wanted.lock().covers(channel)
    }

    fn skip(&self, fault: DecodeError) {
        Shared::skip(self, fault);
    }

    fn wake_driver(&self) {
        self.driver.wake();
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

impl Shared {
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

    /// The disk of the spool, which is required, fails; or works again.
    #[cfg(feature = "spool")]
    pub(crate) fn set_spool_fault(&self, fault: Option<Error>) {
        let mut spool_fault = self.spool_fault.lock();
        self.has_spool_fault.store(fault.is_some(), Relaxed);
        *spool_fault = fault;
    }

    /// Why nothing can be published at the moment.
    pub(crate) fn refusal(&self) -> Option<Error> {
        if self.has_spool_fault.load(Relaxed) { self.spool_fault.lock().clone() } else { None }
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

    /// Whether the driver, having received much, waits until others have run. A hint: it goes on by
    /// itself.
    pub(crate) fn gave_way(&self) -> bool {
        self.gave_way.load(Relaxed)
    }

    pub(crate) fn set_gave_way(&self, gave_way: bool) {
        self.gave_way.store(gave_way, Relaxed);
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

    pub(crate) fn emit(&self, event: SessionEvent) {
        // No receiver is no error: events are for whoever asks.
        drop(self.events.send(event));
    }

    /// Ends everything that hangs on the session; whoever uses a handle from now on gets `refusal`.
    /// The first outcome stays.
    pub(crate) fn finish(&self, outcome: Result<(), Error>, refusal: &Error) {
        let cause = outcome.as_ref().err().filter(|cause| !cause.is_closed()).cloned();
        if self.outcome.set(outcome).is_err() {
            return;
        }
        self.outbox.end(refusal);
        self.emit(SessionEvent::Closed { cause });
        self.inbox.end();
        self.wanted.lock().end(refusal);
        self.state.send_replace(SessionState::Closed);
    }

    /// How the session ended, once it has.
    pub(crate) fn outcome(&self) -> Option<Result<(), Error>> {
        self.outcome.get().cloned()
    }
}
