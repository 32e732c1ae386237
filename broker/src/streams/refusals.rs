//! The messages of a stream that were refused last, as ranges of their numbers.

use std::collections::VecDeque;

use hpfeeds::wire::extension::RefusedRange;

/// How many ranges are kept of a stream, of 16 bytes each.
pub(crate) const MAX_RANGES: usize = 64;

/// The last ranges of refused messages, in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Refusals(VecDeque<RefusedRange>);

impl Refusals {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds messages that stand behind all others. The oldest range makes room.
    pub(crate) fn add(&mut self, range: RefusedRange) {
        if let Some(last) = self.0.back_mut()
            && last.code == range.code
            && last.first.checked_add(last.count.into()) == Some(range.first)
            && let Some(count) = last.count.checked_add(range.count)
        {
            last.count = count;
            return;
        }
        if self.0.len() == MAX_RANGES {
            self.0.pop_front();
        }
        self.0.push_back(range);
    }

    /// The ranges that reach a number or stand behind it.
    pub(crate) fn from(&self, number: u64) -> Vec<RefusedRange> {
        let reaches = |range: &&RefusedRange| range.first.saturating_add(range.count.into()) > number;
        self.0.iter().filter(reaches).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use hpfeeds::wire::extension::Code;

    use super::*;

    fn range(first: u64, count: u32, code: Code) -> RefusedRange {
        RefusedRange { first, count, code }
    }

    #[test]
    fn neighbours_with_one_code_are_one_range() {
        let mut refusals = Refusals::default();
        assert!(refusals.is_empty());
        for one in [
            range(1, 1, Code::NOT_ALLOWED),
            range(2, 3, Code::NOT_ALLOWED),
            range(5, 1, Code::FULL),
            range(7, u32::MAX, Code::FULL),
            range(7 + u64::from(u32::MAX), 1, Code::FULL),
        ] {
            refusals.add(one);
        }
        let all = [
            range(1, 4, Code::NOT_ALLOWED),
            range(5, 1, Code::FULL),
            range(7, u32::MAX, Code::FULL),
            range(7 + u64::from(u32::MAX), 1, Code::FULL),
        ];
        assert_eq!(refusals.from(0), all);
        assert_eq!(
            (refusals.from(4), refusals.from(5), refusals.from(6)),
            (all.to_vec(), all[1..].to_vec(), all[2..].to_vec())
        );
        assert_eq!(refusals.from(u64::MAX), []);
    }

    #[test]
    fn the_oldest_ranges_make_room() {
        let mut refusals = Refusals::default();
        for n in 0..100 {
            refusals.add(range(1 + 2 * n, 1, Code::NOT_ALLOWED));
        }
        let kept = refusals.from(1);
        assert_eq!((kept.len(), kept[0].first, kept[63].first), (MAX_RANGES, 73, 199));
    }
}
