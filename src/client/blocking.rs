//! The session for programs without asynchronous code: a session beside the thread of its runtime.

use std::{fmt, io, thread, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{runtime, sync::oneshot};

use super::{
    connect::addr::BrokerAddr,
    error::{Cause, Error, Told},
    event::SessionState,
    options::SessionBuilder,
    publisher::TryPublishError,
    receipt::{Flushed, Receipt, SessionStats},
    session::{self, Message},
};
use crate::wire::Secret;

/// A connection to a broker that repairs itself, for programs without asynchronous code.
///
/// It is a [`hpfeeds::ClientSession`](crate::ClientSession) whose connection is served by one thread
/// of its own, which ends with it. Calls block until they are done, where their asynchronous namesakes
/// are awaited. It can be shared among threads, which publish through a reference.
///
/// # Panics
/// Every call that waits panics inside of an asynchronous runtime: use
/// [`hpfeeds::ClientSession`](crate::ClientSession) there.
///
/// ```
/// # fn main() -> Result<(), hpfeeds::Error> {
/// # let runtime = tokio::runtime::Runtime::new().expect("a runtime");
/// # let broker = runtime.block_on(hpfeeds_broker::Broker::dev()).expect("a broker");
/// use std::time::Duration;
/// use hpfeeds::blocking::ClientSession;
///
/// let mut session = ClientSession::connect(broker.local_addr(), "dev", "dev")?;
/// session.subscribe("cowrie.sessions")?;
/// session.publish("cowrie.sessions", "to whom it may concern")?;
/// let (ident, channel, payload) = session.next(Duration::from_secs(60))?;
/// println!("{ident} on {channel}: {} bytes", payload.len());
/// session.close()?;
/// # Ok(()) }
/// ```
pub struct ClientSession {
    /// Ends before its runtime does.
    session: session::ClientSession,
    runtime: Runtime,
}

impl ClientSession {
    /// See [`ClientSession::connect`](crate::ClientSession::connect).
    pub fn connect<A>(addr: A, ident: impl AsRef<str>, secret: impl Into<Secret>) -> Result<Self, Error>
    where
        A: TryInto<BrokerAddr, Error: Into<Error>>,
    {
        Self::open(session::ClientSession::builder(addr, ident, secret))
    }

    /// Connects with the options of a builder, or says why the first attempt failed. See
    /// [`SessionBuilder::connect`].
    pub fn open(builder: SessionBuilder) -> Result<Self, Error> {
        let runtime = Runtime::start()?;
        Ok(Self { session: runtime.wait(builder.connect())?, runtime })
    }

    /// Returns at once and connects in the background. See [`SessionBuilder::start`].
    pub fn start(builder: SessionBuilder) -> Result<Self, Error> {
        let runtime = Runtime::start()?;
        Ok(Self { session: runtime.wait(async { builder.start() })?, runtime })
    }

    /// See [`ClientSession::subscribe`](crate::ClientSession::subscribe). Does not wait.
    pub fn subscribe(&self, channel: impl AsRef<str>) -> Result<(), Error> {
        self.session.subscribe(channel)
    }

    /// See [`ClientSession::subscribe_confirmed`](crate::ClientSession::subscribe_confirmed).
    pub fn subscribe_confirmed(&self, channel: impl AsRef<str>) -> Result<(), Error> {
        self.runtime.wait(self.session.subscribe_confirmed(channel))
    }

    /// See [`ClientSession::unsubscribe`](crate::ClientSession::unsubscribe). Does not wait.
    pub fn unsubscribe(&self, channel: impl AsRef<str>) -> Result<(), Error> {
        self.session.unsubscribe(channel)
    }

    /// Queues a message, and waits for room in the queue. See
    /// [`Publisher::publish`](crate::Publisher::publish).
    pub fn publish(&self, channel: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<(), Error> {
        self.runtime.wait(self.session.publish(channel, payload))
    }

    /// Queues a message if there is room for it right now. Does not wait.
    pub fn try_publish(&self, channel: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<(), TryPublishError> {
        self.session.try_publish(channel, payload)
    }

    /// Queues a message, and waits until the broker has confirmed it. See
    /// [`Publisher::publish_confirmed`](crate::Publisher::publish_confirmed).
    pub fn publish_confirmed(&self, channel: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<Receipt, Error> {
        self.runtime.wait(self.session.publish_confirmed(channel, payload))
    }

    /// See [`Publisher::flush`](crate::Publisher::flush).
    pub fn flush(&self) -> Result<Flushed, Error> {
        self.runtime.wait(self.session.flush())
    }

    /// The next message. Fails with an error that [is a timeout](Error::is_timeout) when none has come
    /// within `limit`, and nothing is lost then; and with why the session ended, or that it
    /// [is closed](Error::is_closed), when there is none any more.
    pub fn next(&mut self, limit: Duration) -> Result<Message, Error> {
        self.wait_for(|_| true, limit)
    }

    /// The next message that satisfies `wanted`; those before it are let go. See
    /// [`ClientSession::wait_for`](crate::ClientSession::wait_for).
    pub fn wait_for(&mut self, wanted: impl FnMut(&Message) -> bool, limit: Duration) -> Result<Message, Error> {
        self.runtime.wait(self.session.wait_for(wanted, limit))
    }

    /// The messages, one after the other, for as long as the session lives: waits for each without a
    /// limit.
    pub fn messages(&mut self) -> Messages<'_> {
        Messages(self)
    }

    /// The figures of the session at this moment. Does not wait.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.session.stats()
    }

    /// The state of the session at this moment. Does not wait.
    #[must_use]
    pub fn state(&self) -> SessionState {
        *self.session.state().borrow()
    }

    /// Sends what is queued, closes, and waits until the broker has confirmed it all. See
    /// [`ClientSession::close`](crate::ClientSession::close). What was received can still be read.
    pub fn close(&mut self) -> Result<(), Error> {
        self.runtime.wait(self.session.close())
    }
}

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)
    }
}

/// The messages of a session. Made by [`ClientSession::messages`].
#[derive(Debug)]
pub struct Messages<'a>(&'a mut ClientSession);

impl Iterator for Messages<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.0.runtime.wait(self.0.session.next())
    }
}

/// The thread that serves a session, until this is dropped.
struct Runtime {
    handle: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Runtime {
    fn start() -> Result<Self, Error> {
        let failed = |cause: io::Error| {
            let text = format!("no thread can be made for the session: {cause}");
            Error::new(Cause::Told { kind: Told::Thread, text })
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            // The sender is dropped, or used: both are the end.
            drop(runtime.block_on(stopped));
        };
        let thread = thread::Builder::new().name("hpfeeds".to_owned()).spawn(serve).map_err(failed)?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs a future on this thread; sockets and timers are served by the other.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: a panic there has ended the session.
            drop(thread.join());
        }
    }
}
