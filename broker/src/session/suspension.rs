//! The suspension of a session: what it waits for between two frames.

use std::pin::Pin;

use crate::net::buffer_pool::WaitingBytes;

/// A wait between two frames.
pub(super) struct Suspension {
    /// In a box, as idle connections have none. `false`: what was to be stored is not.
    pub(super) future: Pin<Box<dyn Future<Output = bool> + Send>>,
    /// A reason to end the connection ends the wait.
    pub(super) until_stopped: bool,
    /// It only lets other tasks run.
    pub(super) yields: bool,
    /// Memory that the future keeps, and the length of the messages in it, in bytes.
    pub(super) kept: usize,
    pub(super) messages: usize,
    /// Accounts for the memory of the future and the read buffer.
    pub(super) tracked: Option<WaitingBytes>,
}

impl Suspension {
    pub(super) fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self::settling(Box::pin(async move {
            future.await;
            true
        }))
    }

    pub(super) fn settling(future: Pin<Box<dyn Future<Output = bool> + Send>>) -> Self {
        let (until_stopped, yields) = (false, false);
        Self { future, until_stopped, yields, kept: 0, messages: 0, tracked: None }
    }

    /// Lets other tasks run.
    pub(super) fn yield_now() -> Self {
        Self { yields: true, ..Self::new(tokio::task::yield_now()) }
    }
}
