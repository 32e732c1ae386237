//! The queues of a session: to send, being written, received.

pub(super) mod in_flight;
pub(super) mod receive;
pub(super) mod send;
