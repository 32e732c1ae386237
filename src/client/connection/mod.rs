//! One connection, from AUTH to its end.

mod answers;
mod denial;
#[doc(hidden)]
pub mod error_text;
mod expected;
pub(super) mod greeting;
mod life;
mod mailboxes;
mod parting;
mod proving;
mod sending;
pub(super) mod state;
mod sweep;
pub(super) mod transport;
mod watch;

use std::{
    collections::{BTreeMap, VecDeque},
    io, mem,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use futures::future::poll_fn;
use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    answers::MAX_UNANSWERED,
    expected::Mailboxes,
    state::{Connection, End, Extension, Phase, encode, unsubscribe},
    transport::{FrameTransport, Received},
    watch::Watch,
};
use super::{
    driver::{
        desired::Shared,
        reconnect::{ConnectionOutcome, ReconnectState},
        spooling::Link,
        wanted::{Intent, Wish},
    },
    error::{Cause, Error},
    queue::unconfirmed::Keeping,
};
use crate::wire::{DecodeError, Frame, Nonce, extension::Flags};

/// The driver lets the program run when it has received so many bytes or more: read soon, they are
/// still in the processor's cache. The program that has read them lets it go on, see
/// [`SharedTask`](super::driver::shared_task::SharedTask).
pub(super) const READ_BUDGET: usize = 64 * 1024;

/// The driver lets the program run when it has acted on so many batches and other frames: a broker
/// that sends ERROR after ERROR, or one message between two, gets no more of the processor than
/// others do, and is left when the time to close is over. A broker that means well sends one or two
/// in a read.
pub(super) const FRAME_BUDGET: u32 = 64;

/// How long to listen to a connection that can no longer be written to.
const DRAIN_AFTER_WRITE_ERROR: Duration = Duration::from_millis(100);

