//! The publisher: the cloneable sending half of a session, and its sink for one channel.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Sink, Stream, StreamExt as _};
use tokio::{
    sync::{SemaphorePermit, TryAcquireError, oneshot},
    task::{coop, yield_now},
};
use tokio_util::sync::PollSemaphore;

use super::{
    driver::desired::{Confirms, Shared},
    error::{Cause, Error, FULL},
    queue::waiter::Waiter,
    receipt::{Flushed, Receipt, SessionStats},
    when_full::WhenFull,
};
use crate::wire::{Channel, Field};

/// The sending half of a session: clone it and hand it to whoever publishes.
///
/// It does not keep the session alive: when the [`ClientSession`](crate::ClientSession) is closed
/// or dropped, every call fails with an error that [`is_closed`](Error::is_closed).
#[derive(Debug, Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Queues a message, and waits for room in the queue when there is none.
    ///
    /// `Ok` says that the session has it: it is written when the broker is there, in the order of
    /// the calls, also after a reconnect, and again where a broker that acknowledges has not done so.
    /// [`publish_confirmed`](Self::publish_confirmed), [`flush`](Self::flush) and
    /// [`close`](crate::ClientSession::close) wait for that. A loop that only publishes lets other tasks of its thread run after each
    /// 256 KiB, so that what it queued is written.
    ///
    /// Fails when the name or the size is not legal, when a broker without the extension `hpx/1` has
    /// denied this channel in the last minute, and when the session has ended. Cancel safe: a dropped future has queued
    /// nothing.
    pub async fn publish(&self, channel: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<(), Error> {
        #[cfg(feature = "spool")]
        if self.shared.config.spool.as_ref().is_some_and(|spool| spool.write_through) {
            let (sender, stored) = oneshot::channel();
            self.accept(channel.as_ref(), payload.into(), Some(Waiter::Stored(sender))).await?;
            return coop::unconstrained(stored).await.unwrap_or_else(|_ended| Err(Error::closed()));
        }
        self.accept(channel.as_ref(), payload.into(), None).await
    }

    /// Queues a message as [`publish`](Self::publish) does, and waits until the broker has
    /// confirmed it, over as many connections as that takes.
    ///
    /// The first poll queues the message, so calls that are polled together are sent together, in
    /// that order: give many of them to a `FuturesUnordered`, or publish without waiting and
    /// [`flush`](Self::flush). Each holds its share of the
    /// [send queue](crate::SessionBuilder::send_queue) until it is confirmed.
    ///
    /// Fails as `publish` does, with the broker's text when it refused the message, and at once
    /// with an error that [is not confirmable](Error::is_not_confirmable) when the broker that the
    /// session is connected to, or was last, confirms nothing: then it is not queued. When the
    /// session ends first, [`may_have_arrived`](Error::may_have_arrived) tells whether the message
    /// was written.
    ///
    /// Cancel safe: a future that is dropped before it has found room has queued nothing, and after
    /// that the message is sent all the same.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = hpfeeds_broker::Broker::dev().await?;
    /// # let mut session = hpfeeds::ClientSession::connect(broker.local_addr(), "dev", "dev").await?;
    /// match session.publish_confirmed("cowrie.sessions", "{}").await {
    ///     Ok(receipt) => println!("taken as number {}", receipt.position().number),
    ///     Err(error) if error.is_not_confirmable() => session.publish("cowrie.sessions", "{}").await?,
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # session.close().await?;
    /// # Ok(()) }
    /// ```
    pub async fn publish_confirmed(
        &self,
        channel: impl AsRef<str>,
        payload: impl Into<Bytes>,
    ) -> Result<Receipt, Error> {
        if self.shared.confirms() == Confirms::No {
            return Err(Error::new(Cause::NotConfirmable { written: false }));
        }
        let (sender, receipt) = oneshot::channel();
        self.accept(channel.as_ref(), payload.into(), Some(Waiter::Receipt(sender))).await?;
        // Of very many that are polled together, most would have no budget left, and be polled again
        // and again: it is the driver that decides when a receipt is there, and it gives way.
        coop::unconstrained(receipt).await.unwrap_or_else(|_ended| Err(Error::closed()))
    }

    /// Waits until everything that the session has accepted before this call is decided, over as
    /// many connections as that takes, and says what became of it.
    ///
    /// Where the broker confirms nothing, it waits until everything is written to the socket, and
    /// counts it as [unconfirmed](Flushed::unconfirmed). Fails when the session has ended. Cancel
    /// safe.
    pub async fn flush(&self) -> Result<Flushed, Error> {
        if let Some(flushed) = self.shared.flushed() {
            return Ok(flushed);
        }
        let (sender, flushed) = oneshot::channel();
        if self.shared.outbox.push_barrier(Waiter::Barrier(sender))? {
            self.shared.driver.wake();
        }
        flushed.await.unwrap_or_else(|_ended| Err(Error::closed()))
    }

    /// See [`ClientSession::stats`](crate::ClientSession::stats).
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.shared.stats()
    }

    async fn accept(&self, channel: &str, payload: Bytes, waiter: Option<Waiter>) -> Result<(), Error> {
        let size = self.shared.outbox.measure(channel, payload.len())?;
        if let Some(refusal) = self.shared.refusal() {
            return Err(refusal);
        }
        // A publisher that waits for its message lets others run by that. Before it is queued, calls
        // that are polled together would overtake it.
        if waiter.is_none() && self.shared.outbox.should_yield() {
            yield_now().await;
        }
        match self.shared.outbox.room().try_acquire_many(size) {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::NoPermits) if self.is_refused_when_full() => {
                self.starve();
                self.shared.count_turned_away();
                return Err(Error::new(Cause::Full));
            }
            Err(TryAcquireError::NoPermits) => self.wait_for_room(size).await?,
            Err(TryAcquireError::Closed) => return Err(self.shared.outbox.closed()),
        }
        self.push(channel, payload, size, waiter).map_err(|(cause, _payload)| cause)
    }

    /// Queues a message if there is room for it right now.
    pub fn try_publish(&self, channel: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<(), TryPublishError> {
        let (channel, payload) = (channel.as_ref(), payload.into());
        match self.shared.outbox.measure(channel, payload.len()) {
            Ok(size) => self.try_push(channel, payload, size),
            Err(cause) => Err(TryPublishError { payload, cause: Some(cause) }),
        }
    }

    /// Publishes everything that a stream yields, until it ends; waits for room as
    /// [`publish`](Self::publish) does.
    ///
    /// Returns at the first failure. Not cancel safe: an item that was taken from the stream may be
    /// lost.
    pub async fn publish_stream<S>(&self, channel: impl AsRef<str>, stream: S) -> Result<(), Error>
    where
        S: Stream<Item: Into<Bytes>>,
    {
        let channel = parse(channel.as_ref())?;
        let mut stream = std::pin::pin!(stream);
        while let Some(payload) = stream.next().await {
            self.publish(&channel, payload).await?;
        }
        Ok(())
    }

    /// A [`Sink`] of payloads for one channel, for [`forward`](futures::StreamExt::forward) and its
    /// kin.
    ///
    /// ```
    /// # use futures::{SinkExt as _, StreamExt as _, stream};
    /// # use hpfeeds::ClientSession;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = hpfeeds_broker::Broker::dev().await?;
    /// # let mut session = ClientSession::connect(broker.local_addr(), "dev", "dev").await?;
    /// let payloads = stream::iter(["one", "two"]);
    /// payloads.map(Ok).forward(session.sink("events")?).await?;
    ///
    /// // A step that may fail in another way: give both the same error type.
    /// let numbers = stream::iter([1, 2]).map(|n| Ok(serde_json::to_vec(&n)?));
    /// let sink = session.publisher().sink("events")?.sink_err_into::<Box<dyn std::error::Error>>();
    /// numbers.forward(sink).await?;
    /// # session.close().await?;
    /// # Ok(()) }
    /// ```
    pub fn sink(&self, channel: impl AsRef<str>) -> Result<PublishSink, Error> {
        let room = PollSemaphore::new(self.shared.outbox.room().clone());
        Ok(PublishSink { publisher: self.clone(), channel: parse(channel.as_ref())?, room, waiting: None })
    }

    /// How many bytes of messages can be queued right now without waiting.
    #[must_use]
    pub fn free(&self) -> usize {
        self.shared.outbox.free()
    }

    /// How many bytes brokers' systems have acknowledged over the life of the session, as far as is
    /// known: counted five times a second while something is on its way. Everything that is written
    /// counts, not only payloads; where the system does not tell what is acknowledged (other than
    /// Linux), as soon as it is written.
    ///
    /// A figure that stands still while messages wait belongs to a broker that reads nothing.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.shared.sent()
    }

    /// Whether a message that finds no room is refused.
    fn is_refused_when_full(&self) -> bool {
        self.shared.config.on_full == WhenFull::Refuse
    }

    /// Notes that a message has found no room, for a spool or the policy of the queue.
    fn starve(&self) {
        if self.shared.config.makes_room() {
            self.shared.outbox.starve();
            self.shared.driver.wake();
        }
    }

    /// Waits for room. The driver hears of it when this stands in the line: what it then makes free
    /// comes here.
    async fn wait_for_room(&self, size: u32) -> Result<(), Error> {
        let mut acquired = pin!(self.shared.outbox.room().acquire_many(size));
        let acquired = poll_fn(|cx| {
            let polled = acquired.as_mut().poll(cx);
            if polled.is_pending() {
                self.starve();
            }
            polled
        });
        acquired.await.map(SemaphorePermit::forget).map_err(|_closed| self.shared.outbox.closed())
    }

    fn try_push(&self, channel: &str, payload: Bytes, size: u32) -> Result<(), TryPublishError> {
        if let Some(refusal) = self.shared.refusal() {
            return Err(TryPublishError { payload, cause: Some(refusal) });
        }
        let cause = match self.shared.outbox.room().try_acquire_many(size) {
            Ok(permit) => {
                permit.forget();
                return self
                    .push(channel, payload, size, None)
                    .map_err(|(cause, payload)| TryPublishError { payload, cause: Some(cause) });
            }
            Err(TryAcquireError::NoPermits) => {
                self.starve();
                if self.is_refused_when_full() {
                    self.shared.count_turned_away();
                }
                None
            }
            Err(TryAcquireError::Closed) => Some(self.shared.outbox.closed()),
        };
        Err(TryPublishError { payload, cause })
    }

    /// Queues a message whose `size` permits were taken.
    fn push(&self, channel: &str, payload: Bytes, size: u32, waiter: Option<Waiter>) -> Result<(), (Error, Bytes)> {
        match self.shared.outbox.push(channel, payload, waiter) {
            Ok(wake) => {
                if wake {
                    self.shared.driver.wake();
                }
                Ok(())
            }
            Err(refused) => {
                self.shared.outbox.release(size as usize);
                Err(refused)
            }
        }
    }
}

