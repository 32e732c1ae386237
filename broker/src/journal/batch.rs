//! The batch of PUBLISH frames as the journal stores it: byte for byte, with the runs of its
//! channels and the position of its first message.

use bytes::Bytes;
use hpfeeds::{
    log::{Record, StreamEnd},
    wire::{Channel, FrameBatch, FrameRef, extension::Position},
};
use smallvec::SmallVec;

/// Messages of one channel, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) channel: Channel,
    pub(crate) messages: u32,
    /// The length of their frames.
    pub(crate) bytes: usize,
}

/// The runs of a batch. Most have one.
pub(crate) type Runs = SmallVec<[Run; 1]>;

/// A batch that is to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) frames: Bytes,
    pub(crate) runs: Runs,
    pub(crate) messages: u32,
    pub(crate) unix_ms: i64,
    /// The stream whose numbers the messages have, one after the other, and the number of the last.
    pub(crate) stream: Option<StreamEnd>,
}

impl Draft {
    /// A batch of whole PUBLISH frames; `None` for no frame, and for anything else.
    pub(crate) fn new(frames: Bytes, unix_ms: i64, stream: Option<StreamEnd>) -> Option<Self> {
        let runs = runs(&frames)?;
        let messages = runs.iter().try_fold(0_u32, |sum, run| sum.checked_add(run.messages))?;
        (messages > 0).then_some(Self { frames, runs, messages, unix_ms, stream })
    }

    pub(crate) fn at(self, first: Position) -> Batch {
        Batch {
            first,
            messages: self.messages,
            unix_ms: self.unix_ms,
            stream: self.stream,
            frames: self.frames,
            runs: self.runs,
        }
    }
}

/// A batch that has its place in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) first: Position,
    pub(crate) messages: u32,
    pub(crate) unix_ms: i64,
    pub(crate) stream: Option<StreamEnd>,
    pub(crate) frames: Bytes,
    pub(crate) runs: Runs,
}

impl Batch {
    /// The batch of a record; `None` for one that holds no frames.
    pub(crate) fn read(record: &Record) -> Option<Self> {
        let draft = Draft::new(record.body.clone(), record.unix_ms, record.stream)?;
        (draft.messages == record.messages).then(|| draft.at(record.first))
    }

    /// The ident of its publisher, which all of its messages have.
    pub(super) fn ident(&self) -> Option<&str> {
        let (header, body) = FrameBatch::checked(&self.frames).publish_at(0)?;
        match FrameRef::parse(header.opcode, body) {
            Ok(FrameRef::Publish { ident, .. }) => Some(ident),
            _ => None,
        }
    }

    /// The position of its last message.
    pub(crate) fn last(&self) -> Position {
        Position::new(self.first.epoch, self.first.number + u64::from(self.messages) - 1)
    }

    /// The runs, each with the number of its first message and the offset of its first frame.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&Run, u64, usize)> {
        let (mut number, mut offset) = (self.first.number, 0);
        self.runs.iter().map(move |run| {
            let at = (run, number, offset);
            number += u64::from(run.messages);
            offset += run.bytes;
            at
        })
    }

    /// The messages from one number on, as many as fit, of a run that begins at a number and an
    /// offset.
    pub(crate) fn part(&self, run: (&Run, u64, usize), from: u64, messages: u64, bytes: u64) -> Delivery {
        let (run, number, offset) = run;
        let frames = self.frames.slice(offset..offset + run.bytes);
        let passed = FrameBatch::checked(&frames).portion(from - number, u64::MAX);
        // The first frame is in a portion whatever its bounds are.
        let frames = if from > number { frames.slice(passed.len..) } else { frames };
        let extent = FrameBatch::checked(&frames).portion(messages, bytes);
        let source = self.stream.map(|stream| StreamEnd {
            id: stream.id,
            last: (stream.last + from + 1).saturating_sub(self.first.number + u64::from(self.messages)),
        });
        Delivery {
            first: Position::new(self.first.epoch, from),
            messages: extent.messages,
            frames: frames.slice(..extent.len),
            source,
        }
    }
}

/// Frames for a collector: consecutive ones, of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) first: Position,
    pub(crate) messages: u32,
    pub(crate) frames: Bytes,
    /// The stream of its publisher, and the number of the first message in it.
    pub(crate) source: Option<StreamEnd>,
}

impl Delivery {
    /// The number of its last message.
    pub(crate) fn last(&self) -> u64 {
        self.first.number + u64::from(self.messages) - 1
    }
}

/// The runs of whole PUBLISH frames; `None` for anything else.
fn runs(frames: &[u8]) -> Option<Runs> {
    let (mut runs, mut rest) = (Runs::new(), frames);
    while !rest.is_empty() {
        let batch = FrameBatch::checked(rest);
        let (header, body) = batch.publish_at(0)?;
        let Ok(FrameRef::Publish { channel, .. }) = FrameRef::parse(header.opcode, body) else { return None };
        let extent = batch.same_names(header, FrameBatch::names(body)?.len(), |_, _| ());
        rest = rest.get(extent.len..).filter(|_| extent.len > 0)?;
        match runs.last_mut() {
            Some(last) if last.channel == *channel => {
                last.messages = last.messages.checked_add(extent.messages)?;
                last.bytes += extent.len;
            }
            _ => {
                let channel = Channel::new(channel).ok()?;
                runs.push(Run { channel, messages: extent.messages, bytes: extent.len });
            }
        }
    }
    Some(runs)
}
