//! The link of a connection that speaks the extension: what its task shares with the task of the
//! sweep and with other connections.
//!
//! Whatever a link is told by another task wakes up the connection's task through its outbox.

mod beat;
pub(crate) mod control;
pub(crate) mod pulse;
pub(crate) mod window;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    delivery::outbox::Outbox,
    link::{
        beat::{Beat, Found},
        control::Control,
        window::Window,
    },
};

/// One connection that speaks the extension.
pub(crate) struct Link {
    outbox: Arc<Outbox>,
    control: Mutex<Control>,
    beat: Mutex<Beat>,
    pub(crate) window: Window,
    /// The connection's task waits for bytes of the client.
    reading: AtomicBool,
    /// Nothing has come from the client for too long.
    silent: AtomicBool,
    /// Another connection uses the stream now.
    fenced: AtomicBool,
    /// The client has taken none of its control frames for too long.
    stuck: AtomicBool,
    /// What is published here cannot be stored any more.
    failed: AtomicBool,
    /// The path that HELLO has told is not true any more.
    moved: AtomicBool,
}

impl Link {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Arc<Self> {
        let [reading, silent, fenced, stuck, failed, moved] = [(); 6].map(|()| AtomicBool::new(false));
        let (control, beat, window) = (Mutex::default(), Mutex::default(), Window::default());
        Arc::new(Self { outbox, control, beat, window, reading, silent, fenced, stuck, failed, moved })
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// The frames that wait to be written.
    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock()
    }

    /// Sets after how many seconds without a write the client wants a HEARTBEAT (0: it wants none),
    /// and after how many seconds of silence it counts as gone (0: never).
    pub(crate) fn expect(&self, wanted: u16, patience: u32) {
        let mut beat = self.beat.lock();
        (beat.wanted, beat.patience) = (wanted, patience);
    }

    /// Whether the connection's task waits for bytes of the client.
    pub(crate) fn set_reading(&self, reading: bool) {
        self.reading.store(reading, Relaxed);
    }

    /// Counts a sweep, and wakes the connection up when there is something to do.
    fn sweep(&self) {
        let (written, read) = self.outbox.session().progress();
        let is_full = self.control.lock().is_full();
        let found = self.beat.lock().sweep(written, read, self.reading.load(Relaxed), is_full);
        let Found { is_due, is_gone, stuck } = found;
        // As for a slow subscriber, in whole sweeps.
        let is_stuck = stuck > 0 && pulse::SWEEP * stuck >= self.outbox.slow_deadline();
        if is_due {
            self.control.lock().heartbeat();
        }
        if is_gone {
            self.silent.store(true, Relaxed);
        }
        if is_stuck {
            self.stuck.store(true, Relaxed);
        }
        if is_due || is_gone || is_stuck {
            self.outbox.wake();
        }
    }

    /// For how many seconds nothing has come from the client, if that is too long.
    pub(crate) fn silence(&self) -> Option<u32> {
        self.silent.load(Relaxed).then(|| self.beat.lock().patience)
    }

    /// Whether the client has taken none of its control frames for too long.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Relaxed)
    }

    /// Fences the connection: it must not use its stream any more. It is to be woken up after that.
    pub(crate) fn fence(&self) {
        self.fenced.store(true, Relaxed);
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Relaxed)
    }

    /// Tells the connection that what it publishes cannot be stored any more.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Relaxed);
        self.outbox.wake();
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Tells the connection that the path which HELLO has told is not true any more.
    #[cfg(feature = "cli")]
    pub(crate) fn move_away(&self) {
        self.moved.store(true, Relaxed);
        self.outbox.wake();
    }

    pub(crate) fn has_moved(&self) -> bool {
        self.moved.load(Relaxed)
    }

    /// Moves all frames that wait into an empty buffer; `false` when there are none.
    pub(crate) fn take(&self, chunk: &mut BytesMut) -> bool {
        self.control.lock().take(chunk)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("outbox", &self.outbox).finish_non_exhaustive()
    }
}
