//! The receiving side of an authenticated connection: acts on frames.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use hpfeeds::wire::{Channel, DecodeError, Field, FrameBatch, FrameRef, HEADER_LEN, Header, NameError, Opcode};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::{
    context::BrokerContext,
    delivery::outbox::Outbox,
    identity::{KeyChange, Membership},
    metrics::{category::Category, sizes::Sizes},
    net::{buffer_pool::Held, endpoint::Mode, socket::ReadHalf},
    routing::{patterns::prefixes, subscriptions::Subscriptions},
    session::{
        fanout::{Fanout, PendingFanout},
        publish_cache::{PublishCache, PublishTarget},
        read_buffer::ReadBuffer,
    },
};

/// How much one connection handles before others get their turn.
const READ_BUDGET: usize = 1 << 20;

/// How often a run is queued for somebody, or gathered with others, before others get their turn.
const WORK_BUDGET: usize = 2048;

/// How many subscribers are compared in the time of one such step, to find out whether two channels have the same.
const COMPARES_PER_UNIT: usize = 32;

/// What it costs to change the list of a channel's or pattern's subscribers, in the same measure: a part of it is copied.
const SUBSCRIPTION_WORK: usize = 16;

/// What it costs to look a channel up that a client has not published to just before.
const ROUTE_WORK: usize = 16;

/// Why a connection is no longer read from.
#[derive(Debug)]
pub(crate) enum End {
    /// The peer has nothing more to say.
    Eof,
    /// It sent something that it may not: the ERROR text.
    Refused(String),
    /// The connection is broken.
    Failed(io::Error),
    /// It was slow for too long.
    Slow,
    /// It did not read while the memory for all subscribers was full.
    Evicted,
    /// Its key does not exist any more, or has another secret.
    Revoked,
    /// The broker is shutting down.
    Shutdown {
        /// It may have sent messages that were not read: it must not take the end of the stream for a confirmation.
        unread: bool,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("closed by the client"),
            // It holds names from the network: control characters are escaped.
            Self::Refused(text) => write!(f, "refused: {text:?}"),
            Self::Failed(cause) => write!(f, "{cause}"),
            Self::Slow => f.write_str("slow for too long"),
            Self::Evicted => f.write_str("it read too little while the memory for all subscribers was full"),
            Self::Revoked => f.write_str("its key was removed or has another secret"),
            Self::Shutdown { .. } => f.write_str("shutdown"),
        }
    }
}

/// Reads and acts on the frames of one authenticated client.
pub(crate) struct SessionReader {
    context: Arc<BrokerContext>,
    mode: Mode,
    membership: Membership,
    subscriptions: Subscriptions,
    cache: PublishCache,
    /// Whether it has ever published, or begun to.
    published: bool,
    buffer: ReadBuffer,
    /// What it has made us do in this turn, and how much it has made us read.
    work: usize,
    read_since_yield: usize,
    /// Before the next frame is acted on.
    waiting: Option<Suspension>,
}

/// Something to wait for.
struct Suspension {
    /// In a box, as idle connections do not have it.
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Not any more when the connection is to end.
    until_stopped: bool,
    /// Bytes that it holds on to, and how many of them are messages. Then: with what it waits.
    own: usize,
    messages: usize,
    held: Option<Held>,
}

impl Suspension {
    fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { future: Box::pin(future), until_stopped: false, own: 0, messages: 0, held: None }
    }

    /// Others get their turn.
    fn yield_now() -> Self {
        Self::new(tokio::task::yield_now())
    }
}

impl SessionReader {
    /// `received` is what came after AUTH.
    pub(crate) fn new(
        context: Arc<BrokerContext>,
        mode: Mode,
        membership: Membership,
        outbox: Arc<Outbox>,
        received: BytesMut,
    ) -> Self {
        outbox.session().received(received.len());
        let subscriptions = Subscriptions::new(context.router.clone(), outbox);
        Self {
            context,
            mode,
            membership,
            subscriptions,
            cache: PublishCache::default(),
            published: false,
            buffer: ReadBuffer::new(received),
            work: 0,
            read_since_yield: 0,
            waiting: None,
        }
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        self.subscriptions.outbox()
    }

