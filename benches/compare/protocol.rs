//! The protocols of the brokers, as far as publishing to and subscribing to one channel needs them.
//!
//! All messages of one measurement have the same length, so all frames have, in every protocol:
//! both ends of the generator work with a template of the frame.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    ops::Range,
};

use bytes::BytesMut;
use hpfeeds::wire::{
    Frame, HEADER_LEN,
    extension::{BrokerFrame, ClientFrame, ClientHello, ExtensionHeader, Flags, StreamId, VERSION},
};

use crate::support::handshake::{authenticate, authenticate_and, encode};

/// The user, the password and the channel, in all protocols.
pub(crate) const USER: &str = "dev";
pub(crate) const PASSWORD: &str = "dev";
pub(crate) const CHANNEL: &str = "bench";
/// The prefix of the names of many channels.
pub(crate) const CHANNELS: &str = "scale.";

/// Each payload begins with the publisher and the number of the message, and the time at which it
/// was due.
pub(crate) const STAMP: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// hpfeeds frames, but nobody who reads them: no handshake.
    Blind,
    Hpfeeds,
    /// The same with HELLO, but for subscribers.
    Confirmed,
    Nats,
    Redis,
    Mqtt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Publisher,
    Subscriber,
    Idle,
}

/// A frame, where its payload begins, and, when there are many channels, where which message goes.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) frame: Vec<u8>,
    pub(crate) payload: usize,
    pub(crate) routing: Option<Routing>,
}

impl Shape {
    fn new(head: &[u8], size: usize, tail: &[u8]) -> Self {
        let payload: Vec<u8> = (b'a'..=b'z').cycle().take(size).collect();
        Self { frame: [head, &payload, tail].concat(), payload: head.len(), routing: None }
    }

    /// An hpfeeds frame for one of many channels, whose number is to be patched in right before the
    /// payload.
    pub(crate) fn routed(size: usize, routing: Routing) -> Self {
        Self { routing: Some(routing), ..Self::new(&hpfeeds_head(&numbered(0), size), size, b"") }
    }

    /// Where the number of the channel stands, if it has one.
    pub(crate) fn digits(&self) -> Range<usize> {
        self.payload - self.routing.map_or(0, |_| DIGITS)..self.payload
    }
}

/// Which of many channels a message goes to, and who gets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routing {
    /// How many channels a publisher uses by turns, and for how many messages each.
    pub(crate) channels: u64,
    pub(crate) run: u64,
    /// Not one after the other, but here and there.
    pub(crate) scattered: bool,
    /// Publisher `p` begins with channel `p % spread`, and what it sends goes to the subscriber of
    /// that number only.
    pub(crate) spread: usize,
}

impl Routing {
    /// The channel of a message.
    pub(crate) fn channel(self, publisher: u64, number: u64) -> u64 {
        let turn = number / self.run;
        publisher % self.spread as u64 + if self.scattered { scatter(turn) } else { turn } % self.channels
    }
}

/// `SplitMix64`: numbers one after the other become some that have nothing in common.
fn scatter(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ number >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ number >> 31
}

/// How many digits the number of a channel has.
const DIGITS: usize = 7;

/// The name of one of many channels.
pub(crate) fn numbered(channel: u64) -> String {
    format!("{CHANNELS}{channel:0DIGITS$}")
}

/// The hpfeeds frame that subscribes to a channel.
pub(crate) fn subscribe(channel: &str) -> io::Result<Vec<u8>> {
    let name = channel.parse().map_err(io::Error::other)?;
    encode(&Frame::Subscribe { ident: USER.parse().map_err(io::Error::other)?, channel: name })
}

impl Protocol {
    /// The frame that a publisher sends.
    pub(crate) fn published(self, size: usize) -> Shape {
        let length = size.to_string();
        match self {
            Self::Nats => Shape::new(format!("PUB {CHANNEL} {size}\r\n").as_bytes(), size, b"\r\n"),
            Self::Redis => {
                let head = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{CHANNEL}\r\n${length}\r\n", CHANNEL.len());
                Shape::new(head.as_bytes(), size, b"\r\n")
            }
            Self::Blind | Self::Hpfeeds | Self::Confirmed | Self::Mqtt => self.delivered(size),
        }
    }

    /// The frame that a subscriber gets.
    pub(crate) fn delivered(self, size: usize) -> Shape {
        match self {
            Self::Blind | Self::Hpfeeds | Self::Confirmed => Shape::new(&hpfeeds_head(CHANNEL, size), size, b""),
            Self::Nats => Shape::new(format!("MSG {CHANNEL} 1 {size}\r\n").as_bytes(), size, b"\r\n"),
            Self::Redis => {
                let head = format!("*3\r\n$7\r\nmessage\r\n${}\r\n{CHANNEL}\r\n${size}\r\n", CHANNEL.len());
                Shape::new(head.as_bytes(), size, b"\r\n")
            }
            Self::Mqtt => {
                let topic = mqtt_text(CHANNEL);
                Shape::new(&[mqtt_head(0x30, topic.len() + size), topic].concat(), size, b"")
            }
        }
    }

    /// Bytes that may stand between two delivered frames and mean nothing here.
    pub(crate) fn noise(self) -> &'static [u8] {
        if self == Self::Nats { b"PING\r\n" } else { b"" }
    }

    /// Authenticates, and subscribes if that is the role.
    pub(crate) fn hello(self, role: Role, socket: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::Blind => Ok(()),
            Self::Hpfeeds => hello_hpfeeds(role, socket),
            Self::Confirmed => hello_confirmed(role, socket),
            Self::Nats => hello_nats(role, socket),
            Self::Redis => hello_redis(role, socket),
            Self::Mqtt => hello_mqtt(role, socket),
        }
    }
}

