//! The crowd of a simulated fleet: sensors with keys, each with a role, over raw sockets.
//!
//! Each sensor has an address of its own in 127.0.0.0/8 where the broker listens on the loopback
//! interface, so that limits of an address are not those of the fleet.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::BytesMut;
use futures::{StreamExt as _, stream};
use hpfeeds::wire::{
    Codec, Frame, Limits, Nonce, Secret, encode_publish,
    extension::{ClientFrame, ClientHello, Flags, StreamId, VERSION},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt as _, copy, sink},
    net::{TcpSocket, TcpStream, tcp::OwnedWriteHalf},
    task::JoinSet,
    time::{interval, sleep, timeout},
};
use tokio_util::codec::Framed;

/// The channel that the keys may publish to.
pub(crate) const CHANNEL: &str = "cowrie.sessions";
/// So many connections are made at once.
const AT_ONCE: usize = 32;
/// The time for a connection to be made.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages of a flood: more than ten times the usual minute, for half a minute.
const FLOOD: usize = 1300;
/// Of 25 sensors each role that is not steady has one: 80 of 2,000, as many as incidents of a kind are kept.
const ROLES: usize = 25;

/// The role of a sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Publishes a message every five seconds.
    Steady,
    /// Is connected, and publishes nothing.
    Silent,
    /// Publishes far more than usual.
    Floods,
    /// Connects for the first time.
    New,
    /// Has a key, and never connects.
    Absent,
    /// Ends its connection.
    Stops,
    /// Gives no sign of life any more, without ending its connection.
    Vanishes,
    /// Publishes to a channel that its key does not allow.
    IsDenied,
    /// Has another secret than its key.
    HasWrongSecret,
    /// Has no key.
    HasNoKey,
}

impl Role {
    /// The role of a sensor.
    pub(crate) fn of(number: usize) -> Self {
        match number % ROLES {
            0 => Self::Stops,
            1 => Self::Vanishes,
            2 => Self::Floods,
            3 => Self::IsDenied,
            4 => Self::HasWrongSecret,
            5 => Self::Silent,
            6 => Self::Absent,
            7 => Self::New,
            8 => Self::HasNoKey,
            _ => Self::Steady,
        }
    }

    /// The name in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Silent => "silent",
            Self::Floods => "floods",
            Self::New => "new",
            Self::Absent => "absent",
            Self::Stops => "stops",
            Self::Vanishes => "vanishes",
            Self::IsDenied => "is-denied",
            Self::HasWrongSecret => "has-wrong-secret",
            Self::HasNoKey => "has-no-key",
        }
    }

    /// The state that the broker shows in the end, by its name in JSON; `None` for an ident that it does not
    /// know.
    pub(crate) fn state(self) -> Option<&'static str> {
        match self {
            Self::Steady => Some("ok"),
            Self::Silent => Some("silent"),
            Self::Floods => Some("flood"),
            Self::New => Some("learning"),
            Self::Absent | Self::HasWrongSecret => Some("never"),
            Self::Stops | Self::Vanishes | Self::IsDenied => Some("gone"),
            Self::HasNoKey => None,
        }
    }

    /// The kind of incident that the broker shows, by its name in JSON.
    pub(crate) fn incident(self) -> Option<&'static str> {
        match self {
            Self::IsDenied => Some("denied-publish"),
            Self::HasWrongSecret => Some("wrong-secret"),
            Self::HasNoKey => Some("unknown-ident"),
            _ => None,
        }
    }

    fn has_key(self) -> bool {
        self != Self::HasNoKey
    }

    fn is_known(self) -> bool {
        !matches!(self, Self::New | Self::Absent | Self::HasWrongSecret | Self::HasNoKey)
    }

    fn connects(self) -> bool {
        self.is_known() || self == Self::New
    }
}

/// The ident of a sensor.
pub(crate) fn ident(number: usize) -> String {
    format!("sensor-{number:04}")
}

fn secret(number: usize) -> String {
    format!("secret-{number:04}")
}

/// Idents and secrets of all sensors that have keys.
pub(crate) fn keys(sensors: usize) -> impl Iterator<Item = (String, String)> {
    (0..sensors).filter(|number| Role::of(*number).has_key()).map(|number| (ident(number), secret(number)))
}

