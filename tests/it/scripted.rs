//! The session against brokers that do what real ones do rarely, in virtual time.

mod closing;
mod denied;
mod flow;
mod reconnect;