fn hello_hpfeeds(role: Role, socket: &mut TcpStream) -> io::Result<()> {
    authenticate(socket, USER, PASSWORD)?;
    if role == Role::Subscriber { socket.write_all(&subscribe(CHANNEL)?) } else { Ok(()) }
}

/// As a session does that does not subscribe.
fn hello_confirmed(role: Role, socket: &mut TcpStream) -> io::Result<()> {
    if role == Role::Subscriber {
        return hello_hpfeeds(role, socket);
    }
    let hello = ClientHello {
        version: VERSION,
        flags: Flags::CONFIRM | Flags::REPLIES | Flags::HEARTBEAT | Flags::WINDOW,
        heartbeat: 10,
        stream: StreamId::new(fastrand::u128(..).to_be_bytes()),
        next: 1,
        software: "bench",
        window: Some(1 << 20),
    };
    let mut bytes = BytesMut::new();
    ClientFrame::Hello(hello).encode(&mut bytes).map_err(io::Error::other)?;
    authenticate_and(socket, USER, PASSWORD, &bytes)?;
    let mut answer = vec![0; HEADER_LEN];
    socket.read_exact(&mut answer)?;
    let header = ExtensionHeader::parse(&answer).map_err(io::Error::other)?;
    let header = header.ok_or_else(|| io::Error::other("the header is cut"))?;
    let mut body = vec![0; header.length - HEADER_LEN];
    socket.read_exact(&mut body)?;
    match BrokerFrame::parse(header.opcode, &body).map_err(io::Error::other)? {
        BrokerFrame::Hello(answer) if answer.flags.contains(Flags::CONFIRM) => Ok(()),
        other => Err(io::Error::other(format!("the broker answered HELLO with {other:?}"))),
    }
}

fn hello_nats(role: Role, socket: &mut TcpStream) -> io::Result<()> {
    line(socket)?;
    let connect = format!(r#"CONNECT {{"verbose":false,"pedantic":false,"user":"{USER}","pass":"{PASSWORD}"}}"#);
    let subscribe = if role == Role::Subscriber { format!("SUB {CHANNEL} 1\r\n") } else { String::new() };
    socket.write_all(format!("{connect}\r\n{subscribe}PING\r\n").as_bytes())?;
    expect(&line(socket)?, b"PONG\r\n")
}

fn hello_redis(role: Role, socket: &mut TcpStream) -> io::Result<()> {
    socket.write_all(format!("AUTH {PASSWORD}\r\n").as_bytes())?;
    expect(&line(socket)?, b"+OK\r\n")?;
    match role {
        // Without it each message has an answer.
        Role::Publisher => socket.write_all(b"CLIENT REPLY OFF\r\n"),
        Role::Subscriber => {
            socket.write_all(format!("SUBSCRIBE {CHANNEL}\r\n").as_bytes())?;
            (0..6).try_for_each(|_| line(socket).map(drop))
        }
        Role::Idle => Ok(()),
    }
}

fn hello_mqtt(role: Role, socket: &mut TcpStream) -> io::Result<()> {
    // Protocol level 4, clean session, no keepalive; the broker chooses the client's name.
    let connect = [mqtt_text("MQTT"), vec![4, 2, 0, 0], mqtt_text("")].concat();
    socket.write_all(&[mqtt_head(0x10, connect.len()), connect].concat())?;
    let mut answer = [0; 4];
    socket.read_exact(&mut answer)?;
    expect(&answer, &[0x20, 2, 0, 0])?;
    if role == Role::Subscriber {
        let subscribe = [vec![0, 1], mqtt_text(CHANNEL), vec![0]].concat();
        socket.write_all(&[mqtt_head(0x82, subscribe.len()), subscribe].concat())?;
        let mut answer = [0; 5];
        socket.read_exact(&mut answer)?;
        expect(&answer, &[0x90, 3, 0, 1, 0])?;
    }
    Ok(())
}

fn expect(answer: &[u8], expected: &[u8]) -> io::Result<()> {
    if answer == expected {
        return Ok(());
    }
    Err(io::Error::other(format!("the broker answered {}", answer.escape_ascii())))
}

/// Reads one line and nothing behind it.
fn line(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok(line)
}

/// A PUBLISH frame up to its payload, which has `size` bytes.
fn hpfeeds_head(channel: &str, size: usize) -> Vec<u8> {
    let (Ok(ident), Ok(channel)) = (USER.parse(), channel.parse()) else { unreachable!("the names are valid") };
    let Ok(mut frame) = encode(&Frame::Publish { ident, channel, payload: vec![0; size].into() }) else {
        unreachable!("no work has messages above the limit");
    };
    frame.truncate(frame.len() - size);
    frame
}

/// A text behind its length in two bytes.
fn mqtt_text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes()[..], text.as_bytes()].concat()
}

/// The type and the length, seven bits in a byte.
fn mqtt_head(kind: u8, mut length: usize) -> Vec<u8> {
    let mut head = vec![kind];
    loop {
        let [low, ..] = (length & 0x7f).to_le_bytes();
        length >>= 7;
        if length == 0 {
            head.push(low);
            return head;
        }
        head.push(low | 0x80);
    }
}
