//! The shared parts of the tests: frames with numbers in them, and a journal whose turns are taken
//! by hand.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use hpfeeds::{
    log::LogError,
    wire::{FrameRef, Frames, Limits, encode_publish},
};

use super::{
    super::{
        batch::Draft,
        engine::Engine,
        handle::{Entry, Found, Journal},
        keeper::Keeper,
        options::{JournalOptions, Now},
    },
    sim_disk::SimDisk,
};
use hpfeeds::wire::extension::Position;

/// A start of the clock on the wall that is trusted.
pub(crate) const START_MS: i64 = 1_800_000_000_000;

/// So many scripts, or those that `HPFEEDS_JOURNAL_SEEDS` asks for.
pub(crate) fn seeds(number: u64) -> u64 {
    let asked = std::env::var("HPFEEDS_JOURNAL_SEEDS").ok();
    asked.map_or(number, |text| text.parse().expect("HPFEEDS_JOURNAL_SEEDS is a number"))
}

/// A message: its publisher's number as text, and as many bytes more as are wanted.
pub(crate) fn frame(channel: &str, number: u64, more: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    let payload = format!("{number}{}", " ".repeat(more));
    let (ident, channel) = ("sensor".parse().unwrap(), channel.parse().unwrap());
    encode_publish(&mut bytes, Limits::new(u32::MAX), &ident, &channel, payload.as_bytes()).unwrap();
    bytes.freeze()
}

/// Channels and numbers of frames.
pub(crate) fn parse(frames: &[u8]) -> Vec<(String, u64)> {
    let parse = |frame: Result<FrameRef<'_>, _>| match frame {
        Ok(FrameRef::Publish { channel, payload, .. }) => {
            let number = std::str::from_utf8(payload).unwrap().trim_end().parse().unwrap();
            (channel.to_owned(), number)
        }
        other => panic!("{other:?}"),
    };
    Frames::new(frames, Limits::new(u32::MAX)).map(parse).collect()
}

/// Messages as a draft.
pub(crate) fn draft(messages: &[(&str, u64)], more: usize) -> Draft {
    let frames: Vec<_> = messages.iter().map(|(channel, number)| frame(channel, *number, more)).collect();
    Draft::new(frames.concat().into(), START_MS, None).unwrap()
}

/// Small segments and queues.
pub(crate) fn small() -> JournalOptions {
    JournalOptions {
        max_bytes: 400_000,
        max_age: None,
        segment_bytes: 14_000,
        queue_bytes: 8_000,
        ring_bytes: 8_000,
        ..JournalOptions::default()
    }
}

/// A journal whose turns are taken by hand.
pub(crate) struct Hand<K = ()> {
    pub(crate) engine: Engine<K>,
    pub(crate) journal: Journal,
    pub(crate) now: Now,
}

impl Hand {
    pub(crate) fn open(disk: &SimDisk, options: JournalOptions) -> Result<Self, LogError> {
        Self::open_with(disk, options, ())
    }
}

impl<K: Keeper> Hand<K> {
    pub(crate) fn open_with(disk: &SimDisk, options: JournalOptions, keeper: K) -> Result<Self, LogError> {
        let (engine, _) = Engine::open(Arc::new(disk.clone()), options, |_| keeper)?;
        let journal = Journal { shared: Arc::clone(&engine.shared) };
        Ok(Self { engine, journal, now: Now { since: Duration::ZERO, unix_ms: START_MS } })
    }

    /// Lets time pass, and takes a turn.
    pub(crate) fn turn_after(&mut self, time: Duration) -> Duration {
        self.now.since += time;
        self.now.unix_ms += i64::try_from(time.as_millis()).unwrap();
        self.engine.turn(self.now)
    }

    pub(crate) fn turn(&mut self) -> Duration {
        self.turn_after(Duration::from_millis(1))
    }

    /// A turn as when somebody waits for all that was appended.
    pub(crate) fn turn_wanted(&mut self) -> Duration {
        self.engine.shared.want(self.journal.last());
        self.turn()
    }
}

/// Everything after a position, from memory and from the file.
pub(crate) fn read(journal: &Journal, after: Position) -> Vec<Entry> {
    let (mut at, mut entries) = (after, Vec::new());
    loop {
        match journal.after(at, 1000) {
            Found::Nothing => return entries,
            Found::Batches(batches) => {
                at = batches.last().unwrap().last();
                entries.extend(batches.into_iter().map(Entry::Batch));
            }
            Found::Older => {
                let page = journal.read(at).unwrap();
                if page.entries.is_empty() && page.end == at {
                    return entries;
                }
                at = page.end;
                entries.extend(page.entries);
            }
        }
    }
}

/// The messages among them, with their positions.
pub(crate) fn messages(entries: &[Entry], after: Position) -> Vec<(Position, u64)> {
    let mut found = Vec::new();
    for entry in entries {
        let Entry::Batch(batch) = entry else { continue };
        for (number, (_, text)) in (batch.first.number..).zip(parse(&batch.frames)) {
            let position = Position::new(batch.first.epoch, number);
            if position > after {
                found.push((position, text));
            }
        }
    }
    found
}
