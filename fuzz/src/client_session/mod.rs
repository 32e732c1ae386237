//! A session against a broker that does anything: it never panics or hangs, and what it gives the program is exactly
//! what a model decoder finds in what the broker sent.
//!
//! Input: options, and then what happens, a byte each and what that needs. Time is virtual, and whatever can happen
//! without it has happened before the next thing does.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{
    ClientSession, SessionEvent, SessionState,
    wire::{Channel, Frame, Ident, Limits, Nonce, Secret},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::{sleep, timeout},
};

use self::{
    line::{Dialer, Dials},
    script::Script,
};
use crate::{
    input::{Input, pieces},
    model,
};

mod line;
mod script;

const IDENT: &str = "me";
const SECRET: &str = "secret";
const CHANNELS: [&str; 6] = ["a", "b", "a.b", "*", "a, chan=b", "\u{8702}\n"];
const MAX: [u32; 3] = [512, 64, 1 << 20];
const CLOSE: Duration = Duration::from_secs(5);

/// At most so many operations of one input are played.
const OPERATIONS: usize = 200;

pub fn run(bytes: &[u8]) {
    fastrand::seed(bytes.len() as u64);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(play(Input(bytes)));
}

async fn play(mut input: Input<'_>) {
    let max = input.choose(&MAX);
    let dials = Arc::new(Mutex::new(Dials { pipe: input.choose(&[65_536, 64, 1, 4096]), ..Dials::default() }));
    let mut builder = ClientSession::builder(("broker.test", 1), IDENT, SECRET)
        .connector(Dialer(dials.clone()))
        .limits(Limits::new(max))
        .close_timeout(CLOSE)
        .send_queue(input.choose(&[1 << 20, 0]))
        .receive_queue(input.choose(&[1 << 20, 0, 256]))
        .auth_grace(input.choose(&[Duration::from_millis(250), Duration::ZERO]));
    if let retries @ 0..=2 = input.byte() % 8 {
        builder = builder.max_retries(retries.into());
    }
    let session = builder.start().expect("these options are legal");
    let events = session.events();
    let mut play = Play {
        session,
        max,
        dials,
        peers: Vec::new(),
        pieces: Vec::new(),
        reading: true,
        listening: true,
        closing: false,
        ended: false,
        at: BTreeSet::from([(0, 0)]),
        number: 0,
        wanted: BTreeSet::new(),
    };
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        play.operation(&mut input).await;
        play.settle().await;
        play.check();
    }
    play.end(events).await;
}

struct Play {
    session: ClientSession,
    max: u32,
    dials: Arc<Mutex<Dials>>,
    peers: Vec<Peer>,
    /// How the broker cuts what it sends.
    pieces: Vec<u8>,
    /// Whether the program reads what it gets, and the broker.
    reading: bool,
    listening: bool,
    closing: bool,
    ended: bool,
    /// The connection and the message in it that may come next: more than one when the same message was sent twice.
    at: BTreeSet<(usize, usize)>,
    /// Of the last message, in either direction.
    number: u32,
    wanted: BTreeSet<&'static str>,
}

/// The broker's end of a connection.
#[derive(Default)]
struct Peer {
    /// Until the broker has dropped it.
    io: Option<DuplexStream>,
    dropped: Arc<AtomicBool>,
    /// It said that nothing more comes, or the session did.
    finished: bool,
    eof: bool,
    /// The bytes that have gone into the pipe, and those that have come out of it.
    sent: Vec<u8>,
    got: Vec<u8>,
    script: Script,
}