/// The presence that a broker has stored of the sensors which it knows for ten days: what is usual for
/// them follows from that.
pub(crate) fn presence(sensors: usize, now: u64) -> Value {
    const DAY: u64 = 24 * 60 * 60;
    let known = (0..sensors).filter(|number| Role::of(*number).is_known()).map(|number| {
        let quiet = if Role::of(number) == Role::Silent { 1300 } else { 0 };
        let peaks = [60; 7];
        let record = json!({
            "first": now - 10 * DAY, "published": now - 1300, "connected": now - DAY, "left": now - 60,
            "reason": "shutdown", "day": now / DAY, "quiet": quiet, "gaps": [5, 600, 0, 0, 0, 0, 0], "peaks": peaks,
        });
        (ident(number), record)
    });
    json!({ "version": 1, "idents": known.collect::<serde_json::Map<_, _>>() })
}

/// A connection that has authenticated; what comes is read and thrown away.
struct Sensor {
    number: usize,
    write: OwnedWriteHalf,
}

/// The fleet.
pub(crate) struct Crowd {
    address: SocketAddr,
    sensors: usize,
    there: Vec<Sensor>,
    /// Connections of those that have vanished, which nobody reads.
    vanished: Vec<TcpStream>,
    reading: JoinSet<()>,
}

impl Crowd {
    /// Connects all sensors that do, and has those publish a message that are not silent.
    pub(crate) async fn connect(address: SocketAddr, sensors: usize) -> Result<Self, String> {
        let mut crowd = Self { address, sensors, there: Vec::new(), vanished: Vec::new(), reading: JoinSet::new() };
        let wanted = (0..sensors).filter(|number| Role::of(*number).connects());
        let made = stream::iter(wanted).map(async |number| {
            let stream = log_in(address, number, &ident(number), &secret(number)).await;
            (number, stream)
        });
        let made: Vec<_> = made.buffer_unordered(AT_ONCE).collect().await;
        for (number, stream) in made {
            let mut stream = stream.map_err(|cause| format!("{}: {cause}", ident(number)))?;
            if Role::of(number) != Role::Silent {
                send(&mut stream, &message(number, CHANNEL)).await.map_err(|cause| cause.to_string())?;
            }
            if Role::of(number) == Role::Vanishes {
                crowd.vanished.push(stream);
                continue;
            }
            let (mut read, write) = stream.into_split();
            crowd.reading.spawn(async move {
                let _ = copy(&mut read, &mut sink()).await;
            });
            crowd.there.push(Sensor { number, write });
        }
        Ok(crowd)
    }

    /// How many are connected.
    pub(crate) fn len(&self) -> usize {
        self.there.len() + self.vanished.len()
    }

    /// Has those that wait for it give their signs of life, until [`act`](Self::act).
    pub(crate) async fn live(&mut self, time: Duration) -> Result<(), String> {
        let mut heartbeat = BytesMut::new();
        ClientFrame::Heartbeat.encode(&mut heartbeat).map_err(|cause| cause.to_string())?;
        let mut ticks = interval(Duration::from_secs(1));
        let living = async {
            loop {
                ticks.tick().await;
                for stream in &mut self.vanished {
                    send(stream, &heartbeat).await?;
                }
            }
        };
        match timeout(time, living).await {
            Ok(Err::<(), std::io::Error>(cause)) => Err(cause.to_string()),
            _ => Ok(()),
        }
    }

    /// Has each sensor do what its role is, and says which has.
    pub(crate) async fn act(&mut self, mut told: impl FnMut(usize)) -> Result<(), String> {
        let (mut staying, mut acting) = (Vec::new(), Vec::new());
        for sensor in self.there.drain(..) {
            match Role::of(sensor.number) {
                Role::Stops | Role::IsDenied | Role::Floods => acting.push(sensor),
                _ => staying.push(sensor),
            }
        }
        self.there = staying;
        for mut sensor in acting {
            let number = sensor.number;
            let done = match Role::of(number) {
                Role::Stops => sensor.write.shutdown().await,
                Role::IsDenied => sensor.write.write_all(&message(number, "forbidden")).await,
                _ => sensor.write.write_all(&message(number, CHANNEL).repeat(FLOOD)).await,
            };
            done.map_err(|cause| format!("{}: {cause}", ident(number)))?;
            told(number);
            if Role::of(number) == Role::Floods {
                self.there.push(sensor);
            }
        }
        // Nothing is done: that is it.
        (0..self.sensors).filter(|number| Role::of(*number) == Role::Vanishes).for_each(&mut told);
        let refused =
            (0..self.sensors).filter(|number| matches!(Role::of(*number), Role::HasWrongSecret | Role::HasNoKey));
        let address = self.address;
        let mut made = stream::iter(refused)
            .map(async |number| (number, log_in(address, number, &ident(number), "another one").await))
            .buffer_unordered(AT_ONCE);
        while let Some((number, stream)) = made.next().await {
            let (mut read, write) = stream.map_err(|cause| format!("{}: {cause}", ident(number)))?.into_split();
            self.reading.spawn(async move {
                // Until the broker ends it.
                let _ = copy(&mut read, &mut sink()).await;
                drop(write);
            });
            told(number);
        }
        Ok(())
    }

