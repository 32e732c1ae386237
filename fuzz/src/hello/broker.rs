//! Clients against the broker: what it acknowledges and refuses was sent, and no message comes twice on a connection.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use futures::FutureExt as _;
use hpfeeds::wire::{
    DecodeError, Frame, Header, Limits, Nonce, Secret,
    extension::{
        BrokerFrame, ClientFrame, ClientHello, ExtensionHeader, Flags, Mode, Position, StreamNumbering, VERSION,
    },
};
use hpfeeds_broker::{Broker, Key, SlowPolicy};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::{sleep, timeout},
};

use super::{CHANNELS, NUMBERS, OPERATIONS, flags, of_client, stream};
use crate::{input::Input, model};

const MAX: u32 = 512;
const PEERS: usize = 4;

/// Its secret, and who may publish only to `a`.
const IDENTS: [&str; 2] = ["all", "weak"];

/// One client.
struct Peer {
    io: DuplexStream,
    ident: &'static str,
    nonce: Option<Nonce>,
    reading: bool,
    got: Vec<u8>,
    over: bool,
    /// The HELLOs that are not answered, with what it has sent since each: the HELLO's `next`, if it
    /// confirms, and how many messages.
    asked: VecDeque<(Option<u64>, u64)>,
    /// The count of its messages, how many it has sent since the last HELLO that was answered, and what was acknowledged.
    stream: Option<StreamNumbering>,
    sent: u64,
    acked: u64,
    /// How many subscriptions are not answered.
    subscriptions: usize,
    /// It has sent something that is no frame, or not whole: nothing more is known of it.
    loose: bool,
    received: BTreeSet<u64>,
}

pub(super) async fn play(mut input: Input<'_>) {
    let weak = Key::new("weak", "s").and_then(|key| key.publish(["a"])).and_then(|key| key.subscribe(["a"]));
    let all = Key::new("all", "s").and_then(|key| key.publish(["*"])).and_then(|key| key.subscribe(["*"]));
    let options = input.byte();
    let (low, high) = input.choose(&[(1 << 20, 1 << 20), (300, 3000), (300, 1 << 20)]);
    let broker = Broker::builder()
        .without_endpoint()
        .user(weak.expect("a key"))
        .user(all.expect("a key"))
        .name("fuzz")
        .max_message(MAX)
        .low_mark(low)
        .high_mark(high)
        .floor_window(Duration::from_secs(1))
        .slow_deadline(Duration::from_secs(3))
        .slow_policy(if options & 1 == 0 { SlowPolicy::Disconnect } else { SlowPolicy::DropOldest })
        .client_timeout(Duration::from_secs(input.choose(&[0, 3])))
        .start()
        .await
        .expect("these options are legal");
    let (mut peers, mut number) = (Vec::<Peer>::new(), 0);
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        let (at, operation) = (usize::from(input.byte()), input.byte() % 16);
        if operation == 0 || peers.is_empty() {
            if peers.len() == PEERS {
                peers.remove(at % PEERS);
            }
            let (ours, theirs) = duplex(input.choose(&[65_536, 1000, 64]));
            broker.serve(theirs, ([10, 0, 0, 1], 1).into());
            let ident = input.choose(&IDENTS);
            peers.push(Peer::new(ours, ident));
            settle(&mut peers).await;
            let peer = peers.last_mut().expect("it has been added");
            let nonce = peer.nonce.clone().expect("it was greeted");
            let digest = Secret::from("s").sign(&nonce);
            let auth = model::encode(&Frame::Auth { ident: ident.parse().expect("a name"), digest });
            peer.send(&auth).await;
        } else {
            let at = at % peers.len();
            operate(&mut peers[at], operation, &mut input, &mut number).await;
        }
        settle(&mut peers).await;
    }
    drop(peers);
    // Longer than anything that a broker waits for.
    sleep(Duration::from_secs(100)).await;
    let stats = broker.stats();
    assert_eq!((stats.connections, stats.buffered), (0, 0));
    broker.shutdown().await;
}

