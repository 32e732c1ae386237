//! The link of a connection that speaks the extension: what its task shares with the task of the
//! sweep and with other connections.
//!
//! Whatever a link is told by another task wakes up the connection's task through its outbox.

pub(crate) mod control;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};

use crate::{delivery::outbox::Outbox, link::control::Control};

/// One connection that speaks the extension.
pub(crate) struct Link {
    outbox: Arc<Outbox>,
    control: Mutex<Control>,
    /// Another connection uses the stream now.
    fenced: AtomicBool,
}

impl Link {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Arc<Self> {
        Arc::new(Self { outbox, control: Mutex::default(), fenced: AtomicBool::new(false) })
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// The frames that wait to be written.
    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock()
    }

    /// Fences the connection: it must not use its stream any more.
    pub(crate) fn fence(&self) {
        self.fenced.store(true, Relaxed);
        self.outbox.wake();
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Relaxed)
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
