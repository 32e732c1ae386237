//! Levels: what the broker holds at one moment, and the limits of that.

/// Numbers that the broker's other parts know and no counter does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    /// Open connections, authenticated or not.
    pub(crate) connections: usize,
    pub(crate) max_connections: usize,
    /// Bytes that are queued for all subscribers, with overhead.
    pub(crate) queued_bytes: usize,
    pub(crate) max_queued_bytes: usize,
    /// Bytes that waiting publishers hold.
    pub(crate) waiting_bytes: usize,
    /// Open connections that speak the extension.
    pub(crate) extended: usize,
    /// Streams that are published, or were lately.
    pub(crate) streams: usize,
    /// Tasks of the runtime that have not ended.
    pub(crate) tasks: usize,
}
