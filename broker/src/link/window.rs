//! The window of a client: how many bytes of PUBLISH frames it takes beyond what it has consumed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// A window of this size is none.
const NONE: u64 = u64::MAX;

/// The window of one connection. Only that connection's task reads and changes it.
#[derive(Debug)]
pub(crate) struct Window {
    size: AtomicU64,
    /// The bytes of whole frames that were written, or are about to be, since the connection began.
    sent: AtomicU64,
    /// How many of those the client has consumed.
    consumed: AtomicU64,
    /// The connection's task waits for something else than the client, and does not read CONSUMED.
    unread: AtomicBool,
}

/// The room that a window has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowRoom {
    pub(crate) bytes: u64,
    /// The client has consumed everything: then one frame may be longer than the window.
    pub(crate) is_idle: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            size: AtomicU64::new(NONE),
            sent: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            unread: AtomicBool::new(false),
        }
    }
}

impl Window {
    /// Sets the size in bytes; `None` ends the window.
    pub(crate) fn resize(&self, size: Option<u32>) {
        self.size.store(size.map_or(NONE, u64::from), Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.size.load(Relaxed) != NONE
    }

    /// Sets how many bytes have been sent, when the window begins.
    pub(crate) fn begin(&self, sent: u64) {
        self.sent.store(sent, Relaxed);
    }

    pub(crate) fn send(&self, bytes: u64) {
        self.sent.store(self.sent.load(Relaxed).saturating_add(bytes), Relaxed);
    }

    /// The client has consumed so many bytes in all. `Err` with what was sent, when that is less.
    pub(crate) fn consume(&self, bytes: u64) -> Result<(), u64> {
        let sent = self.sent.load(Relaxed);
        if bytes > sent {
            return Err(sent);
        }
        // One that stands before another says nothing new.
        self.consumed.store(self.consumed.load(Relaxed).max(bytes), Relaxed);
        Ok(())
    }

    /// Says whether CONSUMED is not read for now, and returns whether that is new.
    pub(crate) fn set_unread(&self, unread: bool) -> bool {
        self.unread.load(Relaxed) != unread && {
            self.unread.store(unread, Relaxed);
            true
        }
    }

    /// Whether it is the broker that keeps the window closed, as it does not read CONSUMED.
    pub(crate) fn is_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    pub(crate) fn room(&self) -> WindowRoom {
        let outstanding = self.sent.load(Relaxed).saturating_sub(self.consumed.load(Relaxed));
        WindowRoom { bytes: self.size.load(Relaxed).saturating_sub(outstanding), is_idle: outstanding == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_the_size_beyond_what_was_consumed() {
        let window = Window::default();
        assert!(!window.is_set());
        window.resize(Some(100));
        window.begin(1000);
        assert_eq!(window.room(), WindowRoom { bytes: 0, is_idle: false }, "what was sent before counts");
        assert_eq!((window.consume(950), window.room().bytes), (Ok(()), 50));
        assert_eq!((window.consume(u64::MAX), window.consume(1001)), (Err(1000), Err(1000)));
        assert_eq!((window.consume(10), window.room().bytes), (Ok(()), 50), "consumed bytes never fall");
        assert_eq!((window.consume(1000), window.room()), (Ok(()), WindowRoom { bytes: 100, is_idle: true }));
        window.send(300);
        assert_eq!(window.room(), WindowRoom { bytes: 0, is_idle: false });
        window.resize(Some(0));
        assert_eq!((window.consume(1300), window.room()), (Ok(()), WindowRoom { bytes: 0, is_idle: true }));
        window.resize(None);
        assert!(!window.is_set());
    }
}
