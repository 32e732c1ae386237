//! The task that owns the connection.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::poll_fn;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Error, SessionEvent, SessionState,
    connection::{Connection, End},
    error::Cause,
    flight::Flight,
    link::{Link, Received},
    shared::{Intent, Shared},
};
use crate::wire::{Channel, Frame, Nonce};

/// A connection that stayed up this long was a good one, and the delays start over.
const HEALTHY: Duration = Duration::from_secs(10);

/// Everything that outlives a connection and is nobody else's business.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    /// Answers `connect()`; taken by the first success or failure.
    first: Option<oneshot::Sender<Result<(), Error>>>,
    pub(super) memory: Memory,
    /// Failed attempts in a row.
    failures: u32,
    /// Messages that were written, while closing or giving up, to connections that ended without confirmation.
    lost: u64,
}

/// What one connection leaves to the next.
#[derive(Default)]
pub(crate) struct Memory {
    /// Messages that are being written.
    pub(crate) flight: Flight,
    /// A broker refused a subscription without naming it: ask for one at a time.
    pub(crate) careful: bool,
    /// Subscriptions that a broker accepted while it was asked for one at a time.
    pub(crate) proven: BTreeSet<Channel>,
    /// The first refused message; `close` reports it.
    pub(crate) denial: Option<Error>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, first: Option<oneshot::Sender<Result<(), Error>>>) -> Self {
        Self { shared, first, memory: Memory::default(), failures: 0, lost: 0 }
    }

    pub(crate) async fn run(mut self) {
        // Whatever happens to this task, nobody waits for it in vain.
        let guard = Finish(self.shared.clone());
        let outcome = self.drive().await;
        self.shared.finish(outcome);
        drop(guard);
    }

    async fn drive(&mut self) -> Result<(), Error> {
        loop {
            self.shared.state.send_replace(SessionState::Connecting);
            let (end, attempt) = self.attempt().await;
            let settled = self.memory.flight.rewind();
            self.shared.outbox.release(settled.room);
            self.discard_denied();
            let unconfirmed = attempt.messages + settled.messages;
            let cause = match end {
                End::Confirmed => return self.verdict(None, false),
                End::Stopped => {
                    self.lost += unconfirmed;
                    return self.verdict(None, false);
                }
                End::Failed(cause) => cause,
            };
            tracing::info!(addr = %self.shared.config.addr, %cause, "disconnected");
            self.shared.emit(SessionEvent::Disconnected { cause: cause.clone(), unconfirmed });
            if let Some(first) = self.first.take() {
                // The caller of `connect` may be gone; the session ends either way.
                drop(first.send(Err(cause.clone())));
                return Err(cause);
            }
            if attempt.healthy(HEALTHY) {
                self.failures = 0;
            }
            let closing = self.shared.intent() != Intent::Run;
            let exhausted = self.shared.config.max_retries.is_some_and(|retries| self.failures >= retries);
            if closing || exhausted {
                self.lost += unconfirmed;
                if exhausted || cause.is_rejected() || self.queued() == 0 {
                    return self.verdict(Some(cause), exhausted);
                }
            }
            let delay = self.shared.config.backoff.delay(self.failures, fastrand::f64());
            if !attempt.repaired {
                self.failures = self.failures.saturating_add(1);
            }
            self.wait(delay).await;
        }
    }

    /// Dials, greets, authenticates, and serves the connection until it ends.
    async fn attempt(&mut self) -> (End, Attempt) {
        let config = &self.shared.config;
        let handshake = timeout(config.handshake_timeout, self.handshake());
        let (link, broker, nonce) = tokio::select! {
            biased;
            () = self.stopping() => return (End::Stopped, Attempt::default()),
            result = handshake => match result {
                Ok(Ok(greeted)) => greeted,
                Ok(Err(cause)) => return (End::Failed(cause), Attempt::default()),
                Err(_elapsed) => {
                    let (addr, after) = (config.addr.clone(), config.handshake_timeout);
                    return (End::Failed(Error::new(Cause::HandshakeTimeout { addr, after })), Attempt::default());
                }
            },
        };
        let mut connection = Connection::new(&self.shared, &mut self.memory, &mut self.first, link, broker, &nonce);
        let end = connection.run().await;
        let attempt = connection.attempt();
        (end, attempt)
    }

    async fn handshake(&self) -> Result<(Link, String, Nonce), Error> {
        let config = &self.shared.config;
        let addr = || config.addr.clone();
        let io = match config.connector.connect(&config.addr).await {
            Ok(io) => io,
            Err(cause) => return Err(Error::new(Cause::Connect { addr: addr(), cause })),
        };
        let mut link = Link::new(io, config.limits);
        let cause = match link.first_frame().await {
            Ok(Some(Ok(Received::Frame(Frame::Info { name, nonce })))) => return Ok((link, name, nonce)),
            Ok(Some(Ok(Received::Frame(Frame::Error { message })))) => {
                let message = String::from_utf8_lossy(&message).into_owned();
                self.shared.emit(SessionEvent::BrokerError { message: message.clone() });
                Cause::Broker { message }
            }
            Ok(Some(Ok(_))) => Cause::Unexpected { addr: addr(), what: "the first frame is not INFO".to_owned() },
            Ok(Some(Err(cause))) => Cause::Protocol { addr: addr(), cause },
            Ok(None) => Cause::Eof { addr: addr() },
            Err(cause) => Cause::Io { addr: addr(), cause },
        };
        Err(Error::new(cause))
    }

    /// Waits before the next attempt. Closing with messages in the queue makes it attempt at once.
    async fn wait(&self, delay: Duration) {
        if self.shared.intent() != Intent::Run {
            // Closing: a short breath, so that a broker that drops us at once is not dialled in a loop.
            tokio::select! {
                () = sleep(super::Backoff::FLOOR) => {}
                () = self.stopping() => {}
            }
            return;
        }
        self.shared.state.send_replace(SessionState::Waiting { delay });
        tokio::select! {
            () = sleep(delay) => {}
            _ = self.asked() => {}
        }
    }

    /// Completes when the program asks for the end.
    async fn asked(&self) -> Intent {
        poll_fn(|cx| {
            self.shared.driver.register(cx.waker());
            match self.shared.intent() {
                Intent::Run => std::task::Poll::Pending,
                intent => std::task::Poll::Ready(intent),
            }
        })
        .await
    }

    /// Completes when what happens between connections must stop: at once when there is nothing to send or nobody to
    /// send it for, otherwise at the deadline of closing.
    async fn stopping(&self) {
        if let Intent::Close(deadline) = self.asked().await
            && self.queued() > 0
        {
            tokio::select! {
                () = sleep_until(deadline) => {}
                () = self.aborted() => {}
            }
        }
    }

    async fn aborted(&self) {
        poll_fn(|cx| {
            self.shared.driver.register(cx.waker());
            if self.shared.intent() == Intent::Abort { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// Takes messages to channels that the broker refuses out of what was about to be written.
    fn discard_denied(&mut self) {
        let (outbox, now) = (&self.shared.outbox, Instant::now());
        let mut denied = None;
        let removed = self.memory.flight.retain(|channel| match outbox.quarantined(channel, now) {
            Some(cause) => {
                denied = Some((Channel::new(channel).ok(), cause));
                false
            }
            None => true,
        });
        outbox.release(removed.room);
        if let Some((channel, cause)) = denied {
            self.shared.emit(SessionEvent::PublishDenied { channel, discarded: removed.messages, cause });
        }
    }

    fn queued(&self) -> u64 {
        self.shared.outbox.unsent().0 + self.memory.flight.unsent().0
    }

    /// How the session ends: what was left behind comes first, then what was refused, then why it gave up.
    fn verdict(&mut self, why: Option<Error>, gave_up: bool) -> Result<(), Error> {
        let why = self.memory.denial.take().or(why);
        self.shared.outbox.close(why.clone().unwrap_or_else(Error::closed));
        let (here, there) = (self.shared.outbox.unsent(), self.memory.flight.unsent());
        let (messages, bytes) = (here.0 + there.0, here.1 + there.1);
        if self.shared.intent() == Intent::Abort {
            if messages > 0 {
                tracing::warn!(messages, bytes, "session dropped with messages in its queue; close() sends them");
            }
            return Err(Error::closed());
        }
        if messages > 0 {
            return Err(Error::new(Cause::Unsent { messages, bytes, why }));
        }
        if self.lost > 0 {
            return Err(Error::new(Cause::Unconfirmed { messages: self.lost, why }));
        }
        why.filter(|why| gave_up || !why.is_network()).map_or(Ok(()), Err)
    }
}

/// What is known of a connection when it has ended.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// When the broker accepted the key.
    pub(crate) accepted: Option<Instant>,
    /// It delivered a message.
    pub(crate) delivered: bool,
    /// What made it fail is out of the way: a denied channel was taken out.
    pub(crate) repaired: bool,
    /// Messages written whole.
    pub(crate) messages: u64,
}

impl Attempt {
    fn healthy(&self, long: Duration) -> bool {
        self.delivered || self.accepted.is_some_and(|accepted| accepted.elapsed() >= long)
    }
}

/// Ends the session when its task ends in any way, also by a panic or with its runtime.
struct Finish(Arc<Shared>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish(Err(Error::closed()));
    }
}
