//! The stock of the journal: how many messages of each channel stand where, so that what waits for a
//! mailbox is known without reading the journal.
//!
//! It counts in blocks, one behind the other, each of some seconds. A block that a cursor stands in is
//! divided by its numbers: so a count may be off by a part of one block, and what is delivered to the
//! end is exact. Blocks are merged when there are many, the old ones first.

use std::collections::{HashMap, VecDeque};

use hpfeeds::wire::{Channel, extension::Position};
use parking_lot::Mutex;

use super::batch::Batch;

/// The time, the messages and the channels after which a block ends.
const BLOCK_MS: i64 = 10_000;
const BLOCK_MESSAGES: u64 = 4096;
const BLOCK_CHANNELS: usize = 256;
/// The counts of all blocks, about 100 B each: beyond, the older half of the blocks is merged in pairs.
const MOST_COUNTS: usize = 100_000;
/// Channels that are counted by name. Others count for each mailbox.
const MOST_CHANNELS: usize = 20_000;
/// The place of all channels beyond.
const OTHERS: u32 = 0;

/// Messages that wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) messages: u64,
    /// The length of their frames.
    pub(crate) bytes: u64,
    /// When the oldest was published, or some seconds before, in milliseconds since 1970.
    pub(crate) oldest_ms: Option<i64>,
    /// Older messages are not counted yet: there may be more.
    pub(crate) is_partial: bool,
}

/// The stock of a journal.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Known channels, from 1 on, and their names.
    channels: HashMap<Channel, u32>,
    names: Vec<Channel>,
    /// The oldest first, of what was there at the opening, and of what came later.
    old: VecDeque<Block>,
    new: VecDeque<Block>,
    counts: usize,
    /// Messages from before the opening are counted up to the first position, and are to be up to the second.
    counted: Position,
    opened: Position,
}

#[derive(Debug)]
struct Block {
    /// The last message.
    last: Position,
    first_ms: i64,
    last_ms: i64,
    messages: u64,
    counts: Vec<Count>,
}

/// The messages of one channel in a block.
#[derive(Debug, Clone, Copy)]
struct Count {
    channel: u32,
    messages: u64,
    bytes: u64,
    first: Position,
    last: Position,
    first_ms: i64,
}

impl Stock {
    /// The journal has been opened: everything up to a position is still to be
    /// [counted](Self::count), and before another one nobody wants anything.
    pub(super) fn open(&self, from: Position, last: Position) {
        let mut state = self.state.lock();
        (state.counted, state.opened) = (from, last);
    }

    /// Where counting what was there at the opening goes on; `None` when it is done.
    pub(super) fn count_from(&self) -> Option<Position> {
        let state = self.state.lock();
        (state.counted < state.opened).then_some(state.counted)
    }

    /// Counts a batch that was there at the opening.
    pub(super) fn count(&self, batch: &Batch) {
        let mut state = self.state.lock();
        if batch.last() > state.counted && batch.last() <= state.opened {
            state.add(batch, false);
        }
    }

    /// Everything up to a position is counted.
    pub(super) fn counted(&self, to: Position) {
        let mut state = self.state.lock();
        state.counted = state.counted.max(to);
    }

    /// A batch was appended.
    pub(super) fn appended(&self, batch: &Batch) {
        self.state.lock().add(batch, true);
    }

    /// Everything up to a position is gone.
    pub(super) fn dropped(&self, last: Position) {
        let mut state = self.state.lock();
        let State { old, new, counts, counted, .. } = &mut *state;
        for blocks in [old, new] {
            while blocks.front().is_some_and(|block| block.last <= last) {
                *counts -= blocks.pop_front().map_or(0, |block| block.counts.len());
            }
        }
        *counted = (*counted).max(last);
    }

    /// The channels that are counted by name: their order never changes.
    pub(super) fn channels(&self) -> Vec<Channel> {
        self.state.lock().names.clone()
    }

    /// The messages that wait for somebody who wants those of the [channels](Self::channels) behind
    /// these positions, `None` for one that is not wanted; of others what is behind `lowest`.
    pub(super) fn waiting(&self, lowest: Option<Position>, channels: &[Option<Position>]) -> Waiting {
        let state = self.state.lock();
        let after = |count: &Count| match channels.get((count.channel as usize).wrapping_sub(1)) {
            Some(after) => *after,
            None => lowest,
        };
        let lowest = lowest.into_iter().chain(channels.iter().flatten().copied()).min();
        let mut waiting = Waiting {
            is_partial: state.counted < state.opened && lowest.is_some_and(|lowest| lowest < state.opened),
            ..Waiting::default()
        };
        for block in state.old.iter().chain(&state.new) {
            if lowest.is_none_or(|lowest| lowest >= block.last) {
                continue;
            }
            for count in &block.counts {
                if let Some(after) = after(count) {
                    waiting.add(count, after);
                }
            }
        }
        waiting
    }

