//! Messages that are set aside: those of a channel that the parent denies, which are sent again when
//! it does not any more.
//!
//! They stay where they are in the journal. The ranges of positions are kept in which every
//! message of the channel was denied, and a stream of their own for sending them once more.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hpfeeds::wire::extension::{Position, StreamId};

/// Ranges of one channel; of more, the newest grow into each other: then some messages between them
/// that were not denied are sent once more.
const RANGES: usize = 1024;

/// The messages of one channel that are set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aside {
    /// The stream that they are sent under, and the number that was given last.
    pub(super) stream: StreamId,
    pub(super) number: u64,
    /// Everything up to here has been sent after all.
    pub(super) done: Position,
    /// The positions of the first and the last denied message, of each range.
    pub(super) ranges: Vec<(Position, Position)>,
    /// How many messages wait, at most.
    pub(super) messages: u64,
    /// For how long the channel has been denied, while the relay was running.
    pub(super) age: Duration,
    /// The next denied message begins a range: others before it were not denied.
    pub(super) is_broken: bool,
}

impl Aside {
    pub(super) fn new(stream: StreamId) -> Self {
        Self {
            stream,
            number: 0,
            done: Position::NONE,
            ranges: Vec::new(),
            messages: 0,
            age: Duration::ZERO,
            is_broken: false,
        }
    }

    /// A message was denied. Positions come in their order; one that was denied before is no news.
    pub(super) fn add(&mut self, position: Position) {
        let is_full = self.ranges.len() >= RANGES;
        match self.ranges.last_mut() {
            Some((_, last)) if *last >= position => return,
            Some((_, last)) if !self.is_broken || is_full => *last = position,
            _ => self.ranges.push((position, position)),
        }
        self.is_broken = false;
        self.messages += 1;
    }

    /// Whether a message of the channel is among them, and still to be sent.
    pub(super) fn holds(&self, position: Position) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < position);
        position > self.done && self.ranges.get(at).is_some_and(|(first, _)| *first <= position)
    }

    /// The position before the first that is still to be sent.
    pub(super) fn start(&self) -> Position {
        let first = self.ranges.iter().find(|(_, last)| *last > self.done);
        let before = first.map(|(first, _)| Position::new(first.epoch, first.number.saturating_sub(1)));
        before.map_or(self.done, |before| before.max(self.done))
    }

    /// The position of the last one.
    pub(super) fn end(&self) -> Position {
        self.ranges.last().map_or(Position::NONE, |(_, last)| *last)
    }

    /// Everything up to a position has been sent.
    pub(super) fn sent(&mut self, position: Position, messages: u64) {
        self.done = self.done.max(position);
        self.messages = self.messages.saturating_sub(messages);
        self.ranges.retain(|(_, last)| *last > self.done);
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(64 + 32 * self.ranges.len());
        bytes.put_slice(self.stream.as_bytes());
        for number in [self.number, self.done.epoch, self.done.number, self.messages, self.age.as_secs()] {
            bytes.put_u64(number);
        }
        for position in self.ranges.iter().flat_map(|(first, last)| [first, last]) {
            bytes.put_u64(position.epoch);
            bytes.put_u64(position.number);
        }
        bytes.freeze()
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut aside = Self::new(StreamId::new(bytes.get(..16)?.try_into().ok()?));
        bytes.advance(16);
        aside.number = bytes.try_get_u64().ok()?;
        aside.done = Position::new(bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
        aside.messages = bytes.try_get_u64().ok()?;
        aside.age = Duration::from_secs(bytes.try_get_u64().ok()?);
        while bytes.remaining() >= 32 {
            let mut position = || Some(Position::new(bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?));
            aside.ranges.push((position()?, position()?));
        }
        // It is not known what came between.
        aside.is_broken = true;
        Some(aside)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn at(number: u64) -> Position {
        Position::new(3, number)
    }

    fn aside(numbers: &[u64]) -> Aside {
        let mut aside = Aside::new(StreamId::new([7; 16]));
        for number in numbers {
            aside.add(at(*number));
        }
        aside
    }

    #[test]
    fn denied_messages_are_held_in_ranges_that_an_accepted_one_ends() {
        let mut denied = aside(&[5, 9]);
        denied.is_broken = true;
        denied.add(at(20));
        denied.add(at(20));
        assert_eq!((denied.messages, denied.ranges.len(), denied.start()), (3, 2, at(4)));
        let held: Vec<_> = (0..30).filter(|number| denied.holds(at(*number))).collect();
        assert_eq!(held, [5, 6, 7, 8, 9, 20]);
        denied.sent(at(5), 1);
        assert_eq!((denied.start(), denied.holds(at(5)), denied.holds(at(6))), (at(5), false, true));
        denied.sent(at(9), 1);
        assert_eq!((denied.start(), denied.end(), denied.messages), (at(19), at(20), 1));
        denied.sent(at(20), 1);
        assert!(denied.ranges.is_empty());
    }

    #[test]
    fn ranges_are_bounded() {
        let mut denied = aside(&[]);
        for number in 1..=2 * RANGES as u64 {
            denied.is_broken = true;
            denied.add(at(2 * number));
        }
        assert_eq!((denied.ranges.len(), denied.messages), (RANGES, 2 * RANGES as u64));
        assert!(denied.holds(at(4 * RANGES as u64)));
    }

    #[test]
    fn what_is_set_aside_is_read_back_and_damage_is_none() {
        let mut denied = aside(&[5, 9, 12]);
        denied.sent(at(5), 1);
        (denied.number, denied.age) = (17, Duration::from_secs(100));
        let bytes = denied.encode();
        denied.is_broken = true;
        assert_eq!(Aside::decode(&bytes), Some(denied));
        for length in 0..56 {
            assert_eq!(Aside::decode(&bytes[..length]), None, "{length}");
        }
    }
}
