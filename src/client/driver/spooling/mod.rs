//! The driver's half of the spool: when messages go to disk, when they leave memory, and what is
//! sent next.
//!
//! The stream of the program is in up to four parts, in this order: written and unconfirmed, about
//! to be written (both in `InFlight`), on disk alone, and the `tail` in memory behind that, before
//! what is in `Outbox`. Usually the middle parts are empty, and nothing is written to disk. Streams
//! of earlier programs are replayed before all of it: meanwhile `InFlight` is theirs.

mod replay;
mod store;

use std::{
    collections::VecDeque,
    io, mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::poll_fn;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{desired::Shared, wanted::Intent};
use crate::{
    client::{
        config::SPOOL_ENDING,
        error::{Cause, Error},
        event::SessionEvent,
        queue::{batch::Batch, in_flight::InFlight, unconfirmed::Unconfirmed},
        spool::{Answer, Chunk, Feed, FeedBroker, FeedRefused, Spool, SpoolHandle, SpoolNews},
        when_full::WhenFull,
    },
    wire::{
        Channel,
        extension::{BrokerHello, Code, Level, StreamId, StreamPosition},
    },
};

/// The time that an opening may take before the session goes on without what is on disk.
const OPENING: Duration = Duration::from_secs(5);

/// The connection, as far as it matters to the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// There is none.
    None,
    /// There is one that says HELLO, or has not accepted the key: nothing may change.
    Pending,
    /// Messages are written.
    Up,
}

/// The remainder of a session at its end: messages on disk, and others with their bytes.
#[derive(Debug)]
pub(crate) struct Left {
    spooled: u64,
    messages: u64,
    bytes: usize,
    failing: Option<Error>,
}

impl Left {
    /// The cause of an error, if there is one: what is lost comes before what is on disk.
    pub(crate) fn into_cause(self, why: Option<Error>) -> Option<Cause> {
        let Self { spooled, messages, bytes, failing } = self;
        match (messages, spooled) {
            (0, 0) => None,
            (0, messages) => Some(Cause::Spooled { messages, why }),
            (messages, _) => Some(Cause::Unsent { messages, bytes, why: failing.or(why) }),
        }
    }
}

/// The state of a session's spool.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "settings, and what was heard of the engine")]
pub(crate) struct Spooling {
    handle: SpoolHandle,
    after: Duration,
    when_full: WhenFull,
    required: bool,
    write_through: bool,
    /// The unconfirmed messages of this program, while an earlier one's stream is replayed.
    parked: Option<Unconfirmed>,
    /// It is not known yet whether there are older streams: what is taken waits behind them.
    is_opening: bool,
    /// Nothing of earlier programs is left to read.
    is_read: bool,
    /// The newest number of this program in `InFlight` or before it, where more stands behind on
    /// disk or in the tail. `None`: the outbox comes next.
    head: Option<u64>,
    /// The newest number that is on disk alone.
    on_disk: u64,
    /// The newest number of this program that was read back.
    given: u64,
    /// Messages behind those on disk, with numbers.
    tail: VecDeque<Batch>,
    /// The newest number that was given to the engine, and the newest that is durable.
    stored: u64,
    durable: u64,
    /// The newest number that the engine was told is confirmed, of the current stream.
    released: u64,
    /// Batches that were read and are not in `InFlight` yet, and the answers behind them.
    chunk: Option<Chunk>,
    answers: VecDeque<Answer>,
    asked: bool,
    /// The numbers that were on disk alone when everything was asked for, and when all were read.
    asked_for: u64,
    ended: Option<u64>,
    /// The engine had enough: there is more to store.
    is_behind: bool,
    /// The next batch waits until nothing is unconfirmed.
    is_blocked: bool,
    /// The id under which messages were stored.
    stream: StreamId,
    /// When it must be looked whether something is to be stored.
    check_at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// It is on disk that the oldest message waits since then.
    since: Option<Instant>,
    is_failing: bool,
    /// It can never be used.
    fault: Option<Error>,
}

impl Spooling {
    pub(crate) fn start(spool: &Spool, shared: &Shared) -> io::Result<Self> {
        let handle = SpoolHandle::start(spool, &shared.config.ident, shared.config.limits)?;
        shared.outbox.wake_when_low();
        Ok(Self {
            after: spool.after,
            when_full: spool.when_full,
            required: spool.required,
            write_through: spool.write_through,
            is_opening: true,
            ..Self::new(handle)
        })
    }

    /// The session's half of a feed, which is a spool that is only replayed.
    pub(crate) fn fed(feed: &Feed) -> Self {
        Self::new(SpoolHandle::fed(feed))
    }

