//! The process of a broker: signals, the supervisor, stdout, and the memory that it keeps.

use std::{
    hint::black_box,
    io::{self, Write as _},
};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::broker::Broker;

/// The size of the largest short-lived blocks, in bytes: the default low mark.
const LARGEST_FLEETING: usize = 1 << 20;

/// Keeps glibc from returning the end of its heap to the system, and getting it again page by page
/// for the next read, whenever more than 128 KiB of it are free: glibc keeps twice the size of the
/// largest block that has ever been mapped and freed. No effect on other allocators.
pub(super) fn keep_freed_memory() {
    drop(black_box(Vec::<u8>::with_capacity(LARGEST_FLEETING)));
}

/// The signals that end the broker.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one, and the exit code of what it has cut short, as shells have it.
    pub(super) async fn recv(&mut self) -> (&'static str, u8) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 128 + 15),
            _ = self.interrupt.recv() => ("SIGINT", 128 + 2),
        }
    }
}

/// Reloads at each SIGHUP.
pub(super) async fn reload(broker: &Broker, hangup: &mut Signal) {
    while hangup.recv().await.is_some() {
        match broker.reload().await {
            Ok(()) => tracing::info!("reloaded"),
            Err(failed) => {
                for cause in failed.failures() {
                    tracing::error!(cause, "reload failed, keeping the previous configuration");
                }
            }
        }
    }
    std::future::pending::<()>().await;
}

/// Tells the supervisor, if there is one that wants to know.
pub(super) fn notify(state: NotifyState<'_>) {
    if let Err(cause) = sd_notify::notify(&[state]) {
        tracing::warn!(%cause, "cannot notify the supervisor");
    }
}

/// Prints to stdout.
pub(super) fn print(text: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match text(&mut out).and_then(|()| out.flush()) {
        // The reader has closed the pipe, which is no reason to stop.
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
