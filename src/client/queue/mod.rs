//! The queues of a session: to send, being written, unconfirmed, received.

#![allow(dead_code, reason = "connections do not use all of it yet")]

pub(super) mod batch;
pub(super) mod in_flight;
pub(super) mod receive;
pub(super) mod send;
pub(super) mod unconfirmed;
pub(super) mod waiter;
