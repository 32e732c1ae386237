//! Tests of whole sessions that count what the driver and the runtime do.

mod hostile;
mod polled;
mod unconfirmed;