    fn new(handle: SpoolHandle) -> Self {
        Self {
            handle,
            after: Duration::ZERO,
            when_full: WhenFull::Wait,
            required: false,
            write_through: false,
            parked: None,
            is_opening: false,
            is_read: false,
            head: None,
            on_disk: 0,
            given: 0,
            tail: VecDeque::new(),
            stored: 0,
            durable: 0,
            released: 0,
            chunk: None,
            answers: VecDeque::new(),
            asked: false,
            asked_for: 0,
            ended: None,
            is_behind: false,
            is_blocked: false,
            stream: StreamId::default(),
            check_at: None,
            timer: None,
            since: None,
            is_failing: false,
            fault: None,
        }
    }

    /// Messages of the stream that is being sent were refused; `None`: they are too long.
    pub(crate) fn refused(&self, in_flight: &InFlight, first: u64, count: u64, code: Option<Code>) {
        let stream = in_flight.unconfirmed.stream();
        self.handle.refused(FeedRefused { stream, first, count, code });
    }

    /// A broker has accepted the key: one with the extension, by its HELLO, and the level at which
    /// it confirms; or another.
    pub(crate) fn accepted(&self, hello: Option<(&BrokerHello<'_>, Option<Level>)>) {
        if self.handle.is_fed() {
            self.handle.accepted(hello.map_or_else(FeedBroker::default, |(hello, level)| FeedBroker {
                level,
                is_extended: true,
                node: hello.node,
                path: hello.path.clone(),
            }));
        }
    }

    /// A broker without the extension denies a channel.
    pub(crate) fn denied(&self, channel: &Channel) {
        self.handle.denied(channel.clone());
    }

    /// Does what can be done now. True when `in_flight` holds another stream, or goes on with
    /// another number, so that HELLO must be said again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared, in_flight: &mut InFlight, link: Link) -> bool {
        self.handle.register(cx.waker());
        self.handle.poll();
        self.hear(shared, in_flight);
        self.release(in_flight);
        self.is_blocked = false;
        let changed = self.read(shared, in_flight, link);
        self.store(shared, in_flight, link, false);
        self.unload(shared, in_flight, link);
        let changed = self.load(shared, in_flight, link) || changed;
        self.release(in_flight);
        self.answer_stored(in_flight);
        if let Some(parked) = &mut self.parked {
            parked.answer();
        }
        if let Some(at) = self.check_at.into_iter().chain(self.handle.due()).min() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        changed
    }

    /// Whether the outbox may be written to the socket: nothing comes before it, and there is room
    /// for more that is unconfirmed.
    pub(crate) fn is_direct(&self, shared: &Shared, in_flight: &InFlight) -> bool {
        self.parked.is_none() && self.head.is_none() && in_flight.unconfirmed.waiting().1 < shared.outbox.capacity() / 2
    }

    /// Whether nothing more is sent until everything that was is confirmed.
    pub(crate) fn waits_for_end(&self) -> bool {
        self.is_blocked
    }

    /// Whether there is more to send than what stands in outbox and `InFlight`.
    pub(crate) fn holds_more(&self) -> bool {
        self.parked.is_some() || self.head.is_some() || self.has_answers() || !self.is_read && !self.is_failing
    }

