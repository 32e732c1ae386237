//! The runs of a spool: which numbers of which stream stand at which positions of its log.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::wire::extension::{Position, StreamId, StreamPosition};

/// Consecutive messages: a number and a position grow together from the first on. Where both jump
/// by the same, as over damage, it is still one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    stream: StreamId,
    first: u64,
    at: Position,
    count: u64,
    /// When the first of them was accepted, as far as is known.
    since: Option<Instant>,
}

impl Run {
    fn end(&self) -> u64 {
        self.at.number + self.count
    }
}

/// Messages that were accepted within this time may be one run: the age of the oldest is told as
/// exactly as that.
const GRAIN: Duration = Duration::from_secs(60);

fn is_close(one: Option<Instant>, other: Option<Instant>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => other.saturating_duration_since(one) < GRAIN,
        (one, other) => one == other,
    }
}

/// The runs that are not released, in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Runs(VecDeque<Run>);

impl Runs {
    /// Adds messages, unless they are known.
    pub(super) fn add(&mut self, first: StreamPosition, at: Position, count: u64, since: Option<Instant>) {
        let StreamPosition { stream, number } = first;
        let index = self.0.partition_point(|run| run.at <= at);
        if let Some(before) = index.checked_sub(1).and_then(|index| self.0.get_mut(index)) {
            if before.at.epoch == at.epoch {
                if at.number < before.end() {
                    return;
                }
                let grows = number.checked_sub(before.first) == at.number.checked_sub(before.at.number);
                if before.stream == stream && grows && is_close(before.since, since) {
                    before.count = at.number - before.at.number + count;
                    return;
                }
            }
        }
        self.0.insert(index, Run { stream, first: number, at, count, since });
    }

