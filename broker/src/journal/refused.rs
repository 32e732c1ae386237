//! The refused ranges of streams that wait for the journal's writer, however long that takes.

use std::collections::{HashMap, hash_map};

use hpfeeds::wire::extension::RefusedRange;

use super::streams::{RANGES, StreamName, lengthen};

/// The most ranges of all streams. Beyond, a stream keeps its newest in the place of its oldest, and one
/// that has none gets none: after a restart, what was refused counts as decided only.
const MOST: usize = 65_536;

/// Refused ranges by stream, each in order, at most 64 of one.
#[derive(Debug, Default)]
pub(super) struct RefusedRanges {
    streams: HashMap<StreamName, Vec<RefusedRange>>,
    count: usize,
}

impl RefusedRanges {
    pub(super) fn add(&mut self, name: StreamName, range: RefusedRange) {
        let is_full = self.count >= MOST;
        match self.streams.entry(name) {
            hash_map::Entry::Occupied(mut ranges) => {
                let ranges = ranges.get_mut();
                if ranges.last_mut().is_some_and(|last| lengthen(last, range)) {
                    return;
                }
                if ranges.len() >= RANGES || is_full {
                    ranges.remove(0);
                    self.count -= 1;
                }
                ranges.push(range);
                self.count += 1;
            }
            hash_map::Entry::Vacant(_) if is_full => {}
            hash_map::Entry::Vacant(place) => {
                place.insert(vec![range]);
                self.count += 1;
            }
        }
    }
}

impl IntoIterator for RefusedRanges {
    type Item = (StreamName, Vec<RefusedRange>);
    type IntoIter = hash_map::IntoIter<StreamName, Vec<RefusedRange>>;

    fn into_iter(self) -> Self::IntoIter {
        self.streams.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use hpfeeds::wire::extension::{Code, StreamId};

    use super::*;

    fn name(n: usize) -> StreamName {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        StreamName::new(StreamId::new(id), "sensor")
    }

    fn range(first: u64) -> RefusedRange {
        RefusedRange { first, count: 1, code: Code::NOT_ALLOWED }
    }

    #[test]
    fn a_stream_keeps_its_newest_ranges_and_neighbours_are_one() {
        let mut refused = RefusedRanges::default();
        for first in [1, 2, 3, 5] {
            refused.add(name(0), range(first));
        }
        assert_eq!(refused.count, 2);
        for first in 0..100 {
            refused.add(name(0), range(10 + 2 * first));
        }
        let ranges: Vec<_> = refused.into_iter().collect();
        assert_eq!((ranges.len(), ranges[0].1.len()), (1, RANGES));
        assert_eq!((ranges[0].1[0].first, ranges[0].1[RANGES - 1].first), (10 + 2 * 36, 10 + 2 * 99));
    }

    #[test]
    fn a_writer_that_hangs_lets_no_more_wait_than_there_is_room_for() {
        let mut refused = RefusedRanges::default();
        for stream in 0..2 * MOST {
            refused.add(name(stream), range(1));
        }
        assert_eq!((refused.count, refused.streams.len()), (MOST, MOST));
        // One that has some goes on with the newest.
        refused.add(name(7), range(100));
        assert_eq!((refused.count, &refused.streams[&name(7)][..]), (MOST, &[range(100)][..]));
    }
}
