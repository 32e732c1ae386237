//! One connection, from AUTH to its end.

use std::{
    collections::{BTreeSet, VecDeque},
    io, mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};

use super::{
    Error, SessionEvent, SessionState,
    driver::{Attempt, Memory},
    error::Cause,
    link::{Link, Received},
    refusal::Refusal,
    shared::{Intent, Shared},
};
use crate::wire::{Channel, Frame, Nonce};

/// How long to listen to a connection that can no longer be written to.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Why a connection is over.
pub(crate) enum End {
    /// Everything was written and the broker closed after our half-close: it has read all of it.
    Confirmed,
    /// The program asked for it, or closing took too long.
    Stopped,
    /// Something went wrong.
    Failed(Error),
}

/// ```text
/// Proving ── the grace passed, or a message came ──► Accepted ── close() ──► Closing ── all written ──► HalfClosed
///    └────────────────────────────── close() ──────────────────────────────────▲
/// ```
enum Phase {
    /// AUTH is sent. Messages stay queued until the broker had time to refuse the key.
    Proving {
        grace: Pin<Box<Sleep>>,
        /// Subscriptions still to be asked for, one at a time.
        replay: VecDeque<Channel>,
        /// The subscription that the grace is for; before the first, it is for the key.
        last: Option<Channel>,
    },
    Accepted,
    Closing {
        deadline: Pin<Box<Sleep>>,
    },
    HalfClosed {
        deadline: Pin<Box<Sleep>>,
    },
}

