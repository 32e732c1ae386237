//! The whole broker in memory, and several peers that do anything, one thing after the other: each gets what a model says
//! that it must get, byte for byte and in order, and nothing else; and the counters add up.
//!
//! Input: options, and then what happens, a byte each and what that needs. Time is virtual, and whatever can happen
//! without it has happened before the next thing does.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZero,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::FutureExt as _;
use hpfeeds::wire::{Frame, HEADER_LEN, Header, Limits, Secret};
use hpfeeds_broker::{AuthStore, Broker, Key, Lookup, SlowPolicy};
use tokio::{
    io::{AsyncWriteExt as _, duplex},
    time::{sleep, timeout},
};

use self::peer::{Peer, State};
use crate::{input::Input, model};

mod model_broker;
mod peer;

const MAX: u32 = 512;
const PEERS: u8 = 5;
const MAX_SUBSCRIPTIONS: usize = 6;
const OPERATIONS: usize = 150;
const HOUR: Duration = Duration::from_secs(3600);

const TEXTS: [&str; 12] = ["a", "b", "a.b", "a.c.d", "a.c", "a.*", "a.c.*", "*", "a*", "a.", "\u{e9}.x", "none.of.all"];

/// Each ident has one of these keys, or none: its secret, and what it may publish and subscribe to.
type Rights = (&'static str, &'static [&'static str], &'static [&'static str]);
const IDENTS: [&str; 4] = ["sensor", "reader", "x", "\u{8702}, chan=b"];
const RIGHTS: [Rights; 7] = [
    ("s1", &["*"], &["*"]),
    ("s1", &["a", "a.*"], &["a.*"]),
    ("s1", &["b", "a.c.*"], &["b", "a.c.*", "a.b"]),
    ("s1", &[], &["a", "a.c.d"]),
    ("s1", &["*"], &[]),
    ("s2", &["*"], &["*"]),
    ("", &["a*"], &["a*", "*"]),
];

pub fn run(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(play(Input(bytes)));
}

async fn play(mut input: Input<'_>) {
    let keys: Keys = Arc::default();
    for (at, ident) in IDENTS.into_iter().enumerate() {
        keys.lock().expect("one thread").insert(ident, RIGHTS.get(at).copied());
    }
    let options = input.byte();
    let mut builder = Broker::builder()
        .without_endpoint()
        .auth(Store(keys.clone()))
        .name("model")
        // The model is one of the base protocol: with the extension, nobody speaks it.
        .extensions(options & 32 != 0)
        .max_message(MAX)
        .max_subscriptions(MAX_SUBSCRIPTIONS)
        .auth_failure_delay(Duration::ZERO)
        .handshake_timeout(HOUR)
        .recheck_keys(24 * HOUR);
    // With small marks it depends on who reads when what is dropped; otherwise nothing is.
    let strict = options.is_multiple_of(2);
    if !strict {
        builder = builder.low_mark(300).high_mark(2000).floor_rate(500).floor_window(Duration::from_secs(1));
        builder = builder.slow_deadline(Duration::from_secs(3));
        builder = builder.slow_policy(if options & 2 == 0 { SlowPolicy::Disconnect } else { SlowPolicy::DropOldest });
        builder = builder.max_buffered(if options & 4 == 0 { 1 << 20 } else { 3000 });
    }
    if options & 8 != 0 {
        builder = builder.publish_rate(NonZero::new(50)).deliver_bytes(NonZero::new(100_000));
    }
    let broker = builder.start().await.expect("these options are legal");
    let mut play = Play {
        broker,
        keys,
        strict: strict && options & 8 == 0,
        extended: options & 32 != 0,
        peers: Vec::new(),
        number: 0,
        published: BTreeMap::new(),
        counts: Counts::default(),
    };
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        play.operation(&mut input).await;
        play.settle().await;
        play.check();
    }
    play.end(options & 16 != 0).await;
}

type Keys = Arc<Mutex<BTreeMap<&'static str, Option<Rights>>>>;

struct Store(Keys);

impl AuthStore for Store {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        let rights = self.0.lock().expect("one thread").get(ident).copied().flatten();
        let key = rights.map(|(secret, publish, subscribe)| {
            let key =
                Key::new(ident, secret).and_then(|key| key.publish(publish)).and_then(|key| key.subscribe(subscribe));
            Arc::new(key.expect("these names are legal"))
        });
        Box::pin(async { Ok(key) })
    }
}

/// Every message there has been, by its number: its bytes, and which peer made it.
type Published = BTreeMap<u32, (Vec<u8>, usize)>;

struct Play {
    broker: Broker,
    keys: Keys,
    /// Everybody gets everything.
    strict: bool,
    /// The broker offers the extension.
    extended: bool,
    peers: Vec<Peer>,
    number: u32,
    published: Published,
    counts: Counts,
}

/// The counters that the broker has to reach.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    accepted: u64,
    authenticated: u64,
    auth_failures: u64,
    handshake_failures: u64,
    refused: u64,
    revoked: u64,
    received_messages: u64,
    received_bytes: u64,
    /// How often a message had somebody to go to, and how many had nobody.
    routed: u64,
    unrouted: u64,
}

