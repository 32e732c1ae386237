//! The numbering of a stream: which number the next PUBLISH frame has, counted on both sides.

/// The number of the first PUBLISH frame after the broker's HELLO: `max(next, decided + 1)`, where
/// `next` is from the client's HELLO and `decided` from the broker's.
///
/// `None` when the stream has no number left (`decided` is `u64::MAX`, which no honest peer
/// reaches): the client takes a new stream id.
///
/// ```
/// use hpfeeds::wire::extension::next_number;
/// assert_eq!(next_number(1, 0), Some(1));
/// // The broker has decided more than the client knew.
/// assert_eq!(next_number(5, 9), Some(10));
/// // The client gave up numbers 10 to 14.
/// assert_eq!(next_number(15, 9), Some(15));
/// ```
#[must_use]
pub const fn next_number(next: u64, decided: u64) -> Option<u64> {
    match decided.checked_add(1) {
        Some(after) if after > next => Some(after),
        Some(_) => Some(next),
        None => None,
    }
}

/// The counter of a stream's PUBLISH frames on one connection. Numbers are counted, not carried: it
/// gives the same ones on both sides, as both saw the same two HELLOs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamNumbering {
    next: u64,
    given_up: u64,
}

impl StreamNumbering {
    /// The counter after both HELLOs, or `None` as for [`next_number`].
    #[must_use]
    pub const fn new(next: u64, decided: u64) -> Option<Self> {
        match next_number(next, decided) {
            // Larger than `decided`, by what makes it.
            Some(first) => Some(Self { next: first, given_up: first - decided - 1 }),
            None => None,
        }
    }

    /// The number of the next PUBLISH frame, at least 1.
    #[must_use]
    pub const fn next(self) -> u64 {
        self.next
    }

    /// How many numbers between what is decided and the first PUBLISH frame of this connection the
    /// publisher gave up.
    #[must_use]
    pub const fn given_up(self) -> u64 {
        self.given_up
    }

    /// Counts so many PUBLISH frames and returns the number of the first of them.
    ///
    /// `None`, and nothing is counted, when they would reach `u64::MAX`, which stays free so that
    /// the number after the last one can always be said.
    pub const fn count(&mut self, frames: u64) -> Option<u64> {
        let first = self.next;
        match first.checked_add(frames) {
            Some(next) => {
                self.next = next;
                Some(first)
            }
            None => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_the_larger_of_both_sides() {
        for (next, decided, expected) in [
            (0, 0, Some(1)),
            (1, 0, Some(1)),
            (2, 0, Some(2)),
            (1, 1, Some(2)),
            (7, 6, Some(7)),
            (7, 7, Some(8)),
            (7, 100, Some(101)),
            (100, 7, Some(100)),
            (u64::MAX, 0, Some(u64::MAX)),
            (0, u64::MAX - 1, Some(u64::MAX)),
            (u64::MAX, u64::MAX - 1, Some(u64::MAX)),
            (0, u64::MAX, None),
            (u64::MAX, u64::MAX, None),
        ] {
            assert_eq!(next_number(next, decided), expected, "{next}, {decided}");
            let numbering = StreamNumbering::new(next, decided);
            assert_eq!(numbering.map(StreamNumbering::next), expected, "{next}, {decided}");
        }
    }

    #[test]
    fn numbers_that_the_publisher_gave_up_are_counted() {
        for (next, decided, expected) in
            [(0, 0, 0), (1, 0, 0), (2, 0, 1), (5, 9, 0), (10, 9, 0), (15, 9, 5), (u64::MAX, 0, u64::MAX - 1)]
        {
            assert_eq!(StreamNumbering::new(next, decided).unwrap().given_up(), expected, "{next}, {decided}");
        }
    }

    #[test]
    fn frames_are_counted_from_the_first_number_on() {
        let mut numbering = StreamNumbering::new(1, 4).unwrap();
        assert_eq!(numbering.count(3), Some(5));
        assert_eq!(numbering.count(0), Some(8));
        assert_eq!(numbering.count(1), Some(8));
        assert_eq!(numbering.next(), 9);
    }

    #[test]
    fn a_stream_without_numbers_left_counts_nothing_more() {
        let mut numbering = StreamNumbering::new(u64::MAX - 2, 0).unwrap();
        assert_eq!(numbering.count(3), None);
        assert_eq!(numbering.count(2), Some(u64::MAX - 2));
        assert_eq!(numbering.next(), u64::MAX);
        assert_eq!(numbering.count(1), None);
        assert_eq!(numbering.count(u64::MAX), None);
        assert_eq!(numbering.next(), u64::MAX);
    }
}