    /// A position before all messages that were published at a time or later, as near as is known;
    /// `None` if older ones must be looked at.
    pub(crate) fn before(&self, unix_ms: i64) -> Option<Position> {
        let state = self.state.lock();
        let blocks = state.old.iter().chain(&state.new);
        // Clocks may go back: everything behind the first that is young enough counts.
        blocks.take_while(|block| block.last_ms < unix_ms).last().map(|block| block.last)
    }
}

impl Waiting {
    fn add(&mut self, count: &Count, after: Position) {
        if after >= count.last {
            return;
        }
        let (mut messages, mut bytes) = (count.messages, count.bytes);
        if after >= count.first {
            // A part of it, by its numbers; the last message at least.
            let all = count.last.number - count.first.number + 1;
            let left = count.last.number.saturating_sub(after.number).clamp(1, all);
            let part = |value: u64| {
                let part = u128::from(value) * u128::from(left) / u128::from(all.max(1));
                u64::try_from(part).unwrap_or(value).max(1).min(value)
            };
            (messages, bytes) = (part(messages), part(bytes));
        }
        self.messages += messages;
        self.bytes += bytes;
        self.oldest_ms = Some(self.oldest_ms.map_or(count.first_ms, |oldest| oldest.min(count.first_ms)));
    }
}

impl State {
    fn add(&mut self, batch: &Batch, is_new: bool) {
        let last = batch.last();
        let blocks = if is_new { &mut self.new } else { &mut self.old };
        let fits = |block: &Block| {
            block.last.epoch == batch.first.epoch
                && block.messages < BLOCK_MESSAGES
                && block.counts.len() + batch.runs.len() <= BLOCK_CHANNELS
                && batch.unix_ms.saturating_sub(block.first_ms) < BLOCK_MS
        };
        if !blocks.back().is_some_and(fits) {
            let (first, unix_ms) = (batch.first, batch.unix_ms);
            blocks.push_back(Block {
                last: first,
                first_ms: unix_ms,
                last_ms: unix_ms,
                messages: 0,
                counts: Vec::new(),
            });
        }
        let Some(block) = blocks.back_mut() else { return };
        let before = block.counts.len();
        block.last = last;
        block.last_ms = block.last_ms.max(batch.unix_ms);
        block.messages += u64::from(batch.messages);
        for (run, number, _) in batch.runs() {
            let at = |number| Position::new(batch.first.epoch, number);
            let (first, last) = (at(number), at(number + u64::from(run.messages) - 1));
            let channel = match self.channels.get(&run.channel) {
                Some(index) => *index,
                None if self.channels.len() < MOST_CHANNELS => {
                    let index = u32::try_from(self.channels.len() + 1).unwrap_or(OTHERS);
                    self.channels.insert(run.channel.clone(), index);
                    self.names.push(run.channel.clone());
                    index
                }
                None => OTHERS,
            };
            let (messages, bytes) = (u64::from(run.messages), run.bytes as u64);
            match block.counts.iter_mut().find(|count| count.channel == channel) {
                Some(count) => {
                    count.messages += messages;
                    count.bytes += bytes;
                    count.last = last;
                }
                None => block.counts.push(Count { channel, messages, bytes, first, last, first_ms: batch.unix_ms }),
            }
        }
        self.counts += block.counts.len() - before;
        if self.counts > MOST_COUNTS {
            self.merge();
        }
    }

    /// Merges the older half of the blocks in pairs.
    fn merge(&mut self) {
        for blocks in [&mut self.old, &mut self.new] {
            let half = blocks.len() / 2;
            let mut merged: VecDeque<Block> = VecDeque::with_capacity(blocks.len());
            for (at, block) in blocks.drain(..).enumerate() {
                match merged.back_mut() {
                    Some(last) if at % 2 == 1 && at <= half => last.append(block),
                    _ => merged.push_back(block),
                }
            }
            *blocks = merged;
        }
        self.counts = self.old.iter().chain(&self.new).map(|block| block.counts.len()).sum();
    }
}