impl Play {
    async fn operation(&mut self, input: &mut Input<'_>) {
        let at = usize::from(input.byte());
        let operation = input.byte() % 16;
        if operation == 0 || self.peers.is_empty() {
            return self.connect(input).await;
        }
        let at = at % self.peers.len();
        match operation {
            1 => {
                let ident = input.choose(&IDENTS);
                self.auth(at, ident, input.byte().is_multiple_of(8)).await;
            }
            2 => {
                // The ident in it does not matter.
                let (ident, channel) = (input.choose(&IDENTS), input.choose(&TEXTS));
                let (ident, channel) = (ident.parse().expect("a name"), channel.parse().expect("a name"));
                self.send(at, &model::encode(&Frame::Subscribe { ident, channel })).await;
            }
            3 => {
                let (ident, channel) = (input.choose(&IDENTS), input.choose(&TEXTS));
                let (ident, channel) = (ident.parse().expect("a name"), channel.parse().expect("a name"));
                self.send(at, &model::encode(&Frame::Unsubscribe { ident, channel })).await;
            }
            // Most often, and in different ways.
            4..=8 => {
                let (mut bytes, count) = (Vec::new(), 1 + input.byte() % 6);
                let (channel, len) = (input.choose(&TEXTS), usize::from(input.byte()));
                let cut = usize::from(input.byte());
                for number in 0..count {
                    let channel = if operation == 5 && number % 2 == 1 { input.choose(&TEXTS) } else { channel };
                    bytes.extend(self.message(at, channel, len * usize::from(number)));
                }
                if operation == 6 {
                    // The rest comes when it does the next thing.
                    let rest = bytes.split_off(cut.min(bytes.len()));
                    self.send(at, &bytes).await;
                    self.peers[at].unsent = rest;
                    return;
                }
                self.send(at, &bytes).await;
            }
            9 => {
                let claimed = input.choose(&IDENTS);
                let (ident, channel) =
                    (claimed.parse().expect("a name"), input.choose(&TEXTS).parse().expect("a name"));
                self.send(at, &model::encode(&Frame::Publish { ident, channel, payload: b"claimed"[..].into() })).await;
            }
            // Which might be a frame of the extension.
            10 if self.extended => {}
            10 => {
                let garbage = input.short().to_vec();
                self.send(at, &garbage).await;
            }
            11 => self.close(at, input.byte()).await,
            12 => {
                self.peers[at].reading = !self.peers[at].reading;
                self.peers[at].loose |= !self.peers[at].reading && matches!(self.peers[at].state, State::Over);
            }
            13 | 14 => {
                let (ident, rights) = (input.choose(&IDENTS), RIGHTS.get(usize::from(input.byte()) % 9).copied());
                self.keys.lock().expect("one thread").insert(ident, rights);
                // Not always at once.
                if operation == 13 {
                    self.recheck().await;
                }
            }
            _ => sleep(Duration::from_millis(input.choose(&[10, 500, 1_100, 6_000]))).await,
        }
    }