async fn operate(peer: &mut Peer, operation: u8, input: &mut Input<'_>, number: &mut u64) {
    match operation {
        1 | 2 => {
            let (flags, stream, next) = (flags(input), stream(input), input.choose(&NUMBERS));
            let heartbeat = input.choose(&[0, 1, 3, 10, u16::MAX]);
            let window = input.choose(&[None, Some(0), Some(100), Some(5000), Some(u32::MAX)]);
            let hello =
                ClientHello { version: VERSION, flags, stream, next, heartbeat, window, ..ClientHello::default() };
            let confirms = flags.contains(Flags::CONFIRM) && *stream.as_bytes() != [0; 16];
            if peer.send(&of_client(&ClientFrame::Hello(hello))).await {
                peer.asked.push_back((confirms.then_some(next), 0));
            }
        }
        3..=6 => {
            let (channel, count, len) = (input.choose(&CHANNELS), 1 + input.byte() % 20, usize::from(input.byte()));
            let mut bytes = Vec::new();
            for _ in 0..count {
                *number += 1;
                let mut payload = number.to_be_bytes().to_vec();
                payload.resize(8 + len, b'x');
                let (ident, channel) = (peer.ident.parse().expect("a name"), channel.parse().expect("a name"));
                bytes.extend(model::encode(&Frame::Publish { ident, channel, payload: payload.into() }));
            }
            // Some of them may not go in: it has sent no more than these.
            *peer.asked.back_mut().map_or(&mut peer.sent, |(_, sent)| sent) += u64::from(count);
            peer.send(&bytes).await;
        }
        7 => {
            let (ident, channel) =
                (peer.ident.parse().expect("a name"), input.choose(&CHANNELS).parse().expect("a name"));
            peer.subscriptions += 1;
            peer.send(&model::encode(&Frame::Subscribe { ident, channel })).await;
        }
        8 => {
            let (ident, channel) =
                (peer.ident.parse().expect("a name"), input.choose(&CHANNELS).parse().expect("a name"));
            peer.subscriptions += 1;
            peer.send(&model::encode(&Frame::Unsubscribe { ident, channel })).await;
        }
        9 => {
            let (mode, channel) = (Mode(input.byte() % 4), input.choose(&CHANNELS));
            let (position, mailbox) =
                (Position::new(input.choose(&NUMBERS), input.choose(&NUMBERS)), input.choose(&["", "m"]));
            peer.subscriptions += 1;
            peer.send(&of_client(&ClientFrame::SubscribeFrom { mode, position, mailbox, channel })).await;
        }
        10 => {
            let (bytes, position) =
                (input.choose(&NUMBERS).saturating_add(u64::from(input.number() % 2)), Position::NONE);
            peer.send(&of_client(&ClientFrame::Consumed { bytes, position, mailbox: "" })).await;
        }
        11 => _ = peer.send(&of_client(&ClientFrame::Heartbeat)).await,
        12 => {
            let garbage = [&[0, 0, 0][..], input.short()].concat();
            peer.loose = true;
            peer.send(&garbage).await;
        }
        13 => peer.reading = !peer.reading,
        14 => _ = peer.io.shutdown().now_or_never(),
        _ => sleep(Duration::from_millis(input.choose(&[1, 500, 1_100, 6_000, 61_000]))).await,
    }
}

/// Lets everything happen that can without time, but for a few milliseconds.
async fn settle(peers: &mut [Peer]) {
    loop {
        sleep(Duration::from_millis(2)).await;
        let mut progress = false;
        for peer in peers.iter_mut().filter(|peer| peer.reading) {
            progress |= peer.read();
        }
        if !progress {
            return;
        }
    }
}

