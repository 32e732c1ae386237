//! The books of copies: every message that was to go to a subscriber is delivered, queued, dropped
//! or cut off.

use serde::Serialize;

use crate::metrics::counters::Totals;

/// The copies of messages, one for each subscriber that a message was to go to, and what became of
/// them. Numbers of messages since the start of the broker.
///
/// `copies = delivered + queued + dropped + cut_off`. With several threads, the
/// numbers are read one after the other while others change: the sides may differ for a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Books {
    /// Copies that were made: a message without a subscriber has none.
    pub copies: u64,
    /// Taken out of the queue to be written, and not given up since. The writer of a connection holds at
    /// most 256 KiB, and a batch more, that the system has not taken yet.
    pub delivered: u64,
    /// In a queue, or held by a publisher that waits for room in one.
    pub queued: u64,
    /// Not delivered because the subscriber was slow.
    pub dropped: u64,
    /// Not delivered because the connection of the subscriber ended.
    pub cut_off: u64,
}

impl Books {
    /// `copies` and `taken` are sums over all connections, open or not.
    pub(crate) fn of(totals: &Totals, copies: u64, taken: u64) -> Self {
        let delivered = taken.saturating_sub(totals.returned);
        let queued = totals.delivered().saturating_sub(delivered);
        let waiting = totals.awaited.saturating_sub(totals.decided);
        Self { copies, delivered, queued: queued + waiting, dropped: totals.dropped, cut_off: totals.discarded }
    }

    /// The copies that are on neither side: zero, or there is a fault in the broker, unless other
    /// threads change the numbers meanwhile.
    #[must_use]
    pub fn difference(&self) -> i64 {
        let Self { copies, delivered, queued, dropped, cut_off } = *self;
        let known = delivered.wrapping_add(queued).wrapping_add(dropped).wrapping_add(cut_off);
        copies.wrapping_sub(known).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_is_on_one_side_of_the_books() {
        // Of ten copies: one was refused as the subscriber is slow, one waits; of the eight that were queued,
        // five were taken, of which one came back; two were dropped from the queue.
        let totals = Totals {
            queued: 8,
            unqueued: 3,
            returned: 1,
            awaited: 2,
            decided: 1,
            dropped: 3,
            discarded: 1,
            ..Totals::default()
        };
        let books = Books::of(&totals, 10, 5);
        assert_eq!(books, Books { copies: 10, delivered: 4, queued: 2, dropped: 3, cut_off: 1 });
        assert_eq!(books.difference(), 0);
        assert_eq!(Books { copies: 9, ..books }.difference(), -1);
    }
}
