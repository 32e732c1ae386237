//! What the driver and its connections tell each other.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{Error, flight::Flight};
use crate::wire::Channel;

/// What one connection leaves to the next.
#[derive(Default)]
pub(crate) struct Memory {
    /// Messages that are being written.
    pub(crate) flight: Flight,
    /// A broker refused a subscription without naming it: ask for one at a time.
    pub(crate) careful: bool,
    /// Subscriptions that the broker had time to refuse and did not.
    pub(crate) proven: BTreeSet<Channel>,
    /// The subscription after which the broker closed without a word, once.
    pub(crate) suspect: Option<Channel>,
    /// The broker refused a subscription or a message, and did not say which.
    pub(crate) unexplained: Option<String>,
    /// The first refused message; `close` reports it.
    pub(crate) denial: Option<Error>,
}

/// What is known of a connection when it has ended.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// When the broker accepted the key.
    pub(crate) accepted: Option<Instant>,
    /// What made it fail is out of the way: a denied channel was taken out.
    pub(crate) repaired: bool,
    /// Messages written whole.
    pub(crate) written: Recent,
    /// A message was written, perhaps in part.
    pub(crate) published: bool,
}

impl Attempt {
    /// What it delivered says nothing: a broker that drops us after the first message is not to be dialled in a loop.
    pub(crate) fn healthy(&self, long: Duration) -> bool {
        self.accepted.is_some_and(|accepted| accepted.elapsed() >= long)
    }
}

/// What can be written and not read: more than the buffers of both systems hold (on Linux 4 MiB and, since 6.16, 32 MiB
/// at most unless told otherwise) with a proxy between them.
const ON_THE_WAY: usize = 40 << 20;

/// Messages are counted by so many bytes.
const PORTION: usize = 64 * 1024;

/// Counts the newest messages that were written: those that can still be on their way. All before them has been read, or
/// there would have been no room for the newest.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Messages and bytes, oldest first.
    portions: VecDeque<(u64, usize)>,
    bytes: usize,
    messages: u64,
}

impl Recent {
    pub(crate) fn push(&mut self, messages: u64, bytes: usize) {
        if messages == 0 {
            return;
        }
        self.bytes += bytes;
        self.messages += messages;
        match self.portions.back_mut() {
            Some(last) if last.1 + bytes <= PORTION => *last = (last.0 + messages, last.1 + bytes),
            _ => self.portions.push_back((messages, bytes)),
        }
        while let Some((messages, bytes)) = self.portions.front()
            && self.bytes - bytes >= ON_THE_WAY
        {
            self.bytes -= bytes;
            self.messages -= messages;
            self.portions.pop_front();
        }
    }

    /// How many there are.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_long_ago_is_not_on_its_way() {
        for length in [20, 1000, 100_000, 1 << 20] {
            let (mut recent, most) = (Recent::default(), ON_THE_WAY / length);
            for n in 0..3 * most {
                recent.push(1, length);
                let messages = usize::try_from(recent.messages()).unwrap_or_default();
                // No fewer than fit, and at most a portion more.
                assert!(messages >= (n + 1).min(most), "{messages} of {n}");
                assert!(messages * length < ON_THE_WAY + length.max(PORTION), "{messages} of {n}");
            }
            assert!(recent.portions.len() <= 2 * ON_THE_WAY / PORTION + 2);
        }
        // One that is longer than all that.
        let mut recent = Recent::default();
        recent.push(1, 2 * ON_THE_WAY);
        recent.push(1, 2 * ON_THE_WAY);
        assert_eq!(recent.messages(), 1);
    }
}
