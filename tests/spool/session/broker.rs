//! The model of a broker over in-memory pipes: it acknowledges as it is told, remembers streams or
//! forgets them, is killed and comes back, and knows everything that it was ever sent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use futures::future::BoxFuture;
use hpfeeds::{
    BrokerAddr, ClientSession, Connector, SessionBuilder, Transport,
    wire::{
        Frame, FrameRef, HEADER_LEN, Header, Limits, Nonce,
        extension::{
            BrokerFrame, BrokerHello, ClientFrame, ExtensionHeader, Flags, Level, NodeId, RefusedRange, StreamId,
            StreamNumbering, offer,
        },
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use crate::support::IDENT;

/// The time after which a broker that stalls looks whether it still does.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A handle of the broker; clones are the same one.
#[derive(Clone)]
pub(crate) struct Broker(Arc<Inner>);

struct Inner {
    port: u16,
    /// The bytes that a pipe holds.
    pipe: AtomicUsize,
    state: Mutex<State>,
    /// Grows when all connections are to end.
    kills: watch::Sender<u64>,
    /// Grows when a stream has another connection.
    fences: watch::Sender<u64>,
}

struct State {
    settings: Settings,
    /// The newest decided number of each stream, and which connection has it.
    streams: BTreeMap<StreamId, (u64, u64)>,
    connections: u64,
    received: Vec<Received>,
    hellos: Vec<(StreamId, u64)>,
}

/// The behaviour of the broker.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// It knows the extension.
    pub(crate) extended: bool,
    /// How long an ACK takes; `None`: it never comes.
    pub(crate) ack_after: Option<Duration>,
    /// The longest frame that it takes.
    pub(crate) largest: Option<u32>,
    /// It reads nothing for the moment.
    pub(crate) stalls: bool,
    /// It refuses connections.
    pub(crate) down: bool,
    /// The messages of any stream that it says were refused.
    pub(crate) refused: Vec<RefusedRange>,
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    /// Its stream and number, zeros without the extension.
    pub(crate) stream: StreamId,
    pub(crate) number: u64,
    pub(crate) text: String,
    pub(crate) at: Instant,
    connection: u64,
}

impl Broker {
    pub(crate) fn new() -> Self {
        // Knowledge about an address is the process's.
        static PORT: AtomicU16 = AtomicU16::new(1);
        let state = State {
            settings: Settings {
                extended: true,
                ack_after: Some(Duration::ZERO),
                largest: None,
                stalls: false,
                down: false,
                refused: Vec::new(),
            },
            streams: BTreeMap::new(),
            connections: 0,
            received: Vec::new(),
            hellos: Vec::new(),
        };
        Self(Arc::new(Inner {
            port: PORT.fetch_add(1, Relaxed),
            pipe: AtomicUsize::new(64 << 10),
            state: Mutex::new(state),
            kills: watch::Sender::new(0),
            fences: watch::Sender::new(0),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    pub(crate) fn session(&self) -> SessionBuilder {
        ClientSession::builder(("broker.test", self.0.port), IDENT, "secret").connector(self.clone())
    }

    /// Pipes hold so many bytes from now on.
    pub(crate) fn set_pipe(&self, bytes: usize) {
        self.0.pipe.store(bytes, Relaxed);
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.state().settings);
    }

    /// Ends all connections. Messages read and not acknowledged are decided all the same, or are not
    /// when the broker `forgets`; with `down`, no new connections come.
    pub(crate) fn kill(&self, down: bool) {
        self.state().settings.down = down;
        self.0.kills.send_modify(|kills| *kills += 1);
    }

    /// Forgets all streams.
    pub(crate) fn forget(&self) {
        self.state().streams.clear();
    }

    /// Makes the broker know more of each stream than was ever sent.
    pub(crate) fn confuse(&self) {
        for (decided, _) in self.state().streams.values_mut() {
            *decided += 1_000_000;
        }
    }

    /// Everything that came, in the order in which it came.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.state().received.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.state().received.len()
    }

    /// The streams and the next numbers of all HELLOs.
    pub(crate) fn hellos(&self) -> Vec<(StreamId, u64)> {
        self.state().hellos.clone()
    }

    /// The texts without those that had come before, and how many had.
    pub(crate) fn unique(&self) -> (Vec<String>, usize) {
        let (mut seen, mut texts, mut repeats) = (BTreeSet::new(), Vec::new(), 0);
        for message in self.received() {
            if seen.insert(message.text.clone()) {
                texts.push(message.text);
            } else {
                repeats += 1;
            }
        }
        (texts, repeats)
    }

    async fn serve(self, mut io: DuplexStream) {
        let mut kills = self.0.kills.subscribe();
        let connection = {
            let mut state = self.state();
            state.connections += 1;
            state.connections
        };
        tokio::select! {
            biased;
            _ = kills.changed() => {}
            _ = self.talk(&mut io, connection) => {}
        }
    }

    async fn talk(&self, io: &mut DuplexStream, connection: u64) -> io::Result<()> {
        let extended = self.state().settings.extended;
        let name = if extended { offer("model").into_owned() } else { "model".to_owned() };
        let mut out = BytesMut::new();
        Frame::Info { name, nonce: Nonce::new([1, 2, 3, 4]) }.encode(&mut out, Limits::default()).unwrap();
        let mut received = BytesMut::new();
        let mut stream: Option<(StreamId, StreamNumbering)> = None;
        // The numbers to be acknowledged, and when.
        let mut due = VecDeque::<(Instant, u64)>::new();
        let mut fences = self.0.fences.subscribe();
        let mut is_over = false;
        loop {
            io.write_all(&out).await?;
            out.clear();
            let stalls = self.state().settings.stalls && stream.is_some();
            tokio::select! {
                biased;
                _ = fences.changed(), if !is_over || !due.is_empty() => {
                    let owner = stream.map(|(id, _)| self.state().streams[&id].1);
                    if owner.is_some_and(|owner| owner != connection) {
                        return Ok(());
                    }
                    continue;
                }
                () = sleep(LOOK_AGAIN), if stalls => continue,
                read = io.read_buf(&mut received), if !is_over && !stalls => if read? == 0 {
                    is_over = true;
                },
                () = sleep_until(due.front().map_or_else(Instant::now, |(at, _)| *at)), if !due.is_empty() => {
                    let number = due.pop_front().map_or(0, |(_, number)| number);
                    let (id, _) = stream.unwrap();
                    let mut state = self.state();
                    let (decided, owner) = state.streams.entry(id).or_default();
                    if *owner == connection {
                        *decided = number.max(*decided);
                        BrokerFrame::Ack { number }.encode(&mut out).unwrap();
                    }
                    continue;
                }
                else => return Ok(()),
            }
            loop {
                if let Ok(Some(header)) = ExtensionHeader::parse(&received) {
                    let Some(body) = header.body(&received) else { break };
                    if let ClientFrame::Hello(hello) = ClientFrame::parse(header.opcode, body).unwrap() {
                        due.clear();
                        stream = Some(self.greet(hello.stream, hello.next, hello.flags, connection, &mut out));
                    }
                    received.advance(header.length);
                    continue;
                }
                let Ok(Some(header)) = Header::parse(&received, Limits::default()) else { break };
                if received.len() < header.length {
                    break;
                }
                let frame = received.split_to(header.length);
                let Ok(FrameRef::Publish { payload, .. }) = FrameRef::parse(header.opcode, &frame[HEADER_LEN..]) else {
                    continue;
                };
                let text = String::from_utf8_lossy(payload).split(' ').next().unwrap().to_owned();
                let mut state = self.state();
                let (id, number) = match &mut stream {
                    Some((id, numbering)) => (*id, numbering.count(1).unwrap()),
                    None => (StreamId::default(), 0),
                };
                assert!(stream.is_some() || !extended, "a message came before HELLO");
                state.received.push(Received { stream: id, number, text, at: Instant::now(), connection });
                if number > 0
                    && let Some(after) = state.settings.ack_after
                {
                    let at = due.back().map_or_else(Instant::now, |(at, _)| *at).max(Instant::now() + after);
                    match due.back_mut() {
                        Some(last) if last.0 == at => last.1 = number,
                        _ => due.push_back((at, number)),
                    }
                }
            }
        }
    }

    fn greet(
        &self,
        id: StreamId,
        next: u64,
        flags: Flags,
        connection: u64,
        out: &mut BytesMut,
    ) -> (StreamId, StreamNumbering) {
        let mut state = self.state();
        state.hellos.push((id, next));
        let (decided, owner) = state.streams.entry(id).or_default();
        let (decided, fenced) = (*decided, std::mem::replace(owner, connection));
        // Messages of a fenced connection that are not decided are thrown away.
        let is_decided = |message: &Received| message.number <= decided || message.stream != id;
        state.received.retain(|message| message.connection != fenced || is_decided(message));
        let largest_message = state.settings.largest;
        self.0.fences.send_modify(|fences| *fences += 1);
        let hello = BrokerHello {
            version: 1,
            flags: flags & (Flags::CONFIRM | Flags::REPLIES),
            heartbeat: 0,
            node: NodeId::new([9; 16]),
            decided,
            level: Level::ROUTED,
            software: "model",
            largest_message,
            path: Vec::new(),
            refused: state.settings.refused.clone(),
        };
        BrokerFrame::Hello(hello).encode(out).unwrap();
        (id, StreamNumbering::new(next, decided).unwrap())
    }
}

impl Connector for Broker {
    fn connect<'a>(&'a self, _: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            if self.state().settings.down {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = duplex(self.0.pipe.load(Relaxed));
            tokio::spawn(self.clone().serve(theirs));
            Ok(Box::new(ours) as _)
        })
    }
}

/// All messages of these numbers have come, once and in order.
#[track_caller]
pub(crate) fn assert_all(broker: &Broker, numbers: u32) {
    assert_are(broker, 0..numbers, 0);
}

/// The messages of these numbers have come in order, and so many of them again.
#[track_caller]
pub(crate) fn assert_are(broker: &Broker, numbers: impl IntoIterator<Item = u32>, expected: usize) {
    let (texts, repeats) = broker.unique();
    let numbers: Vec<_> = numbers.into_iter().collect();
    let is_wrong = |(at, number): &(usize, &u32)| texts.get(*at) != Some(&number.to_string());
    if let Some((at, number)) = numbers.iter().enumerate().find(is_wrong) {
        panic!("message {number} is not at {at}: {:?} of {}", texts.get(at), texts.len());
    }
    assert_eq!((texts.len(), repeats), (numbers.len(), expected), "messages, and repeats");
}
