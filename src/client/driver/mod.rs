//! The driver: the task that owns the connection, and makes the next one when it ends.

pub(super) mod addresses;
pub(super) mod backoff;
pub(super) mod desired;
mod dropping;
pub(super) mod reconnect;
pub(super) mod shared_task;
#[cfg_attr(not(feature = "spool"), path = "spooling/absent.rs")]
pub(super) mod spooling;
pub(super) mod wanted;

use std::{io, pin::pin, sync::Arc, task::Poll, time::Duration};

use futures::future::poll_fn;
use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    backoff::Backoff,
    desired::Shared,
    reconnect::{ConnectionOutcome, ReconnectState},
    wanted::Intent,
};
use super::{
    connection::{
        error_text,
        greeting::new_stream,
        state::{Connection, End},
        transport::{FrameTransport, Received},
    },
    error::{Cause, Error},
    event::{SessionEvent, SessionState},
    queue::unconfirmed::Keeping,
    receipt::Confirm,
};
use crate::wire::{Frame, Nonce, OtherProtocol, extension::strip};

/// A connection that stayed up this long was a good one, and the delays start over.
const HEALTHY: Duration = Duration::from_secs(10);

/// How often in a row a connection that a denied message ended is followed by the next without a
/// longer delay. Each time, a channel is quarantined; a broker that always finds something new to
/// refuse is not dialled in a loop all the same.
const MAX_REPAIRS: u32 = 32;

/// How often in a row a broker ends a connection without a word before HELLO is left out once.
const SILENT_ENDS: u32 = 2;

/// The longest breath between two attempts while closing, whose deadline is near.
const CLOSING_DELAY: Duration = Duration::from_secs(1);