    /// Waits until it is known what is on disk, at most 5 s, also when the session is closed: what
    /// is there comes first. Fails when the spool can never be used.
    pub(crate) async fn open(&mut self, shared: &Shared, in_flight: &mut InFlight) -> Result<(), Error> {
        let limit = sleep(OPENING);
        tokio::pin!(limit);
        poll_fn(|cx| {
            self.poll(cx, shared, in_flight, Link::None);
            let is_known = self.is_read || self.parked.is_some() || self.is_failing || shared.intent() == Intent::Abort;
            if is_known || limit.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.is_opening = false;
        self.fault.clone().map_or(Ok(()), Err)
    }

    /// Writes everything that is unconfirmed, and ends the spool. Returns what is left behind.
    pub(crate) async fn finish(&mut self, shared: &Shared, in_flight: &mut InFlight) -> Left {
        let limit = sleep(SPOOL_ENDING);
        tokio::pin!(limit);
        let mut is_closing = false;
        poll_fn(|cx| {
            self.handle.register(cx.waker());
            self.handle.poll();
            self.hear(shared, in_flight);
            self.release(in_flight);
            if !is_closing && (self.store(shared, in_flight, Link::None, true) || self.is_failing) {
                is_closing = true;
                self.handle.close();
            }
            let is_over = self.handle.is_closed() || limit.as_mut().poll(cx).is_ready();
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.hear(shared, in_flight);
        let (messages, bytes) = self.undurable(in_flight);
        let failing = self.handle.status().failing.map(|cause| Error::new(Cause::Spool(cause)));
        Left { spooled: self.handle.status().messages, messages, bytes, failing }
    }

    /// Hears what the engine has to say.
    fn hear(&mut self, shared: &Shared, in_flight: &mut InFlight) {
        for news in self.handle.news() {
            match news {
                SpoolNews::Opened { messages } => {
                    self.is_read |= messages == 0;
                    if messages > 0 {
                        self.since = Some(Instant::now());
                        let oldest = self.handle.status().oldest;
                        shared.emit(SessionEvent::Spooling { messages, oldest });
                    }
                }
                SpoolNews::Spooling => {
                    self.since = Some(Instant::now());
                    let status = self.handle.status();
                    shared.emit(SessionEvent::Spooling { messages: status.messages, oldest: status.oldest });
                }
                SpoolNews::Drained => {
                    let after = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
                    shared.emit(SessionEvent::Drained { after });
                }
                SpoolNews::Failing(error) => {
                    let is_permanent = error.is_permanent();
                    let cause = Error::new(Cause::Spool(error));
                    tracing::warn!(%cause, "spool");
                    self.is_failing = true;
                    if is_permanent {
                        self.fault = Some(cause.clone());
                    }
                    if self.required {
                        shared.set_spool_fault(Some(cause.clone()));
                    }
                    shared.emit(SessionEvent::SpoolFailing { cause });
                }
                SpoolNews::Recovered => {
                    self.is_failing = false;
                    shared.set_spool_fault(None);
                    shared.emit(SessionEvent::SpoolRecovered);
                }
                SpoolNews::Damaged(messages) => {
                    tracing::warn!(messages, "messages of the spool cannot be read");
                    shared.emit(SessionEvent::SpoolDamaged { messages });
                }
                SpoolNews::Dropped(messages) => shared.emit(SessionEvent::SpoolFull { dropped: messages }),
                SpoolNews::Full => shared.emit(SessionEvent::SpoolFull { dropped: 0 }),
            }
        }
        let live = self.live(in_flight);
        let (stream, durable) = (live.stream(), self.handle.durable());
        if self.stream != stream {
            // The broker knew another stream of that id.
            if self.stored > 0 {
                self.handle.rename(self.stream, stream);
            }
            self.stream = stream;
        }
        if let Some(StreamPosition { number, .. }) = durable.filter(|durable| durable.number > self.durable) {
            self.durable = number;
            if mem::take(&mut self.is_behind) {
                self.check_at = None;
            }
        }
        self.answer_stored(in_flight);
    }

    /// Answers those who wait for the disk.
    fn answer_stored(&mut self, in_flight: &mut InFlight) {
        match (self.is_failing, self.required, self.fault.clone()) {
            // Where the disk fails, the session goes on in memory.
            (true, false, _) => self.live_mut(in_flight).answer_stored(u64::MAX, &Ok(())),
            (_, true, Some(fault)) => self.live_mut(in_flight).answer_stored(u64::MAX, &Err(fault)),
            _ => {
                let durable = self.durable;
                self.live_mut(in_flight).answer_stored(durable, &Ok(()));
            }
        }
    }

    /// Tells the engine what is confirmed.
    fn release(&mut self, in_flight: &InFlight) {
        let unconfirmed = &in_flight.unconfirmed;
        let mut settled = unconfirmed.next() - 1;
        if self.parked.is_none() {
            // Messages that were never stored are not on disk.
            settled = settled.min(self.stored);
        }
        if settled > self.released {
            self.released = settled;
            self.handle.release(StreamPosition { stream: unconfirmed.stream(), number: settled });
        }
    }

    /// The unconfirmed messages of this program.
    fn live<'a>(&'a self, in_flight: &'a InFlight) -> &'a Unconfirmed {
        self.parked.as_ref().unwrap_or(&in_flight.unconfirmed)
    }

    fn live_mut<'a>(&'a mut self, in_flight: &'a mut InFlight) -> &'a mut Unconfirmed {
        self.parked.as_mut().unwrap_or(&mut in_flight.unconfirmed)
    }

    /// Brings the figures of the session up to date.
    pub(crate) fn figure(&self, shared: &Shared, in_flight: &InFlight) {
        let tail = self.tail.iter().map(|batch| u64::from(batch.messages())).sum();
        let live = self.parked.as_ref().map(Unconfirmed::totals);
        shared.set_spool_figures(in_flight, &self.handle.status(), tail, live);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::client::spool::feed;

    #[tokio::test]
    async fn numbers_that_were_never_stored_are_not_released() {
        let (mut feeder, feed) = feed();
        let (mut spooling, mut in_flight) = (Spooling::fed(&feed), InFlight::default());
        for (settled, stored, expected) in [(5, 0, None), (7, 3, Some(3)), (8, 3, None), (9, 20, Some(9))] {
            in_flight.unconfirmed.give_up_to(settled, &Error::closed());
            spooling.stored = stored;
            spooling.release(&in_flight);
            // An acknowledgement without news wakes up no thread: online, that of the spool sleeps.
            let news = feeder.news().now_or_never();
            let released = news.and_then(|news| news.released.last().map(|position| position.number));
            assert_eq!(released, expected, "{settled} settled, {stored} stored");
        }
    }
}
