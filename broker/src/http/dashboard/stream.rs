//! A stream of events (server-sent events): a snapshot, and then what changes, for as long as a page is
//! open.
//!
//! Each event is made when the connection has room for it. A client that reads slowly gets fewer
//! events, and each tells what has changed since the one before.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use hyper::body::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Kind, Shared, Watch,
    lease::{Lease, TIMEOUT},
};

/// How long a browser waits before it connects again, in the first lines of the stream.
const RETRY: &str = "retry: 1000\n\n";

/// A comment, so that proxies and both ends know that the connection lives.
const COMMENT: &str = ":\n\n";
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

const GONE: &str = "event: gone\ndata: {\"reason\":\"shutdown\"}\n\n";

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Change => "change",
            Self::Tail => "tail",
            Self::Sources => "sources",
        }
    }

    /// The time between two events, after the first.
    fn interval(self) -> Duration {
        match self {
            Self::Snapshot | Self::Change => Duration::from_secs(1),
            Self::Tail => Duration::from_millis(500),
            Self::Sources => Duration::from_secs(5),
        }
    }
}

/// The events of a watch. The permit is that of one stream, which ends when its token is revoked.
pub(super) fn events(
    watch: Box<dyn Watch>,
    permit: OwnedSemaphorePermit,
    revoked: CancellationToken,
    shared: &Arc<Shared>,
    lease: &Arc<Lease>,
) -> BoxStream<'static, Bytes> {
    let (building, closing) = (shared.building.clone(), shared.closing.clone());
    let (due, spoke) = (Vec::new(), Instant::now());
    let events = Events { watch, _permit: permit, building, closing, revoked, due, spoke };
    let events = stream::unfold(Some(events), |events| async move { events?.next().await }).boxed();
    lease.set_stream(true);
    Leased { events, lease: lease.clone() }.boxed()
}

/// A stream that extends the lease of its connection whenever that asks for more.
struct Leased {
    events: BoxStream<'static, Bytes>,
    lease: Arc<Lease>,
}

impl Stream for Leased {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.lease.extend(TIMEOUT);
        self.events.poll_next_unpin(cx)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.lease.set_stream(false);
    }
}

struct Events {
    watch: Box<dyn Watch>,
    _permit: OwnedSemaphorePermit,
    building: Arc<Semaphore>,
    closing: CancellationToken,
    revoked: CancellationToken,
    /// When to look next, for each kind of event that repeats. Empty before the first event.
    due: Vec<(Kind, Instant)>,
    /// The last time that there was something to say.
    spoke: Instant,
}

impl Events {
    /// The next bytes, and the events behind them; `None` there after the last.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        if self.due.is_empty() {
            let now = Instant::now();
            let kinds: &[_] =
                if self.watch.tails() { &[Kind::Change, Kind::Tail, Kind::Sources] } else { &[Kind::Change] };
            self.due = kinds.iter().map(|kind| (*kind, now + kind.interval())).collect();
            let (events, data) = self.look(Kind::Snapshot).await?;
            let first = format!("{RETRY}{}", event(Kind::Snapshot, &data?));
            return Some((first.into(), Some(events)));
        }
        loop {
            let (at, next) = self.due.iter().enumerate().min_by_key(|(_, (_, until))| *until)?;
            let ((kind, until), comment) = (*next, self.spoke + COMMENT_INTERVAL);
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return Some((Bytes::from_static(GONE.as_bytes()), None)),
                () = self.revoked.cancelled() => return None,
                () = sleep_until(comment.min(until)) => {}
            }
            if comment < until {
                self.spoke = Instant::now();
                return Some((Bytes::from_static(COMMENT.as_bytes()), Some(self)));
            }
            let (mut events, data) = self.look(kind).await?;
            let now = Instant::now();
            events.due[at].1 = now + kind.interval();
            if let Some(data) = data {
                events.spoke = now;
                return Some((event(kind, &data).into(), Some(events)));
            }
            self = events;
        }
    }

    /// Looks in a task that may take its time.
    async fn look(mut self, kind: Kind) -> Option<(Self, Option<String>)> {
        // The semaphore is never closed.
        let permit = self.building.clone().acquire_owned().await;
        let look = move || {
            let _permit = permit;
            let data = self.watch.look(kind);
            (self, data)
        };
        tokio::task::spawn_blocking(look).await.ok()
    }
}

