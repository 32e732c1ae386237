//! The session against brokers that do what real ones do rarely, in virtual time.

mod closing;
mod confirmed;
mod denied;
mod edges;
mod flow;
mod overflowing;
mod parting;
mod reconnect;
mod refused;
mod rotating;
mod skipped;
