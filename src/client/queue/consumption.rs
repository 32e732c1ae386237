//! The consumption of mailboxes: which messages are in a batch of the receive queue, which of them
//! the program has taken, and up to where it has processed them.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use parking_lot::Mutex;

use crate::{
    client::mailbox::Origin,
    wire::extension::{Position, StreamPosition},
};

/// Consecutive messages of a mailbox: those of one batch in the receive queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) mailbox: Arc<str>,
    /// The position of the first, and its place in its stream.
    pub(crate) first: Position,
    pub(crate) source: Option<StreamPosition>,
    /// The number of the connection that brought it.
    pub(crate) connection: u64,
    /// How many the program has taken, or were passed over for it.
    pub(crate) taken: u64,
}

impl Run {
    /// The position of a message, counted from 0.
    fn position(&self, index: u64) -> Position {
        Position::new(self.first.epoch, self.first.number.saturating_add(index))
    }

    /// The position of the last message that was taken.
    fn last(&self) -> Option<Position> {
        Some(self.position(self.taken.checked_sub(1)?))
    }

    /// The origin of the last message that was taken.
    pub(crate) fn origin(&self) -> Option<Origin> {
        let index = self.taken.checked_sub(1)?;
        let source = self.source.map(|source| StreamPosition { number: source.number.saturating_add(index), ..source });
        Some(Origin { mailbox: Arc::clone(&self.mailbox), position: self.position(index), source })
    }
}

/// The consumption of all mailboxes of a session. Positions are those of the present connection: an
/// older one's say nothing to the broker, which delivers again what it was not told of.
#[derive(Debug)]
pub(crate) struct Consumption {
    /// A message is processed only when the program says so.
    manual: bool,
    /// The number of the present connection.
    connection: AtomicU64,
    /// How many messages of the present run are processed: changed for each message, without the
    /// lock, by the only reader of the session.
    in_run: AtomicU64,
    /// The program has said so since the driver looked.
    committed: AtomicBool,
    state: Mutex<State>,
}

/// A position of each mailbox, at most one for each that the session has asked for.
type Positions = Vec<(Arc<str>, Position)>;

#[derive(Debug, Default)]
struct State {
    /// The run that is being read.
    run: Option<Run>,
    /// The last messages that were taken, in runs before it.
    taken: Positions,
    /// The last messages that are processed, of which the broker is to be told.
    processed: Positions,
    /// How many messages of the present run were among those.
    seen: u64,
}

