//! The engines that store what they acknowledge, and how each is started and asked.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
};

use crate::{
    kind::Kind,
    programs,
    protocol::{CHANNEL, Role},
    server::{Clients, Server},
};

/// Bytes of payload of each message.
pub(super) const SIZE: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// A loop that appends to a file what arrives, syncs it and acknowledges.
    Plain,
    /// Our broker with a data folder, which acknowledges at level 1: synced.
    Ours,
    RedisAlways,
    RedisEverysec,
    /// It acknowledges before it syncs.
    JetStream,
}

impl Engine {
    pub(crate) const ALL: &'static [Self] =
        &[Self::Plain, Self::Ours, Self::RedisAlways, Self::RedisEverysec, Self::JetStream];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Ours => "ours",
            Self::RedisAlways => "redis-always",
            Self::RedisEverysec => "redis-everysec",
            Self::JetStream => "jetstream",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Plain => Kind::Plain,
            Self::Ours => Kind::Confirmed,
            Self::RedisAlways | Self::RedisEverysec => Kind::Redis,
            Self::JetStream => Kind::Nats,
        }
    }

    pub(crate) fn is_there(self) -> bool {
        programs::find(self.kind()).is_some()
    }

    /// `None` for the loop, and for what the one before it has told already.
    pub(crate) fn version(self) -> Option<String> {
        programs::version(self.kind(), &programs::find(self.kind())?).filter(|_| self != Self::RedisEverysec)
    }

    /// The server, with an empty folder, which stores what is published to the channel.
    pub(crate) fn start(self) -> io::Result<Server> {
        let program = programs::find(self.kind()).ok_or_else(|| io::Error::other("there is no such server"))?;
        let arguments: &[&str] = match self {
            Self::Plain => &[],
            // The mailbox has no collector.
            Self::Ours => &["--data-dir", "data", "--mailbox", "archive=bench", "--journal-max-bytes", "64G"],
            Self::RedisAlways => &["--appendonly", "yes", "--appendfsync", "always"],
            Self::RedisEverysec => &["--appendonly", "yes", "--appendfsync", "everysec"],
            Self::JetStream => &["-js", "-sd", "data"],
        };
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let clients = Clients { publishers: 0, subscribers: 0, size: SIZE };
        let mut server = Server::start_with(self.kind(), &program, clients, &arguments)?;
        if self == Self::JetStream {
            let mut socket = server.connect(Role::Idle)?;
            create_stream(&mut socket).map_err(|error| server.report(&error))?;
        }
        Ok(server)
    }

    /// Says what a connection has to say before its first message.
    pub(crate) fn prepare(self, key: usize, socket: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::JetStream => socket.write_all(format!("SUB _INBOX.b{key:03} 1\r\n").as_bytes()),
            Self::Plain | Self::Ours | Self::RedisAlways | Self::RedisEverysec => Ok(()),
        }
    }

    /// One message as a publisher sends it. Each of them has an inbox for its answers.
    pub(crate) fn message(self, key: usize) -> Vec<u8> {
        let payload: Vec<u8> = (b'a'..=b'z').cycle().take(SIZE).collect();
        match self {
            Self::Plain | Self::Ours => Kind::Confirmed.protocol().published(SIZE).frame,
            Self::RedisAlways | Self::RedisEverysec => {
                let head = format!("*5\r\n$4\r\nXADD\r\n$5\r\n{CHANNEL}\r\n$1\r\n*\r\n$1\r\np\r\n${SIZE}\r\n");
                [head.as_bytes(), &payload, b"\r\n"].concat()
            }
            Self::JetStream => {
                [format!("PUB {CHANNEL} _INBOX.b{key:03} {SIZE}\r\n").as_bytes(), &payload, b"\r\n"].concat()
            }
        }
    }

    /// How many messages are acknowledged by the whole answers at the front of `bytes`, and how many
    /// bytes these take. The newest number of ours is kept in `newest`.
    pub(crate) fn acknowledged(self, bytes: &[u8], newest: &mut u64) -> io::Result<(usize, u64)> {
        match self {
            Self::Plain | Self::Ours => ours(bytes, newest),
            Self::RedisAlways | Self::RedisEverysec => redis(bytes),
            Self::JetStream => jetstream(bytes),
        }
    }
}

/// A stream over the channel, in files, that keeps everything.
fn create_stream(socket: &mut TcpStream) -> io::Result<()> {
    let config = format!(r#"{{"name":"BENCH","subjects":["{CHANNEL}"],"storage":"file","retention":"limits"}}"#);
    let request = format!("SUB _INBOX.create 1\r\nPUB $JS.API.STREAM.CREATE.BENCH _INBOX.create {}\r\n", config.len());
    socket.write_all(format!("{request}{config}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"}\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    let text = String::from_utf8_lossy(&answer);
    if text.contains("\"error\"") {
        return Err(io::Error::other(format!("the stream was not created: {text}")));
    }
    Ok(())
}

/// ACK frames, whose numbers grow, and HEARTBEAT.
fn ours(bytes: &[u8], newest: &mut u64) -> io::Result<(usize, u64)> {
    const ACK: [u8; 5] = [0, 0, 0, 13, 0x81];
    const HEARTBEAT: [u8; 6] = [0, 0, 0, 6, 0x84, 0];
    let before = *newest;
    let mut rest = bytes;
    loop {
        if let Some(behind) = rest.strip_prefix(&HEARTBEAT) {
            rest = behind;
        } else if let Some((frame, behind)) = rest.split_first_chunk::<13>() {
            let number = frame.strip_prefix(&ACK).and_then(|number| Some(u64::from_be_bytes(number.try_into().ok()?)));
            match number.filter(|number| number > newest) {
                Some(number) => (*newest, rest) = (number, behind),
                None => return Err(io::Error::other(format!("{} after ACK of {newest}", frame.escape_ascii()))),
            }
        } else {
            return Ok((bytes.len() - rest.len(), *newest - before));
        }
    }
}

/// Bulk texts: `$15\r\n1700000000000-0\r\n`.
fn redis(bytes: &[u8]) -> io::Result<(usize, u64)> {
    let (mut taken, mut count) = (0, 0);
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    while let (Some(length), Some(id)) = (lines.next(), lines.next()) {
        if !length.starts_with(b"$") {
            return Err(io::Error::other(format!("the server answered {}", length.escape_ascii())));
        }
        if !id.ends_with(b"\r\n") {
            break;
        }
        (taken, count) = (taken + length.len() + id.len(), count + 1);
    }
    Ok((taken, count))
}

/// `MSG _INBOX.b001 1 30\r\n{"stream":"BENCH", "seq":1}\r\n`.
fn jetstream(bytes: &[u8]) -> io::Result<(usize, u64)> {
    let (mut taken, mut count) = (0, 0);
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    while let Some(head) = lines.next() {
        if head == b"PING\r\n" {
            taken += head.len();
            continue;
        }
        let Some(answer) = lines.next().filter(|answer| answer.ends_with(b"\r\n")) else {
            break;
        };
        if !head.starts_with(b"MSG ") || !answer.windows(5).any(|part| part == b"\"seq\"") {
            return Err(io::Error::other(format!("the server answered {}", answer.escape_ascii())));
        }
        (taken, count) = (taken + head.len() + answer.len(), count + 1);
    }
    Ok((taken, count))
}
