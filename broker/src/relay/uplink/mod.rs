//! The uplink of one ident: it reads the journal from a cursor of its own, and hands the ident's
//! messages to the parent.

mod draining;
mod settling;
mod storing;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use hpfeeds::{
    ClientSession, Error, Events, SessionEvent,
    spool::{Feed, FeedBroker, FeedNews, Feeder, feed},
    wire::{
        Channel, Ident,
        extension::{Level, NodeId, Position, StreamId, StreamPosition},
    },
};
use tokio::{
    select,
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    aside::Aside,
    cursor::{Cursor, new_stream},
    drain::Drain,
    figures::{Figures, LinkState},
    piece::{Piece, pieces},
    queue::{CHUNK, Outgoing, Queue},
    source::Source,
    table::{ASIDES, CURSORS, STREAMS, Table, prefix},
};
use crate::journal::handle::{Entry, Journal};

/// The interval at which cursors are stored.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time that a session has for its end.
const CLOSING: Duration = Duration::from_secs(6);
/// Nodes between a sensor and the last parent, at most.
const LONGEST_PATH: usize = 8;

/// The begin of every journal: a reader there is told of what was dropped before the oldest message.
const FIRST: Position = Position::new(1, 0);

/// Starts a session with a feed.
pub(crate) type Connect = Arc<dyn Fn(&Ident, Feed) -> Result<ClientSession, Error> + Send + Sync>;

/// The settings that all uplinks share.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) connect: Connect,
    /// This relay.
    pub(crate) node: NodeId,
    /// For how long the messages of a denied channel are kept.
    pub(crate) denied_for: Duration,
    /// The interval of attempts: with a key that is refused, a channel that is denied, a loop.
    pub(crate) again: Duration,
    /// The longest frame of a message for a parent that does not say what it takes.
    pub(crate) largest: usize,
    /// The nodes from the parent upwards, as it has told them last.
    pub(crate) path: watch::Sender<Vec<NodeId>>,
}

/// The reason why a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Stopped,
    /// The next one follows at once.
    Again,
    /// The next one follows after the interval.
    Later,
}

/// The uplink of an ident.
#[allow(clippy::struct_excessive_bools, reason = "what has happened, in ways that do not depend on each other")]
pub(in crate::relay) struct Uplink {
    ident: Ident,
    settings: Settings,
    journal: Journal,
    table: Table,
    figures: Figures,
    /// The epoch of this start.
    epoch: u64,
    /// The cursor as it was stored last.
    stored: Cursor,
    source: Source,
    /// The number of the last message of this epoch's stream that any session was given.
    sent: u64,
    /// The epoch and the number of the ident's last message that was read.
    read: (u64, u64),
    streams: BTreeMap<u64, StreamId>,
    queue: Queue,
    asides: BTreeMap<Channel, Aside>,
    /// The channel whose messages are sent after all.
    drain: Option<Drain>,
    /// Channels whose messages are set aside without being sent: each one would end the connection.
    kept: BTreeSet<Channel>,
    broker: Option<FeedBroker>,
    /// When a denied channel is tried again.
    probe_at: Instant,
    told_at: Option<Instant>,
    /// The newest message that was passed over.
    passed: Position,
    /// It is the first time: messages that were dropped before were no business of this ident.
    is_new: bool,
    /// A stream was given up, and nothing was accepted since.
    has_renewed: bool,
    is_dirty: bool,
    /// The rows must be durable before more is sent.
    is_due: bool,
}

impl Uplink {
    /// An uplink that goes on where the table says. A relay that meets an ident for the first time
    /// begins with the oldest message that it has.
    pub(in crate::relay) fn new(
        ident: Ident,
        settings: Settings,
        journal: &Journal,
        table: Table,
        figures: Figures,
    ) -> Self {
        let row = table.rows(CURSORS, ident.as_bytes()).into_iter().find(|(name, _)| *name == ident.as_bytes());
        let is_new = row.is_none();
        let first = Cursor { position: FIRST, number: 0 };
        let mut stored = row.and_then(|(_, value)| Cursor::decode(&value)).unwrap_or(first);
        let epoch = journal.last().epoch;
        if stored.position > journal.last() {
            error!(%ident, "the cursor is of a journal that is gone: what is stored now is sent from its begin");
            stored = first;
        }
        let streams = table.rows(STREAMS, &prefix(&ident)).into_iter().filter_map(|(name, id)| {
            let epoch = u64::from_be_bytes(name.get(prefix(&ident).len()..)?.try_into().ok()?);
            Some((epoch, StreamId::new((*id).try_into().ok()?)))
        });
        let asides = table.rows(ASIDES, &prefix(&ident)).into_iter().filter_map(|(name, value)| {
            let channel = std::str::from_utf8(name.get(prefix(&ident).len()..)?).ok()?;
            Some((Channel::new(channel).ok()?, Aside::decode(&value)?))
        });
        Self {
            streams: streams.collect(),
            asides: asides.collect(),
            source: Source::new(journal, stored.position),
            sent: 0,
            read: (stored.position.epoch, stored.number),
            ident,
            settings,
            journal: journal.clone(),
            table,
            figures,
            epoch,
            stored,
            queue: Queue::default(),
            drain: None,
            kept: BTreeSet::new(),
            broker: None,
            probe_at: Instant::now(),
            told_at: None,
            passed: Position::NONE,
            is_new,
            has_renewed: false,
            is_dirty: true,
            is_due: false,
        }
    }

