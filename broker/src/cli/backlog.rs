//! The backlog of the log: at most 8 MiB of lines, which a thread of their own writes to stderr.
//!
//! The reader of stderr may stop, or be slower than events come: a terminal with Ctrl-S, a full
//! disk behind a pipe. A broker that wrote to stderr in the middle of its work would stop with it.

use std::{
    io::{self, Write as _},
    mem,
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// The most bytes that wait to be written: some twenty thousand lines. As much again is being
/// written.
const MAX: usize = 4 << 20;

/// How long the thread rests after it has written, so that in a busy log it is woken for many lines
/// at once: a wake-up for each line is dear beside the work that is logged.
const REST: Duration = Duration::from_millis(5);

/// The longest time that the end of the program waits until all lines are written.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines that a thread of their own writes to stderr.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backlog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// How many lines had no room.
    lost: u64,
    writing: bool,
    /// Whether the thread waits for lines, rather than rests.
    idle: bool,
    /// Whether a caller of [`Backlog::flush`] waits.
    flushing: bool,
}

impl Backlog {
    /// The thread lives as long as the program.
    pub(crate) fn start() -> io::Result<Self> {
        let backlog = Self::default();
        let shared = backlog.0.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            shared.run(|lines| {
                // A stderr that is closed, or whose disk is full, must not stop the broker.
                let _ = io::stderr().write_all(lines);
            });
        })?;
        Ok(backlog)
    }

    /// Adds a line, if there is room.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut state = self.0.state.lock();
        if state.lines.len() + line.len() > MAX {
            state.lost += 1;
            return;
        }
        state.lines.extend_from_slice(line);
        if mem::take(&mut state.idle) {
            drop(state);
            self.0.changed.notify_all();
        }
    }

    /// Waits until everything has been written, for at most [`PATIENCE`].
    pub(crate) fn flush(&self) {
        let mut state = self.0.state.lock();
        state.flushing = true;
        self.0.changed.notify_all();
        let busy = |state: &mut State| state.writing || !state.lines.is_empty() || state.lost > 0;
        self.0.changed.wait_while_for(&mut state, busy, PATIENCE);
    }
}

impl Shared {
    fn run(&self, write: impl Fn(&[u8])) {
        loop {
            let mut state = self.state.lock();
            if mem::take(&mut state.writing) {
                self.changed.notify_all();
                self.changed.wait_while_for(&mut state, |state| !state.flushing, REST);
            }
            let nothing = |state: &mut State| {
                state.idle = state.lines.is_empty() && state.lost == 0;
                state.idle
            };
            self.changed.wait_while(&mut state, nothing);
            state.writing = true;
            let (lines, lost) = (mem::take(&mut state.lines), mem::take(&mut state.lost));
            drop(state);
            write(&lines);
            if lost > 0 {
                tracing::warn!(lost, "the log was not read fast enough: lines are lost");
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn push_never_waits_for_the_reader_and_lost_lines_are_counted() {
        let backlog = Backlog::default();
        let (reading, read) = mpsc::sync_channel::<Vec<u8>>(0);
        let shared = backlog.0.clone();
        thread::spawn(move || shared.run(|lines| reading.send(lines.to_vec()).unwrap_or_default()));
        backlog.push(b"first\n");
        // The line is being written from here on, and not read.
        while !backlog.0.state.lock().writing {
            thread::yield_now();
        }
        let line = [b'x'; 1024];
        for _ in 0..MAX / line.len() + 3 {
            backlog.push(&line);
        }
        assert_eq!(backlog.0.state.lock().lost, 3);
        assert_eq!(read.recv().unwrap(), b"first\n");
        assert_eq!(read.recv().unwrap().len(), MAX);
        backlog.flush();
        let state = backlog.0.state.lock();
        assert_eq!((state.lost, state.lines.len()), (0, 0));
    }
}
