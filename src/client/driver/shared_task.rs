//! The driver's future as a shared task: its own task polls it, and now and then the program does.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// The driver's future. A task of its own polls it; so does the program that has read everything
/// while the driver waits for its turn with more: what the driver then reads is used while it is in
/// the processor's cache, and one connection is read for longer before the next, which wakes up its
/// peer less often.
pub(crate) struct SharedTask {
    runtime: Handle,
    state: Mutex<State>,
}

struct State {
    /// `None` when it has ended. Taken out to be polled, so that a panic ends it.
    driver: Option<BoxFuture<'static, ()>>,
    /// Wakes up the task: whoever polls the driver, the task is what goes on with it.
    task: Option<Waker>,
}

impl SharedTask {
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn start(driver: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        let state = Mutex::new(State { driver: Some(Box::pin(driver)), task: None });
        let shared_task = Arc::new(Self { runtime: Handle::current(), state });
        tokio::spawn(Task(shared_task.clone()));
        shared_task
    }

    /// Calls what needs a runtime in that of the driver: the program may be in none.
    pub(crate) fn inside<T>(&self, call: impl FnOnce() -> T) -> T {
        let _runtime = self.runtime.enter();
        call()
    }

    /// Lets the driver go on here and now, unless it is running on another thread.
    pub(crate) fn poll_inline(&self) {
        let Some(mut state) = self.state.try_lock() else {
            return;
        };
        let Some(task) = state.task.clone() else {
            return;
        };
        // The program may poll the session from anywhere; the driver needs its runtime's timers and
        // sockets.
        let _runtime = self.runtime.enter();
        if state.poll(&mut Context::from_waker(&task)).is_ready() {
            drop(state);
            task.wake();
        }
    }
}

impl State {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut driver) = self.driver.take() else {
            return Poll::Ready(());
        };
        let polled = driver.as_mut().poll(cx);
        if polled.is_pending() {
            self.driver = Some(driver);
        }
        polled
    }
}

impl fmt::Debug for SharedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTask").finish_non_exhaustive()
    }
}

struct Task(Arc<SharedTask>);

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state.lock();
        match &mut state.task {
            Some(task) => task.clone_from(cx.waker()),
            task => *task = Some(cx.waker().clone()),
        }
        state.poll(cx)
    }
}

/// The runtime may end before the session: then the driver ends too, as its sockets do.
impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        let (driver, task) = (state.driver.take(), state.task.take());
        // Ending, it wakes up whoever waits for it.
        drop(state);
        drop((driver, task));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::io;

    use bytes::BytesMut;
    use futures::{FutureExt as _, StreamExt as _, executor::block_on};
    use tokio::{
        io::{AsyncWriteExt as _, DuplexStream, duplex},
        task::spawn_blocking,
    };

    use super::*;
    use crate::{
        BrokerAddr, ClientSession, Connector, Transport,
        client::connection::{READ_BUDGET, transport::MEMORY},
        wire::{Channel, Frame, Ident, Limits, Nonce, encode_publish},
    };

    const MESSAGES: usize = 2000;

    /// The first connection goes here; there is no second.
    struct Pipe(Mutex<Option<DuplexStream>>);

    impl Connector for Pipe {
        fn connect<'a>(&'a self, _addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
            let pipe = self.0.lock().take().map(|pipe| Box::new(pipe) as _);
            Box::pin(async { pipe.ok_or(io::ErrorKind::ConnectionRefused.into()) })
        }
    }

    /// A session whose broker has sent 2 MB before anybody looks.
    async fn session() -> (ClientSession, DuplexStream) {
        let mut bytes = BytesMut::new();
        let info = Frame::Info { name: "peer".into(), nonce: Nonce::new([1, 2, 3, 4]) };
        info.encode(&mut bytes, Limits::default()).unwrap();
        let (ident, channel) = (Ident::new("them").unwrap(), Channel::new("a").unwrap());
        for _ in 0..MESSAGES {
            encode_publish(&mut bytes, Limits::default(), &ident, &channel, &[7; 1000]).unwrap();
        }
        let (ours, mut theirs) = duplex(4 << 20);
        theirs.write_all(&bytes).await.unwrap();
        let builder = ClientSession::builder(("broker.test", 1), "me", "secret");
        let session = builder.connector(Pipe(Mutex::new(Some(ours)))).connect().await.unwrap();
        (session, theirs)
    }

    #[tokio::test]
    async fn the_driver_gives_way_and_the_program_lets_it_go_on() {
        let (mut session, _peer) = session().await;
        // One poll of the driver has passed, or two: it looks for what came with INFO first.
        let bytes = session.shared().inbox.bytes();
        assert!((READ_BUDGET..READ_BUDGET + 2 * MEMORY).contains(&bytes), "{bytes}");
        // No other task runs here.
        let mut messages = 0;
        while session.next().now_or_never().is_some() {
            messages += 1;
        }
        assert_eq!(messages, MESSAGES);
        assert!(!session.shared().gave_way());
    }

    #[tokio::test]
    async fn a_program_outside_of_the_runtime_may_read() {
        let (session, _peer) = session().await;
        let messages = spawn_blocking(|| std::thread::spawn(|| block_on(session.take(MESSAGES).count())).join());
        assert_eq!(messages.await.unwrap().unwrap(), MESSAGES);
    }

    #[tokio::test]
    async fn a_panic_of_the_driver_ends_its_task_also_when_polled_inline() {
        let ended = Arc::new(());
        let witness = ended.clone();
        let mut first = true;
        let shared_task = SharedTask::start(std::future::poll_fn(move |_| {
            assert!(std::mem::take(&mut first) && Arc::strong_count(&witness) > 0, "the second time");
            Poll::Pending
        }));
        tokio::task::yield_now().await;
        let helper = shared_task.clone();
        std::thread::spawn(move || helper.poll_inline()).join().unwrap_err();
        assert_eq!(Arc::strong_count(&ended), 1);
        // Nothing is left to poll.
        shared_task.poll_inline();
    }

    #[test]
    fn the_driver_ends_with_its_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (session, _peer) = runtime.block_on(session());
        drop(runtime);
        assert!(session.shared().outcome().is_some());
        // Received messages can still be read, and then the stream is over.
        assert!((1..=MESSAGES).contains(&block_on(session.count())));
    }
}