    /// Has nothing more queued for the connection. The work is proportional to its subscriptions, and others run in between.
    pub(crate) async fn leave(&mut self) {
        while self.subscriptions.leave() {
            tokio::task::yield_now().await;
        }
    }

    /// Runs until the peer is done or wrong, or until there is a reason to `stop`: what has been read by then is acted on
    /// first.
    ///
    /// No future, as that would make every idle connection larger: what it waits for is in `waiting`.
    pub(crate) fn poll_run(
        &mut self,
        half: &mut ReadHalf<'_>,
        stop: Option<&End>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<End>> {
        loop {
            if let Err(end) = ready!(self.poll_step(half, stop, cx)) {
                return Poll::Ready(end);
            }
        }
    }

    /// Waits, acts on what has been read, and reads more. An error is the end, without a reason when it was told to stop.
    fn poll_step(
        &mut self,
        half: &mut ReadHalf<'_>,
        stop: Option<&End>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Option<End>>> {
        self.follow_key()?;
        if let Some(waiting) = &mut self.waiting {
            if waiting.until_stopped && is_stopped(stop, half, cx) {
                return Poll::Ready(Err(None));
            }
            ready!(waiting.future.as_mut().poll(cx));
            self.waiting = None;
        }
        let mut waiting = self.process_frames(half)?;
        if waiting.is_none() && self.read_since_yield > READ_BUDGET {
            self.read_since_yield = 0;
            waiting = Some(Suspension::yield_now());
        }
        if let Some(mut waiting) = waiting {
            let pool = &self.context.pool;
            waiting.held = pool.track_waiting(waiting.own + self.buffer.release_if_idle(pool));
            self.outbox().session().unparsed(waiting.messages + self.buffer.bytes.len());
            self.waiting = Some(waiting);
            return Poll::Ready(Ok(()));
        }
        if is_stopped(stop, half, cx) {
            return Poll::Ready(Err(None));
        }
        // More than passes at once would only lie here.
        let most = self.membership.quota().publish.as_ref().map(|limiter| limiter.rate().portion().1);
        let most = most.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        let read = self.buffer.poll_read(half, &self.context.pool, most, cx);
        if read.is_pending() {
            self.buffer.release(&self.context.pool);
        }
        Poll::Ready(match ready!(read) {
            Ok(0) => Err(Some(self.eof())),
            Ok(n) => {
                self.read_since_yield += n;
                self.outbox().session().received(n);
                Ok(())
            }
            Err(cause) => Err(Some(End::Failed(cause))),
        })
    }

    /// Acts on every whole frame in the buffer, or on those before one that has to wait. An error is why the connection
    /// ends.
    fn process_frames(&mut self, half: &ReadHalf<'_>) -> Result<Option<Suspension>, Option<End>> {
        loop {
            self.follow_key()?;
            if self.work > WORK_BUDGET {
                self.work = 0;
                return Ok(Some(Suspension::yield_now()));
            }
            let bytes = &self.buffer.bytes;
            let refused = |text: String| Some(End::Refused(text));
            let header =
                Header::parse(bytes, self.context.config.limits).map_err(|cause| refused(cause.to_string()))?;
            let Some(header) = header else {
                return Ok(self.need_more(0));
            };
            match header.opcode {
                // From here on a mere end would confirm it, also while it waits, or is refused.
                Opcode::Publish if !self.published => {
                    self.published = true;
                    half.reset_on_close();
                }
                Opcode::Publish | Opcode::Subscribe | Opcode::Unsubscribe => {}
                Opcode::Auth => return Err(refused("AUTH is only allowed as the first message".to_owned())),
                other => return Err(refused(format!("{other} is not allowed from a client"))),
            }
            let missing = header.length.saturating_sub(bytes.len());
            if missing > 0 {
                self.buffer.frame = header.length;
                return Ok(self.need_more(missing));
            }
            let waiting = if header.opcode != Opcode::Publish {
                self.subscription(header).map_err(refused)?;
                None
            } else if self.buffer.granted == 0 && self.membership.quota().publish.is_some() {
                self.reserve()
            } else {
                self.publish().map_err(refused)?
            };
            if waiting.is_some() {
                return Ok(waiting);
            }
        }
    }

    /// There is no whole frame left. It lacks so many bytes, when that is known.
    fn need_more(&mut self, missing: usize) -> Option<Suspension> {
        self.buffer.missing = missing;
        self.outbox().session().unparsed(self.buffer.bytes.len());
        None
    }

    /// Looks at what has become of the key: a comparison, unless there is something to look at.
    fn follow_key(&mut self) -> Result<(), Option<End>> {
        if !self.membership.has_news() {
            return Ok(());
        }
        match self.membership.look() {
            KeyChange::Same => {}
            KeyChange::Revoked => return Err(Some(End::Revoked)),
            KeyChange::Changed => {
                info!(ident = self.membership.ident().as_str(), peer = %self.outbox().peer(), "its key has changed");
                // Each is checked again when it is used.
                self.cache = PublishCache::default();
                let changed = self.subscriptions.rekey(self.membership.key());
                self.work += SUBSCRIPTION_WORK * changed.map_err(|channel| End::Refused(self.denial(&channel)))?;
            }
        }
        Ok(())
    }

    /// Reserves what comes next of what the limit on what is published lets pass. Returns what to wait for before it passes.
    fn reserve(&mut self) -> Option<Suspension> {
        let limiter = self.membership.quota().publish.as_ref()?;
        let (messages, bytes) = limiter.rate().portion();
        let portion = FrameBatch::new(&self.buffer.bytes, self.context.config.limits).portion(messages, bytes);
        self.buffer.granted = portion.len;
        let now = Instant::now();
        let until = limiter.reserve(portion.messages.into(), portion.len as u64, now);
        (until > now).then(|| Suspension { until_stopped: true, ..Suspension::new(sleep_until(until)) })
    }

    /// Whether it has published anything, or begun to.
    pub(crate) fn has_published(&self) -> bool {
        self.published || !self.buffer.bytes.is_empty()
    }

    /// Publishes the run that starts with the first frame, and those that follow. When somebody has no room yet, what is
    /// returned waits for that.
    fn publish(&mut self) -> Result<Option<Suspension>, String> {
        let (limits, counters, pool) = (self.context.config.limits, &self.context.metrics.counters, &self.context.pool);
        let mut fanout = Fanout::default();
        while self.work <= WORK_BUDGET {
            let position = fanout.extent().len;
            let Some((first, body)) = FrameBatch::new(self.buffer.passing(), limits).publish_at(position) else {
                debug_assert!(position > 0, "what passes is whole frames, and the first is there");
                break;
            };
            let Some(PublishTarget { names, topic, series }) = self.cache.find(body) else {
                if position > 0 {
                    break;
                }
                let target = self.target(body)?;
                // Each dot may end what begins a pattern.
                self.work += ROUTE_WORK + target.names.split(|byte| *byte == b'.').count();
                self.cache.add(target, self.context.config.max_subscriptions);
                continue;
            };
            if fanout.is_known_to_take(topic) {
                self.work += 1 + fanout.subscribers() / COMPARES_PER_UNIT;
            } else {
                let subscribers = topic.subscribers();
                if position > 0 {
                    self.work += 1 + subscribers.len() / COMPARES_PER_UNIT;
                }
                if !fanout.takes(&subscribers)
                    && let Some(pending) = fanout.queue(counters, &mut self.buffer, pool, &mut self.work)
                {
                    return Ok(Some(self.wait(pending)));
                }
                fanout.begin(subscribers);
            }
            let position = fanout.extent().len;
            let overhead = HEADER_LEN + names.len();
            let mut sizes = Sizes::new(overhead);
            let rest = self.buffer.passing().get(position..).unwrap_or_default();
            let run =
                FrameBatch::new(rest, limits).same_names(first, names.len(), |length, count| sizes.add(length, count));
            let payload = run.len - run.messages as usize * overhead;
            series.published(&sizes, payload);
            if fanout.is_unrouted() {
                series.unrouted(run.messages);
            }
            fanout.add(run, payload);
        }
        let pending = fanout.queue(counters, &mut self.buffer, pool, &mut self.work);
        Ok(pending.map(|pending| self.wait(pending)))
    }

    /// Waits until everybody has a run.
    fn wait(&self, pending: PendingFanout) -> Suspension {
        let (own, messages) = (pending.holds(), pending.len());
        Suspension { own, messages, ..Suspension::new(pending.deliver(self.context.metrics.stall())) }
    }

    /// Checks what a client publishes for the first time, or again after other channels.
    fn target(&self, body: &[u8]) -> Result<PublishTarget, String> {
        let (ident, channel) = match FrameRef::parse(Opcode::Publish, body) {
            Ok(FrameRef::Publish { ident, channel, .. }) => (ident, channel),
            Ok(_) => unreachable!("the opcode is PUBLISH"),
            Err(cause) => return Err(cause.to_string()),
        };
        let (session, peer) = (self.outbox().session(), self.outbox().peer());
        let own = self.membership.ident();
        if *own != ident {
            session.error(Category::IdentMismatchPub);
            info!(ident = own.as_str(), %peer, channel, claimed = ident, "denied: publish in another's name");
            return Err(format!("Invalid authkey in message, ident={ident}"));
        }
        // The same words: clients know them, and the endpoint is as much "here" as the broker.
        if self.mode == Mode::Subscribe || !self.membership.key().may_publish(channel) {
            session.error(Category::NoPubPermission);
            info!(ident, %peer, channel, "denied: publish");
            return Err(format!("Authkey not allowed to pub here. ident={ident}, chan={channel}"));
        }
        let names = FrameBatch::names(body).unwrap_or(body).into();
        let channel = owned(channel, Opcode::Publish)?;
        let topic = self.context.router.topic(&channel);
        Ok(PublishTarget { names, topic, series: session.channel(&channel) })
    }

    fn subscription(&mut self, header: Header) -> Result<(), String> {
        let body = header.body(&self.buffer.bytes).unwrap_or_default();
        let (channel, changed) = match FrameRef::parse(header.opcode, body).map_err(|cause| cause.to_string())? {
            FrameRef::Subscribe { channel, .. } if self.mode == Mode::Publish => return Err(self.denial(channel)),
            FrameRef::Subscribe { channel, .. } => {
                let limit = self.context.config.max_subscriptions;
                let full = self.subscriptions.len() >= limit && !self.subscriptions.contains(channel);
                let Some(changed) = self.subscriptions.add(owned(channel, header.opcode)?, self.membership.key())
                else {
                    return Err(self.denial(channel));
                };
                // What is too much goes with the connection.
                if full {
                    return Err(format!("Too many subscriptions: the limit is {limit}"));
                }
                (channel, changed)
            }
            FrameRef::Unsubscribe { channel, .. } => {
                (channel, self.subscriptions.remove(channel, self.membership.key()))
            }
            _ => unreachable!("the opcode is SUBSCRIBE or UNSUBSCRIBE"),
        };
        self.work += SUBSCRIPTION_WORK * changed.max(1) + prefixes(channel).count();
        self.buffer.skip(header.length);
        Ok(())
    }

    /// Counts, logs and words that a subscription is not allowed.
    fn denial(&self, channel: &str) -> String {
        let (session, peer) = (self.outbox().session(), self.outbox().peer());
        session.error(Category::NoSubPermission);
        info!(ident = self.membership.ident().as_str(), %peer, channel, "denied: subscribe");
        format!("Authkey not allowed to sub here. ident={}, chan={channel}", self.membership.ident())
    }

    /// The peer has said everything: did it say the last frame to its end?
    fn eof(&self) -> End {
        let missing = match (self.buffer.bytes.len(), self.buffer.missing) {
            (0, _) => return End::Eof,
            (received, 0) => HEADER_LEN - received,
            (_, missing) => missing,
        };
        End::Refused(DecodeError::Incomplete { missing }.to_string())
    }
}

/// Whether the connection is to end now.
fn is_stopped(stop: Option<&End>, half: &ReadHalf<'_>, cx: &mut Context<'_>) -> bool {
    match stop {
        None => false,
        // It has said everything, and gets its confirmation.
        Some(End::Shutdown { .. }) => !half.is_finished(cx),
        Some(_) => true,
    }
}

fn owned(channel: &str, opcode: Opcode) -> Result<Channel, String> {
    let fault = |cause: NameError| DecodeError::Name { opcode, field: Field::Channel, cause }.to_string();
    Channel::new(channel).map_err(fault)
}