impl Block {
    fn append(&mut self, next: Self) {
        self.last = next.last;
        self.last_ms = self.last_ms.max(next.last_ms);
        self.messages += next.messages;
        for mut count in next.counts {
            if self.counts.len() >= BLOCK_CHANNELS && !self.counts.iter().any(|known| known.channel == count.channel) {
                count.channel = OTHERS;
            }
            match self.counts.iter_mut().find(|known| known.channel == count.channel) {
                Some(known) => {
                    known.messages += count.messages;
                    known.bytes += count.bytes;
                    known.last = count.last;
                }
                None => self.counts.push(count),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use bytes::BytesMut;
    use hpfeeds::wire::{Ident, Limits, encode_publish};

    use super::{super::batch::Draft, *};

    fn batch(channel: &str, first: u64, messages: usize, unix_ms: i64) -> Batch {
        let (ident, channel) = (Ident::new("i").unwrap(), Channel::new(channel).unwrap());
        let mut frames = BytesMut::new();
        for _ in 0..messages {
            encode_publish(&mut frames, Limits::default(), &ident, &channel, b"0123456789").unwrap();
        }
        Draft::new(frames.freeze(), unix_ms, None).unwrap().at(Position::new(1, first))
    }

    /// The messages of the channel a behind a position.
    fn waiting(stock: &Stock, number: u64) -> Waiting {
        let after = Some(Position::new(1, number));
        let channels: Vec<_> = stock.channels().iter().map(|channel| after.filter(|_| *channel == "a")).collect();
        stock.waiting(after, &channels)
    }

    #[test]
    fn messages_behind_a_cursor_are_counted_by_channel() {
        let stock = Stock::default();
        let one = batch("a", 1, 1, 0).frames.len() as u64;
        stock.appended(&batch("a", 1, 10, 1_000));
        stock.appended(&batch("b", 11, 5, 2_000));
        stock.appended(&batch("a", 16, 10, 3_000));
        let all = Waiting { messages: 20, bytes: 20 * one, oldest_ms: Some(1_000), is_partial: false };
        assert_eq!(waiting(&stock, 0), all);
        assert_eq!(waiting(&stock, 25), Waiting::default(), "all is delivered");
        assert_eq!(waiting(&stock, 24).messages, 1);
        // A cursor inside of a block divides it by numbers.
        let half = waiting(&stock, 12).messages;
        assert!((10..=11).contains(&half), "{half}");
        // Ten seconds on, another block begins: what stands before it counts no more.
        stock.appended(&batch("a", 26, 7, 20_000));
        let rest = Waiting { messages: 7, bytes: 7 * one, oldest_ms: Some(20_000), is_partial: false };
        assert_eq!(waiting(&stock, 25), rest);
        stock.dropped(Position::new(1, 25));
        assert_eq!(waiting(&stock, 0), rest);
        assert_eq!(stock.before(20_000), None);
        stock.appended(&batch("a", 33, 1, 40_000));
        assert_eq!(stock.before(40_000), Some(Position::new(1, 32)));
        assert_eq!(stock.before(50_000), Some(Position::new(1, 33)));
    }

    #[test]
    fn a_stock_is_partial_until_what_was_there_is_counted() {
        let stock = Stock::default();
        stock.open(Position::new(1, 10), Position::new(1, 30));
        stock.appended(&batch("a", 31, 1, 9_000));
        assert!(waiting(&stock, 10).is_partial);
        assert!(!waiting(&stock, 30).is_partial, "nothing older is wanted");
        assert_eq!(stock.count_from(), Some(Position::new(1, 10)));
        stock.count(&batch("a", 11, 20, 5_000));
        stock.counted(Position::new(1, 30));
        assert_eq!(stock.count_from(), None);
        let all = waiting(&stock, 10);
        assert_eq!((all.messages, all.oldest_ms, all.is_partial), (21, Some(5_000), false));
        // Twice is once.
        stock.count(&batch("a", 11, 20, 5_000));
        assert_eq!(waiting(&stock, 10).messages, 21);
    }

    #[test]
    fn a_stock_of_many_channels_and_blocks_is_bounded_and_loses_no_message() {
        let stock = Stock::default();
        for number in 0..300_000_u64 {
            let channel = if number % 3 == 0 { "a".to_owned() } else { format!("c{number}") };
            stock.appended(&batch(&channel, number + 1, 1, i64::try_from(number).unwrap() * 10));
        }
        let state = stock.state.lock();
        assert!(state.counts <= MOST_COUNTS && state.channels.len() <= MOST_CHANNELS, "{}", state.counts);
        let messages: u64 = state.new.iter().flat_map(|block| &block.counts).map(|count| count.messages).sum();
        assert_eq!(messages, 300_000);
        drop(state);
        let all = waiting(&stock, 0).messages;
        // Those of channels without a name count for everybody.
        assert!((100_000..=300_000).contains(&all), "{all}");
        assert_eq!(waiting(&stock, 299_999).messages, 1);
    }
}
