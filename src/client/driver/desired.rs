//! The desired state of a session, and all else that its handles share with the driver.

use std::{
    collections::BTreeSet,
    mem,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use crate::{
    client::{
        config::Config,
        error::{Cause, Error},
        event::{Events, SessionEvent, SessionState},
        queue::{receive::Inbox, send::Outbox},
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
    pub(crate) driver: AtomicWaker,
    /// The driver could go on, and lets others run.
    gave_way: AtomicBool,
    /// Bytes that were acknowledged, over all connections.
    sent: AtomicU64,
    /// Messages that were written to connections that ended without confirmation.
    unconfirmed: AtomicU64,
    pub(crate) state: watch::Sender<SessionState>,
    pub(crate) events: broadcast::Sender<SessionEvent>,
    wanted: Mutex<Wanted>,
    skipped: Mutex<Skipped>,
    outcome: OnceLock<Result<(), Error>>,
}

#[derive(Debug, Default)]
struct Wanted {
    channels: BTreeSet<Channel>,
    /// Channels whose membership changed since the driver looked.
    changed: BTreeSet<Channel>,
    /// There is a connection whose driver looks at what changed. Without one, nothing needs to be
    /// remembered.
    connected: bool,
    intent: Intent,
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

/// The intent of the program for the session as a whole.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Stay connected.
    #[default]
    Run,
    /// Send what is queued, have it confirmed, be done by then.
    Close(Instant),
    /// End at once: nobody holds the session any more.
    Abort,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            outbox: Outbox::new(config.ident.clone(), config.limits, config.send_queue),
            inbox: Inbox::new(config.receive_queue),
            driver: AtomicWaker::new(),
            gave_way: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            state: watch::Sender::new(SessionState::Connecting),
            events: broadcast::Sender::new(Events::CAPACITY),
            wanted: Mutex::default(),
            skipped: Mutex::default(),
            outcome: OnceLock::new(),
            config,
        }
    }

    /// Wants a channel, or no longer. The driver sends what that takes, now or when it is
    /// connected.
    pub(crate) fn want(&self, channel: Channel, wanted: bool) {
        let mut state = self.wanted.lock();
        let changed = if wanted { state.channels.insert(channel.clone()) } else { state.channels.remove(&channel) };
        // Changed twice, it is as the driver knows it.
        if changed && state.connected && !state.changed.remove(&channel) {
            state.changed.insert(channel);
        }
        drop(state);
        if changed {
            self.driver.wake();
        }
    }

    /// All wanted channels, for a new connection.
    pub(crate) fn channels(&self) -> BTreeSet<Channel> {
        let mut state = self.wanted.lock();
        state.connected = true;
        state.changed.clear();
        state.channels.clone()
    }

    /// The connection is over: what changes from now on is part of the next one's
    /// [`channels`](Self::channels).
    pub(crate) fn disconnected(&self) {
        let mut state = self.wanted.lock();
        state.connected = false;
        state.changed.clear();
    }

    /// Channels whose membership changed, each with whether it is wanted now.
    pub(crate) fn changes(&self) -> Vec<(Channel, bool)> {
        let mut state = self.wanted.lock();
        mem::take(&mut state.changed)
            .into_iter()
            .map(|channel| {
                let wanted = state.channels.contains(&channel);
                (channel, wanted)
            })
            .collect()
    }

    /// Takes a channel that the broker denied out of what is wanted; says whether it was.
    pub(crate) fn unwant(&self, channel: &Channel) -> bool {
        let mut state = self.wanted.lock();
        state.changed.remove(channel);
        state.channels.remove(channel)
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
        let mut skipped = self.skipped.lock();
        skipped.messages += 1;
        let (messages, now) = (skipped.messages, Instant::now());
        if skipped.told.is_some_and(|told| now < told + TELL_AGAIN) {
            return;
        }
        skipped.told = Some(now);
        drop(skipped);
        let cause = Error::new(Cause::Skipped { addr: self.config.addr.clone(), cause });
        tracing::warn!(%cause, messages, "message skipped");
        self.emit(SessionEvent::Skipped { messages, cause });
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
        self.state.send_replace(SessionState::Closed);
    }

    /// How the session ended, once it has.
    pub(crate) fn outcome(&self) -> Option<Result<(), Error>> {
        self.outcome.get().cloned()
    }
}
