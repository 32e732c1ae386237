//! Looks at what was written to a connection and is still on its way.

use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::{Instant, Sleep, sleep};

use super::transport::FrameTransport;
use crate::client::connect::connector::TransportStatus;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// A system that has told nothing is not asked again for so long: a kernel without `sock_diag`
/// looks for a module each time, which starts a process, and a program without free descriptors has
/// other needs.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// A peer that has everything in its buffers may take as long to read it as it took to send it, up
/// to so many times the silence that it is given otherwise.
const PATIENCE: u32 = 10;

/// Counts the bytes that the peer's system has acknowledged, and for how long it has acknowledged
/// none. Where the system does not tell, what is written counts as acknowledged.
pub(super) struct Watch {
    timer: Pin<Box<Sleep>>,
    /// Something is on its way. Otherwise nothing is looked at, and no timer runs.
    armed: bool,
    /// When the system may be asked.
    ask_at: Instant,
    /// Bytes written, and those acknowledged at the last look.
    written: u64,
    acknowledged: u64,
    /// When `acknowledged` grew.
    progress: Instant,
    /// No silence before this counts.
    patient_from: Instant,
    /// Since when something has been on its way.
    since: Instant,
    /// For how long the peer's system has answered nothing.
    pub(super) unanswered: Duration,
}

impl Watch {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            timer: Box::pin(sleep(LOOK)),
            armed: false,
            ask_at: now,
            written: 0,
            acknowledged: 0,
            progress: now,
            patient_from: now,
            since: now,
            unanswered: Duration::ZERO,
        }
    }

    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        self.arm();
    }

    /// Begins to look.
    pub(super) fn arm(&mut self) {
        if !self.armed {
            self.armed = true;
            (self.since, self.progress) = (Instant::now(), Instant::now());
            self.timer.as_mut().reset(self.since + LOOK);
        }
    }

    /// Begins to look, and to count the silence of the peer anew.
    pub(super) fn restart(&mut self) {
        self.arm();
        self.patient_from = Instant::now();
    }

    /// Looks when it is time to; then says how many bytes more have been acknowledged. Goes on as
    /// long as something is on its way, or `waits` to be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, transport: &FrameTransport, waits: bool) -> Option<u64> {
        if !self.armed || self.timer.as_mut().poll(cx).is_pending() {
            return None;
        }
        let status = self.ask(transport);
        // The last answer may have come long before there was anything to answer.
        self.unanswered = status.unanswered.min(self.since.elapsed());
        let acknowledged = self.written.saturating_sub(status.unacknowledged);
        let more = acknowledged.saturating_sub(self.acknowledged);
        if more > 0 {
            (self.acknowledged, self.progress) = (acknowledged, Instant::now());
        }
        self.armed = waits || self.acknowledged < self.written;
        if self.armed {
            self.timer.as_mut().reset(Instant::now() + LOOK);
            // It has just been set: this is for its waker.
            let _pending = self.timer.as_mut().poll(cx);
        }
        Some(more)
    }

    fn ask(&mut self, transport: &FrameTransport) -> TransportStatus {
        let now = Instant::now();
        if self.ask_at <= now {
            if let Some(status) = transport.status() {
                return status;
            }
            self.ask_at = now + ASK_AGAIN;
        }
        TransportStatus::default()
    }

    /// Whether nothing has been acknowledged for so long. When all is, and only to be read, it
    /// takes longer.
    pub(super) fn is_stalled(&self, silence: Duration) -> bool {
        let reading = if self.acknowledged < self.written { Duration::ZERO } else { self.progress - self.since };
        self.progress.max(self.patient_from).elapsed()
            >= silence.saturating_add(reading.min(silence.saturating_mul(PATIENCE)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::{
        future::poll_fn,
        io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Poll,
    };

    use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

    use super::*;
    use crate::{client::connect::connector::Transport, wire::Limits};

    /// A connection of which the system tells this, each time that it is asked.
    struct Told {
        io: DuplexStream,
        status: Option<TransportStatus>,
        asked: Arc<AtomicUsize>,
    }

    impl Transport for Told {
        fn status(&self) -> Option<TransportStatus> {
            self.asked.fetch_add(1, Relaxed);
            self.status
        }
    }

    impl AsyncRead for Told {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Told {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.io).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    fn transport(status: Option<TransportStatus>) -> (FrameTransport, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let told = Told { io: duplex(64).0, status, asked: asked.clone() };
        (FrameTransport::new(Box::new(told), Limits::default()), asked)
    }

    /// Looks once, when it is time to.
    async fn look(watch: &mut Watch, transport: &FrameTransport) {
        poll_fn(|cx| match watch.poll(cx, transport, true) {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn silence_begins_when_there_is_something_to_answer() {
        let hour = Duration::from_secs(3600);
        let (transport, _) =
            transport(Some(TransportStatus { unacknowledged: 1, unanswered: hour, ..Default::default() }));
        let mut watch = Watch::new();
        tokio::time::advance(hour).await;
        watch.wrote(1);
        look(&mut watch, &transport).await;
        assert_eq!(watch.unanswered, LOOK);
        look(&mut watch, &transport).await;
        assert_eq!(watch.unanswered, 2 * LOOK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_system_that_tells_nothing_is_asked_once_a_minute() {
        let (silent, asked) = transport(None);
        let (telling, told) = transport(Some(TransportStatus::default()));
        for (transport, count, expected) in [(silent, asked, 10), (telling, told, 10 * 60 * 5)] {
            let mut watch = Watch::new();
            watch.wrote(1);
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(10 * 60) {
                look(&mut watch, &transport).await;
            }
            assert_eq!(count.load(Relaxed), expected);
        }
    }
}
