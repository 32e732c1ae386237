//! The waiter for a message: the sending half of what its publisher waits for.

use tokio::sync::oneshot;

use crate::client::{
    error::{Cause, Error},
    receipt::{Flushed, Receipt},
};

/// The publisher's side of a message, or of all messages up to a place.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// For what becomes of one message.
    Receipt(oneshot::Sender<Result<Receipt, Error>>),
    /// For the moment when all messages before it are decided.
    Barrier(oneshot::Sender<Result<Flushed, Error>>),
    /// For the moment when a message is durable, or decided.
    #[cfg(feature = "spool")]
    Stored(oneshot::Sender<Result<(), Error>>),
    /// The place of a receipt whose publisher has heard that the message was refused.
    Told,
}

impl Waiter {
    /// Answers with an error. A publisher that has gone costs nothing.
    pub(crate) fn fail(self, cause: Error) {
        match self {
            Self::Receipt(receipt) => drop(receipt.send(Err(cause))),
            Self::Barrier(barrier) => drop(barrier.send(Err(cause))),
            #[cfg(feature = "spool")]
            Self::Stored(stored) => drop(stored.send(Err(cause))),
            Self::Told => {}
        }
    }

    /// The session has ended before the message was decided.
    pub(crate) fn end(self, written: bool, why: &Error) {
        self.fail(Error::new(Cause::NoReceipt { written, why: why.clone() }));
    }
}
