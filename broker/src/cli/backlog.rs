//! Between the log and stderr: nobody waits for who reads the log.
//!
//! Whoever reads it may stop, or be slower than events come: a terminal with Ctrl-S, a full disk behind a pipe. A broker
//! that writes to it in the middle of its work would stop with it.

use std::{
    io::{self, Write as _},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// The most that waits to be written, in bytes: some twenty thousand lines. As much again is being written.
const MAX: usize = 4 << 20;

/// How long the thread rests after it has written. Waking it up for each line cost a fifth of what it costs to accept and
/// authenticate a connection; when there is much to log, it is woken for many lines at once.
const REST: Duration = Duration::from_millis(5);

/// How long the end of the program waits until all is written.
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
    /// How many had no room.
    lost: u64,
    writing: bool,
    /// The thread waits for lines, and does not just rest.
    idle: bool,
    /// Somebody waits until all is written.
    flushing: bool,
}

impl Backlog {
    /// The thread lives as long as the program.
    pub(crate) fn start() -> io::Result<Self> {
        let backlog = Self::default();
        let shared = backlog.0.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            shared.run(|lines| {
                // Nobody may be there to read it.
                let _ = io::stderr().write_all(lines);
            });
        })?;
        Ok(backlog)
    }

    /// Adds a line, if there is room.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut state = self.0.lock();
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

    /// Waits until everything has been written, or has taken too long.
    pub(crate) fn flush(&self) {
        let mut state = self.0.lock();
        state.flushing = true;
        self.0.changed.notify_all();
        let busy = |state: &mut State| state.writing || !state.lines.is_empty() || state.lost > 0;
        drop(self.0.changed.wait_timeout_while(state, PATIENCE, busy));
    }
}

impl Shared {
    fn run(&self, write: impl Fn(&[u8])) {
        loop {
            let mut state = self.lock();
            if mem::take(&mut state.writing) {
                self.changed.notify_all();
                let resting = |state: &mut State| !state.flushing;
                let rested = self.changed.wait_timeout_while(state, REST, resting);
                (state, _) = rested.unwrap_or_else(PoisonError::into_inner);
            }
            let nothing = |state: &mut State| {
                state.idle = state.lines.is_empty() && state.lost == 0;
                state.idle
            };
            state = self.changed.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
            state.writing = true;
            let (lines, lost) = (mem::take(&mut state.lines), mem::take(&mut state.lost));
            drop(state);
            write(&lines);
            if lost > 0 {
                tracing::warn!(lost, "the log was not read fast enough: lines are lost");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn nobody_waits_for_the_reader_and_what_is_lost_is_counted() {
        let backlog = Backlog::default();
        let (reading, read) = mpsc::sync_channel::<Vec<u8>>(0);
        let shared = backlog.0.clone();
        thread::spawn(move || shared.run(|lines| reading.send(lines.to_vec()).unwrap_or_default()));
        backlog.push(b"first\n");
        // It is being written from here on, and nobody reads it.
        while !backlog.0.lock().writing {
            thread::yield_now();
        }
        let line = [b'x'; 1024];
        for _ in 0..MAX / line.len() + 3 {
            backlog.push(&line);
        }
        assert_eq!(backlog.0.lock().lost, 3);
        assert_eq!(read.recv().unwrap(), b"first\n");
        assert_eq!(read.recv().unwrap().len(), MAX);
        backlog.flush();
        let state = backlog.0.lock();
        assert_eq!((state.lost, state.lines.len()), (0, 0));
    }
}
