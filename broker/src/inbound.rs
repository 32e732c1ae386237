//! The receiving side of an authenticated connection: acts on frames.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::Poll,
};

use bytes::{Buf as _, BytesMut};
use futures::future::poll_fn;
use hpfeeds::wire::{Channel, DecodeError, Field, FrameRef, HEADER_LEN, Header, Ident, NameError, Opcode};
use tokio::time::Instant;

use crate::{
    Key,
    broker::Shared,
    buffer::ReadBuffer,
    outbox::{Offer, Outbox, Run},
    patterns::prefixes,
    router::TopicHandle,
    scan,
    socket::ReadHalf,
    subscriptions::Subscriptions,
};

/// How much one connection handles before others get their turn.
const TURN: usize = 1 << 20;

/// How often a run is queued for somebody before others get their turn.
const WORK: usize = 1024;

/// What it costs to change the list of a channel's or pattern's subscribers, in the same measure: it is copied.
const SUBSCRIPTION_WORK: usize = 8;

/// How many channels a connection remembers to publish to without asking the router.
const MAX_ROUTES: usize = 8;

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
            Self::Shutdown { .. } => f.write_str("shutdown"),
        }
    }
}

/// Reads and acts on the frames of one authenticated client.
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    ident: Ident,
    key: Arc<Key>,
    subscriptions: Subscriptions,
    /// The channels that it published to last, the latest first.
    routes: Vec<Route>,
    buffer: ReadBuffer,
    /// What it has made us do in this turn.
    work: usize,
}

/// A channel that the client may publish to.
struct Route {
    /// The counted ident and channel as they stand in the frames.
    names: Box<[u8]>,
    topic: TopicHandle,
}

impl Inbound {
    /// `received` is what came after AUTH.
    pub(crate) fn new(
        shared: Arc<Shared>,
        ident: Ident,
        key: Arc<Key>,
        outbox: Arc<Outbox>,
        received: BytesMut,
    ) -> Self {
        let subscriptions = Subscriptions::new(shared.router.clone(), outbox);
        Self { shared, ident, key, subscriptions, routes: Vec::new(), buffer: ReadBuffer::new(received), work: 0 }
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        self.subscriptions.outbox()
    }

    /// Runs until the peer is done or wrong, or until `stop` is set (which is looked at when the task is polled):
    /// what has been read by then is acted on first.
    pub(crate) async fn run(&mut self, half: &mut ReadHalf<'_>, stop: &OnceLock<End>) -> Option<End> {
        let mut turn = 0;
        loop {
            match self.act(half).await {
                Ok(missing) => self.buffer.missing = missing,
                Err(text) => return Some(End::Refused(text)),
            }
            if turn > TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
            let read = poll_fn(|cx| {
                match stop.get() {
                    None => {}
                    // It has said everything, and gets its confirmation.
                    Some(End::Shutdown { .. }) if half.is_finished(cx) => {}
                    Some(_) => return Poll::Ready(None),
                }
                let read = self.buffer.poll_read(half, &self.shared.pool, cx);
                if read.is_pending() {
                    self.buffer.release(&self.shared.pool);
                }
                read.map(Some)
            });
            match read.await? {
                Ok(0) => return Some(self.eof()),
                Ok(n) => turn += n,
                Err(cause) => return Some(End::Failed(cause)),
            }
        }
    }

    /// Acts on every whole frame in the buffer. Returns how many bytes the next one lacks, when that is known, or
    /// the ERROR text for a frame that is not allowed.
    async fn act(&mut self, half: &ReadHalf<'_>) -> Result<usize, String> {
        loop {
            if self.work > WORK {
                self.work = 0;
                tokio::task::yield_now().await;
            }
            let bytes = &self.buffer.bytes;
            let Some(header) = Header::parse(bytes, self.shared.config.limits).map_err(|cause| cause.to_string())?
            else {
                return Ok(0);
            };
            match header.opcode {
                Opcode::Publish | Opcode::Subscribe | Opcode::Unsubscribe => {}
                Opcode::Auth => return Err("AUTH is only allowed as the first message".to_owned()),
                other => return Err(format!("{other} is not allowed from a client")),
            }
            let missing = header.length.saturating_sub(bytes.len());
            if missing > 0 {
                return Ok(missing);
            }
            if header.opcode != Opcode::Publish {
                self.subscription(header)?;
            } else if let Some(settling) = self.publish(header, half)? {
                settling.await;
            }
        }
    }

    /// Whether it has published anything, or begun to.
    pub(crate) fn has_published(&self) -> bool {
        !self.routes.is_empty() || !self.buffer.bytes.is_empty()
    }