impl Play {
    async fn operation(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0 => {
                let info = Frame::Info { name: "model".into(), nonce: Nonce::new(input.take(4)) };
                self.send(&model::encode(&info)).await;
            }
            1 => {
                let mut bytes = Vec::new();
                let (count, channel) = (1 + input.byte() % 5, input.choose(&CHANNELS));
                // Some of them too long.
                let len = usize::from(input.number()) % (self.max.min(8192) as usize + 8);
                for _ in 0..count {
                    bytes.extend(self.message("them", channel, len));
                }
                self.send(&bytes).await;
            }
            2 => {
                let channel = input.choose(&CHANNELS);
                let text = match input.byte() % 12 {
                    0 => "Authentication failed for me".into(),
                    1 => "authfail.".into(),
                    2 => format!("Authkey not allowed to pub here. ident=me, chan={channel}"),
                    3 => format!("Authkey not allowed to sub here. ident=me, chan={channel}"),
                    4 => "Publish not authorized".into(),
                    5 => "Subscribe not authorized".into(),
                    6 => "accessfail.".into(),
                    7 => "Backpressure deadline timer expired".into(),
                    8 => "Authkey not allowed to sub here. ident=you, chan=".into(),
                    _ => input.text(),
                };
                self.send(&model::encode(&Frame::Error { message: text.into() })).await;
            }
            3 => {
                let bytes = input.long().to_vec();
                self.send(&bytes).await;
            }
            4 => {
                let count = input.byte() % 5;
                self.pieces = input.take(count.into()).to_vec();
            }
            5 => sleep(Duration::from_millis(input.choose(&[1, 50, 251, 1_001, 11_000, 61_000, 3_600_000]))).await,
            6 => {
                if let Some(peer) = self.peers.last_mut() {
                    peer.io = None;
                }
            }
            7 => {
                if let Some(Peer { io: Some(io), finished, .. }) = self.peers.last_mut() {
                    *finished = true;
                    let _ = io.shutdown().await;
                }
            }
            8 => self.listening = !self.listening,
            9 => self.reading = !self.reading,
            10 => {
                let mut dials = self.dials.lock().expect("one thread");
                dials.down = !dials.down;
            }
            11 => {
                let channel = input.choose(&CHANNELS);
                self.wanted.insert(channel);
                let _ = self.session.subscribe(channel);
            }
            12 => {
                let _ = self.session.unsubscribe(input.choose(&CHANNELS));
            }
            13 => {
                let (channel, len) = (input.choose(&CHANNELS), usize::from(input.number()) % 20_000);
                let payload = self.payload(len);
                if let Err(refused) = self.session.try_publish(channel, payload.clone()) {
                    assert_eq!(refused.into_payload(), payload);
                }
            }
            14 => {
                let (channel, count) = (input.choose(&CHANNELS), 1 + input.byte() % 50);
                for _ in 0..count {
                    let payload = self.payload(40);
                    let _ = timeout(Duration::from_millis(1), self.session.publish(channel, payload)).await;
                }
            }
            _ => {
                self.closing = true;
                // Cancelled, it goes on.
                let _ = timeout(Duration::from_millis(1), self.session.close()).await;
            }
        }
    }

    fn message(&mut self, ident: &str, channel: &str, len: usize) -> Vec<u8> {
        let payload = self.payload(len);
        let (ident, channel) = (ident.parse().expect("a name"), channel.parse().expect("a name"));
        model::encode(&Frame::Publish { ident, channel, payload })
    }

    /// Begins with a number that no other has.
    fn payload(&mut self, len: usize) -> Bytes {
        self.number += 1;
        let mut payload = self.number.to_be_bytes().to_vec();
        payload.resize(len.max(4), b'x');
        payload.into()
    }

    /// The broker sends this, as far as it goes in.
    async fn send(&mut self, bytes: &[u8]) {
        let sizes = self.pieces.clone();
        for piece in pieces(bytes, &sizes) {
            let mut rest = piece;
            while !rest.is_empty() {
                let Some(peer) = self.peers.last_mut().filter(|peer| !peer.finished) else {
                    return;
                };
                let Some(io) = &mut peer.io else {
                    return;
                };
                match timeout(Duration::from_millis(1), io.write(rest)).await {
                    Ok(Ok(n)) => {
                        peer.sent.extend_from_slice(&rest[..n]);
                        rest = &rest[n..];
                    }
                    Ok(Err(_)) => return,
                    // The session does not read.
                    Err(_) if !self.reading => return,
                    Err(_) => {}
                }
                self.settle().await;
            }
        }
    }

    /// Lets everything happen that can without time, but for a few milliseconds.
    async fn settle(&mut self) {
        loop {
            // All tasks are idle before time passes.
            sleep(Duration::from_millis(1)).await;
            let new = std::mem::take(&mut self.dials.lock().expect("one thread").new);
            let mut progress = !new.is_empty();
            for peer in new {
                if let Some(last) = self.peers.last() {
                    assert!(last.dropped.load(Relaxed), "one connection at a time");
                }
                self.peers.push(peer);
            }
            for peer in &mut self.peers {
                peer.script = Script::of(&peer.sent, self.max);
            }
            progress |= self.receive();
            if self.listening {
                for peer in &mut self.peers {
                    progress |= peer.listen();
                }
            }
            if !progress {
                return;
            }
        }
    }

    /// Reads what there is, if the program reads.
    fn receive(&mut self) -> bool {
        let mut progress = false;
        while self.reading && !self.ended {
            match self.session.next().now_or_never() {
                None => break,
                Some(None) => {
                    self.ended = true;
                    assert_eq!(*self.session.state().borrow(), SessionState::Closed);
                }
                Some(Some(message)) => self.received(&message),
            }
            progress = true;
        }
        progress
    }

    fn received(&mut self, message: &(Ident, Channel, Bytes)) {
        let before = std::mem::take(&mut self.at);
        for (connection, index) in self.reachable(&before) {
            if self.peers[connection].script.messages.get(index) == Some(message) {
                self.at.insert((connection, index + 1));
            }
        }
        assert!(!self.at.is_empty(), "{message:?} is not what comes next after one of {before:?}");
    }

    /// The messages that may come next: also the first of a later connection, once an earlier one has
    /// given all that it must.
    fn reachable(&self, from: &BTreeSet<(usize, usize)>) -> BTreeSet<(usize, usize)> {
        let mut reachable = BTreeSet::new();
        for &(connection, index) in from {
            let mut index = index;
            for (later, peer) in self.peers.iter().enumerate().skip(connection) {
                let Script { messages, firm, .. } = &peer.script;
                // Closing, it lets go what nobody reads.
                let last = if self.closing { messages.len() } else { index };
                reachable.extend((index..=last).map(|index| (later, index)));
                if !self.closing && (index < *firm || !peer.dropped.load(Relaxed)) {
                    break;
                }
                index = 0;
            }
        }
        reachable
    }

    fn check(&mut self) {
        let numbers = self.peers.iter().flat_map(|peer| peer.check(self.max, &self.wanted));
        let numbers: Vec<_> = numbers.collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}: each once, in order");
        if !self.reading || self.closing || self.ended {
            return;
        }
        // Whatever has come over a connection that is still there has been given to the program.
        let Some(peer) = self.peers.last() else {
            return;
        };
        if !peer.dropped.load(Relaxed) {
            assert!(
                !peer.script.fatal,
                "it goes on with a broker that sends {:?}",
                peer.sent.escape_ascii().to_string()
            );
            let all = (self.peers.len() - 1, peer.script.messages.len());
            assert!(self.reachable(&self.at).contains(&all), "{all:?} is not among {:?}", self.at);
        }
    }

    async fn end(mut self, mut events: hpfeeds::Events) {
        self.closing = true;
        // Whatever the broker does or does not.
        let closed = timeout(CLOSE + Duration::from_millis(1_100), self.session.close()).await;
        let closed = closed.expect("close() returns");
        if let Err(error) = &closed {
            crate::endpoint::one_line(&error.to_string());
        }
        assert_eq!(*self.session.state().borrow(), SessionState::Closed);
        self.reading = true;
        self.settle().await;
        assert!(self.ended, "the stream ends");
        // As another turn: tokio lets nobody read without end in one.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(self.session.next().now_or_never(), Some(None), "it stays ended");
        for peer in &self.peers {
            assert!(peer.dropped.load(Relaxed), "no connection is left behind");
        }
        let mut last = None;
        while let Some(event) = events.next().now_or_never().expect("the events end") {
            crate::endpoint::one_line(&event.to_string());
            last = Some(event);
        }
        assert!(matches!(last, Some(SessionEvent::Closed { .. })), "{last:?}");
        self.check();
    }
}