    /// Hands messages upwards until it is stopped.
    pub(in crate::relay) async fn run(mut self, stop: CancellationToken) {
        loop {
            let ended = self.serve(&stop).await;
            self.rewind();
            if ended == Ended::Stopped {
                break;
            }
            if ended == Ended::Later {
                select! {
                    () = stop.cancelled() => break,
                    () = sleep(self.settings.again) => {}
                }
            }
        }
        self.store().await;
    }

    /// One session, from its start to its end.
    async fn serve(&mut self, stop: &CancellationToken) -> Ended {
        let (mut feeder, ends) = feed();
        let session = match (self.settings.connect)(&self.ident, ends) {
            Ok(session) => session,
            Err(cause) => {
                error!(ident = %self.ident, %cause, "cannot hand messages to the parent");
                self.figures.change(|figures| figures.fault = Some(cause.to_string()));
                return Ended::Later;
            }
        };
        let mut events = session.events();
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.plan();
            if feeder.is_wanted() && self.broker.is_some() && self.queue.has_planned() {
                if self.is_due {
                    self.store().await;
                }
                if let Some(chunk) = self.queue.give() {
                    feeder.give(chunk);
                }
                if let Some(newest) = self.queue.newest()
                    && self.streams.get(&self.epoch) == Some(&newest.stream)
                {
                    self.sent = self.sent.max(newest.number);
                }
                self.settle();
            }
            let wants = feeder.is_wanted() && self.broker.is_some() && !self.queue.has_planned();
            let source = self.drain.as_mut().and_then(Drain::source).unwrap_or(&mut self.source);
            select! {
                biased;
                () = stop.cancelled() => {
                    self.close(feeder, session).await;
                    return Ended::Stopped;
                }
                news = feeder.news() => if let Some(ended) = self.hear(news) {
                    return ended;
                },
                event = next(&mut events) => self.tell(&event),
                () = source.fill(true), if wants => {}
                _ = tick.tick() => self.tick().await,
            }
        }
    }

    /// Ends the session: what was given to it is confirmed first, if that does not take long.
    async fn close(&mut self, mut feeder: Feeder, mut session: ClientSession) {
        feeder.end();
        let ending = async {
            loop {
                let news = feeder.news().await;
                let is_over = news.is_over;
                if self.hear(news).is_some() || is_over {
                    break;
                }
            }
        };
        // The next start sends the rest.
        let _ = timeout(CLOSING, async { futures::join!(session.close(), ending) }).await;
    }

    /// Forgets what was read and is not decided: it is read again.
    fn rewind(&mut self) {
        let cursor = self.cursor();
        self.queue = Queue::default();
        self.drain = None;
        self.broker = None;
        self.source = Source::new(&self.journal, cursor.position);
        self.read = (cursor.position.epoch, cursor.number);
    }

    /// Acts on the news of the session.
    fn hear(&mut self, news: FeedNews) -> Option<Ended> {
        if let Some(broker) = news.broker
            && let Some(ended) = self.accepted(broker)
        {
            return Some(ended);
        }
        for refused in news.refused {
            self.queue.refuse(refused);
        }
        for position in news.released {
            if self.is_foreign(position) {
                warn!(ident = %self.ident, "the parent knows another stream of this name: a new one begins");
                self.streams.remove(&self.epoch);
                self.sent = 0;
                // A parent that knows each new one is not dialled in a loop.
                let has_renewed = std::mem::replace(&mut self.has_renewed, true);
                return Some(if has_renewed { Ended::Later } else { Ended::Again });
            }
            self.queue.release(position);
            self.settle();
        }
        let mut ended = None;
        for channel in news.denied {
            self.deny(&channel);
            self.probe_at = Instant::now() + self.settings.again;
            let is_draining = self.is_draining(&channel);
            // Told of a channel whose messages are not sent, it would be dialled in a loop.
            ended = Some(if self.kept.insert(channel) || is_draining { Ended::Again } else { Ended::Later });
        }
        if news.is_over { Some(Ended::Later) } else { ended }
    }

    /// Whether the parent has decided more than there is of the stream that was made at this start: those
    /// messages are of somebody else. (Of earlier streams it may know more than the stored cursor says.)
    fn is_foreign(&self, position: StreamPosition) -> bool {
        self.streams.get(&self.epoch) == Some(&position.stream) && position.number > self.sent
    }

    /// The parent has accepted the key.
    fn accepted(&mut self, broker: FeedBroker) -> Option<Ended> {
        let ident = &self.ident;
        if broker.path.contains(&self.settings.node) || broker.node == self.settings.node {
            error!(%ident, "the parent leads back to this relay: nothing is sent, change --parent of one of them");
            self.figures.change(|figures| figures.state = LinkState::Loop);
            return Some(Ended::Later);
        }
        if broker.path.len() >= LONGEST_PATH {
            error!(%ident, "there are more than {LONGEST_PATH} brokers from here to the last parent: nothing is sent");
            self.figures.change(|figures| figures.state = LinkState::Loop);
            return Some(Ended::Later);
        }
        if self.broker.as_ref() != Some(&broker) {
            match broker.level {
                Some(level) if level >= Level::STORED => info!(%ident, "the parent stores what it gets"),
                Some(_) => warn!(%ident, "the parent does not store: it confirms what it has passed on"),
                None => warn!(%ident, "the parent confirms nothing but by its end of stream, every 30 s"),
            }
        }
        if broker.is_extended {
            self.kept.clear();
        }
        // One without a path has nothing above itself.
        let nodes = if broker.path.is_empty() { vec![broker.node] } else { broker.path.clone() };
        let nodes = if broker.is_extended { nodes } else { Vec::new() };
        self.settings.path.send_if_modified(|path| {
            let has_changed = *path != nodes;
            *path = nodes;
            has_changed
        });
        self.figures.change(|figures| {
            (figures.state, figures.fault) = (LinkState::Connected(broker.level), None);
        });
        self.broker = Some(broker);
        None
    }

    /// Keeps an event for the figures.
    fn tell(&self, event: &SessionEvent) {
        self.figures.change(|figures| match event {
            SessionEvent::AuthRejected { cause } => {
                (figures.state, figures.fault) = (LinkState::Rejected, Some(cause.to_string()));
            }
            SessionEvent::Disconnected { cause, .. } if figures.state != LinkState::Rejected => {
                (figures.state, figures.fault) = (LinkState::Away, Some(cause.to_string()));
            }
            _ => {}
        });
    }

    /// Plans the next messages of what was read: those that were set aside first.
    fn plan(&mut self) {
        if self.queue.has_planned() || self.plan_aside() {
            return;
        }
        let mut bytes = 0;
        while bytes < CHUNK {
            // A batch may have been decided in part.
            let before = self.source.position();
            let Some(entry) = self.source.take() else { break };
            match entry {
                Entry::Lost(lost) => {
                    self.enter(lost.after.epoch);
                    // Others may have published some of them: the ident has no number above that.
                    self.read.1 += lost.messages();
                    if !(self.is_new && lost.dropped) {
                        self.lose(lost.messages(), lost.dropped);
                    }
                }
                Entry::Batch(batch) => {
                    self.is_new = false;
                    let stream = self.enter(batch.first.epoch);
                    for piece in pieces(&batch, &self.ident, |_, position| position <= before) {
                        bytes += piece.frames.len();
                        self.plan_piece(stream, piece);
                    }
                }
            }
            self.is_dirty = true;
        }
    }

    /// Goes on in an epoch. Returns its stream, which begins with it.
    fn enter(&mut self, epoch: u64) -> StreamId {
        if self.read.0 != epoch {
            self.read = (epoch, 0);
        }
        if let Some(stream) = self.streams.get(&epoch) {
            return *stream;
        }
        let stream = new_stream();
        self.streams.insert(epoch, stream);
        (self.is_dirty, self.is_due) = (true, true);
        stream
    }

    /// Numbers a piece, and plans what of it is to be sent.
    fn plan_piece(&mut self, stream: StreamId, piece: Piece) {
        let largest = match &self.broker {
            Some(broker) if !broker.is_extended => self.settings.largest,
            _ => usize::MAX,
        };
        if largest == usize::MAX && self.kept.is_empty() {
            return self.plan_sent(stream, piece);
        }
        let mut rest = Some(piece);
        while let Some(mut piece) = rest.take() {
            let stays = |(frame, channel): (&[u8], &str)| frame.len() > largest || self.kept.contains(channel);
            let first = piece.frames().position(stays).and_then(|index| u32::try_from(index).ok());
            match first {
                None => self.plan_sent(stream, piece),
                Some(0) => {
                    self.read.1 += 1;
                    if piece.messages > 1 {
                        let one = piece.split(1);
                        rest = Some(piece);
                        self.pass(&one, largest);
                    } else {
                        self.pass(&piece, largest);
                    }
                }
                Some(index) => {
                    self.plan_sent(stream, piece.split(index));
                    rest = Some(piece);
                }
            }
        }
    }

    fn plan_sent(&mut self, stream: StreamId, piece: Piece) {
        let first = self.read.1 + 1;
        self.read.1 += u64::from(piece.messages);
        self.queue.plan(Outgoing { stream, first, piece, aside: None });
    }
}

async fn next(events: &mut Events) -> SessionEvent {
    match events.next().await {
        Some(event) => event,
        None => pending().await,
    }
}