    async fn connect(&mut self, input: &mut Input<'_>) {
        if self.peers.iter().filter(|peer| !matches!(peer.state, State::Over)).count() >= PEERS.into() {
            return;
        }
        let (ours, theirs) = duplex(input.choose(&[65_536, 64, 1000]));
        let number = u8::try_from(self.peers.len()).unwrap_or(u8::MAX);
        self.broker.serve(theirs, ([10, 0, 0, number], 1).into());
        self.counts.accepted += 1;
        self.peers.push(Peer {
            io: Some(ours),
            finished: false,
            reading: true,
            nonce: None,
            got: Vec::new(),
            eof: false,
            state: State::Greeted,
            begun: Vec::new(),
            unsent: Vec::new(),
            expected: Vec::new(),
            last: Vec::new(),
            loose: false,
            ever: BTreeSet::new(),
        });
        self.settle().await;
        let peer = self.peers.last_mut().expect("it has been added");
        let greeting = model::decode(&peer.got, MAX);
        let [Frame::Info { name, nonce }] = &greeting.frames[..] else {
            panic!("{:?} is no greeting", peer.got);
        };
        let expected = if self.extended { "model hpx/1" } else { "model" };
        assert_eq!((&**name, nonce.as_bytes().len(), greeting.len()), (expected, 4, peer.got.len()));
        peer.nonce = Some(nonce.clone());
        peer.got.clear();
    }

    async fn auth(&mut self, at: usize, ident: &'static str, wrong: bool) {
        let nonce = self.peers[at].nonce.clone().expect("greeted");
        let rights = self.keys.lock().expect("one thread").get(ident).copied().flatten();
        let secret = rights.filter(|_| !wrong).map_or("wrong", |(secret, ..)| secret);
        let ident = ident.parse().expect("a name");
        self.send(at, &model::encode(&Frame::Auth { ident, digest: Secret::from(secret).sign(&nonce) })).await;
    }

    fn message(&mut self, at: usize, channel: &str, len: usize) -> Vec<u8> {
        self.number += 1;
        let mut payload = self.number.to_be_bytes().to_vec();
        payload.resize(payload.len() + len, b'x');
        let ident = match self.peers[at].state {
            State::In { ident, .. } => ident,
            _ => "x",
        };
        let (ident, owned) = (ident.parse().expect("a name"), channel.parse().expect("a name"));
        let bytes = model::encode(&Frame::Publish { ident, channel: owned, payload: payload.into() });
        self.published.insert(self.number, (bytes.clone(), at));
        bytes
    }

    /// A peer sends this, after what it has still to send.
    async fn send(&mut self, at: usize, bytes: &[u8]) {
        let bytes = [std::mem::take(&mut self.peers[at].unsent), bytes.to_vec()].concat();
        let mut rest = &*bytes;
        while !rest.is_empty() {
            let peer = &mut self.peers[at];
            if peer.finished {
                return;
            }
            let Some(io) = &mut peer.io else {
                return;
            };
            let Ok(Ok(n)) = timeout(Duration::from_millis(1), io.write(rest)).await else {
                // The broker does not read: the connection is over, or has to wait.
                assert!(!self.strict || matches!(peer.state, State::Over), "the broker does not read");
                return;
            };
            let sent = rest[..n].to_vec();
            rest = &rest[n..];
            self.hear(at, &sent);
            self.settle().await;
        }
    }

    async fn close(&mut self, at: usize, how: u8) {
        let peer = &mut self.peers[at];
        if !peer.unsent.is_empty() && how & 4 == 0 {
            self.send(at, &[]).await;
        }
        let peer = &mut self.peers[at];
        if how & 1 == 0 {
            if let Some(mut io) = peer.io.take() {
                // It reads nothing more. Its frames from before count.
                let _ = io.shutdown().now_or_never();
            }
            peer.loose = true;
        } else if let Some(io) = &mut peer.io {
            let _ = io.shutdown().now_or_never();
        }
        if std::mem::replace(&mut peer.finished, true) {
            return;
        }
        let (begun, length) = (peer.begun.len(), Header::parse(&peer.begun, Limits::new(MAX)).ok().flatten());
        let missing = length.map_or(HEADER_LEN, |header| header.length) - begun;
        match (&peer.state, begun) {
            (State::Over, _) => {}
            (State::Greeted, 0) => {
                self.counts.handshake_failures += 1;
                self.over(at, None);
            }
            (State::In { .. }, 0) => self.over(at, None),
            (State::Greeted, _) => self.refuse(at, "the connection ended inside AUTH".into()),
            (State::In { .. }, _) => {
                self.refuse(at, format!("the connection ended inside a frame (bytes missing: {missing})"));
            }
        }
    }