pub(crate) fn parse(channel: &str) -> Result<Channel, Error> {
    Channel::new(channel).map_err(|cause| Error::name(Field::Channel, channel, cause))
}

/// A message that [`try_publish`](Publisher::try_publish) did not take.
///
/// Converts to [`Error`], so that `try_publish(..)?` works in a function that returns one; the
/// payload is dropped then.
#[derive(Debug, Clone)]
pub struct TryPublishError {
    payload: Bytes,
    cause: Option<Error>,
}

impl TryPublishError {
    /// The queue has no room for it right now; the same call may succeed later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.cause.is_none()
    }

    /// Why it cannot be taken, unless it only [is full](Self::is_full).
    #[must_use]
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_ref()
    }

    /// The payload, back.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }
}

impl fmt::Display for TryPublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Some(cause) => cause.fmt(f),
            None => f.write_str(FULL),
        }
    }
}

/// For `try_publish(..)?`. The payload is dropped.
impl From<TryPublishError> for Error {
    fn from(error: TryPublishError) -> Self {
        error.cause.unwrap_or_else(|| Self::new(Cause::Full))
    }
}

impl std::error::Error for TryPublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().and_then(std::error::Error::source)
    }
}

/// Publishes what is sent into it to one channel. Made by [`Publisher::sink`].
///
/// It is ready when the message before has found room in the session's queue, and lets other tasks
/// run after each 256 KiB, as [`publish`](Publisher::publish) does. Flushing waits for room too,
/// and not for the broker; closing the sink does not close the session.
#[derive(Debug)]
pub struct PublishSink {
    publisher: Publisher,
    channel: Channel,
    room: PollSemaphore,
    /// The message that waits for room.
    waiting: Option<(Bytes, u32)>,
}

