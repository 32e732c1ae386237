//! The session: a stream of received messages that also publishes.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream::FusedStream};
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot, watch};
use tracing::Instrument as _;

use super::{
    config::Config,
    connect::addr::BrokerAddr,
    driver::{Driver, desired::Shared, shared_task::SharedTask, wanted::Intent},
    error::Error,
    event::{Events, SessionEvent, SessionState},
    handle::{self, SessionHandle},
    publisher::{PublishSink, Publisher, TryPublishError},
    queue::consumption::Run,
    receipt::{Flushed, Receipt, SessionStats},
    wait,
};
use crate::wire::{Channel, Header, Ident, Limits, NameCache, payload_of};

/// A received message: who published it, where, and what.
///
/// The payload is a slice of the receive buffer (256 KiB and more). Copy it
/// (`Bytes::copy_from_slice`) to keep a small one for long.
pub type Message = (Ident, Channel, Bytes);

/// The driver has seen to it.
const ANY_LENGTH: Limits = Limits::new(u32::MAX);

/// A connection to a broker that repairs itself.
///
/// It is a [`Stream`] of received messages, and it publishes. A background task owns the
/// connection: it reconnects with growing, random delays, subscribes again to what was
/// [subscribed](Self::subscribe), and then sends what was queued meanwhile, in order. It works
/// whether or not the stream is polled; a session that only publishes need not read.
/// [`state`](Self::state) and [`events`](Self::events) tell what happens.
///
/// The stream ends (`None`) only after [`close`](Self::close), or when the session gives up
/// ([`max_retries`](crate::SessionBuilder::max_retries)); then `close` says why. Dropping the
/// session ends it at once, without sending what is queued.
///
/// What it logs stands in a span of `tracing`, `session`, with the fields `addr` and `ident`: a program
/// with several sessions tells them apart.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = hpfeeds_broker::Broker::dev().await?;
/// use futures::StreamExt as _;
/// use hpfeeds::ClientSession;
///
/// let mut session = ClientSession::connect(broker.local_addr(), "dev", "dev").await?;
/// session.subscribe("cowrie.sessions")?;
/// session.publish("cowrie.sessions", "to whom it may concern").await?;
/// while let Some((ident, channel, payload)) = session.next().await {
///     println!("{ident} on {channel}: {} bytes", payload.len());
///     # break;
/// }
/// # Ok(()) }
/// ```
pub struct ClientSession {
    /// In one box: combinators such as `select_all` move a session with each message.
    pub(super) inner: Box<Inner>,
}

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    task: Arc<SharedTask>,
    publisher: Publisher,
    /// The batch that is being read, message by message.
    batch: BytesMut,
    /// The run of a mailbox that the batch is, or the one before was.
    pub(super) run: Option<Box<Run>>,
    last: Option<NameCache>,
    terminated: bool,
    /// Sees every event from the start; taken by the first call of `events`.
    first_events: Mutex<Option<broadcast::Receiver<SessionEvent>>>,
}

impl ClientSession {
    /// Wants the messages of a channel, now and after every reconnect. Does not wait: what the
    /// broker thinks of it comes as an event. A repeated call changes nothing, or tries again a
    /// channel that was denied.
    ///
    /// Brokers that know patterns take `*` and `prefix.*` for one. Any other `*` stands for itself:
    /// `cowrie*` is the channel of that name
    /// ([`Pattern::has_literal_star`](crate::wire::Pattern::has_literal_star) tells).
    pub fn subscribe(&self, channel: impl AsRef<str>) -> Result<(), Error> {
        handle::want(&self.inner.shared, channel.as_ref(), true)
    }

    /// No longer wants the messages of a channel. Messages that are on their way still arrive.
    pub fn unsubscribe(&self, channel: impl AsRef<str>) -> Result<(), Error> {
        handle::want(&self.inner.shared, channel.as_ref(), false)
    }

