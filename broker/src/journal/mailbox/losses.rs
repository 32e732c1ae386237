//! The losses of a mailbox: messages that its collector will never get, by reason and channel.

use std::collections::BTreeMap;

use hpfeeds::wire::Channel;

/// Channels that are counted by name.
const CHANNELS: usize = 1000;

/// The reason of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Dropped at the journal's limit, or as too old.
    Retention,
    /// Unreadable: at most so many, as their channels are not known.
    Damage,
    /// The mailbox was without a connection for too long: at most so many.
    Expired,
    /// Passed over with `skip`.
    Skipped,
}

impl Reason {
    pub(crate) const ALL: [Self; 4] = [Self::Retention, Self::Damage, Self::Expired, Self::Skipped];

    /// The reason in a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Damage => "damage",
            Self::Expired => "expired",
            Self::Skipped => "skipped",
        }
    }
}

/// Counts of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// `None`: of channels that are not known, or beyond the first 1,000.
    counts: BTreeMap<(Reason, Option<Channel>), u64>,
}

impl Losses {
    pub(crate) fn add(&mut self, reason: Reason, channel: Option<&Channel>, messages: u64) {
        if messages == 0 {
            return;
        }
        let mut key = (reason, channel.cloned());
        if self.counts.len() >= CHANNELS && !self.counts.contains_key(&key) {
            key.1 = None;
        }
        let count = self.counts.entry(key).or_default();
        *count = count.saturating_add(messages);
    }

    pub(crate) fn of(&self, reason: Reason) -> u64 {
        self.counts.iter().filter(|((other, _), _)| *other == reason).map(|(_, count)| count).sum()
    }

    /// All reasons with their counts.
    pub(crate) fn by_reason(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Reason, Option<&Channel>, u64)> {
        self.counts.iter().map(|((reason, channel), count)| (*reason, channel.as_ref(), *count))
    }
}
