//! The channels that a connection gets from a mailbox alone, as long as it owns that.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Acquire},
    },
};

use hpfeeds::wire::Pattern;

/// The texts of one mailbox that a connection is subscribed to.
#[derive(Debug)]
pub(crate) struct Withheld {
    /// The number of the connection that owns the mailbox, as it changes.
    owner: Arc<AtomicU64>,
    /// The connection's own.
    claim: u64,
    channels: HashSet<Box<str>>,
    patterns: Vec<Pattern>,
}

impl Withheld {
    pub(crate) fn new(owner: Arc<AtomicU64>, claim: u64, texts: impl Iterator<Item = Pattern>) -> Self {
        let (patterns, channels): (Vec<_>, Vec<_>) = texts.partition(|text| text.as_str().ends_with('*'));
        let channels = channels.iter().map(|channel| channel.as_str().into()).collect();
        Self { owner, claim, channels, patterns }
    }

    pub(super) fn holds(&self, channel: &str) -> bool {
        self.owner.load(Acquire) == self.claim
            && (self.channels.contains(channel) || self.patterns.iter().any(|pattern| pattern.matches(channel)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn channels_are_withheld_from_the_owner_alone() {
        let owner = Arc::new(AtomicU64::new(7));
        let texts = || ["a", "b.*", "c*"].map(|text| Pattern::new(text).unwrap()).into_iter();
        let [own, other] = [7, 8].map(|claim| Withheld::new(owner.clone(), claim, texts()));
        let held = ["a", "b.x", "c*", "b", "cc", "a.x"].map(|channel| own.holds(channel));
        assert_eq!(held, [true, true, true, false, false, false]);
        assert!(!other.holds("a"));
        owner.store(8, std::sync::atomic::Ordering::Release);
        assert!(!own.holds("a") && other.holds("a"));
    }
}
