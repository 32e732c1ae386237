//! A broker that does anything against a session: it writes legal frames, no PUBLISH before HELLO is answered, never panics,
//! and ends in time.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use hpfeeds::{
    BrokerAddr, ClientSession, Connector, Transport,
    wire::{
        DecodeError, Frame, Header, Limits, Nonce, Opcode,
        extension::{
            BrokerFrame, BrokerHello, ClientFrame, Code, ExtensionHeader, GapReason, Level, NodeId, Position,
            RefusedRange,
        },
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::{sleep, timeout},
};

use super::{CHANNELS, NUMBERS, OPERATIONS, flags, of_broker};
use crate::{input::Input, model};

const CLOSE: Duration = Duration::from_secs(5);

/// The broker's ends of connections that the session has opened.
#[derive(Clone, Default)]
struct Dials(Arc<Mutex<Vec<DuplexStream>>>);

impl Connector for Dials {
    fn connect<'a>(&'a self, _: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let (ours, theirs) = duplex(4096);
        self.0.lock().expect("one thread").push(theirs);
        async { Ok(Box::new(ours) as _) }.boxed()
    }
}

/// One connection, as the broker has it.
struct Line {
    io: DuplexStream,
    got: Vec<u8>,
    reading: bool,
    /// The session has said HELLO, and the broker has sent one.
    asked: bool,
    answered: bool,
}

pub(super) async fn play(mut input: Input<'_>) {
    let dials = Dials::default();
    let builder = ClientSession::builder(("broker.test", 1), "me", "secret")
        .connector(dials.clone())
        .close_timeout(CLOSE)
        .send_queue(input.choose(&[1 << 20, 500]))
        .receive_queue(input.choose(&[1 << 20, 500]));
    let mut session = builder.start().expect("these options are legal");
    let (mut line, mut waiting) = (None::<Line>, Vec::<BoxFuture<'static, ()>>::new());
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        settle(&dials, &mut line).await;
        let operation = input.byte() % 20;
        if let (0..=11, Some(line)) = (operation, &mut line) {
            speak(line, operation, &mut input).await;
            continue;
        }
        let (channel, len) = (input.choose(&CHANNELS), usize::from(input.byte()));
        match operation {
            12 | 13 => {
                for _ in 0..1 + len % 10 {
                    let payload = Bytes::from(vec![b'x'; len]);
                    let _ = timeout(Duration::from_millis(1), session.publish(channel, payload)).await;
                }
            }
            14 => {
                let publisher = session.publisher();
                let confirmed = async move {
                    let _ = publisher.publish_confirmed(channel, vec![b'x'; len]).await;
                };
                waiting.push(confirmed.boxed());
                waiting.retain_mut(|confirmed| confirmed.now_or_never().is_none());
            }
            15 => _ = session.subscribe(channel),
            16 => while let Some(Some(_)) = session.next().now_or_never() {},
            17 => _ = timeout(Duration::from_millis(1), session.flush()).await,
            18 => _ = session.unsubscribe(channel),
            _ => sleep(Duration::from_millis(input.choose(&[1, 300, 3_100, 31_000, 601_000]))).await,
        }
        waiting.retain_mut(|confirmed| confirmed.now_or_never().is_none());
        let _ = session.stats();
    }
    settle(&dials, &mut line).await;
    let _ = timeout(CLOSE * 3, session.close()).await.expect("it ends in time");
    // Each that waits is told.
    timeout(CLOSE, futures::future::join_all(waiting)).await.expect("each is told");
}