/// Everything that outlives a connection and is nobody else's business.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    /// Answers `connect()`; taken by the first success or failure.
    first: Option<oneshot::Sender<Result<(), Error>>>,
    reconnect: ReconnectState,
    /// Failed attempts in a row.
    failures: u32,
    /// Repairs in a row.
    repairs: u32,
    /// Messages that were written to the last connection, which ended without confirmation, and why
    /// it ended. Earlier losses are history, which [`Shared`] counts.
    lost: u64,
    broke: Option<Error>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, first: Option<oneshot::Sender<Result<(), Error>>>) -> Self {
        let mut reconnect = ReconnectState::default();
        reconnect.in_flight.unconfirmed.renew(new_stream());
        Self { shared, first, reconnect, failures: 0, repairs: 0, lost: 0, broke: None }
    }

    pub(crate) async fn run(mut self) {
        let (outcome, gave_up) = self.drive().await;
        let refusal = outcome.clone().err().filter(|_| gave_up).unwrap_or_else(Error::closed);
        // They may have arrived, or not.
        self.shared.count_unconfirmed(self.reconnect.in_flight.unconfirmed.waiting().0);
        self.reconnect.in_flight.end(&refusal);
        self.shared.finish(outcome, &refusal);
    }

    /// Returns how it ended, and whether the session itself gave up.
    async fn drive(&mut self) -> (Result<(), Error>, bool) {
        if let Err(cause) = self.open_spool().await {
            if let Some(first) = self.first.take() {
                // As below.
                drop(first.send(Err(cause.clone())));
            }
            return (Err(cause), true);
        }
        loop {
            if !self.reconnect.rotated {
                self.shared.state.send_replace(SessionState::Connecting);
            }
            let (end, outcome) = self.connect_once().await;
            let unconfirmed = self.between(&outcome).await;
            if outcome.accepted.is_some() {
                (self.lost, self.broke) = (0, None);
            }
            let cause = match end {
                End::Confirmed => return (self.verdict(None, false).await, false),
                End::Stopped => {
                    self.lose(unconfirmed);
                    return (self.verdict(None, false).await, false);
                }
                End::Rotated => {
                    addresses::rotated(&self.shared.config.addr, true);
                    self.reconnect.rotated = true;
                    self.failures = 0;
                    continue;
                }
                End::Failed(cause) => cause,
            };
            self.reconnect.rotated = false;
            if outcome.rotating && addresses::rotated(&self.shared.config.addr, false) {
                // From now on what is written is taken for delivered.
                self.shared.tell_assumed();
            }
            if self.lose(unconfirmed) {
                self.broke = Some(cause.clone());
            }
            let next = self.next_delay(&outcome, &cause);
            // The first failure is the error of `connect`, and no delay follows.
            let delay = next.filter(|_| self.first.is_none()).map(|delay| format!("{:.1}s", delay.as_secs_f64()));
            let retry_in = delay.map(tracing::field::display);
            tracing::info!(addr = %self.shared.config.addr, %cause, retry_in, "disconnected");
            if let Some(delay) = next {
                self.shared.state.send_replace(SessionState::Waiting { delay });
            }
            self.shared.emit(SessionEvent::Disconnected { cause: cause.clone(), unconfirmed });
            if let Some(first) = self.first.take() {
                // The caller of `connect` may be gone; the session ends either way.
                drop(first.send(Err(cause.clone())));
                return (Err(cause), true);
            }
            let Some(delay) = next else {
                let gave_up = self.shared.intent() == Intent::Run;
                return (self.verdict(Some(cause), gave_up || self.exhausted()).await, gave_up);
            };
            self.wait(delay).await;
        }
    }

    /// Leaves everything as the next connection needs it. Returns how many messages may be lost.
    async fn between(&mut self, outcome: &ConnectionOutcome) -> u64 {
        let kept = self.reconnect.in_flight.unconfirmed.keeping() != Keeping::Nothing;
        let written = self.reconnect.in_flight.rewind();
        self.shared.outbox.release(written.room);
        loop {
            let (room, more) = self.reconnect.in_flight.settle();
            self.shared.outbox.release(room);
            self.reconnect.figure(&self.shared);
            self.reconnect.in_flight.unconfirmed.answer();
            if !more {
                break;
            }
            // There may be a receipt for each of very many messages.
            yield_now().await;
        }
        self.reconnect.discard_written(&self.shared);
        self.reconnect.silent = if outcome.silent { self.reconnect.silent + 1 } else { 0 };
        self.reconnect.figure(&self.shared);
        outcome.written.messages() + if kept { 0 } else { written.messages }
    }

    /// Opens the spool, if there is to be one.
    #[cfg(feature = "spool")]
    async fn open_spool(&mut self) -> Result<(), Error> {
        let ReconnectState { spooling, in_flight, .. } = &mut self.reconnect;
        if let Some(feed) = &self.shared.config.feed {
            *spooling = Some(spooling::Spooling::fed(feed));
            return Ok(());
        }
        let Some(spool) = &self.shared.config.spool else { return Ok(()) };
        let started = spooling::Spooling::start(spool, &self.shared).map_err(|cause| Error::no_thread(&cause))?;
        spooling.insert(started).open(&self.shared, in_flight).await
    }

    #[cfg(not(feature = "spool"))]
    #[allow(clippy::unused_async, reason = "there is nothing to open")]
    async fn open_spool(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Whether to say HELLO to a broker that offers the extension.
    fn says_hello(&mut self) -> bool {
        let config = &self.shared.config;
        let needs = matches!(config.confirm, Confirm::Required(_)) || self.shared.wants_mailbox();
        if needs || addresses::has_answered(&config.addr) {
            return true;
        }
        self.reconnect.leaves_out = self.reconnect.silent >= SILENT_ENDS;
        !self.reconnect.leaves_out && !addresses::is_left_out(&config.addr)
    }

    /// Counts messages whose connection ended without confirmation; whether there were any.
    fn lose(&mut self, messages: u64) -> bool {
        self.lost += messages;
        self.shared.count_unconfirmed(messages);
        messages > 0
    }

    /// How long to wait before the next attempt; `None` when there is none.
    fn next_delay(&mut self, outcome: &ConnectionOutcome, cause: &Error) -> Option<Duration> {
        if outcome.healthy(HEALTHY) {
            (self.failures, self.repairs) = (0, 0);
            self.reconnect.taken_out.clear();
        }
        let closing = self.shared.intent() != Intent::Run;
        if self.exhausted() || (closing && (cause.is_rejected() || !has_more(&self.shared, &self.reconnect))) {
            return None;
        }
        let mut delay = self.shared.config.backoff.delay(self.failures, fastrand::f64());
        if outcome.narrowed {
            // There is an end to it, and until then nothing is received at all.
            delay = Backoff::FLOOR;
        } else if outcome.repaired && self.repairs < MAX_REPAIRS {
            self.repairs += 1;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        Some(if closing { delay.min(CLOSING_DELAY) } else { delay })
    }

    fn exhausted(&self) -> bool {
        self.shared.config.max_retries.is_some_and(|retries| self.failures >= retries)
    }

    /// Dials, greets, authenticates, and serves the connection until it ends.
    async fn connect_once(&mut self) -> (End, ConnectionOutcome) {
        let config = &self.shared.config;
        let mut connected = false;
        let handshake = timeout(config.handshake_timeout, Self::handshake(&self.shared, &mut connected));
        let (transport, name, nonce) = tokio::select! {
            biased;
            () = stopping(&self.shared, &mut self.reconnect) => return (End::Stopped, ConnectionOutcome::default()),
            result = handshake => match result {
                Ok(Ok(greeted)) => greeted,
                Ok(Err(cause)) => return (End::Failed(cause), ConnectionOutcome::default()),
                Err(_elapsed) => {
                    let (addr, after) = (config.addr.clone(), config.handshake_timeout);
                    let cause = Error::new(Cause::HandshakeTimeout { addr, after, connected });
                    return (End::Failed(cause), ConnectionOutcome::default());
                }
            },
        };
        let (broker, offered) = strip(&name);
        if let (false, Confirm::Required(required)) = (offered, config.confirm) {
            let cause = Cause::LevelTooLow { addr: config.addr.clone(), required, offered: None };
            return (End::Failed(Error::new(cause)), ConnectionOutcome::default());
        }
        self.reconnect.leaves_out = false;
        let extended = offered && self.says_hello();
        let greeting = (broker.to_owned(), &nonce);
        let mut connection =
            Connection::new(&self.shared, &mut self.reconnect, &mut self.first, transport, greeting, extended);
        let end = connection.run().await;
        let outcome = connection.into_outcome(&end);
        self.shared.disconnected();
        (end, outcome)
    }

    /// Sets `connected` when there is a connection, and what is waited for is what the broker says.
    async fn handshake(shared: &Shared, connected: &mut bool) -> Result<(FrameTransport, String, Nonce), Error> {
        let config = &shared.config;
        let addr = || config.addr.clone();
        let io = match config.connector.connect(&config.addr).await {
            Ok(io) => io,
            Err(cause) => return Err(Error::new(Cause::Connect { addr: addr(), cause })),
        };
        *connected = true;
        let mut transport = FrameTransport::new(io, config.limits);
        let cause = match transport.first_frame().await {
            Ok(Some(Ok(Received::Frame(Frame::Info { name, nonce })))) => return Ok((transport, name, nonce)),
            Ok(Some(Ok(Received::Frame(Frame::Error { message })))) => {
                let message = error_text::text(&message);
                shared.emit(SessionEvent::BrokerError { message: message.clone() });
                Cause::Broker { message }
            }
            Ok(Some(Ok(_))) => Cause::Unexpected { addr: addr(), what: "the first frame is not INFO".to_owned() },
            Ok(Some(Err(cause))) => match OtherProtocol::of(transport.unread()) {
                Some(other) => Cause::Unexpected { addr: addr(), what: is_other(other) },
                None => Cause::Protocol { addr: addr(), cause },
            },
            Ok(None) => {
                // So does a server of TLS that has waited for the client to begin.
                let text = "it was closed before the broker said anything: perhaps it expects TLS (--tls or --tlscert FILE; \
                            SessionBuilder::tls), or has no room";
                Cause::Io { addr: addr(), cause: io::Error::new(io::ErrorKind::UnexpectedEof, text) }
            }
            Err(cause) => Cause::Io { addr: addr(), cause },
        };
        Err(Error::new(cause))
    }

    /// Waits before the next connection. Closing with messages in the queue cuts it short.
    async fn wait(&mut self, delay: Duration) {
        let started = Instant::now();
        tokio::select! {
            biased;
            () = sleep(delay) => return,
            _ = asked(&self.shared, &mut self.reconnect) => {}
        }
        tokio::select! {
            biased;
            () = sleep_until(started + delay.min(CLOSING_DELAY)) => {}
            () = stopping(&self.shared, &mut self.reconnect) => {}
        }
    }

    /// How the session ends: what was left behind comes first, then what was refused, then why it
    /// gave up.
    async fn verdict(&mut self, why: Option<Error>, gave_up: bool) -> Result<(), Error> {
        self.shared.outbox.close(Error::closed());
        if self.shared.intent() != Intent::Abort {
            if let ReconnectState { spooling: Some(spooling), in_flight, .. } = &mut self.reconnect {
                let left = spooling.finish(&self.shared, in_flight).await;
                if let Some(cause) = left.into_cause(why.clone()) {
                    return Err(Error::new(cause));
                }
            }
        }
        let denial = self.reconnect.denial.take();
        let why = if gave_up { why.or(denial) } else { denial.or(why) };
        let (here, there) = (self.shared.outbox.unsent(), self.reconnect.in_flight.unsent());
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
        let unconfirmed = self.lost + self.reconnect.in_flight.unconfirmed.waiting().0;
        if unconfirmed > 0 {
            return Err(Error::new(Cause::Unconfirmed {
                messages: unconfirmed,
                why: why.or_else(|| self.broke.take()),
            }));
        }
        why.filter(|why| gave_up || !why.is_network()).map_or(Ok(()), Err)
    }
}

/// Whether something is left to send.
fn has_more(shared: &Shared, reconnect: &ReconnectState) -> bool {
    shared.outbox.unsent().0 + reconnect.in_flight.outstanding().0 > 0 || reconnect.holds_more()
}

/// Completes when the program asks for the end. The spool works meanwhile.
async fn asked(shared: &Shared, reconnect: &mut ReconnectState) -> Intent {
    poll_fn(|cx| {
        shared.driver.register(cx.waker());
        reconnect.keep(cx, shared, spooling::Link::None);
        reconnect.figure(shared);
        match shared.intent() {
            Intent::Run => Poll::Pending,
            intent => Poll::Ready(intent),
        }
    })
    .await
}

/// Completes when what happens between connections must stop: at once when there is nothing to
/// send or nobody to send it for, otherwise at the deadline of closing. The spool works meanwhile.
async fn stopping(shared: &Shared, reconnect: &mut ReconnectState) {
    if let Intent::Close(deadline) = asked(shared, reconnect).await {
        if has_more(shared, reconnect) {
            let mut deadline = pin!(sleep_until(deadline));
            poll_fn(|cx| {
                shared.driver.register(cx.waker());
                reconnect.keep(cx, shared, spooling::Link::None);
                if shared.intent() == Intent::Abort { Poll::Ready(()) } else { deadline.as_mut().poll(cx) }
            })
            .await;
        }
    }
}

/// However the task ends, also by a panic or with its runtime, and even if it never ran: nobody
/// waits for it in vain.
impl Drop for Driver {
    fn drop(&mut self) {
        self.reconnect.in_flight.end(&Error::closed());
        self.shared.finish(Err(Error::closed()), &Error::closed());
    }
}

/// Names the protocol at a port that is not hpfeeds.
fn is_other(other: OtherProtocol) -> String {
    match other {
        OtherProtocol::Tls => {
            "it speaks TLS: connect with it (--tls or --tlscert FILE; SessionBuilder::tls)".to_owned()
        }
        other => format!("it speaks {other}; check the port"),
    }
}