/// An event as it is sent. JSON on one line holds no line break.
fn event(kind: Kind, data: &str) -> String {
    debug_assert!(!data.contains(['\n', '\r']), "data is one line");
    format!("event: {}\ndata: {data}\n\n", kind.name())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::http::dashboard::{
        MAX_STREAMS, Source, Unavailable,
        access::Access,
        handshakes::Handshakes,
        tokens::{CurrentTokens, Tokens},
    };

    /// A watch with changes that are known, and no others.
    struct Scripted {
        tails: bool,
        changes: VecDeque<Option<&'static str>>,
    }

    impl Watch for Scripted {
        fn tails(&self) -> bool {
            self.tails
        }

        fn look(&mut self, kind: Kind) -> Option<String> {
            match kind {
                Kind::Change => self.changes.pop_front().flatten().map(str::to_owned),
                other => Some(format!("\"{}\"", other.name())),
            }
        }
    }

    struct Nothing;

    impl Source for Nothing {
        fn snapshot(&self, _: &str) -> Result<String, Unavailable> {
            Err(Unavailable::Stopped)
        }

        fn watch(&self, _: &str) -> Result<Box<dyn Watch>, Unavailable> {
            Err(Unavailable::Stopped)
        }
    }

    fn shared() -> Arc<Shared> {
        let tokens = Arc::new(CurrentTokens::new(Tokens::make().unwrap(), None));
        let access = Access { tokens, names: Vec::new(), port: 0, is_secure: false };
        let (building, streams) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(MAX_STREAMS)));
        Arc::new(Shared {
            access,
            handshakes: Handshakes::default(),
            source: Arc::new(Nothing),
            building,
            streams,
            closing: CancellationToken::new(),
        })
    }

    fn start(shared: &Arc<Shared>, lease: &Arc<Lease>, watch: Scripted) -> BoxStream<'static, Bytes> {
        let permit = shared.streams.clone().try_acquire_owned().unwrap();
        events(Box::new(watch), permit, shared.access.tokens.revoked(), shared, lease)
    }

    /// The next event, and after how many milliseconds it came.
    async fn next(events: &mut BoxStream<'static, Bytes>) -> (String, u128) {
        let before = Instant::now();
        let event = events.next().await.unwrap();
        (String::from_utf8(event.to_vec()).unwrap(), before.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_gets_what_changes_and_a_comment_when_nothing_does() {
        let (shared, lease) = (shared(), Arc::<Lease>::default());
        let changes = [Some("1"), None, Some("2")].into();
        let mut events = start(&shared, &lease, Scripted { tails: false, changes });
        let of = |text: &str, millis| (text.to_owned(), millis);
        assert_eq!(next(&mut events).await, of("retry: 1000\n\nevent: snapshot\ndata: \"snapshot\"\n\n", 0));
        assert_eq!(next(&mut events).await, of("event: change\ndata: 1\n\n", 1000));
        assert_eq!(next(&mut events).await, of("event: change\ndata: 2\n\n", 2000));
        assert_eq!(next(&mut events).await, of(":\n\n", 15_000));
        assert_eq!(next(&mut events).await, of(":\n\n", 15_000));
        shared.closing.cancel();
        assert_eq!(next(&mut events).await, of("event: gone\ndata: {\"reason\":\"shutdown\"}\n\n", 0));
        assert_eq!(events.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_come_twice_a_second_and_sources_every_five() {
        let (shared, lease) = (shared(), Arc::<Lease>::default());
        let mut events = start(&shared, &lease, Scripted { tails: true, changes: VecDeque::new() });
        next(&mut events).await;
        let (mut tails, mut sources, start) = (0, 0, Instant::now());
        while start.elapsed() < Duration::from_secs(10) {
            let (event, _) = next(&mut events).await;
            tails += usize::from(event.starts_with("event: tail\n"));
            sources += usize::from(event.starts_with("event: sources\n"));
        }
        assert!((19..=20).contains(&tails) && (1..=2).contains(&sources), "{tails} {sources}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_not_read_extends_no_lease() {
        let (shared, lease) = (shared(), Arc::<Lease>::default());
        let mut events = start(&shared, &lease, Scripted { tails: false, changes: VecDeque::new() });
        assert!(lease.is_stream());
        next(&mut events).await;
        for _ in 0..10 {
            next(&mut events).await;
            assert!(lease.until() > Instant::now(), "comments are read");
        }
        tokio::time::sleep(TIMEOUT).await;
        assert!(lease.until() <= Instant::now());
        assert_eq!(shared.streams.available_permits(), MAX_STREAMS - 1);
        drop(events);
        assert_eq!((lease.is_stream(), shared.streams.available_permits()), (false, MAX_STREAMS));
    }
}