impl<'a> Connection<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        reconnect: &'a mut ReconnectState,
        first: &'a mut Option<oneshot::Sender<Result<(), Error>>>,
        mut transport: FrameTransport,
        (broker, nonce): (String, &Nonce),
        extended: bool,
    ) -> Self {
        let phase = if extended {
            transport.extend();
            Phase::Greeting { deadline: Self::greeting_deadline(shared) }
        } else {
            let grace = Box::pin(sleep(shared.config.auth_grace));
            Phase::Proving { grace, replay: VecDeque::new(), last: Vec::new() }
        };
        let mut connection = Self {
            shared,
            reconnect,
            first,
            transport,
            broker,
            phase,
            extension: extended.then(|| Extension::new(shared.config.confirm)),
            deadline: None,
            parting: None,
            hold: None,
            subscribed: BTreeMap::new(),
            mailboxes: Mailboxes::default(),
            rotation: None,
            granting: None,
            complaint: None,
            outcome: ConnectionOutcome::default(),
            watch: Watch::new(),
            needs_flush: false,
            frames: 0,
            broken: false,
        };
        connection.begin(nonce);
        connection
    }

    pub(crate) async fn run(&mut self) -> End {
        let turn = |cx: &mut Context<'_>| {
            let polled = self.poll(cx);
            self.reconnect.figure(self.shared);
            self.reconnect.in_flight.unconfirmed.answer();
            polled
        };
        match poll_fn(turn).await {
            Ok(end) => end,
            Err(error) => self.drain_after_write_error(error).await,
        }
    }

    /// A write failed. The broker's last frames before it closed, messages and the reason, are
    /// still there to be read, although the runtime may not know that yet.
    async fn drain_after_write_error(&mut self, error: io::Error) -> End {
        self.broken = true;
        let ended = poll_fn(|cx| {
            self.frames = 0;
            loop {
                match self.receive(cx) {
                    Err(end) => return Poll::Ready(end),
                    _ if self.frames >= FRAME_BUDGET => return give_way(cx),
                    Ok(0) => return Poll::Pending,
                    Ok(_) => {}
                }
            }
        });
        match timeout(DRAIN_AFTER_WRITE_ERROR, ended).await {
            Ok(end) => end,
            Err(_elapsed) => self.broken(error),
        }
    }

    /// The outcome of the connection. One that has failed is reset when its messages are sent
    /// again: what is on its way would arrive behind the same messages on the next one.
    pub(crate) fn into_outcome(self, end: &End) -> ConnectionOutcome {
        let again = self.reconnect.in_flight.unconfirmed.keeping() != Keeping::Nothing;
        if again && matches!(end, End::Failed(_)) {
            self.transport.abort();
        }
        self.outcome
    }

    /// Does all that can be done now. The order matters: what the broker says is heard before more
    /// is written. Fails when a write does.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<End>> {
        self.shared.driver.register(cx.waker());
        self.shared.set_gave_way(false);
        self.frames = 0;
        let mut received = 0;
        loop {
            let read = match self.receive(cx) {
                Ok(read) => read,
                Err(end) => return Poll::Ready(Ok(end)),
            };
            received += read;
            let mut progress = read > 0;
            let unsettled = self.settle();
            progress |= self.pass_over_longer();
            if self.reconnect.keep(cx, self.shared, self.link()) {
                self.change_stream();
                progress = true;
            }
            if self.reconnect.search_at().is_some_and(|at| at <= Instant::now()) {
                self.reconnect.discard(self.shared);
            }
            if let Some(end) = self.apply_intent() {
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
            if unsettled || self.frames >= FRAME_BUDGET {
                return give_way(cx);
            }
            if !progress {
                return Poll::Pending;
            }
            if received >= READ_BUDGET {
                self.shared.set_gave_way(true);
                return give_way(cx);
            }
        }
    }

    // ---- receiving ----

    /// Reads once, and acts on it; says how many bytes there were.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<usize, End> {
        // INFO may have come with more behind it, or more than one poll acts on.
        self.process_received()?;
        if self.frames >= FRAME_BUDGET {
            return Ok(0);
        }
        // Closing, nobody may be reading any more; but the broker's EOF stands behind what it still
        // sends. And what the system holds of a broken connection is not much, and otherwise lost.
        if !self.is_closing() && !self.broken && !self.may_read() {
            return Ok(0);
        }
        match self.transport.poll_fill(cx) {
            Poll::Pending => Ok(0),
            Poll::Ready(Ok(0)) => Err(self.eof()),
            Poll::Ready(Ok(n)) => {
                self.heard();
                self.process_received().map(|()| n)
            }
            Poll::Ready(Err(error)) => Err(self.broken(error)),
        }
    }

    /// Acts on what has been read, or on as much of it as the budget allows.
    fn process_received(&mut self) -> Result<(), End> {
        while self.frames < FRAME_BUDGET {
            let Some(received) = self.transport.next().map_err(|cause| self.protocol(cause))? else {
                break;
            };
            self.frames += 1;
            match received {
                Received::Batch(batch) => self.delivered(batch)?,
                Received::TooLong(cause) => {
                    self.proven();
                    if let DecodeError::TooLong { length, .. } = cause {
                        self.received(length as usize, false)?;
                    }
                    self.passed_over_one();
                    self.shared.skip(cause);
                }
                Received::Extension(opcode, body) => self.answered(opcode, &body)?,
                Received::Malformed(cause) => return Err(self.malformed(cause)),
                Received::Frame(Frame::Error { message }) => self.refused(&message)?,
                Received::Frame(frame) => {
                    let what = format!("it sent {} to a client", frame.opcode());
                    let addr = self.shared.config.addr.clone();
                    return Err(End::Failed(Error::new(Cause::Unexpected { addr, what })));
                }
            }
        }
        Ok(())
    }

    fn delivered(&mut self, batch: BytesMut) -> Result<(), End> {
        self.proven();
        self.queue(batch)
    }

    /// The connection as the spool sees it.
    fn link(&self) -> Link {
        if matches!(self.phase, Phase::Accepted) && self.hold.is_none() { Link::Up } else { Link::Pending }
    }

    /// Because the program wants it.
    pub(super) fn is_closing(&self) -> bool {
        self.deadline.is_some() && matches!(self.phase, Phase::Closing | Phase::HalfClosed)
    }

    fn eof(&mut self) -> End {
        let complaint = self.recent_complaint();
        match (&self.phase, &complaint) {
            (Phase::Greeting { .. }, None) => self.outcome.silent = true,
            // A complaint may be about a message, unless it names a subscription.
            (Phase::HalfClosed, Some(complaint)) if complaint.concerns_messages() && self.outcome.published => {}
            // Its end and ours have crossed on the way.
            (Phase::HalfClosed, _) if self.transport.status().is_some_and(|status| !status.end_acknowledged) => {}
            (Phase::HalfClosed, _) => {
                if self.reconnect.in_flight.unconfirmed.keeping() == Keeping::Eof {
                    self.reconnect.in_flight.unconfirmed.ack_written();
                }
                let parting = self.parting.is_some();
                // Messages that a broker should acknowledge, and has not, are not decided.
                if self.reconnect.in_flight.unconfirmed.is_decided() {
                    if let Some(end) = if parting { self.parted() } else { Some(End::Confirmed) } {
                        return end;
                    }
                }
            }
            (Phase::Proving { last, .. }, None) => {
                let last = last.clone();
                return self.closed_silently(last);
            }
            _ => {}
        }
        let eof = || Error::new(Cause::Eof { addr: self.shared.config.addr.clone() });
        End::Failed(complaint.unwrap_or_else(eof))
    }

    pub(super) fn broken(&mut self, cause: io::Error) -> End {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        // A broker that closes before it has read all that came with AUTH resets the connection.
        if matches!(self.phase, Phase::Proving { .. })
            && matches!(cause.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        {
            return self.eof();
        }
        let io = || Error::new(Cause::Io { addr: self.shared.config.addr.clone(), cause });
        End::Failed(self.recent_complaint().unwrap_or_else(io))
    }

    fn protocol(&self, cause: DecodeError) -> End {
        End::Failed(Error::new(Cause::Protocol { addr: self.shared.config.addr.clone(), cause }))
    }

    // ---- what the program wants ----

    fn apply_intent(&mut self) -> Option<End> {
        match self.shared.intent() {
            Intent::Abort => return Some(End::Stopped),
            Intent::Close(deadline) => {
                self.deadline.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                self.shared.outbox.close(Error::closed());
                let nothing_more = !self.reconnect.holds_more();
                let nothing_to_send =
                    || nothing_more && self.shared.outbox.unsent().0 + self.reconnect.in_flight.outstanding().0 == 0;
                if match self.phase {
                    Phase::Accepted => nothing_more && !self.reconnect.in_flight.holds(),
                    Phase::Greeting { .. } | Phase::Proving { .. } => nothing_to_send(),
                    Phase::Closing | Phase::HalfClosed => false,
                } {
                    self.begin_closing();
                }
            }
            Intent::Run => {}
        }
        self.follow_changes();
        None
    }

    /// Sends what `subscribe` and `unsubscribe` have changed, unless they are asked for a few at a
    /// time just now. Changes that come while the last ones wait to be written wait too, and most
    /// of them cancel out.
    fn follow_changes(&mut self) {
        if self.reconnect.in_flight.holds_control() {
            return;
        }
        match &self.phase {
            Phase::Accepted | Phase::Greeting { .. } => {}
            Phase::Proving { .. } if !self.reconnect.careful => {}
            _ => return,
        }
        let extension = self.extension.as_ref();
        let answers = extension.is_some_and(|extension| !extension.answered || extension.grants(Flags::REPLIES));
        if answers && extension.is_some_and(|extension| extension.unanswered.len() >= MAX_UNANSWERED) {
            return;
        }
        let mut changes = Vec::new();
        for (channel, wish) in self.shared.changes() {
            let asked = self.subscribed.get(&channel).map(|(_, asked)| asked);
            match (&wish, asked) {
                (Wish::Nothing, None) => continue,
                (Wish::Nothing, Some(_)) => {
                    self.subscribed.remove(&channel);
                }
                // Unsubscribed and wanted again between two looks: the answer is known, or on its way.
                (Wish::Plain, Some(asked)) if !wish.leaves(asked) => {
                    if answers && !self.is_unanswered(&channel) {
                        self.shared.granted(&channel);
                    }
                    continue;
                }
                _ if !self.can(&channel, &wish) => continue,
                (_, asked) => {
                    if asked.is_some_and(|asked| wish.leaves(asked)) {
                        changes.push((channel.clone(), Wish::Nothing));
                    }
                    self.subscribed.insert(channel.clone(), (Instant::now(), wish.clone()));
                }
            }
            changes.push((channel, wish));
        }
        let frames = self.asking(changes.iter().map(|(channel, wish)| (channel, wish)));
        self.reconnect.in_flight.push_control(frames);
        if let Some(extension) = self.extension.as_mut().filter(|_| answers) {
            extension.unanswered.extend(changes);
        }
    }

    /// Sends the queue, and then asks for no more messages, so that the broker's EOF is not far.
    fn begin_closing(&mut self) {
        self.reconnect.discard(self.shared);
        self.shared.outbox.take(&mut self.reconnect.in_flight);
        self.tell_processed();
        let subscribed = mem::take(&mut self.subscribed);
        let frames: Vec<_> = subscribed.into_keys().map(|channel| unsubscribe(self.shared, channel)).collect();
        self.reconnect.in_flight.push_last(encode(self.shared, &frames));
        self.phase = Phase::Closing;
        self.watch.restart();
    }

    // ---- time ----

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Err(End::Stopped);
        }
        self.poll_parting(cx)?;
        self.poll_grants(cx);
        self.poll_rotation(cx);
        self.poll_life(cx)?;
        self.look(cx)?;
        if self.hold.as_mut().is_some_and(|hold| hold.as_mut().poll(cx).is_ready()) {
            self.hold = None;
            self.reconnect.discard(self.shared);
            return Ok(true);
        }
        let (Phase::Greeting { deadline: timer } | Phase::Proving { grace: timer, .. }) = &mut self.phase else {
            return Ok(false);
        };
        if timer.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        if matches!(self.phase, Phase::Greeting { .. }) {
            self.transport.abort();
            let (addr, after) = (self.shared.config.addr.clone(), self.shared.config.handshake_timeout);
            return Err(End::Failed(Error::new(Cause::NoHello { addr, after })));
        }
        self.prove_next();
        Ok(true)
    }

    /// Ends a connection whose peer answers nothing any more, and closing when nothing comes of it.
    fn look(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let waits = self.is_closing() || self.reconnect.in_flight.has_next(false);
        let Some(more) = self.watch.poll(cx, &self.transport, waits) else {
            return Ok(());
        };
        self.shared.count_sent(more);
        let config = &self.shared.config;
        if !config.unacknowledged.is_zero() && self.watch.unanswered >= config.unacknowledged {
            self.transport.abort();
            let silence = format!("nothing was acknowledged for {:.0?}", self.watch.unanswered);
            return Err(self.broken(io::Error::new(io::ErrorKind::TimedOut, silence)));
        }
        match config.close_stall_timeout {
            Some(silence) if self.is_closing() && self.watch.is_stalled(silence) => Err(End::Stopped),
            _ => Ok(()),
        }
    }
}

/// The driver goes on when others have run.
fn give_way<T>(cx: &mut Context<'_>) -> Poll<T> {
    // Pending when asked for the first time.
    let _pending = pin!(yield_now()).poll(cx);
    Poll::Pending
}