    /// Wants the messages of a channel as [`subscribe`](Self::subscribe) does, and waits until the
    /// broker delivers them, over as many connections as that takes.
    ///
    /// A broker that knows the extension `hpx/1` says so. With another, it counts as delivered when
    /// it has not been refused within [`auth_grace`](crate::SessionBuilder::auth_grace), as the
    /// protocol has no positive answer.
    ///
    /// Fails with the broker's text when it refuses the channel, when the channel is unsubscribed
    /// meanwhile, and when the session ends. The future does not borrow the session, which can be
    /// read while it waits. Cancel safe: the channel is wanted from the call on, and stays so.
    pub fn subscribe_confirmed<C: AsRef<str>>(&self, channel: C) -> impl Future<Output = Result<(), Error>> + use<C> {
        self.handle().subscribe_confirmed(channel)
    }

    /// See [`Publisher::publish`].
    pub fn publish(
        &self,
        channel: impl AsRef<str>,
        payload: impl Into<Bytes>,
    ) -> impl Future<Output = Result<(), Error>> {
        self.inner.publisher.publish(channel, payload)
    }

    /// See [`Publisher::publish_confirmed`].
    pub fn publish_confirmed(
        &self,
        channel: impl AsRef<str>,
        payload: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Receipt, Error>> {
        self.inner.publisher.publish_confirmed(channel, payload)
    }

    /// See [`Publisher::flush`].
    pub fn flush(&self) -> impl Future<Output = Result<Flushed, Error>> {
        self.inner.publisher.flush()
    }

    /// See [`Publisher::try_publish`].
    pub fn try_publish(&self, channel: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<(), TryPublishError> {
        self.inner.publisher.try_publish(channel, payload)
    }

    /// See [`Publisher::publish_stream`].
    pub async fn publish_stream<S>(&self, channel: impl AsRef<str>, stream: S) -> Result<(), Error>
    where
        S: Stream<Item: Into<Bytes>>,
    {
        self.inner.publisher.publish_stream(channel, stream).await
    }

    /// See [`Publisher::sink`].
    pub fn sink(&self, channel: impl AsRef<str>) -> Result<PublishSink, Error> {
        self.inner.publisher.sink(channel)
    }

    /// A handle that publishes through this session, for another task.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        self.inner.publisher.clone()
    }

    /// A handle that subscribes, closes and watches this session, for other tasks.
    #[must_use]
    pub fn handle(&self) -> SessionHandle {
        SessionHandle::new(Arc::clone(&self.inner.shared), Arc::clone(&self.inner.task))
    }

    /// The next message; `None` when the session is over. The same as `next()`, for programs that
    /// import no traits.
    ///
    /// Cancel safe: a dropped future has taken nothing.
    pub async fn read(&mut self) -> Option<Message> {
        self.next().await
    }

    /// The next message that satisfies `wanted`; those before it are taken and let go.
    ///
    /// Fails with an error that [is a timeout](Error::is_timeout) when none has come within `limit`,
    /// and with [why the session ended](Self::close) when it does first. Cancel safe in so far as
    /// nothing behind the message is ever taken; messages before it may have been.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = hpfeeds_broker::Broker::dev().await?;
    /// # let mut session = hpfeeds::ClientSession::connect(broker.local_addr(), "dev", "dev").await?;
    /// use std::time::Duration;
    ///
    /// session.subscribe_confirmed("replies").await?;
    /// session.publish("replies", "41").await?;
    /// session.publish("replies", "42").await?;
    /// let (_, _, payload) = session.wait_for(|(_, _, payload)| payload == "42", Duration::from_secs(5)).await?;
    /// assert_eq!(payload, "42");
    /// # Ok(()) }
    /// ```
    pub async fn wait_for(&mut self, wanted: impl FnMut(&Message) -> bool, limit: Duration) -> Result<Message, Error> {
        match wait::wait_for(self, wanted, limit).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.inner.shared.ended()),
            Err(timeout) => Err(timeout),
        }
    }

    /// How many received messages were passed over, over the whole life of the session: an ident or
    /// a channel that is no UTF-8, as some brokers hand it on, or a message above the
    /// [limit](crate::SessionBuilder::limits). [`SessionEvent::Skipped`] says why.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.inner.shared.skipped()
    }

    /// The figures of the session at this moment, as of the driver's last turn.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.inner.shared.stats()
    }

    /// The ident of this session.
    #[must_use]
    pub fn ident(&self) -> &Ident {
        &self.inner.shared.config.ident
    }

    /// The broker that it connects to.
    #[must_use]
    pub fn addr(&self) -> &BrokerAddr {
        &self.inner.shared.config.addr
    }

    /// The current state of the session; always current, and can be waited on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.inner.shared.state.subscribe()
    }

    /// The events of the session, as a stream that ends with it. The first call sees what
    /// happened since the session was made (up to 64 events), later calls what happens from then
    /// on.
    #[must_use]
    pub fn events(&self) -> Events {
        if let Some(first) = self.inner.first_events.lock().take() {
            return Events::new(first);
        }
        handle::events(&self.inner.shared)
    }

    /// How many messages may have been lost, over the life of the session: those that were written
    /// to connections that ended before the broker had confirmed that it read them, and that are not
    /// sent again. With a broker that acknowledges there are none. Each connection
    /// counts at most the last 40 MiB, as no more can be on its way. [`SessionEvent::Disconnected`]
    /// tells of each; after [`close`](Self::close) the last connection is counted, too, unless it
    /// was confirmed.
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        self.inner.shared.unconfirmed()
    }

    /// Sends what is queued, closes our side, and waits until the broker closes its own: then it
    /// has read everything.
    ///
    /// `Ok` means that it has read every message that was written to this connection, left none
    /// unsent, and refused none on any. Otherwise the error says how many were left unsent or
    /// unconfirmed ([`is_incomplete`](Error::is_incomplete)) and why, or what was refused; or why
    /// the session had already given up. Losses with earlier connections, which broke, are counted
    /// by [`unconfirmed`](Self::unconfirmed): a program that must know of every message looks
    /// there, too. Never takes much longer than
    /// [`close_timeout`](crate::SessionBuilder::close_timeout). Messages that were already received
    /// can still be read.
    ///
    /// A broker that acknowledges must also have acknowledged everything; then its end of stream is
    /// waited for no longer than `close_timeout`. Messages that it had not acknowledged when a
    /// connection broke are sent again until then.
    ///
    /// The confirmation of every other is the broker's end of stream, as the protocol has no other. One that had
    /// come before ours left, or while something of ours was unacknowledged, is none; the latter is
    /// known on Linux and Android. A broker, or a proxy before it, that ends its stream by itself
    /// just then, without having read what its system has received, cannot be told from one that
    /// confirms.
    ///
    /// Cancel safe: the session goes on closing, and another call waits for the same outcome. May
    /// be called outside of a runtime, too.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.close_within(self.inner.shared.config.close_timeout).await
    }

    /// As [`close`](Self::close), with another limit than
    /// [`close_timeout`](crate::SessionBuilder::close_timeout): for a program that knows only at the
    /// end how long it may wait. The first call decides about the limit.
    pub async fn close_within(&mut self, limit: Duration) -> Result<(), Error> {
        handle::close_within(&self.inner.shared, &self.inner.task, limit).await
    }

    pub(crate) fn spawn(config: Config) -> Self {
        Self::launch(config, None)
    }

    pub(crate) async fn open(config: Config) -> Result<Self, Error> {
        let (first, connected) = oneshot::channel();
        let session = Self::launch(config, Some(first));
        match connected.await {
            Ok(Ok(())) => Ok(session),
            Ok(Err(error)) => Err(error),
            Err(_ended) => Err(session.inner.shared.ended()),
        }
    }

    fn launch(config: Config, first: Option<oneshot::Sender<Result<(), Error>>>) -> Self {
        let shared = Arc::new(Shared::new(config));
        let first_events = Mutex::new(Some(shared.events.subscribe()));
        // The task ends itself soon after `Intent::Abort`, which our `Drop` asks for.
        let span =
            tracing::info_span!("session", addr = %shared.config.addr, ident = %shared.config.ident.escape_debug());
        let task = SharedTask::start(Driver::new(shared.clone(), first).run().instrument(span));
        let inner = Inner {
            task,
            publisher: Publisher::new(shared.clone()),
            shared,
            batch: BytesMut::new(),
            run: None,
            last: None,
            terminated: false,
            first_events,
        };
        Self { inner: Box::new(inner) }
    }

    /// Takes the next message off the current batch. The driver has checked the headers, but not
    /// the bodies.
    #[allow(clippy::inline_always, reason = "a message is built where it is returned, instead of being moved there")]
    #[inline(always)]
    pub(super) fn next_in_batch(&mut self) -> Option<Message> {
        if self.inner.run.is_some() {
            self.ask_mailbox();
        }
        loop {
            // The names of the message before are cloned, which allocates nothing.
            if let Some(last) = &self.inner.last {
                if let Some((at, length)) = last.repeated(&self.inner.batch, ANY_LENGTH) {
                    let (ident, channel) = (last.ident.clone(), last.channel.clone());
                    let payload = payload_of(&mut self.inner.batch, at, length);
                    if self.inner.batch.is_empty() {
                        // It would keep the driver from receiving into the same memory again.
                        self.inner.batch = BytesMut::new();
                    }
                    if let Some(run) = &mut self.inner.run {
                        run.taken += 1;
                    }
                    return Some((ident, channel, payload));
                }
            }
            // Other names: they are remembered, and the next round finds them.
            self.look_ahead()?;
        }
    }

    /// Remembers the names of the next message, or passes over it; `None` when there is none.
    #[inline(never)]
    fn look_ahead(&mut self) -> Option<()> {
        let length = Header::parse(&self.inner.batch, ANY_LENGTH).ok().flatten()?.length;
        // The frames around a malformed one are whole, and are delivered.
        if let Err(fault) = NameCache::remember(&mut self.inner.last, self.inner.batch.get(..length)?) {
            self.inner.shared.skip(fault);
            self.inner.batch.advance(length);
            if let Some(run) = &mut self.inner.run {
                run.taken += 1;
            }
        }
        Some(())
    }

    /// The program asks for the message after the last one of a mailbox. The rest of a batch
    /// whose connection has ended comes again.
    #[inline(never)]
    fn ask_mailbox(&mut self) {
        if self.inner.run.as_ref().is_some_and(|run| !self.inner.shared.consumption.ask(run)) {
            self.inner.batch = BytesMut::new();
        }
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Gets the next batch of messages; false at the end.
    pub(super) fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // All is read and the driver could go on: here, what it receives is in the cache already.
        if self.inner.shared.gave_way() && self.inner.shared.inbox.is_empty() {
            self.inner.task.poll_inline();
        }
        let Some(popped) = ready!(self.inner.shared.channels.poll_session(cx, &*self.inner.shared)) else {
            self.inner.terminated = true;
            return Poll::Ready(false);
        };
        if self.inner.run.is_some() || popped.run.is_some() {
            self.inner.shared.consumption.turn(self.inner.run.as_deref(), popped.run.as_deref());
        }
        self.inner.batch = popped.batch;
        self.inner.run = popped.run;
        if popped.wakes_driver {
            self.inner.shared.driver.wake();
        }
        Poll::Ready(true)
    }
}

impl Stream for ClientSession {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            if let Some(message) = self.next_in_batch() {
                return Poll::Ready(Some(message));
            }
            if !ready!(self.poll_batch(cx)) {
                return Poll::Ready(None);
            }
        }
    }
}

impl FusedStream for ClientSession {
    fn is_terminated(&self) -> bool {
        self.inner.terminated
    }
}

impl Drop for ClientSession {
    fn drop(&mut self) {
        self.inner.shared.channels.go_on_alone();
        self.inner.shared.ask(Intent::Abort);
    }
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession")
            .field("addr", &self.inner.shared.config.addr)
            .field("ident", &self.inner.shared.config.ident)
            .field("state", &*self.inner.shared.state.borrow())
            .finish_non_exhaustive()
    }
}