    /// Lets everything happen that can without time, but for a few milliseconds.
    async fn settle(&mut self) {
        loop {
            // All tasks are idle before time passes.
            sleep(Duration::from_millis(1)).await;
            let mut progress = false;
            for peer in self.peers.iter_mut().filter(|peer| peer.reading) {
                progress |= peer.read();
            }
            if !progress {
                return;
            }
        }
    }

    fn check(&self) {
        for (at, peer) in self.peers.iter().enumerate() {
            let over = matches!(peer.state, State::Over);
            if self.strict && !peer.loose {
                let all = [&*peer.expected, &peer.last].concat();
                if peer.reading {
                    let (got, all) = (peer.got.escape_ascii().to_string(), all.escape_ascii().to_string());
                    assert_eq!(got, all, "what peer {at} got, and what it has to get");
                    assert_eq!(peer.eof, over, "whether peer {at} has been told that nothing more comes");
                } else {
                    assert!(all.starts_with(&peer.got), "peer {at} got something else");
                }
            } else if self.strict {
                peer.check_cut();
            }
            peer.check_loosely(&self.published);
        }
        if self.strict {
            self.check_counts();
        }
    }

    fn check_counts(&self) {
        let stats = self.broker.stats();
        let counted = Counts {
            accepted: stats.accepted,
            authenticated: stats.authenticated,
            auth_failures: stats.auth_failures,
            handshake_failures: stats.handshake_failures,
            // Both are counted when the ERROR has been taken, or was not in time.
            refused: self.counts.refused,
            revoked: self.counts.revoked,
            received_messages: stats.received_messages,
            received_bytes: stats.received_bytes,
            routed: stats.delivered + stats.dropped + stats.discarded,
            unrouted: stats.unrouted,
        };
        assert_eq!(counted, self.counts);
        assert_eq!(stats.dropped, 0);
        assert!(stats.refused <= self.counts.refused && stats.revoked <= self.counts.revoked);
    }

    async fn end(mut self, shut_down: bool) {
        if shut_down {
            let Self { broker, .. } = self;
            timeout(Duration::from_secs(7), broker.shutdown()).await.expect("shutdown() returns");
            return;
        }
        for at in 0..self.peers.len() {
            self.peers[at].unsent.clear();
            self.peers[at].reading = true;
            self.settle().await;
        }
        self.check();
        // A slow peer has caught up, or is given up.
        sleep(Duration::from_secs(60)).await;
        self.settle().await;
        let strict = self.strict;
        for at in 0..self.peers.len() {
            self.close(at, 0).await;
        }
        sleep(Duration::from_secs(60)).await;
        let stats = self.broker.stats();
        assert_eq!((stats.connections, stats.buffered), (0, 0), "nothing is left: {stats:?} {:?}", self.counts);
        let frames = self.peers.iter().flat_map(|peer| model::decode(&peer.got, MAX).frames);
        let got = frames.filter(|frame| matches!(frame, Frame::Publish { .. })).count() as u64;
        assert!(stats.delivered >= got, "{} of {got} messages were delivered", stats.delivered);
        let routed = stats.delivered + stats.dropped + stats.discarded;
        assert!(stats.received_messages <= routed + stats.unrouted, "what went nowhere is counted: {stats:?}");
        if strict {
            assert_eq!((stats.refused, stats.revoked), (self.counts.refused, self.counts.revoked));
            assert_eq!(stats.delivered + stats.discarded, self.counts.routed);
        }
        let drops: u64 = self.broker.dropped().iter().map(|entry| entry.messages).sum();
        assert_eq!(drops, stats.dropped);
        timeout(Duration::from_secs(7), self.broker.shutdown()).await.expect("shutdown() returns");
    }
}
