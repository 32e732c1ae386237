//! The beat of one connection: what it had written and read at the last sweep.

/// The state of one connection at the last sweep.
#[derive(Debug, Default)]
pub(super) struct Beat {
    /// The client wants to hear something at least every so many seconds; 0: it does not.
    pub(super) wanted: u16,
    /// After so many sweeps in silence the client counts as gone; 0: never.
    pub(super) patience: u32,
    /// The bytes written and read until the last sweep.
    written: u64,
    read: u64,
    /// How many sweeps have found nothing new of either.
    still: u16,
    silent: u32,
    /// How many sweeps have found the queue of control frames full and nothing new written.
    stuck: u32,
}

/// The findings of a sweep.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// A HEARTBEAT is due.
    pub(super) is_due: bool,
    /// The client counts as gone.
    pub(super) is_gone: bool,
    /// For so many sweeps the client has taken nothing of a full queue.
    pub(super) stuck: u32,
}

impl Beat {
    /// Counts a sweep. `is_full` says that so many control frames wait that the client is not read.
    pub(super) fn sweep(&mut self, written: u64, read: u64, is_reading: bool, is_full: bool) -> Found {
        let is_still = written == self.written;
        self.still = if is_still { self.still.saturating_add(1) } else { 0 };
        self.stuck = if is_still && is_full { self.stuck.saturating_add(1) } else { 0 };
        if read != self.read {
            self.silent = 0;
        } else if is_reading {
            self.silent = self.silent.saturating_add(1);
        }
        (self.written, self.read) = (written, read);
        // Up to a second has passed since the write before the first of them, and another passes
        // before the next sweep.
        let is_due = self.wanted > 0 && self.still.saturating_add(2) >= self.wanted;
        Found { is_due, is_gone: self.patience > 0 && self.silent >= self.patience, stuck: self.stuck }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweeps(beat: &mut Beat, figures: &[(u64, u64, bool)]) -> Vec<Found> {
        figures.iter().map(|(written, read, is_reading)| beat.sweep(*written, *read, *is_reading, false)).collect()
    }

    #[test]
    fn a_heartbeat_is_due_before_the_interval_is_over_and_again_after_it_was_written() {
        let mut beat = Beat { wanted: 4, ..Beat::default() };
        let due: Vec<_> = sweeps(&mut beat, &[(7, 0, true), (7, 0, true), (7, 0, true), (13, 0, true), (13, 0, true)])
            .into_iter()
            .map(|found| found.is_due)
            .collect();
        assert_eq!(due, [false, false, true, false, false]);
        for (wanted, expected) in [(0, false), (1, true), (2, true), (3, false)] {
            let mut beat = Beat { wanted, ..Beat::default() };
            assert_eq!(sweeps(&mut beat, &[(1, 0, true)])[0].is_due, expected, "{wanted}");
        }
    }

    #[test]
    fn silence_counts_only_while_the_client_is_read() {
        let mut beat = Beat { patience: 3, ..Beat::default() };
        let read = |n, is_reading| (0, n, is_reading);
        let gone: Vec<_> = sweeps(
            &mut beat,
            &[
                read(5, true),
                read(5, true),
                read(5, true),
                // Not read, for however long.
                read(5, false),
                read(5, false),
                read(6, true),
                read(6, true),
                read(6, true),
                read(6, true),
            ],
        )
        .into_iter()
        .map(|found| found.is_gone)
        .collect();
        assert_eq!(gone, [false, false, false, false, false, false, false, false, true]);
        let mut never = Beat::default();
        assert!(sweeps(&mut never, &[(0, 0, true); 100]).iter().all(|found| *found == Found::default()));
    }

    #[test]
    fn a_full_queue_counts_only_while_nothing_is_written() {
        let mut beat = Beat::default();
        let stuck = [(0, true), (0, true), (1, true), (1, true), (1, false), (1, true), (1, true)]
            .map(|(written, is_full)| beat.sweep(written, 0, false, is_full).stuck);
        assert_eq!(stuck, [1, 2, 0, 1, 0, 1, 2]);
    }
}
