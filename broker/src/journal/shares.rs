//! The shares of publishers: how many bytes of each account are stored and still wanted by some
//! mailbox, so that one stolen key cannot erase what all others have published.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use hpfeeds::wire::{Channel, extension::Position};
use parking_lot::Mutex;

use super::batch::Draft;

/// The limit is divided into so many blocks, of which each is wanted as long as its end is.
const BLOCKS: u64 = 1024;
/// Accounts and channels that a block tells apart; of more, a new block is begun.
const ENTRIES: usize = 256;
/// Blocks that are kept; of more, neighbours become one.
const MOST_BLOCKS: usize = 4096;

/// The ledger of shares. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Shares(Arc<Mutex<Ledger>>);

#[derive(Debug)]
struct Ledger {
    limit: u64,
    applies: bool,
    blocks: VecDeque<Block>,
    totals: HashMap<Arc<str>, u64>,
    total: u64,
    refused: u64,
}

#[derive(Debug)]
struct Block {
    last: Position,
    bytes: u64,
    entries: HashMap<(Arc<str>, Channel), u64>,
}

impl Shares {
    /// The shares of a journal's limit in bytes. They do not apply in a relay.
    pub(crate) fn new(limit: u64, applies: bool) -> Self {
        let ledger = Ledger { limit, applies, blocks: VecDeque::new(), totals: HashMap::new(), total: 0, refused: 0 };
        Self(Arc::new(Mutex::new(ledger)))
    }

    /// Whether a batch of an account may be stored. Above half of the limit no account may hold
    /// more than a quarter of it, unless it is the only one.
    pub(crate) fn admits(&self, account: &str, draft: &Draft) -> bool {
        let mut ledger = self.0.lock();
        let bytes = draft.frames.len() as u64;
        let own = ledger.totals.get(account).copied().unwrap_or(0);
        let is_alone = own == ledger.total;
        let fits = ledger.total + bytes <= ledger.limit / 2 || own + bytes <= ledger.limit / 4;
        let admits = !ledger.applies || is_alone || fits;
        if !admits {
            ledger.refused += u64::from(draft.messages);
        }
        admits
    }

    /// A batch of an account is appended.
    pub(crate) fn appended(&self, account: &str, draft: &Draft, last: Position) {
        let mut ledger = self.0.lock();
        let known = ledger.totals.get_key_value(account).map(|(name, _)| Arc::clone(name));
        let account = known.unwrap_or_else(|| Arc::from(account));
        let bytes = draft.frames.len() as u64;
        *ledger.totals.entry(Arc::clone(&account)).or_default() += bytes;
        ledger.total += bytes;
        let most = (ledger.limit / BLOCKS).max(1);
        let is_new = ledger.blocks.back().is_none_or(|block| block.bytes >= most || block.entries.len() >= ENTRIES);
        if is_new {
            ledger.blocks.push_back(Block { last, bytes: 0, entries: HashMap::new() });
            ledger.compact();
        }
        let Some(block) = ledger.blocks.back_mut() else { return };
        block.last = last;
        block.bytes += bytes;
        for run in &draft.runs {
            *block.entries.entry((Arc::clone(&account), run.channel.clone())).or_default() += run.bytes as u64;
        }
    }

    /// Looks at what is still wanted: `open_after` says for a channel the lowest position after
    /// which some mailbox wants it. Does nothing below half of the limit.
    pub(super) fn settle(&self, oldest: Position, mut open_after: impl FnMut(&str) -> Option<Position>) {
        let mut ledger = self.0.lock();
        if ledger.total <= ledger.limit / 2 {
            return;
        }
        let mut known: HashMap<Channel, Option<Position>> = HashMap::new();
        let (mut totals, mut total) = (HashMap::new(), 0);
        ledger.blocks.retain_mut(|block| {
            let last = block.last;
            block.entries.retain(|(account, channel), bytes| {
                let open = *known.entry(channel.clone()).or_insert_with(|| open_after(channel));
                let is_wanted = last > oldest && open.is_some_and(|after| after < last);
                if is_wanted {
                    *totals.entry(Arc::clone(account)).or_default() += *bytes;
                    total += *bytes;
                }
                // A cursor that goes back wants it again, until its segment is gone.
                last > oldest
            });
            !block.entries.is_empty()
        });
        (ledger.totals, ledger.total) = (totals, total);
    }

    /// Bytes that are wanted of all accounts, and messages that were refused, as their account's
    /// share was full.
    pub(crate) fn figures(&self) -> (u64, u64) {
        let ledger = self.0.lock();
        (ledger.total, ledger.refused)
    }
}

impl Ledger {
    fn compact(&mut self) {
        if self.blocks.len() <= MOST_BLOCKS {
            return;
        }
        let mut blocks: VecDeque<Block> = VecDeque::with_capacity(self.blocks.len());
        for (at, block) in self.blocks.drain(..).enumerate() {
            match blocks.back_mut() {
                Some(back) if at % 2 == 1 => {
                    back.last = block.last;
                    back.bytes += block.bytes;
                    for (key, bytes) in block.entries {
                        *back.entries.entry(key).or_default() += bytes;
                    }
                }
                _ => blocks.push_back(block),
            }
        }
        self.blocks = blocks;
    }
}
