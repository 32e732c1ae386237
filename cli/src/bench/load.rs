//! The load generator: many connections on few threads, publishers that write batches, subscribers
//! that read large pieces.

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    net::TcpStream as Blocking,
    num::NonZero,
    pin::Pin,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use futures::{
    future::{poll_fn, try_join_all},
    ready,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncWrite as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    task::{unconstrained, yield_now},
    time::timeout,
};

use super::{
    batch::{Batch, END, Layout},
    check::{Checker, Fault},
    histogram::Histogram,
    progress::{Progress, TICK},
    target::{failed, says, why},
};
use crate::exit::Failure;

/// Bytes that a subscriber reads at once.
const READ: usize = 256 * 1024;

/// Bytes that a publisher writes at once.
const WRITE: usize = 128 * 1024;

/// The same for more than 128 publishers: their share of the first, but never less than the second.
/// The system may hold about as much for each of them: left alone it holds megabytes, until it has
/// no memory for TCP and everything stands still.
const ALL_WRITES: usize = 16 << 20;
const LEAST_WRITE: usize = 12 * 1024;

/// System calls until others on the thread get their turn.
const TURN: usize = 8;

/// The results of the threads.
#[derive(Debug)]
pub(super) enum Event {
    /// A subscriber gets what is published.
    Subscribed,
    /// How many messages each publisher has sent, and the number of the first of them.
    Published(u32, Vec<u64>),
    /// The checkers of subscribers, when nothing more comes.
    Received(Vec<Checker>),
    /// The same for a subscriber that takes the time.
    Timed(Box<(Checker, Histogram)>),
    Failed(Failure),
}

/// The parameters of all threads.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) layout: Arc<Layout>,
    pub(super) publishers: u32,
    pub(super) patience: Duration,
    pub(super) progress: Progress,
    pub(super) events: mpsc::Sender<Event>,
}

impl Common {
    /// Does something on a thread of its own, which says what came of it.
    pub(super) fn spawn(&self, work: impl FnOnce(&Self) -> Result<Event, Failure> + Send + 'static) {
        let common = self.clone();
        thread::spawn(move || {
            let event = work(&common).unwrap_or_else(Event::Failed);
            // The receiver is gone when something else has failed.
            drop(common.events.send(event));
        });
    }

    pub(super) fn checker(&self) -> Checker {
        Checker::new(self.layout.clone(), self.publishers)
    }

    /// Checks bytes that were read; says so when they are the first sign of the subscription.
    pub(super) fn check(&self, checker: &mut Checker, bytes: &[u8], seen: impl FnMut(u64)) -> Result<(), Failure> {
        let before = checker.tally();
        checker.feed(bytes, seen).map_err(|fault| match fault {
            Fault::Error(text) => says(text.as_bytes()),
            other => Failure::new(other.to_string()),
        })?;
        let now = checker.tally();
        self.progress.add(now.messages - before.messages);
        if before.markers == 0 && now.markers > 0 {
            drop(self.events.send(Event::Subscribed));
        }
        Ok(())
    }
}

/// Receives on all connections, until every publisher has ended. Returns the number of events to
/// expect.
pub(super) fn receive(streams: Vec<Blocking>, common: &Common) -> usize {
    let parts = split(streams);
    let count = parts.len();
    for (_, streams) in parts {
        common.spawn(move |common| {
            in_runtime(async {
                let buffer = RefCell::new(vec![0; READ]);
                let all = streams.into_iter().map(|stream| subscriber(stream, common, &buffer));
                try_join_all(all).await.map(Event::Received)
            })
        });
    }
    count
}

/// Publishes on all connections: `messages` in all, until a time, or what comes first. Returns as
/// [`receive`] does.
pub(super) fn publish(streams: Vec<Blocking>, messages: Option<u64>, until: Option<Instant>, common: &Common) -> usize {
    let parts = split(streams);
    let count = parts.len();
    for (first, streams) in parts {
        common.spawn(move |common| {
            // One for all: it stays in the processor's cache.
            let batch = RefCell::new(Batch::new(&common.layout, room(common.publishers)));
            let all = (first..).zip(streams).map(|(id, stream)| {
                let share = messages.map(|all| share(all, common.publishers, id));
                publisher(stream, id, share, until, common, &batch)
            });
            in_runtime(async { try_join_all(all).await.map(|sent| Event::Published(first, sent)) })
        });
    }
    count
}

/// Waits for so many results, which `take` gets.
pub(super) fn collect(
    events: &mpsc::Receiver<Event>,
    progress: &Progress,
    mut count: usize,
    mut take: impl FnMut(Event),
) -> Result<(), Failure> {
    while count > 0 {
        progress.show();
        match events.recv_timeout(TICK) {
            Ok(Event::Failed(failure)) => return Err(failure),
            Ok(Event::Subscribed) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(event) => {
                take(event);
                count -= 1;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Failure::new("a thread of bench has ended")),
        }
    }
    Ok(())
}

