//! The books: every message that was to go to a subscriber is delivered, queued, dropped or cut off,
//! and every message that was to be stored is stored or not.

use serde::Serialize;

use crate::metrics::counters::Totals;

/// The copies of messages, one for each subscriber that a message was to go to live, and what became of
/// them; and of a broker with a data folder the messages that were to be stored. Numbers of messages
/// since the start of the broker.
///
/// `copies = delivered + queued + dropped + cut_off`, and `wanted = stored + not_stored`. With several
/// threads, the numbers are read one after the other while others change: the sides may differ for a
/// moment.
///
/// Mailboxes make no such sum of stored messages: one message is for several mailboxes, is
/// delivered once more after a crash of its collector, and what waits is counted by blocks of some
/// seconds. Each mailbox says what waits and what it has lost.
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
    /// Messages that were written to collectors from their mailboxes, some of them more than once.
    pub mailed: u64,
    /// Messages that a mailbox or their publisher wants stored.
    pub wanted: u64,
    /// Appended to the journal.
    pub stored: u64,
    /// Live only, or lost: their account has its share, or the disk did not follow or failed.
    pub not_stored: u64,
    /// Messages that were stored and that the collector of a mailbox will never get, once for each mailbox,
    /// since it was declared: also before the start.
    pub lost: u64,
}

impl Books {
    /// `copies` and `taken` are sums over all connections, open or not.
    pub(crate) fn of(totals: &Totals, copies: u64, taken: u64) -> Self {
        let delivered = taken.saturating_sub(totals.returned);
        let queued = totals.delivered().saturating_sub(delivered);
        let waiting = totals.awaited.saturating_sub(totals.decided);
        Self {
            copies,
            delivered,
            queued: queued + waiting,
            dropped: totals.dropped,
            cut_off: totals.discarded,
            mailed: totals.mailed,
            ..Self::default()
        }
    }

    /// The copies that are on neither side, or else the messages that were to be stored and are on
    /// neither side: zero, or there is a fault in the broker, unless other threads change the numbers
    /// meanwhile.
    #[must_use]
    pub fn difference(&self) -> i64 {
        let Self { copies, delivered, queued, dropped, cut_off, wanted, stored, not_stored, .. } = *self;
        let known = delivered.wrapping_add(queued).wrapping_add(dropped).wrapping_add(cut_off);
        let live = copies.wrapping_sub(known).cast_signed();
        if live == 0 { wanted.wrapping_sub(stored.wrapping_add(not_stored)).cast_signed() } else { live }
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
            mailed: 7,
            ..Totals::default()
        };
        let books = Books::of(&totals, 10, 5);
        let live = Books { copies: 10, delivered: 4, queued: 2, dropped: 3, cut_off: 1, ..Books::default() };
        assert_eq!(books, Books { mailed: 7, ..live }, "mail is no copy");
        assert_eq!(books.difference(), 0);
        assert_eq!(Books { copies: 9, ..books }.difference(), -1);
        let books = Books { wanted: 20, stored: 15, not_stored: 5, lost: 3, ..books };
        assert_eq!((books.difference(), Books { stored: 12, ..books }.difference()), (0, 3));
    }
}