impl Consumption {
    pub(crate) fn new(manual: bool) -> Self {
        Self {
            manual,
            connection: AtomicU64::new(0),
            in_run: AtomicU64::new(0),
            committed: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    // ---- the reader of the session ----

    /// The program asks for the message after the last one that was taken. `false` when the rest of
    /// the run comes again, as its connection has ended.
    pub(crate) fn ask(&self, run: &Run) -> bool {
        let is_current = run.connection == self.connection();
        if is_current && !self.manual {
            self.in_run.store(run.taken, Release);
        }
        is_current
    }

    /// One run is used up, and another begins, if there are such.
    pub(crate) fn turn(&self, before: Option<&Run>, next: Option<&Run>) {
        let mut state = self.state.lock();
        if let Some(run) = before.filter(|run| run.connection == self.connection()) {
            if run.taken > state.seen {
                if let Some(last) = run.last() {
                    let positions = if self.manual { &mut state.taken } else { &mut state.processed };
                    set(positions, &run.mailbox, last);
                }
            }
        }
        self.in_run.store(0, Release);
        state.seen = 0;
        state.run = next.cloned();
    }

    /// Everything that was taken is processed.
    pub(crate) fn commit(&self, run: Option<&Run>) {
        let mut state = self.state.lock();
        let State { taken, processed, seen, .. } = &mut *state;
        for (mailbox, last) in taken.drain(..) {
            set(processed, &mailbox, last);
        }
        if let Some(run) = run.filter(|run| run.connection == self.connection()) {
            if run.taken > *seen {
                if let Some(last) = run.last() {
                    set(processed, &run.mailbox, last);
                    *seen = run.taken;
                }
            }
        }
        drop(state);
        self.committed.store(true, Release);
    }

    // ---- the driver ----

    /// The number of the present connection.
    pub(crate) fn connection(&self) -> u64 {
        self.connection.load(Acquire)
    }

    /// The connection has ended: what was not told of comes again with the next.
    pub(crate) fn disconnected(&self) {
        let mut state = self.state.lock();
        self.connection.fetch_add(1, AcqRel);
        *state = State::default();
    }

    /// Whether the program has committed since this was asked last.
    pub(crate) fn take_committed(&self) -> bool {
        self.committed.load(Relaxed) && self.committed.swap(false, AcqRel)
    }

    /// The positions of which the broker was not told. They count as told now.
    pub(crate) fn take_untold(&self) -> Positions {
        let mut state = self.state.lock();
        let State { run, processed, seen, .. } = &mut *state;
        let in_run = self.in_run.load(Acquire);
        if let Some(run) = run.as_ref().filter(|_| in_run > *seen) {
            set(processed, &run.mailbox, run.position(in_run - 1));
            *seen = in_run;
        }
        std::mem::take(processed)
    }
}

fn set(positions: &mut Positions, mailbox: &Arc<str>, last: Position) {
    match positions.iter_mut().find(|(known, _)| known == mailbox) {
        Some((_, known)) => *known = last,
        None => positions.push((Arc::clone(mailbox), last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mailbox: &str, number: u64, connection: u64, taken: u64) -> Run {
        Run { mailbox: mailbox.into(), first: Position::new(7, number), source: None, connection, taken }
    }

    fn untold(consumption: &Consumption) -> Vec<(String, u64)> {
        let untold = consumption.take_untold();
        untold.into_iter().map(|(mailbox, position)| (mailbox.to_string(), position.number)).collect()
    }

    #[test]
    fn a_message_is_processed_when_the_next_one_is_asked_for() {
        let consumption = Consumption::new(false);
        let mut a = run("a", 10, 0, 0);
        consumption.turn(None, Some(&a));
        assert!(consumption.ask(&a));
        assert_eq!(untold(&consumption), [], "none is taken");
        a.taken = 1;
        assert_eq!(untold(&consumption), [], "it is being processed");
        assert!(consumption.ask(&a));
        assert_eq!(untold(&consumption), [("a".to_owned(), 10)]);
        a.taken = 3;
        consumption.ask(&a);
        consumption.turn(Some(&a), Some(&run("b", 5, 0, 0)));
        assert_eq!(untold(&consumption), [("a".to_owned(), 12)]);
        assert_eq!(untold(&consumption), [], "nothing new");
        // The last one may be said to be processed, too.
        consumption.commit(Some(&run("b", 5, 0, 2)));
        assert!(consumption.take_committed() && !consumption.take_committed());
        assert_eq!(untold(&consumption), [("b".to_owned(), 6)]);
    }

    #[test]
    fn with_manual_commit_a_message_is_processed_when_the_program_says_so() {
        let consumption = Consumption::new(true);
        let a = run("a", 10, 0, 4);
        consumption.turn(None, Some(&a));
        consumption.ask(&a);
        let b = run("", 20, 0, 1);
        consumption.turn(Some(&a), Some(&b));
        assert_eq!(untold(&consumption), []);
        consumption.commit(Some(&b));
        assert_eq!(untold(&consumption), [("a".to_owned(), 13), (String::new(), 20)]);
        // An older position is told when it is the one that was handed out last.
        consumption.turn(Some(&b), Some(&run("a", 3, 0, 0)));
        let a = run("a", 3, 0, 1);
        consumption.commit(Some(&a));
        assert_eq!(untold(&consumption), [("a".to_owned(), 3)]);
        consumption.commit(Some(&a));
        assert_eq!(untold(&consumption), [], "nothing new");
        // Set back by its operator, a mailbox delivers it once more.
        consumption.turn(Some(&a), Some(&run("a", 3, 0, 0)));
        consumption.commit(Some(&a));
        assert_eq!(untold(&consumption), [("a".to_owned(), 3)]);
    }

    #[test]
    fn positions_of_an_older_connection_are_not_told() {
        for manual in [false, true] {
            let consumption = Consumption::new(manual);
            let a = run("a", 10, 0, 2);
            consumption.turn(None, Some(&a));
            consumption.ask(&a);
            consumption.disconnected();
            assert!(!consumption.ask(&a));
            consumption.commit(Some(&a));
            consumption.turn(Some(&a), Some(&run("a", 10, 1, 0)));
            assert_eq!(untold(&consumption), [], "{manual}");
            consumption.commit(Some(&run("a", 10, 1, 1)));
            assert_eq!(untold(&consumption), [("a".to_owned(), 10)], "{manual}");
        }
    }

    #[test]
    fn the_origin_counts_on_in_the_journal_and_in_the_stream() {
        let stream = crate::wire::extension::StreamId::new([3; 16]);
        let source = Some(StreamPosition { stream, number: 40 });
        let mut run = Run { source, ..run("a", 10, 0, 0) };
        assert_eq!(run.origin(), None);
        run.taken = 3;
        let origin = Origin {
            mailbox: "a".into(),
            position: Position::new(7, 12),
            source: Some(StreamPosition { stream, number: 42 }),
        };
        assert_eq!(run.origin(), Some(origin));
    }
}