/// Of all messages, those of one publisher.
fn share(all: u64, publishers: u32, id: u32) -> u64 {
    let publishers = u64::from(publishers);
    all / publishers + u64::from(u64::from(id) < all % publishers)
}

/// Bytes that each of so many publishers writes at once.
fn room(publishers: u32) -> usize {
    (ALL_WRITES / publishers as usize).clamp(LEAST_WRITE, WRITE)
}

/// For each thread its connections, and the number of the first. Half of the processors: the broker
/// needs some too.
fn split(mut streams: Vec<Blocking>) -> Vec<(u32, Vec<Blocking>)> {
    let threads = (thread::available_parallelism().map_or(1, NonZero::get) / 2).max(1);
    let size = streams.len().div_ceil(threads).max(1);
    let mut parts = Vec::new();
    let mut first = 0;
    while !streams.is_empty() {
        let rest = streams.split_off(size.min(streams.len()));
        let part = std::mem::replace(&mut streams, rest);
        let next = first + u32::try_from(part.len()).unwrap_or(u32::MAX);
        parts.push((first, part));
        first = next;
    }
    parts
}

fn in_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(|cause| Failure::new(format!("cannot start: {cause}")))?.block_on(work)
}

fn nonblocking(stream: Blocking) -> Result<TcpStream, Failure> {
    stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).map_err(|cause| failed(&cause))
}

/// Ends early, with what there is, when nothing arrives any more.
async fn subscriber(stream: Blocking, common: &Common, buffer: &RefCell<Vec<u8>>) -> Result<Checker, Failure> {
    let stream = nonblocking(stream)?;
    let mut checker = common.checker();
    let mut reads = 0;
    while !checker.is_complete() {
        let read = stream.try_read(&mut buffer.borrow_mut());
        match read {
            Ok(0) => return Err(Failure::new("the broker closed the connection of a subscriber")),
            Ok(length) => common.check(&mut checker, &buffer.borrow()[..length], |_| {})?,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                if timeout(common.patience, stream.readable()).await.is_err() {
                    break;
                }
            }
            Err(cause) => return Err(failed(&cause)),
        }
        reads += 1;
        if reads % TURN == 0 {
            yield_now().await;
        }
    }
    Ok(checker)
}

/// Returns how many messages it has sent.
async fn publisher(
    stream: Blocking,
    id: u32,
    share: Option<u64>,
    until: Option<Instant>,
    common: &Common,
    batch: &RefCell<Batch>,
) -> Result<u64, Failure> {
    let room = room(common.publishers);
    if room < WRITE {
        SockRef::from(&stream).set_send_buffer_size(room).map_err(|cause| failed(&cause))?;
    }
    let mut stream = nonblocking(stream)?;
    match publish_all(&mut stream, id, share, until, common, batch).await {
        Ok(sent) => Ok(sent),
        Err(cause) => Err(match stream.into_std() {
            Ok(stream) => why(&stream, &cause),
            Err(_) => failed(&cause),
        }),
    }
}

async fn publish_all(
    stream: &mut TcpStream,
    id: u32,
    share: Option<u64>,
    until: Option<Instant>,
    common: &Common,
    batch: &RefCell<Batch>,
) -> io::Result<u64> {
    let frame = common.layout.len();
    // How many messages are written, and how many bytes of the next.
    let (mut sent, mut begun) = (0, 0);
    loop {
        let is_over = until.is_some_and(|until| Instant::now() >= until);
        let left = if is_over { u64::from(begun > 0) } else { share.map_or(u64::MAX, |share| share - sent) };
        if left == 0 {
            break;
        }
        let write = poll_fn(|cx| {
            // Numbers only what there is room for.
            ready!(stream.poll_write_ready(cx))?;
            let mut batch = batch.borrow_mut();
            Pin::new(&mut *stream).poll_write(cx, &batch.numbered(id, sent, left)[begun..])
        });
        // It is this task that gives the others their turns, below; tokio would count all of them
        // as one.
        begun += timeout(common.patience, unconstrained(write)).await??;
        sent += (begun / frame) as u64;
        begun %= frame;
        yield_now().await;
    }
    let end = common.layout.frame(id | END, sent);
    let mut rest = &end[..];
    while !rest.is_empty() {
        let written = timeout(common.patience, stream.write(rest)).await??;
        rest = &rest[written..];
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (all, publishers) in [(10, 3), (2, 5), (7, 1), (1000, 1000)] {
            let shares: Vec<u64> = (0..publishers).map(|id| share(all, publishers, id)).collect();
            assert_eq!(shares.iter().sum::<u64>(), all, "{shares:?}");
            assert!(shares[0] - shares[shares.len() - 1] <= 1, "{shares:?}");
        }
    }
}