impl Peer {
    /// Reads what there is.
    fn listen(&mut self) -> bool {
        let mut progress = false;
        let mut buf = [0; 4096];
        while let Some(io) = &mut self.io
            && !self.eof
            && let Some(Ok(n)) = io.read(&mut buf).now_or_never()
        {
            self.eof = n == 0;
            self.got.extend_from_slice(&buf[..n]);
            progress = true;
        }
        progress
    }

    /// Checks what the session has said. Returns the numbers of its messages.
    fn check(&self, max: u32, wanted: &BTreeSet<&str>) -> Vec<u32> {
        let decoded = model::decode(&self.got, max);
        assert_eq!(decoded.fault, None, "a client sends no malformed frame");
        let mut numbers = Vec::new();
        for (index, frame) in decoded.frames.iter().enumerate() {
            match frame {
                Frame::Auth { ident, digest } => {
                    let nonce = self.script.nonce.as_ref().expect("there is an answer to a greeting only");
                    assert!(index == 0 && *ident == IDENT && Secret::from(SECRET).verify(nonce, digest));
                }
                Frame::Publish { ident, payload, .. } => {
                    assert!(index > 0 && *ident == IDENT);
                    numbers.push(u32::from_be_bytes(*payload.first_chunk().expect("a number")));
                }
                Frame::Subscribe { ident, channel } | Frame::Unsubscribe { ident, channel } => {
                    assert!(index > 0 && *ident == IDENT && wanted.contains(&**channel), "{channel}");
                }
                other => panic!("a client sent {other:?}"),
            }
        }
        numbers
    }
}