    /// Gives a stream another id.
    pub(super) fn rename(&mut self, from: StreamId, to: StreamId) {
        for run in self.0.iter_mut().filter(|run| run.stream == from) {
            run.stream = to;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The position of this message, or of the newest before it that is known of its stream. After
    /// a failed disk the same numbers can stand twice: it is the later position then.
    pub(super) fn locate(&self, to: StreamPosition) -> Option<Position> {
        let run = self.0.iter().rev().find(|run| run.stream == to.stream && run.first <= to.number)?;
        let number = run.at.number + (to.number - run.first).min(run.count - 1);
        Some(Position::new(run.at.epoch, number))
    }

    /// How many messages up to a position are of this stream and have at most this number.
    pub(super) fn count_within(&self, to: Position, stream: StreamId, number: u64) -> u64 {
        let within = |run: &Run| {
            let count = if run.at.epoch == to.epoch { run.count.min(to.number + 1 - run.at.number) } else { run.count };
            count.min((number + 1).saturating_sub(run.first))
        };
        self.0.iter().take_while(|run| run.at <= to).filter(|run| run.stream == stream).map(within).sum()
    }

    /// Forgets what is released, from the front on, as far as the log was read or written by this
    /// program: up to `limit`. Returns the position up to which it went.
    pub(super) fn release(&mut self, limit: u64, released: impl Fn(StreamId) -> u64) -> Option<Position> {
        let mut to = None;
        while let Some(run) = self.0.front() {
            let number = released(run.stream);
            if number < run.first || run.at.number > limit {
                break;
            }
            let last = Position::new(run.at.epoch, run.at.number + (number - run.first).min(run.count - 1));
            to = Some(last);
            let is_whole = last.number + 1 == run.end();
            self.forget(last);
            if !is_whole {
                break;
            }
        }
        to
    }

    /// Whether something of a stream is not released.
    pub(super) fn has(&self, stream: StreamId) -> bool {
        self.0.iter().any(|run| run.stream == stream)
    }

    /// Forgets everything up to a position.
    pub(super) fn forget(&mut self, to: Position) {
        while let Some(run) = self.0.front_mut() {
            if run.at > to {
                return;
            }
            let is_whole = run.at.epoch < to.epoch || run.end() <= to.number + 1;
            if !is_whole {
                let gone = to.number + 1 - run.at.number;
                (run.first, run.count) = (run.first + gone, run.count - gone);
                run.at.number += gone;
                return;
            }
            self.0.pop_front();
        }
    }

    /// Forgets what is behind a position: it is not durable, and its log is given up.
    pub(super) fn cut(&mut self, after: Position) {
        while let Some(run) = self.0.back_mut() {
            if run.at > after {
                self.0.pop_back();
                continue;
            }
            if run.at.epoch == after.epoch {
                run.count = run.count.min(after.number + 1 - run.at.number);
            }
            return;
        }
    }

    /// When the oldest was accepted.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.0.front()?.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId::new([1; 16]);
    const B: StreamId = StreamId::new([2; 16]);

    fn of(stream: StreamId, number: u64) -> StreamPosition {
        StreamPosition { stream, number }
    }

    fn at(number: u64) -> Position {
        Position::new(1, number)
    }

    fn runs() -> Runs {
        let mut runs = Runs::default();
        runs.add(of(A, 11), at(1), 5, None);
        runs.add(of(A, 16), at(6), 5, None);
        runs.add(of(B, 1), at(11), 3, None);
        runs.add(of(B, 7), at(14), 4, None);
        runs
    }

    #[test]
    fn a_message_is_found_by_stream_and_number() {
        let runs = runs();
        assert_eq!(runs.0.len(), 3, "neighbours are one");
        for (stream, number, expected) in [
            (A, 10, None),
            (A, 11, Some(1)),
            (A, 20, Some(10)),
            (A, 99, Some(10)),
            (B, 3, Some(13)),
            (B, 6, Some(13)),
            (B, 7, Some(14)),
            (B, 10, Some(17)),
            (StreamId::new([3; 16]), 1, None),
        ] {
            assert_eq!(runs.locate(of(stream, number)), expected.map(at), "{stream} {number}");
        }
    }

    #[test]
    fn released_messages_are_forgotten_one_by_one() {
        for to in 0..=18 {
            let mut runs = runs();
            runs.forget(at(to));
            let left: u64 = runs.0.iter().map(|run| run.count).sum();
            assert_eq!(left, 17_u64.saturating_sub(to), "{to}");
            assert_eq!(runs.locate(of(B, 10)), (to < 17).then_some(at(17)), "{to}");
            let mut runs = self::runs();
            runs.cut(at(to));
            let left: u64 = runs.0.iter().map(|run| run.count).sum();
            assert_eq!(left, to.min(17), "{to}");
        }
        let mut runs = runs();
        runs.forget(Position::new(2, 3));
        assert!(runs.0.is_empty(), "a later epoch is behind all of them");
    }

    #[test]
    fn a_stream_is_released_when_all_before_it_is() {
        let release = |runs: &mut Runs, limit, a, b| {
            let to = runs.release(limit, |stream| if stream == A { a } else { b });
            to.map(|to| to.number)
        };
        let mut runs = runs();
        assert_eq!(release(&mut runs, 99, 0, 10), None, "the older stream is not");
        assert_eq!(release(&mut runs, 99, 13, 10), Some(3));
        assert_eq!(release(&mut runs, 99, 13, 10), None);
        assert_eq!(release(&mut runs, 10, 99, 10), Some(10), "what is behind was not read");
        assert_eq!(release(&mut runs, 99, 99, 8), Some(15));
        assert_eq!(release(&mut runs, 99, 99, 99), Some(17));
        assert!(runs.is_empty());
    }

    #[test]
    fn numbers_that_stand_twice_are_released_with_the_later_ones() {
        let mut runs = Runs::default();
        runs.add(of(A, 1), at(1), 5, None);
        runs.add(of(A, 4), Position::new(2, 6), 5, None);
        assert_eq!(runs.locate(of(A, 5)), Some(Position::new(2, 7)));
        assert_eq!(runs.locate(of(A, 3)), Some(at(3)));
    }

    #[test]
    fn messages_that_are_read_late_are_found_in_their_place() {
        let mut runs = Runs::default();
        runs.add(of(B, 1), Position::new(2, 20), 5, None);
        runs.add(of(A, 1), at(1), 5, None);
        runs.add(of(B, 2), Position::new(2, 21), 3, None);
        assert_eq!(runs.0.len(), 2, "known ones are not added");
        runs.forget(at(5));
        assert_eq!(runs.locate(of(A, 5)), None);
        runs.rename(B, A);
        assert_eq!(runs.locate(of(A, 5)), Some(Position::new(2, 24)));
    }

    #[test]
    fn runs_are_cut_by_their_age() {
        let (mut runs, now) = (Runs::default(), Instant::now());
        for second in 0..600 {
            runs.add(of(A, second + 1), at(second + 1), 1, Some(now + Duration::from_secs(second)));
        }
        assert_eq!(runs.0.len(), 10);
        runs.forget(at(60));
        assert_eq!(runs.oldest(), Some(now + GRAIN));
    }

    #[test]
    fn damage_does_not_make_more_runs() {
        let mut runs = Runs::default();
        for number in [1, 3, 10] {
            runs.add(of(A, number + 100), at(number), 1, None);
        }
        assert_eq!(runs.0.len(), 1);
        assert_eq!(runs.locate(of(A, 110)), Some(at(10)));
    }

    #[test]
    fn messages_that_are_in_memory_are_counted_exactly() {
        let runs = runs();
        for (to, stream, held, expected) in
            [(17, A, 99, 10), (5, A, 99, 5), (17, A, 14, 4), (3, A, 14, 3), (17, B, 8, 5), (12, B, 8, 2), (0, A, 99, 0)]
        {
            assert_eq!(runs.count_within(at(to), stream, held), expected, "{to} {stream} {held:?}");
        }
    }
}