    /// Publishes the run that starts with the first frame. When somebody has no room for it yet, what is returned
    /// waits for that.
    fn publish(&mut self, header: Header, half: &ReadHalf<'_>) -> Result<Option<Settling>, String> {
        let body = scan::body(&self.buffer.bytes, header).unwrap_or_default();
        match self.routes.iter().position(|route| body.starts_with(&route.names)) {
            Some(0) => {}
            Some(index) => self.routes[..=index].rotate_right(1),
            None => {
                let route = self.route(body)?;
                if self.routes.is_empty() {
                    half.reset_on_close();
                }
                self.routes.truncate(MAX_ROUTES - 1);
                self.routes.insert(0, route);
            }
        }
        let Route { names, topic } = &self.routes[0];
        let extent = scan::run(&self.buffer.bytes, header, names, self.shared.config.limits);
        let counters = &self.shared.depot.counters;
        counters.received_messages.add(extent.messages.into());
        counters.received_bytes.add(extent.len as u64);
        let subscribers = topic.subscribers();
        if subscribers.is_empty() {
            self.buffer.bytes.advance(extent.len);
            return Ok(None);
        }
        let run = Run { bytes: self.buffer.take(extent.len), messages: extent.messages };
        let now = Instant::now();
        let mut waiting = Vec::new();
        for outbox in subscribers.iter() {
            self.work += 1;
            if let Offer::Wait(until) = outbox.offer(&run, now) {
                waiting.push((outbox.clone(), until));
            }
        }
        // In a box, as it would make every idle connection larger.
        Ok((!waiting.is_empty()).then(|| -> Settling { Box::pin(Unsettled { run, waiting }.settle()) }))
    }

    /// Checks what a client publishes for the first time, or again after other channels.
    fn route(&self, body: &[u8]) -> Result<Route, String> {
        let (ident, channel) = match FrameRef::parse(Opcode::Publish, body) {
            Ok(FrameRef::Publish { ident, channel, .. }) => (ident, channel),
            Ok(_) => unreachable!("the opcode is PUBLISH"),
            Err(cause) => return Err(cause.to_string()),
        };
        if self.ident != ident {
            return Err(format!("Invalid authkey in message, ident={ident}"));
        }
        if !self.key.may_publish(channel) {
            return Err(format!("Authkey not allowed to pub here. ident={ident}, chan={channel}"));
        }
        let names = scan::names(body, ident, channel).into();
        let topic = self.shared.router.topic(&owned(channel, Opcode::Publish)?);
        Ok(Route { names, topic })
    }

    fn subscription(&mut self, header: Header) -> Result<(), String> {
        let body = scan::body(&self.buffer.bytes, header).unwrap_or_default();
        let (channel, changed) = match FrameRef::parse(header.opcode, body).map_err(|cause| cause.to_string())? {
            FrameRef::Subscribe { channel, .. } => {
                let limit = self.shared.config.max_subscriptions;
                let full = self.subscriptions.len() >= limit && !self.subscriptions.contains(channel);
                let Some(changed) = self.subscriptions.add(owned(channel, header.opcode)?, &self.key) else {
                    return Err(format!("Authkey not allowed to sub here. ident={}, chan={channel}", self.ident));
                };
                // What is too much goes with the connection.
                if full {
                    return Err(format!("Too many subscriptions: the limit is {limit}"));
                }
                (channel, changed)
            }
            FrameRef::Unsubscribe { channel, .. } => (channel, self.subscriptions.remove(channel, &self.key)),
            _ => unreachable!("the opcode is SUBSCRIBE or UNSUBSCRIBE"),
        };
        self.work += SUBSCRIPTION_WORK * changed.max(1) + prefixes(channel).count();
        self.buffer.bytes.advance(header.length);
        Ok(())
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

/// An outbox that a run has still to go to, and when to try again at the latest.
type Waiting = (Arc<Outbox>, Instant);

type Settling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A run that somebody who keeps up has no room for yet.
struct Unsettled {
    run: Run,
    waiting: Vec<Waiting>,
}

impl Unsettled {
    /// Waits until everybody has it.
    async fn settle(mut self) {
        while let Some((outbox, until)) = self.waiting.last() {
            outbox.offer_waiting(&self.run, *until).await;
            self.waiting.pop();
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        // Nobody waits any more, as the broker stops.
        for (outbox, _) in &self.waiting {
            outbox.discard(&self.run);
        }
    }
}

fn owned(channel: &str, opcode: Opcode) -> Result<Channel, String> {
    let fault = |cause: NameError| DecodeError::Name { opcode, field: Field::Channel, cause }.to_string();
    Channel::new(channel).map_err(fault)
}
