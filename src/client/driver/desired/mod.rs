//! The desired state of a session, and all else that its handles share with the driver.

mod counts;

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, oneshot, watch},
    time::Instant,
};

use super::wanted::{Intent, Wanted, Wish};
use crate::{
    client::{
        config::Config,
        error::Error,
        event::{Events, SessionEvent, SessionState},
        mailbox::SubscribeFrom,
        queue::{
            channels::{Channels, Surroundings},
            consumption::Consumption,
            receive::Inbox,
            send::Outbox,
        },
        receipt::Flushed,
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

impl Shared {
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

    /// Whether the driver, having received much, waits until others have run. A hint: it goes on by
    /// itself.
    pub(crate) fn gave_way(&self) -> bool {
        self.gave_way.load(Relaxed)
    }

    pub(crate) fn set_gave_way(&self, gave_way: bool) {
        self.gave_way.store(gave_way, Relaxed);
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

    /// Why nothing more comes of a session that has ended.
    pub(crate) fn ended(&self) -> Error {
        self.outcome().and_then(Result::err).unwrap_or_else(Error::closed)
    }
}
