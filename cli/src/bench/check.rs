//! The checker of one subscriber: verifies every byte that it receives, and counts lost and
//! repeated messages.

use std::{fmt, sync::Arc};

use hpfeeds::wire::{HEADER_LEN, Header, Limits, Opcode};

use super::batch::{END, Layout, MARKER, STAMP, read_stamp};

/// No run has so many messages: a number that jumps by more is not a loss, but wrong.
const ABSURD: u64 = 1 << 40;

/// Bytes that arrived and were not published.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The broker's ERROR.
    Error(String),
    /// A frame that nobody has published.
    Foreign(String),
    /// A byte of a payload.
    Corrupt { publisher: u32, number: u64, offset: usize },
    /// The stamp.
    Stamp { publisher: u32, number: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(text) => write!(f, "the broker says: {text}"),
            Self::Foreign(text) => write!(f, "received a frame that bench has not published: {text}"),
            Self::Corrupt { publisher, number, offset } => {
                write!(f, "byte {offset} of the payload of message {number} from publisher {publisher} is wrong")
            }
            Self::Stamp { publisher, number } => {
                write!(f, "received message {number} from publisher {publisher}, which does not exist")
            }
        }
    }
}

/// The messages that have arrived so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) messages: u64,
    /// Numbers that were left out.
    pub(super) lost: u64,
    /// Messages that came again, or after a later one.
    pub(super) repeated: u64,
    pub(super) markers: u64,
}

/// Takes the stream of one subscriber apart, wherever reads cut it, without keeping payloads.
#[derive(Debug)]
pub(super) struct Checker {
    layout: Arc<Layout>,
    /// The number that each publisher's next message must have; nothing after its end.
    next: Vec<Option<u64>>,
    /// Publishers that have not ended.
    open: usize,
    tally: Tally,
    /// The start of a frame that was cut, up to its stamp.
    head: Vec<u8>,
    /// Bytes of its filler that have been checked.
    filled: usize,
}

impl Checker {
    pub(super) fn new(layout: Arc<Layout>, publishers: u32) -> Self {
        let publishers = publishers as usize;
        Self {
            layout,
            next: vec![Some(0); publishers],
            open: publishers,
            tally: Tally::default(),
            head: Vec::new(),
            filled: 0,
        }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// Every publisher has said that it is done.
    pub(super) fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// The tally once nothing more will come, with what the publishers say they have sent.
    pub(super) fn finish(&self, sent: &[u64]) -> Tally {
        let missing = self.next.iter().zip(sent).map(|(next, sent)| next.map_or(0, |next| sent.saturating_sub(next)));
        Tally { lost: self.tally.lost + missing.sum::<u64>(), ..self.tally }
    }

    /// Checks what was read. `seen` is told the number of each message.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(u64)) -> Result<(), Fault> {
        let layout = self.layout.clone();
        while !bytes.is_empty() {
            if self.head.is_empty() && bytes.len() >= layout.len() {
                let (frame, rest) = bytes.split_at(layout.len());
                let Some((stamp, filler)) = frame.strip_prefix(layout.head()).and_then(<[u8]>::split_first_chunk)
                else {
                    return Err(foreign(bytes, &layout));
                };
                if filler != layout.filler() {
                    return Err(corrupt(stamp, 0, filler, layout.filler()));
                }
                self.accept(stamp, &mut seen)?;
                bytes = rest;
            } else {
                bytes = self.feed_part(bytes, &layout, &mut seen)?;
            }
        }
        Ok(())
    }