pub(crate) struct Connection<'a> {
    shared: &'a Shared,
    memory: &'a mut Memory,
    first: &'a mut Option<oneshot::Sender<Result<(), Error>>>,
    link: Link,
    broker: String,
    phase: Phase,
    /// What the broker was asked to send.
    subscribed: BTreeSet<Channel>,
    /// What the broker complained of last: why it will have closed.
    complaint: Option<Error>,
    attempt: Attempt,
    needs_flush: bool,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        memory: &'a mut Memory,
        first: &'a mut Option<oneshot::Sender<Result<(), Error>>>,
        link: Link,
        broker: String,
        nonce: &Nonce,
    ) -> Self {
        let config = &shared.config;
        let channels = shared.channels();
        let mut subscribed = BTreeSet::new();
        let mut replay = VecDeque::new();
        let mut frames = vec![Frame::Auth { ident: config.ident.clone(), digest: config.secret.sign(nonce) }];
        if memory.careful {
            replay.extend(channels);
        } else {
            frames.extend(channels.iter().map(|channel| subscribe(shared, channel)));
            subscribed = channels;
        }
        let grace = Box::pin(sleep(config.auth_grace));
        let phase = Phase::Proving { grace, replay, last: None };
        memory.flight.push_control(encode(shared, &frames));
        let (complaint, attempt) = (None, Attempt::default());
        Self { shared, memory, first, link, broker, phase, subscribed, complaint, attempt, needs_flush: false }
    }

    pub(crate) async fn run(&mut self) -> End {
        match poll_fn(|cx| self.poll(cx)).await {
            Ok(end) => end,
            Err(error) => self.last_words(error).await,
        }
    }

    /// A write failed. What the broker said before it closed, such as the reason, is still there to be read, although
    /// the runtime may not know that yet.
    async fn last_words(&mut self, error: io::Error) -> End {
        let ended = poll_fn(|cx| {
            loop {
                match self.receive(cx) {
                    Ok(true) => {}
                    Ok(false) => return Poll::Pending,
                    Err(end) => return Poll::Ready(end),
                }
            }
        });
        timeout(LAST_WORDS, ended).await.unwrap_or_else(|_| self.broken(error))
    }

    pub(crate) fn attempt(self) -> Attempt {
        self.attempt
    }

    /// Does all that can be done now. The order matters: what the broker says is heard before more is written. Fails
    /// when a write does.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<End>> {
        self.shared.driver.register(cx.waker());
        loop {
            let mut progress = match self.receive(cx) {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(Ok(end)),
            };
            if let Some(end) = self.obey() {
                return Poll::Ready(Ok(end));
            }
            match self.poll_timers(cx) {
                Ok(passed) => progress |= passed,
                Err(end) => return Poll::Ready(Ok(end)),
            }
            match self.send(cx) {
                Ok(sent) => progress |= sent,
                Err(error) => return Poll::Ready(Err(error)),
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    // ---- receiving ----

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        // Closing, nobody may be reading any more; but the broker's EOF stands behind what it still sends.
        let closing = matches!(self.phase, Phase::Closing { .. } | Phase::HalfClosed { .. });
        if !closing && !self.shared.inbox.has_room() {
            return Ok(false);
        }
        match self.link.poll_fill(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(self.eof()),
            Poll::Ready(Ok(_)) => {
                while let Some(received) = self.link.next().map_err(|cause| self.protocol(cause))? {
                    match received {
                        Received::Run(run) => self.delivered(run),
                        Received::Frame(Frame::Error { message }) => {
                            self.refused(&String::from_utf8_lossy(&message))?;
                        }
                        Received::Frame(frame) => {
                            let what = format!("it sent {} to a client", frame.opcode());
                            let addr = self.shared.config.addr.clone();
                            return Err(End::Failed(Error::new(Cause::Unexpected { addr, what })));
                        }
                    }
                }
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(self.broken(error)),
        }
    }

    fn delivered(&mut self, run: Bytes) {
        self.attempt.delivered = true;
        if let Phase::Proving { replay, .. } = &self.phase
            && replay.is_empty()
        {
            self.accept();
        }
        // Only while closing can it be full here; then what nobody reads is let go.
        if self.shared.inbox.has_room() {
            self.shared.inbox.push(run);
        }
    }

    fn eof(&mut self) -> End {
        match &self.phase {
            Phase::HalfClosed { .. } => return End::Confirmed,
            Phase::Proving { last: Some(channel), .. } if self.complaint.is_none() => {
                let channel = channel.clone();
                let message = "the broker closed the connection".to_owned();
                return match self.deny_subscription(Some(channel), message) {
                    Ok(()) => End::Failed(self.eof_cause()),
                    Err(end) => end,
                };
            }
            Phase::Proving { .. } if self.complaint.is_none() => {
                let (addr, ident) = (self.shared.config.addr.clone(), self.shared.config.ident.clone());
                return self.rejected(Error::new(Cause::Rejected { addr, ident, message: None }));
            }
            _ => {}
        }
        End::Failed(self.eof_cause())
    }

    fn eof_cause(&self) -> Error {
        let eof = || Error::new(Cause::Eof { addr: self.shared.config.addr.clone() });
        self.complaint.clone().unwrap_or_else(eof)
    }

    fn broken(&self, cause: io::Error) -> End {
        let io = || Error::new(Cause::Io { addr: self.shared.config.addr.clone(), cause });
        End::Failed(self.complaint.clone().unwrap_or_else(io))
    }

    fn protocol(&self, cause: crate::wire::DecodeError) -> End {
        End::Failed(Error::new(Cause::Protocol { addr: self.shared.config.addr.clone(), cause }))
    }

    // ---- what the broker refuses ----

    fn refused(&mut self, text: &str) -> Result<(), End> {
        let config = &self.shared.config;
        tracing::warn!(addr = %config.addr, message = ?text, "the broker reported an error");
        let message = text.to_owned();
        match Refusal::classify(text, &config.ident) {
            Refusal::Auth => {
                let (addr, ident) = (config.addr.clone(), config.ident.clone());
                Err(self.rejected(Error::new(Cause::Rejected { addr, ident, message: Some(message) })))
            }
            Refusal::Publish(channel) => {
                self.deny_message(channel, message);
                Ok(())
            }
            Refusal::Subscribe(channel) => self.deny_subscription(channel, message),
            // Either a subscription that is not proven, or a message.
            Refusal::Access if self.suspects().is_empty() => {
                self.deny_message(None, message);
                Ok(())
            }
            Refusal::Access => self.deny_subscription(None, message),
            Refusal::Other => {
                self.complaint = Some(Error::new(Cause::Broker { message: message.clone() }));
                self.shared.emit(SessionEvent::BrokerError { message });
                Ok(())
            }
        }
    }

    fn rejected(&mut self, cause: Error) -> End {
        self.shared.emit(SessionEvent::AuthRejected { cause: cause.clone() });
        End::Failed(cause)
    }

    fn deny_message(&mut self, channel: Option<Channel>, message: String) {
        let cause = Error::new(Cause::PublishDenied { channel: channel.clone(), message });
        let mut discarded = 0;
        if let Some(channel) = &channel {
            discarded = self.shared.outbox.quarantine(channel, &cause, Instant::now());
            self.attempt.repaired = true;
        }
        self.memory.denial.get_or_insert_with(|| cause.clone());
        self.complaint = Some(cause.clone());
        self.shared.emit(SessionEvent::PublishDenied { channel, discarded, cause });
    }

    /// Takes a subscription out. When the broker did not say which one, and it can be one of several, the next
    /// connection asks for one at a time.
    fn deny_subscription(&mut self, channel: Option<Channel>, message: String) -> Result<(), End> {
        let suspects = self.suspects();
        let guilty = channel.or_else(|| if let [only] = &*suspects { Some(only.clone()) } else { None });
        let cause = Error::new(Cause::SubscribeDenied { channel: guilty.clone(), message });
        self.complaint = Some(cause.clone());
        self.attempt.repaired = true;
        if guilty.is_none() && !suspects.is_empty() {
            self.memory.careful = true;
            return Err(End::Failed(cause));
        }
        if let Some(channel) = &guilty {
            self.shared.unwant(channel);
            self.subscribed.remove(channel);
            self.memory.proven.remove(channel);
            if let Phase::Proving { last, .. } = &mut self.phase {
                last.take_if(|last| last == channel);
            }
        }
        self.shared.emit(SessionEvent::SubscribeDenied { channel: guilty, cause });
        Ok(())
    }

    /// Subscriptions that the broker may have refused when it does not say which.
    fn suspects(&self) -> Vec<Channel> {
        match &self.phase {
            Phase::Proving { last: Some(last), .. } => vec![last.clone()],
            _ => self.subscribed.difference(&self.memory.proven).cloned().collect(),
        }
    }

    // ---- what the program wants ----

    fn obey(&mut self) -> Option<End> {
        if let Some(fault) = self.shared.take_fault() {
            return Some(self.protocol(fault));
        }
        match self.shared.intent() {
            Intent::Abort => return Some(End::Stopped),
            Intent::Close(deadline) if matches!(self.phase, Phase::Proving { .. } | Phase::Accepted) => {
                self.begin_closing(deadline);
            }
            Intent::Close(_) | Intent::Run => {}
        }
        if matches!(self.phase, Phase::Accepted)
            || matches!(self.phase, Phase::Proving { last: None, .. } if !self.memory.careful)
        {
            self.follow_changes();
        }
        None
    }

    fn follow_changes(&mut self) {
        let mut frames = Vec::new();
        for (channel, wanted) in self.shared.changes() {
            if wanted && !self.subscribed.contains(&channel) {
                frames.push(subscribe(self.shared, &channel));
                self.subscribed.insert(channel);
            } else if !wanted && self.subscribed.remove(&channel) {
                frames.push(unsubscribe(self.shared, channel));
            }
        }
        if !frames.is_empty() {
            self.memory.flight.push_control(encode(self.shared, &frames));
        }
    }

    /// No more messages are taken. What is queued follows, without waiting for the grace: the broker's answer to our
    /// half-close tells more. Then no more messages are asked for, so that its EOF is not far.
    fn begin_closing(&mut self, deadline: Instant) {
        self.shared.outbox.close(Error::closed());
        self.shared.outbox.take(&mut self.memory.flight);
        let frames: Vec<_> =
            mem::take(&mut self.subscribed).into_iter().map(|channel| unsubscribe(self.shared, channel)).collect();
        self.memory.flight.push_last(encode(self.shared, &frames));
        self.phase = Phase::Closing { deadline: Box::pin(sleep_until(deadline)) };
    }

    // ---- time ----

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match &mut self.phase {
            Phase::Accepted => return Ok(false),
            Phase::Closing { deadline } | Phase::HalfClosed { deadline } => {
                return if deadline.as_mut().poll(cx).is_ready() { Err(End::Stopped) } else { Ok(false) };
            }
            Phase::Proving { grace, .. } => {
                if grace.as_mut().poll(cx).is_pending() {
                    return Ok(false);
                }
            }
        }
        self.prove_next();
        Ok(true)
    }

    /// The broker let the grace pass: the key, or the last subscription, is good.
    fn prove_next(&mut self) {
        let Phase::Proving { grace, replay, last } = &mut self.phase else {
            return;
        };
        if let Some(channel) = last.take() {
            self.memory.proven.insert(channel);
        }
        let Some(channel) = replay.pop_front() else {
            self.accept();
            return;
        };
        let frame = subscribe(self.shared, &channel);
        self.subscribed.insert(channel.clone());
        *last = Some(channel);
        grace.as_mut().reset(Instant::now() + self.shared.config.auth_grace);
        self.memory.flight.push_control(encode(self.shared, &[frame]));
    }

    fn accept(&mut self) {
        self.phase = Phase::Accepted;
        self.memory.careful = false;
        self.attempt.accepted = Some(Instant::now());
        tracing::info!(addr = %self.shared.config.addr, broker = ?self.broker, "connected");
        self.shared.state.send_replace(SessionState::Connected);
        self.shared.emit(SessionEvent::Connected { broker: self.broker.clone() });
        if let Some(first) = self.first.take() {
            // The caller of `connect` may have gone; then the session is dropped too.
            drop(first.send(Ok(())));
        }
    }

    // ---- sending ----

    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if matches!(self.phase, Phase::HalfClosed { .. }) {
            return Ok(false);
        }
        let proving = matches!(self.phase, Phase::Proving { .. });
        let mut sent = false;
        while self.memory.flight.has_next(proving) || (!proving && self.shared.outbox.take(&mut self.memory.flight)) {
            match self.link.poll_write(cx, &mut self.memory.flight, proving) {
                Poll::Ready(written) => {
                    let written = written?;
                    self.shared.outbox.release(written.room);
                    self.attempt.messages += written.messages;
                    self.needs_flush = true;
                    sent = true;
                }
                Poll::Pending => return Ok(sent),
            }
        }
        if self.needs_flush {
            match self.link.poll_flush(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => return Ok(sent),
            }
            self.needs_flush = false;
        }
        if let Phase::Closing { deadline } = &mut self.phase
            && let Poll::Ready(shut) = self.link.poll_shutdown(cx)
        {
            shut?;
            let deadline = mem::replace(deadline, Box::pin(sleep(Duration::ZERO)));
            self.phase = Phase::HalfClosed { deadline };
            sent = true;
        }
        Ok(sent)
    }
}

fn encode(shared: &Shared, frames: &[Frame]) -> Bytes {
    let mut bytes = BytesMut::new();
    for frame in frames {
        // Names and digests have bounded lengths: no legal one is above the limits of these frames.
        if let Err(error) = frame.encode(&mut bytes, shared.config.limits) {
            debug_assert!(false, "{error}");
        }
    }
    bytes.freeze()
}

fn subscribe(shared: &Shared, channel: &Channel) -> Frame {
    Frame::Subscribe { ident: shared.config.ident.clone(), channel: channel.clone() }
}

fn unsubscribe(shared: &Shared, channel: Channel) -> Frame {
    Frame::Unsubscribe { ident: shared.config.ident.clone(), channel }
}
