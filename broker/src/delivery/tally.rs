//! The tally of messages by channel, counted before any shared table is locked.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

/// The number of messages on each channel.
#[derive(Default)]
pub(super) struct Tally<'a> {
    /// Most often all of them.
    few: SmallVec<[(&'a str, u64); 8]>,
    /// The channels that had no room there.
    many: HashMap<&'a str, u64, RandomState>,
    pub(super) messages: u64,
    /// The channel that came last, if there was any message.
    pub(super) last: Option<&'a str>,
}

impl<'a> Tally<'a> {
    /// Counts channels and messages as they come one after the other.
    pub(super) fn of(contents: impl Iterator<Item = (&'a str, u64)>) -> Self {
        let mut tally = Self::default();
        contents.for_each(|(channel, messages)| tally.add(channel, messages));
        tally
    }

    pub(super) fn add(&mut self, channel: &'a str, messages: u64) {
        self.messages += messages;
        self.last = Some(channel);
        if let Some((_, count)) = self.few.iter_mut().find(|(known, _)| *known == channel) {
            *count += messages;
        } else if self.few.len() < self.few.inline_size() {
            self.few.push((channel, messages));
        } else {
            *self.many.entry(channel).or_default() += messages;
        }
    }

    /// Each channel once.
    pub(super) fn channels(&self) -> impl Iterator<Item = (&'a str, u64)> {
        self.few.iter().copied().chain(self.many.iter().map(|(channel, messages)| (*channel, *messages)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_has_each_channel_once_however_many_alternate() {
        let names: Vec<_> = (0..20).map(|n| format!("c{n}")).collect();
        let tally = Tally::of(names.iter().cycle().take(50).map(|name| (name.as_str(), 2)));
        let mut channels: Vec<_> = tally.channels().collect();
        channels.sort_unstable();
        let mut expected: Vec<_> =
            names.iter().enumerate().map(|(n, name)| (name.as_str(), if n < 10 { 6 } else { 4 })).collect();
        expected.sort_unstable();
        assert_eq!((channels, tally.messages, tally.last), (expected, 100, Some("c9")));
        assert_eq!((Tally::of([].into_iter()).messages, Tally::default().last), (0, None));
    }
}
