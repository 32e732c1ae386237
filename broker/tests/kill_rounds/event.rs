//! The numbered events: their payloads, and the lines in which a sensor tells what became of them.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

pub(crate) const IDENT: &str = "sensor";
pub(crate) const COLLECTOR: &str = "collector";
pub(crate) const SECRET: &str = "s3cret";

/// The channel that the collector has subscribed to, and one that the sensor may not publish to.
pub(crate) const CHANNEL: &str = "events";
pub(crate) const FORBIDDEN: &str = "forbidden";
/// How often an event goes to that.
pub(crate) const DENIED_EACH: u64 = 97;

/// Where the driver's marks go.
pub(crate) const MARKS: &str = "marks";

/// A moment of one clock for all processes of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// Later than all of a run.
    pub(crate) const END: Self = Self(1 << 62);

    pub(crate) fn now() -> Self {
        Self(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap())
    }

    pub(crate) fn plus(self, length: Duration) -> Self {
        Self(self.0 + u64::try_from(length.as_micros()).unwrap())
    }
}

/// The payload of a number: the number, and then as many bytes as follow from it. Most are short, some are longer than
/// what a session copies into a batch.
pub(crate) fn payload(number: u64) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(number);
    let length = match rng.u8(..64) {
        0 => rng.usize(16_000..60_000),
        1..4 => rng.usize(1000..4000),
        _ => rng.usize(..200),
    };
    let mut bytes = format!("{number} ").into_bytes();
    bytes.resize(bytes.len() + length, b'a' + (number % 26) as u8);
    bytes.into()
}

/// The number of a payload, which must be whole.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    let digits = bytes.split(|byte| *byte == b' ').next().unwrap();
    let number = std::str::from_utf8(digits).unwrap().parse().unwrap();
    assert!(payload(number) == bytes, "the payload of {number} is not what was published");
    number
}

/// The lines that a sensor prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// The session is there.
    Started,
    /// `publish_confirmed` was called: until it returns, nothing is promised.
    Tried {
        number: u64,
        at: Moment,
    },
    /// `publish` has returned `Ok`.
    Accepted {
        number: u64,
        at: Moment,
    },
    Confirmed {
        number: u64,
        at: Moment,
    },
    /// A flush has returned: all that was accepted, up to this number.
    Flushed {
        number: u64,
        at: Moment,
    },
    Refused {
        number: u64,
        at: Moment,
    },
    Stats {
        resent: u64,
        refused: u64,
        lost: u64,
    },
    /// For so many microseconds until then, timers of this process fired and the disk answered.
    Awake {
        at: Moment,
        micros: u64,
    },
    /// The session was closed, with nothing left.
    Drained,
    /// Something for people.
    Note(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Tried { number, at } => write!(f, "tried {number} {}", at.0),
            Self::Accepted { number, at } => write!(f, "accepted {number} {}", at.0),
            Self::Confirmed { number, at } => write!(f, "confirmed {number} {}", at.0),
            Self::Flushed { number, at } => write!(f, "flushed {number} {}", at.0),
            Self::Refused { number, at } => write!(f, "refused {number} {}", at.0),
            Self::Stats { resent, refused, lost } => write!(f, "stats {resent} {refused} {lost}"),
            Self::Awake { at, micros } => write!(f, "awake {} {micros}", at.0),
            Self::Drained => f.write_str("drained"),
            Self::Note(text) => write!(f, "note {text}"),
        }
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "note" {
            return Ok(Self::Note(rest.to_owned()));
        }
        let numbers: Result<Vec<u64>, _> = rest.split_whitespace().map(str::parse).collect();
        match (word, numbers.as_deref()) {
            ("started", Ok(&[])) => Ok(Self::Started),
            ("tried", Ok(&[number, at])) => Ok(Self::Tried { number, at: Moment(at) }),
            ("accepted", Ok(&[number, at])) => Ok(Self::Accepted { number, at: Moment(at) }),
            ("confirmed", Ok(&[number, at])) => Ok(Self::Confirmed { number, at: Moment(at) }),
            ("flushed", Ok(&[number, at])) => Ok(Self::Flushed { number, at: Moment(at) }),
            ("refused", Ok(&[number, at])) => Ok(Self::Refused { number, at: Moment(at) }),
            ("stats", Ok(&[resent, refused, lost])) => Ok(Self::Stats { resent, refused, lost }),
            ("awake", Ok(&[at, micros])) => Ok(Self::Awake { at: Moment(at), micros }),
            ("drained", Ok(&[])) => Ok(Self::Drained),
            _ => Err(format!("a line that no sensor prints: {line:?}")),
        }
    }
}