    /// Goes on with a frame that was cut. Returns what comes after the part that was looked at.
    fn feed_part<'a>(
        &mut self,
        bytes: &'a [u8],
        layout: &Layout,
        seen: &mut impl FnMut(u64),
    ) -> Result<&'a [u8], Fault> {
        let wanted = layout.head().len() + STAMP;
        if self.head.len() < wanted {
            let (part, rest) = bytes.split_at(bytes.len().min(wanted - self.head.len()));
            self.head.extend_from_slice(part);
            let known = self.head.len().min(layout.head().len());
            if self.head[..known] != layout.head()[..known] && self.head.len() >= HEADER_LEN {
                self.head.extend_from_slice(rest);
                return Err(foreign(&self.head, layout));
            }
            if self.head.len() < wanted || !layout.filler().is_empty() {
                return Ok(rest);
            }
            return self.end_part(layout, seen).map(|()| rest);
        }
        let expected = &layout.filler()[self.filled..];
        let (part, rest) = bytes.split_at(bytes.len().min(expected.len()));
        if !expected.starts_with(part) {
            return Err(corrupt(&self.stamp(layout), self.filled, part, expected));
        }
        self.filled += part.len();
        if self.filled == layout.filler().len() {
            self.end_part(layout, seen)?;
        }
        Ok(rest)
    }

    fn end_part(&mut self, layout: &Layout, seen: &mut impl FnMut(u64)) -> Result<(), Fault> {
        let stamp = self.stamp(layout);
        self.head.clear();
        self.filled = 0;
        self.accept(&stamp, seen)
    }

    /// Of the frame that was cut.
    fn stamp(&self, layout: &Layout) -> [u8; STAMP] {
        self.head[layout.head().len()..].try_into().unwrap_or_default()
    }

    fn accept(&mut self, stamp: &[u8; STAMP], seen: &mut impl FnMut(u64)) -> Result<(), Fault> {
        let (publisher, number) = read_stamp(stamp);
        let expected = self.next.get_mut(publisher as usize);
        if let Some(Some(next)) = expected
            && *next == number
        {
            *next += 1;
            self.tally.messages += 1;
            seen(number);
            return Ok(());
        }
        self.unexpected(publisher, number, seen)
    }

    /// Anything but the next message.
    fn unexpected(&mut self, publisher: u32, number: u64, seen: &mut impl FnMut(u64)) -> Result<(), Fault> {
        if publisher == MARKER {
            self.tally.markers += 1;
            return Ok(());
        }
        let is_end = publisher & END != 0;
        let Some(state) = self.next.get_mut((publisher & !END) as usize) else {
            return Err(Fault::Stamp { publisher, number });
        };
        let Some(next) = state else {
            self.tally.repeated += 1;
            return Ok(());
        };
        if number > *next + ABSURD {
            return Err(Fault::Stamp { publisher, number });
        }
        self.tally.lost += number.saturating_sub(*next);
        if is_end {
            self.tally.repeated += next.saturating_sub(number);
            *state = None;
            self.open -= 1;
            return Ok(());
        }
        self.tally.messages += 1;
        if number < *next {
            self.tally.repeated += 1;
        } else {
            *next = number + 1;
            seen(number);
        }
        Ok(())
    }
}

fn corrupt(stamp: &[u8; STAMP], before: usize, found: &[u8], expected: &[u8]) -> Fault {
    let (publisher, number) = read_stamp(stamp);
    let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    Fault::Corrupt { publisher, number, offset: STAMP + before + same }
}

/// The fault of bytes that start with another header or other names: `bytes` may hold less or more
/// than the frame.
fn foreign(bytes: &[u8], layout: &Layout) -> Fault {
    match Header::parse(bytes, Limits::new(u32::MAX)) {
        Ok(Some(Header { opcode: Opcode::Error, length })) => {
            let text = &bytes[HEADER_LEN..length.min(bytes.len())];
            Fault::Error(String::from_utf8_lossy(text).into_owned())
        }
        Ok(Some(Header { opcode, length })) if opcode != Opcode::Publish || length != layout.len() => {
            Fault::Foreign(format!("{opcode} of {length} bytes instead of PUBLISH of {}", layout.len()))
        }
        Ok(_) => Fault::Foreign("another ident or channel".to_owned()),
        Err(cause) => Fault::Foreign(cause.to_string()),
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