impl PublishSink {
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some((_, size)) = &self.waiting else {
            return Poll::Ready(Ok(()));
        };
        let polled = self.room.poll_acquire_many(cx, *size);
        if polled.is_pending() {
            self.publisher.starve();
        }
        let permit = ready!(polled);
        let Some((payload, size)) = self.waiting.take() else {
            return Poll::Ready(Ok(()));
        };
        match permit {
            Some(permit) => {
                permit.forget();
                let pushed = self.publisher.push(&self.channel, payload, size, None);
                Poll::Ready(pushed.map_err(|(cause, _payload)| cause))
            }
            None => Poll::Ready(Err(self.publisher.shared.outbox.closed())),
        }
    }
}

impl<T: Into<Bytes>> Sink<T> for PublishSink {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.waiting.is_none() && self.publisher.shared.outbox.should_yield() {
            // Pending when asked for the first time: we go on when others have run.
            return pin!(yield_now()).poll(cx).map(Ok);
        }
        self.poll_settle(cx)
    }

    /// # Panics
    /// When it is called although [`poll_ready`](Sink::poll_ready) has not said that it may be.
    fn start_send(mut self: Pin<&mut Self>, payload: T) -> Result<(), Error> {
        assert!(self.waiting.is_none(), "poll_ready() must be ready before each start_send()");
        let payload = payload.into();
        let size = self.publisher.shared.outbox.measure(&self.channel, payload.len())?;
        match self.publisher.try_push(&self.channel, payload, size) {
            Ok(()) => Ok(()),
            Err(TryPublishError { cause: Some(cause), .. }) => Err(cause),
            Err(TryPublishError { cause: None, .. }) if self.publisher.is_refused_when_full() => {
                Err(Error::new(Cause::Full))
            }
            Err(TryPublishError { payload, cause: None }) => {
                self.waiting = Some((payload, size));
                Ok(())
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_settle(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_settle(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use futures::{FutureExt as _, SinkExt};

    use super::*;
    use crate::client::session::ClientSession;

    #[tokio::test]
    async fn a_sink_lets_others_run_as_publish_does() {
        // Nothing listens, and nothing runs: the test gives way to nobody.
        let session = ClientSession::builder("127.0.0.1:1", "me", "secret").start().unwrap();
        let mut sink = session.sink("a").unwrap();
        let mut waits = 0;
        for _ in 0..64 {
            while poll_fn(|cx| SinkExt::<Bytes>::poll_ready_unpin(&mut sink, cx)).now_or_never().is_none() {
                waits += 1;
            }
            sink.start_send_unpin(Bytes::from_static(&[7; 16 * 1024])).unwrap();
        }
        // 1 MiB and a little; after the last nobody asks.
        assert_eq!(waits, 3);
    }
}