/// The broker does one thing.
async fn speak(line: &mut Line, operation: u8, input: &mut Input<'_>) {
    let number = input.choose(&NUMBERS);
    let bytes = match operation {
        0 | 1 => model::encode(&Frame::Info { name: "fuzz hpx/1".into(), nonce: Nonce::new(input.take(4)) }),
        2 | 3 => {
            let refused = (0..input.byte() % 4).map(|_| range(input)).collect();
            let largest_message = input.choose(&[None, None, Some(0), Some(50), Some(512), Some(u32::MAX)]);
            let hello = BrokerHello {
                version: input.choose(&[1, 1, 0, 2, 255]),
                flags: flags(input),
                heartbeat: input.choose(&[0, 10, 1, u16::MAX]),
                node: NodeId::new([7; 16]),
                decided: number,
                level: Level(input.byte() % 4),
                software: "fuzz",
                largest_message,
                path: Vec::new(),
                refused,
            };
            // Also one that the broker has not read yet.
            line.answered = true;
            of_broker(&BrokerFrame::Hello(hello))
        }
        4 => of_broker(&BrokerFrame::Ack {
            number: if input.byte() % 2 == 0 { number } else { u64::from(input.byte()) },
        }),
        5 => {
            let range = range(input);
            of_broker(&BrokerFrame::Refused { range, channel: input.choose(&CHANNELS), text: "no" })
        }
        6 => {
            let code = Code(input.byte() % 8);
            of_broker(&BrokerFrame::SubAck { code, channel: input.choose(&CHANNELS), text: "no" })
        }
        7 => {
            let (position, count) = (Position::new(number, input.choose(&NUMBERS)), u32::from(input.byte()));
            if input.byte() % 2 == 0 {
                of_broker(&BrokerFrame::Origin { position, count, source: None, mailbox: "" })
            } else {
                of_broker(&BrokerFrame::Gap {
                    messages: number,
                    reason: GapReason(input.byte()),
                    mailbox: "",
                    text: "gone",
                })
            }
        }
        8 => {
            let (ident, channel) = ("them".parse().expect("a name"), input.choose(&CHANNELS).parse().expect("a name"));
            model::encode(&Frame::Publish { ident, channel, payload: vec![b'x'; input.byte().into()].into() })
        }
        9 => match input.byte() % 4 {
            0 => of_broker(&BrokerFrame::Heartbeat),
            1 => model::encode(&Frame::Error { message: input.text().into() }),
            // Anything, which may hold an answer.
            _ => {
                line.answered = true;
                input.short().to_vec()
            }
        },
        10 => {
            line.reading = !line.reading;
            return;
        }
        _ => {
            let _ = line.io.shutdown().now_or_never();
            return;
        }
    };
    let cut = if input.byte() % 8 == 0 { bytes.len() / 2 } else { bytes.len() };
    let _ = timeout(Duration::from_millis(1), line.io.write_all(&bytes[..cut])).await;
}

fn range(input: &mut Input<'_>) -> RefusedRange {
    RefusedRange {
        first: input.choose(&NUMBERS),
        count: input.choose(&[0, 1, 7, u32::MAX]),
        code: Code(input.byte() % 8),
    }
}

/// Lets everything happen that can without time, but for a few milliseconds. The newest connection counts.
async fn settle(dials: &Dials, line: &mut Option<Line>) {
    loop {
        sleep(Duration::from_millis(1)).await;
        let new = dials.0.lock().expect("one thread").pop();
        let mut progress = new.is_some();
        if let Some(io) = new {
            *line = Some(Line { io, got: Vec::new(), reading: true, asked: false, answered: false });
        }
        if let Some(line) = line {
            progress |= line.reading && line.read();
        }
        if !progress {
            return;
        }
    }
}

impl Line {
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
        match Header::parse(&self.got, Limits::default()) {
            Ok(header) => {
                let header = header.filter(|header| self.got.len() >= header.length)?;
                if header.opcode == Opcode::Publish {
                    assert!(!self.asked || self.answered, "a PUBLISH before HELLO is answered");
                }
                Some(header.length)
            }
            Err(DecodeError::UnknownOpcode(_)) => {
                let header = ExtensionHeader::parse(&self.got).expect("a client's frame")?;
                let frame = ClientFrame::parse(header.opcode, header.body(&self.got)?).expect("a client's frame");
                self.asked |= matches!(frame, ClientFrame::Hello(_));
                Some(header.length)
            }
            Err(fault) => panic!("{fault}"),
        }
    }
}
