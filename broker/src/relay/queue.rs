//! The queue of an uplink: pieces with their stream numbers, from when they are read until the parent
//! has decided them.

use std::collections::VecDeque;

use hpfeeds::{
    spool::{Chunk, FeedRefused},
    wire::{
        Channel,
        extension::{Code, StreamId, StreamPosition},
    },
};

use super::piece::Piece;

/// A chunk is about so long in bytes.
pub(super) const CHUNK: usize = 256 << 10;

/// A piece with its numbers.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) stream: StreamId,
    /// The number of its first message.
    pub(super) first: u64,
    pub(super) piece: Piece,
    /// The channel, for messages that were set aside.
    pub(super) aside: Option<Channel>,
}

impl Outgoing {
    fn last(&self) -> u64 {
        self.first + u64::from(self.piece.messages) - 1
    }

    fn split(&mut self, messages: u32) -> Self {
        let head = Self { piece: self.piece.split(messages), ..self.clone() };
        self.first += u64::from(messages);
        head
    }
}

/// The fate of decided messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Accepted,
    /// `None`: they are longer than the parent takes.
    Refused(Option<Code>),
}

/// The pieces, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Not given to the session yet.
    planned: VecDeque<Outgoing>,
    given: VecDeque<Outgoing>,
    /// Refused messages that are not decided yet.
    refused: Vec<FeedRefused>,
    /// The newest decided position of the stream that was heard of last.
    decided: Option<StreamPosition>,
    /// The newest message that was given.
    newest: Option<StreamPosition>,
}

impl Queue {
    pub(super) fn plan(&mut self, outgoing: Outgoing) {
        self.planned.push_back(outgoing);
    }

    pub(super) fn has_planned(&self) -> bool {
        !self.planned.is_empty()
    }

    /// Whether some messages of a channel that was set aside are under way.
    pub(super) fn has_aside(&self, channel: &Channel) -> bool {
        self.all().any(|outgoing| outgoing.aside.as_ref() == Some(channel))
    }

    /// The oldest piece of the ident's own stream.
    pub(super) fn oldest(&self) -> Option<&Outgoing> {
        self.all().find(|outgoing| outgoing.aside.is_none())
    }

    fn all(&self) -> impl Iterator<Item = &Outgoing> {
        self.given.iter().chain(&self.planned)
    }

    /// The next chunk: consecutive numbers of one stream.
    pub(super) fn give(&mut self) -> Option<Chunk> {
        let first = self.planned.front()?;
        let (stream, number) = (first.stream, first.first);
        let (mut next, mut bytes, mut pieces) = (number, 0, Vec::new());
        while let Some(outgoing) = self.planned.front() {
            let fits = bytes == 0 || bytes + outgoing.piece.frames.len() <= CHUNK;
            if outgoing.stream != stream || outgoing.first != next || !fits {
                break;
            }
            next = outgoing.last() + 1;
            bytes += outgoing.piece.frames.len();
            pieces.push((outgoing.piece.frames.clone(), outgoing.piece.messages.into()));
            self.given.extend(self.planned.pop_front());
        }
        self.newest = Some(StreamPosition { stream, number: next - 1 });
        Chunk::new(stream, number, pieces)
    }

    pub(super) fn refuse(&mut self, refused: FeedRefused) {
        self.refused.push(refused);
    }

    /// The newest message that was given.
    pub(super) fn newest(&self) -> Option<StreamPosition> {
        self.newest
    }

    /// Everything up to here is decided.
    pub(super) fn release(&mut self, position: StreamPosition) {
        self.decided = Some(position);
    }

    /// Takes the next messages that are decided, all with one fate.
    pub(super) fn settle(&mut self) -> Option<(Outgoing, Fate)> {
        let decided = self.decided?;
        let at = self.given.iter().position(|outgoing| outgoing.stream == decided.stream)?;
        let outgoing = self.given.get_mut(at)?;
        let first = outgoing.first;
        if first > decided.number {
            return None;
        }
        // Those of other streams are for later.
        self.refused.retain(|range| range.stream != decided.stream || range.first + range.count > first);
        let of_stream = || self.refused.iter().filter(|range| range.stream == decided.stream);
        let refused = of_stream().find(|range| range.first <= first);
        let end = match refused {
            Some(range) => range.first + range.count,
            None => of_stream().map(|range| range.first).min().unwrap_or(u64::MAX),
        };
        let fate = refused.map_or(Fate::Accepted, |range| Fate::Refused(range.code));
        let last = outgoing.last().min(decided.number).min(end - 1);
        let messages = u32::try_from(last - first + 1).unwrap_or(u32::MAX);
        if messages < outgoing.piece.messages {
            return Some((outgoing.split(messages), fate));
        }
        self.given.remove(at).map(|outgoing| (outgoing, fate))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use bytes::BytesMut;
    use hpfeeds::wire::{Limits, encode_publish, extension::Position};

    use super::*;

    fn outgoing(stream: StreamId, channel: &str, aside: bool) -> Outgoing {
        let (mut frames, channel) = (BytesMut::new(), channel.parse::<Channel>().unwrap());
        encode_publish(&mut frames, Limits::default(), &"i".parse().unwrap(), &channel, b"1").unwrap();
        let piece = Piece { first: Position::new(1, 1), messages: 1, frames: frames.freeze(), unix_ms: 0 };
        Outgoing { stream, first: 1, piece, aside: aside.then_some(channel) }
    }

    #[test]
    fn a_refusal_waits_until_its_own_stream_is_decided() {
        let (own, aside) = (StreamId::new([1; 16]), StreamId::new([2; 16]));
        let mut queue = Queue::default();
        for next in [outgoing(own, "a", false), outgoing(aside, "denied", true)] {
            queue.plan(next);
            queue.give().unwrap();
        }
        // Both are heard of at once.
        queue.refuse(FeedRefused { stream: aside, first: 1, count: 1, code: Some(Code::NOT_ALLOWED) });
        let mut fates = Vec::new();
        for stream in [own, aside] {
            queue.release(StreamPosition { stream, number: 1 });
            while let Some((outgoing, fate)) = queue.settle() {
                fates.push((outgoing.stream, fate));
            }
        }
        assert_eq!(fates, [(own, Fate::Accepted), (aside, Fate::Refused(Some(Code::NOT_ALLOWED)))]);
    }
}