impl Peer {
    fn new(io: DuplexStream, ident: &'static str) -> Self {
        Self {
            io,
            ident,
            nonce: None,
            reading: true,
            got: Vec::new(),
            over: false,
            asked: VecDeque::new(),
            stream: None,
            sent: 0,
            acked: 0,
            subscriptions: 0,
            loose: false,
            received: BTreeSet::new(),
        }
    }

    /// Writes as much as goes in; `false` when that is not all, after which nothing is known.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        let all = matches!(timeout(Duration::from_millis(5), self.io.write_all(bytes)).await, Ok(Ok(())));
        self.loose |= !all;
        all
    }

    fn read(&mut self) -> bool {
        let (mut buf, mut progress) = ([0; 4096], false);
        while let Some(Ok(n @ 1..)) = self.io.read(&mut buf).now_or_never() {
            self.got.extend_from_slice(&buf[..n]);
            progress = true;
        }
        while let Some(length) = self.frame() {
            self.got.drain(..length);
        }
        progress
    }

    /// Looks at the first whole frame, and returns its length.
    fn frame(&mut self) -> Option<usize> {
        let got = std::mem::take(&mut self.got);
        let length = match Header::parse(&got, Limits::default()) {
            Ok(None) => None,
            Ok(Some(header)) => (got.len() >= header.length).then(|| {
                self.base(&model::decode(&got[..header.length], u32::MAX).frames[0]);
                header.length
            }),
            Err(DecodeError::UnknownOpcode(_)) => {
                let header = ExtensionHeader::parse(&got).expect("a broker's frame");
                header.and_then(|header| {
                    let body = header.body(&got)?;
                    self.extension(&BrokerFrame::parse(header.opcode, body).expect("a broker's frame"));
                    Some(header.length)
                })
            }
            Err(fault) => panic!("{fault}"),
        };
        self.got = got;
        length
    }

    fn base(&mut self, frame: &Frame) {
        assert!(!self.over, "an ERROR is the last word");
        match frame {
            Frame::Info { name, nonce } => {
                assert!(self.nonce.is_none() && *name == "fuzz hpx/1", "{name}");
                self.nonce = Some(nonce.clone());
            }
            Frame::Publish { payload, .. } => {
                let number = u64::from_be_bytes(*payload.first_chunk().expect("eight bytes"));
                assert!(self.received.insert(number), "message {number} came twice");
            }
            Frame::Error { message } => self.over = *message != "The broker is shutting down; end your stream",
            other => panic!("{other:?}"),
        }
    }

    fn extension(&mut self, frame: &BrokerFrame<'_>) {
        match frame {
            BrokerFrame::Hello(hello) => {
                let Some((next, sent)) = self.asked.pop_front() else {
                    assert!(self.loose, "nobody asked");
                    return;
                };
                (self.sent, self.acked) = (sent, hello.decided);
                self.stream = next.and_then(|next| StreamNumbering::new(next, hello.decided));
                assert!(self.loose || self.stream.is_some() == hello.flags.contains(Flags::CONFIRM));
            }
            BrokerFrame::Ack { number } => {
                assert!(*number > self.acked, "{number} after {}", self.acked);
                self.acked = *number;
                self.is_sent(*number);
            }
            BrokerFrame::Refused { range, .. } if range.first > 0 => {
                assert!(range.first > self.acked, "REFUSED comes before its ACK");
                self.is_sent(range.first + u64::from(range.count) - 1);
            }
            BrokerFrame::SubAck { .. } => {
                assert!(self.loose || self.subscriptions > 0);
                self.subscriptions = self.subscriptions.saturating_sub(1);
            }
            BrokerFrame::Refused { .. } | BrokerFrame::Heartbeat => {}
            other => panic!("{other:?} without a journal"),
        }
    }

    /// The client has sent a message with this number.
    fn is_sent(&self, number: u64) {
        if self.loose {
            return;
        }
        let stream = self.stream.as_ref().expect("its messages are numbered");
        let last = stream.next().saturating_add(self.sent).saturating_sub(1);
        assert!(number <= last, "{number} of {last}");
    }
}
