//! The stream of one subscription, above the session's stream of all.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, stream::FusedStream};
use tokio::task::coop;

use super::{
    driver::desired::Shared,
    error::Error,
    handle::SessionHandle,
    publisher,
    session::{ClientSession, Message},
    wait,
    when_full::WhenFull,
};
use crate::wire::{Channel, Pattern};

impl ClientSession {
    /// A stream of the messages of one channel, or of all below a prefix (`cowrie.*`), or of all
    /// (`*`), where the broker knows patterns. Subscribes, and unsubscribes when the last stream of
    /// this name is dropped, unless the program had subscribed to it before.
    ///
    /// Its messages do not come to the session's own stream any more; where several streams match, each
    /// gets the message. Messages of a [mailbox](Self::subscribe_from) stay with the session, which
    /// commits them. The streams need nobody who reads the session, as long as it has no other
    /// subscriptions.
    ///
    /// Fails when the name is not legal and when the session has ended. That a broker denies the
    /// channel is told by [`SessionEvent::SubscribeDenied`](crate::SessionEvent::SubscribeDenied).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = hpfeeds_broker::Broker::dev().await?;
    /// use futures::StreamExt as _;
    /// use hpfeeds::ClientSession;
    ///
    /// let session = ClientSession::connect(broker.local_addr(), "dev", "dev").await?;
    /// let mut logins = session.channel("cowrie.*")?;
    /// let mut requests = session.channel("glastopf.events")?;
    /// session.publish("glastopf.events", "GET /").await?;
    /// session.publish("cowrie.sessions", "root").await?;
    /// assert_eq!(logins.next().await.expect("a message").2, "root");
    /// assert_eq!(requests.next().await.expect("a message").2, "GET /");
    /// # Ok(()) }
    /// ```
    pub fn channel(&self, channel: impl AsRef<str>) -> Result<ChannelStream, Error> {
        ChannelStream::open(&self.inner.shared, channel.as_ref())
    }
}

impl SessionHandle {
    /// See [`ClientSession::channel`].
    pub fn channel(&self, channel: impl AsRef<str>) -> Result<ChannelStream, Error> {
        ChannelStream::open(&self.shared, channel.as_ref())
    }
}

/// The messages of one subscription of a session. Made by [`ClientSession::channel`].
///
/// It holds up to [`queue`](Self::queue) bytes that are not read, and the rest of what one read of the
/// session's socket has brought. When it is full, then by default no
/// reader of the session gets any more until this one has been read, nothing is lost, and the broker
/// sees a slow consumer. A program that reads several streams by turns, and may leave one unread,
/// gives that one another [policy](Self::when_full).
///
/// It ends behind what was received when the session does, and does not keep it alive. Cancel safe, as
/// the session's stream is.
#[must_use = "a stream does nothing until it is polled"]
pub struct ChannelStream {
    shared: Arc<Shared>,
    channel: Channel,
    id: u64,
    has_ended: bool,
}

impl ChannelStream {
    fn open(shared: &Arc<Shared>, name: &str) -> Result<Self, Error> {
        let channel = publisher::parse(name)?;
        let pattern = Pattern::new(name)?;
        if shared.outcome().is_some() {
            return Err(shared.outbox.closed());
        }
        let turn = shared.channels.turn.lock();
        let is_new = shared.want(channel.clone(), true);
        let id = shared.channels.add(pattern, shared.inbox.capacity(), is_new);
        drop(turn);
        Ok(Self { shared: Arc::clone(shared), channel, id, has_ended: false })
    }

    /// How many bytes wait for the program, names and 80 bytes a message included. Default: as many as
    /// the session's own [receive queue](crate::SessionBuilder::receive_queue) has.
    pub fn queue(self, bytes: usize) -> Self {
        self.shared.channels.set(self.id, |capacity, _| *capacity = bytes.max(1));
        self
    }

    /// The policy for messages that find the queue full: [`WhenFull::Wait`], the default, has all
    /// readers of the session wait; [`WhenFull::DropOldest`] lets the oldest in the queue go, and
    /// [`WhenFull::Refuse`] the one that comes. Both are counted by [`missed`](Self::missed).
    pub fn when_full(self, policy: WhenFull) -> Self {
        self.shared.channels.set(self.id, |_, when_full| *when_full = policy);
        self
    }

    /// How many messages have found no room.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.shared.channels.missed(self.id)
    }

    /// The channel that it is subscribed to.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// As [`ClientSession::wait_for`], among the messages of this subscription.
    pub async fn wait_for(&mut self, wanted: impl FnMut(&Message) -> bool, limit: Duration) -> Result<Message, Error> {
        match wait::wait_for(self, wanted, limit).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.shared.ended()),
            Err(timeout) => Err(timeout),
        }
    }
}

impl Stream for ChannelStream {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        // A backlog must not keep its reader from letting others run.
        let budget = ready!(coop::poll_proceed(cx));
        let polled = self.shared.channels.poll_stream(self.id, cx, &*self.shared);
        if let Poll::Ready(message) = &polled {
            self.has_ended = message.is_none();
            budget.made_progress();
        }
        polled
    }
}

impl FusedStream for ChannelStream {
    fn is_terminated(&self) -> bool {
        self.has_ended
    }
}

impl Drop for ChannelStream {
    fn drop(&mut self) {
        let _turn = self.shared.channels.turn.lock();
        if self.shared.channels.remove(self.id) {
            self.shared.want(self.channel.clone(), false);
        }
    }
}

impl fmt::Debug for ChannelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelStream").field("channel", &self.channel).finish_non_exhaustive()
    }
}
