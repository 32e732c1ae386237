//! The last values: the newest message of each channel that an operator names, for subscribers that
//! come later, and through restarts.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
    sync::Arc,
};

use bytes::Bytes;
use hpfeeds::wire::{Channel, Pattern};
use parking_lot::Mutex;

use super::{batch::Draft, table_log::TableLog};
use crate::routing::patterns::covers;

/// The table of values, in a log of its own.
const VALUES: u8 = 1;
/// Channels that have a value; of more, the one that was published the longest time ago goes.
const CHANNELS: usize = 10_000;
/// Their frames together, in bytes.
const BYTES: usize = 64 << 20;

/// The values. Clones are the same ones.
#[derive(Debug, Clone)]
pub(crate) struct LastValues {
    patterns: Arc<[Pattern]>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    values: HashMap<Channel, (u64, Bytes)>,
    /// The oldest come first.
    order: BTreeMap<u64, Channel>,
    turn: u64,
    bytes: usize,
    /// Channels whose values are others than on disk.
    changed: HashSet<Channel>,
    evicted: u64,
}

impl LastValues {
    /// The values of channels that a pattern stands for: none yet, or those of a table.
    pub(super) fn new(patterns: Vec<Pattern>, table: Option<&TableLog>) -> Self {
        let values = Self { patterns: patterns.into(), state: Arc::default() };
        let mut state = values.state.lock();
        for (name, frame) in table.into_iter().flat_map(|table| table.rows(VALUES)) {
            match std::str::from_utf8(name).ok().and_then(|name| Channel::new(name).ok()) {
                Some(channel) if values.cover(&channel) => state.set(channel.clone(), frame.clone()),
                // It is kept no longer.
                Some(channel) => drop(state.changed.insert(channel)),
                None => {}
            }
        }
        drop(state);
        values
    }

    /// Whether the newest message of a channel is kept.
    pub(crate) fn cover(&self, channel: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(channel))
    }

    /// Keeps the newest message of each channel of a batch that is covered.
    pub(crate) fn publish(&self, draft: &Draft) {
        let mut end = 0;
        for run in &draft.runs {
            let start = end;
            end += run.bytes;
            if !self.cover(&run.channel) {
                continue;
            }
            let frames = draft.frames.get(start..end).unwrap_or_default();
            let last = hpfeeds::wire::FrameBatch::checked(frames).frames().last().unwrap_or_default();
            // A slice would keep the whole batch.
            let mut state = self.state.lock();
            state.set(run.channel.clone(), Bytes::copy_from_slice(last));
            state.changed.insert(run.channel.clone());
        }
    }

    /// Gives the newest messages of the channels of a text that `allows` says yes to, as frames,
    /// oldest first. None of them is replaced meanwhile.
    pub(crate) fn each(&self, text: &str, allows: &dyn Fn(&str) -> bool, mut give: impl FnMut(&Bytes)) {
        if self.patterns.is_empty() {
            return;
        }
        let state = self.state.lock();
        if let Some((_, frame)) = state.values.get(text) {
            if allows(text) {
                give(frame);
            }
            return;
        }
        let wanted = state.order.values().filter(|channel| covers(text, channel) && allows(channel));
        wanted.filter_map(|channel| state.values.get(channel)).for_each(|(_, frame)| give(frame));
    }

    /// The same, all at once.
    #[cfg(test)]
    pub(crate) fn matching(&self, text: &str, allows: &dyn Fn(&str) -> bool) -> Vec<Bytes> {
        let mut frames = Vec::new();
        self.each(text, allows, |frame| frames.push(frame.clone()));
        frames
    }

    /// Channels with a value, their bytes, and how many have gone for want of room.
    #[cfg(test)]
    pub(crate) fn figures(&self) -> (usize, usize, u64) {
        let state = self.state.lock();
        (state.values.len(), state.bytes, state.evicted)
    }

    /// Puts what has changed into its table.
    pub(super) fn store(&self, table: &mut TableLog) {
        let mut state = self.state.lock();
        for channel in mem::take(&mut state.changed) {
            let value = state.values.get(&channel).map(|(_, frame)| frame.clone());
            table.put(VALUES, channel.as_bytes(), value);
        }
    }
}

impl State {
    fn set(&mut self, channel: Channel, frame: Bytes) {
        self.remove(&channel);
        if frame.len() > BYTES {
            self.evicted += 1;
            return;
        }
        self.turn += 1;
        self.bytes += frame.len();
        self.order.insert(self.turn, channel.clone());
        self.values.insert(channel, (self.turn, frame));
        while self.values.len() > CHANNELS || self.bytes > BYTES {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.remove(&oldest);
            self.changed.insert(oldest);
            self.evicted += 1;
        }
    }

    fn remove(&mut self, channel: &Channel) {
        if let Some((turn, frame)) = self.values.remove(channel) {
            self.order.remove(&turn);
            self.bytes -= frame.len();
        }
    }
}
