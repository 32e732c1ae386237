//! The queues of a session: to send, being written, unconfirmed, received.

pub(super) mod batch;
pub(super) mod channels;
pub(super) mod consumption;
pub(super) mod dropping;
pub(super) mod in_flight;
pub(super) mod receive;
pub(super) mod retain;
pub(super) mod send;
pub(super) mod unconfirmed;
pub(super) mod waiter;
