//! Messages that slow subscribers did not get, by ident and channel.

use std::collections::HashMap;

use hpfeeds::wire::{Channel, Ident};
use parking_lot::Mutex;

/// The most pairs of ident and channel that drops are kept apart by. Messages of further
/// pairs are in the total only.
const MAX_ENTRIES: usize = 10_000;

/// How many messages of a channel a subscriber did not get because it was slow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// The ident of the slow subscriber.
    pub ident: Ident,
    /// The channel.
    pub channel: Channel,
    /// The number of messages.
    pub messages: u64,
}

/// Counts dropped messages.
#[derive(Debug, Default)]
pub(crate) struct Drops(Mutex<DropTable>);

/// Two levels, so that a look-up needs no allocation.
#[derive(Debug, Default)]
struct DropTable {
    messages: HashMap<Ident, HashMap<Channel, u64>>,
    /// Pairs of ident and channel in `messages`.
    entries: usize,
    /// Messages of all pairs, also of those that had no room.
    total: u64,
}

impl Drops {
    /// Counts messages that one slow subscriber does not get: the number for each channel.
    pub(crate) fn add<'a>(&self, ident: &Ident, channels: impl Iterator<Item = (&'a str, u64)>) {
        let mut table = self.0.lock();
        for (channel, messages) in channels {
            table.add(ident, channel, messages);
        }
    }

    /// Dropped messages in total.
    pub(super) fn total(&self) -> u64 {
        self.0.lock().total
    }

    /// Dropped messages by ident and channel, at most [`MAX_ENTRIES`] pairs.
    pub(crate) fn entries(&self) -> Vec<Dropped> {
        let table = self.0.lock();
        let entries = table.messages.iter().flat_map(|(ident, channels)| {
            channels.iter().map(|(channel, messages)| Dropped {
                ident: ident.clone(),
                channel: channel.clone(),
                messages: *messages,
            })
        });
        entries.collect()
    }
}

impl DropTable {
    fn add(&mut self, ident: &Ident, channel: &str, messages: u64) {
        self.total += messages;
        let known = self.messages.get_mut(ident).and_then(|channels| channels.get_mut(channel));
        if let Some(count) = known {
            *count += messages;
        } else if self.entries < MAX_ENTRIES
            && let Ok(channel) = Channel::new(channel)
        {
            self.messages.entry(ident.clone()).or_default().insert(channel, messages);
            self.entries += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn drops_are_kept_apart_up_to_a_bound_and_all_counted() {
        let drops = Drops::default();
        let ident = "i".parse().unwrap();
        for n in 0..MAX_ENTRIES + 10 {
            drops.add(&ident, [(&*format!("c{n}"), 1)].into_iter());
        }
        drops.add(&ident, [("c0", 5)].into_iter());
        let entries = drops.entries();
        assert_eq!(entries.len(), MAX_ENTRIES);
        assert_eq!(entries.iter().find(|entry| entry.channel == "c0").unwrap().messages, 6);
        assert_eq!(drops.total(), MAX_ENTRIES as u64 + 15);
    }
}