    /// Has the steady ones publish every five seconds, and the floods go on; for ever, or until a
    /// connection breaks.
    pub(crate) async fn go_on(&mut self) -> String {
        for round in 0_usize.. {
            sleep(Duration::from_millis(500)).await;
            for sensor in &mut self.there {
                let number = sensor.number;
                let frames = match Role::of(number) {
                    Role::Steady | Role::New if (number + round).is_multiple_of(10) => message(number, CHANNEL),
                    Role::Floods if round % 40 == 39 => message(number, CHANNEL).repeat(FLOOD),
                    _ => continue,
                };
                if let Err(cause) = sensor.write.write_all(&frames).await {
                    return format!("{}: {cause}", ident(number));
                }
            }
        }
        String::new()
    }
}

/// Connects and sends AUTH; and HELLO for those that are to give signs of life.
async fn log_in(address: SocketAddr, number: usize, ident: &str, secret: &str) -> std::io::Result<TcpStream> {
    let invalid = |text: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, text.to_owned());
    let connecting = async {
        let mut framed = Framed::new(dial(address, number).await?, Codec::default());
        let nonce = match framed.next().await {
            Some(Ok(Frame::Info { nonce, .. })) => nonce,
            Some(Ok(Frame::Error { message })) => return Err(invalid(&String::from_utf8_lossy(&message))),
            _ => return Err(invalid("no INFO")),
        };
        let mut stream = framed.into_inner();
        let mut bytes = auth(ident, secret, &nonce).ok_or_else(|| invalid("the ident is too long"))?;
        if Role::of(number) == Role::Vanishes {
            let (flags, stream) =
                (Flags::CONFIRM | Flags::REPLIES | Flags::HEARTBEAT, StreamId::new(stream_id(number)));
            let hello = ClientHello {
                version: VERSION,
                flags,
                stream,
                next: 1,
                heartbeat: 60,
                software: "fleet",
                ..ClientHello::default()
            };
            ClientFrame::Hello(hello).encode(&mut bytes).map_err(|cause| invalid(&cause.to_string()))?;
        }
        send(&mut stream, &bytes).await?;
        Ok(stream)
    };
    timeout(PATIENCE, connecting).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

async fn dial(address: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    if !address.ip().is_loopback() || address.is_ipv6() {
        return TcpStream::connect(address).await;
    }
    let [high, low] = u16::try_from(number % 60_000 + 256).unwrap_or(256).to_be_bytes();
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::from([127, 1, high, low]), 0))?;
    socket.connect(address).await
}

fn stream_id(number: usize) -> [u8; 16] {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    id
}

fn auth(ident: &str, secret: &str, nonce: &Nonce) -> Option<BytesMut> {
    let mut bytes = BytesMut::new();
    let auth = Frame::Auth { ident: ident.parse().ok()?, digest: Secret::new(secret).sign(nonce) };
    auth.encode(&mut bytes, Limits::default()).ok()?;
    Some(bytes)
}

fn message(number: usize, channel: &str) -> Vec<u8> {
    let payload = json!({ "peerIP": format!("192.0.2.{}", number % 250), "session": number, "commands": ["uname -a"] });
    let mut bytes = BytesMut::new();
    if let (Ok(ident), Ok(channel)) = (ident(number).parse(), channel.parse()) {
        // It is far shorter than the limit.
        let _ = encode_publish(&mut bytes, Limits::default(), &ident, &channel, payload.to_string().as_bytes());
    }
    bytes.to_vec()
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await
}
