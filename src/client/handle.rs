//! The handle of a session: what other tasks do with it while one task reads.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout},
};

use super::{
    config::FOREVER,
    connect::addr::BrokerAddr,
    driver::{desired::Shared, shared_task::SharedTask, wanted::Intent},
    error::{Cause, Error},
    event::{Events, SessionState},
    mailbox::SubscribeFrom,
    publisher::{self, Publisher},
    receipt::SessionStats,
};
use crate::wire::{Channel, Ident};

/// A handle of a session: clone it and hand it to tasks that steer the session while another one
/// reads it. Made by [`ClientSession::handle`](crate::ClientSession::handle).
///
/// It does not keep the session alive: when the session has been closed or dropped, calls fail with
/// an error that [`is_closed`](Error::is_closed).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = hpfeeds_broker::Broker::dev().await?;
/// use futures::StreamExt as _;
/// use hpfeeds::ClientSession;
///
/// let mut session = ClientSession::connect(broker.local_addr(), "dev", "dev").await?;
/// let handle = session.handle();
/// let reader = tokio::spawn(async move {
///     while let Some((ident, channel, payload)) = session.next().await {
///         println!("{ident} on {channel}: {} bytes", payload.len());
///     }
/// });
/// handle.subscribe("cowrie.sessions")?;
/// handle.publisher().publish("cowrie.sessions", "{}").await?;
/// handle.close().await?;
/// reader.await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SessionHandle {
    pub(super) shared: Arc<Shared>,
    task: Arc<SharedTask>,
}

impl SessionHandle {
    pub(super) fn new(shared: Arc<Shared>, task: Arc<SharedTask>) -> Self {
        Self { shared, task }
    }

    /// See [`ClientSession::subscribe`](crate::ClientSession::subscribe).
    pub fn subscribe(&self, channel: impl AsRef<str>) -> Result<(), Error> {
        want(&self.shared, channel.as_ref(), true)
    }

    /// See [`ClientSession::subscribe_confirmed`](crate::ClientSession::subscribe_confirmed).
    pub fn subscribe_confirmed<C: AsRef<str>>(&self, channel: C) -> impl Future<Output = Result<(), Error>> + use<C> {
        let granted = publisher::parse(channel.as_ref()).and_then(|channel| await_answer(&self.shared, channel, None));
        async move { granted?.await.unwrap_or_else(|_ended| Err(Error::closed())) }
    }

    /// See [`ClientSession::unsubscribe`](crate::ClientSession::unsubscribe).
    pub fn unsubscribe(&self, channel: impl AsRef<str>) -> Result<(), Error> {
        want(&self.shared, channel.as_ref(), false)
    }

    /// The sending half of the session.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::new(Arc::clone(&self.shared))
    }

    /// Closes the session as [`ClientSession::close`](crate::ClientSession::close) does, for the task
    /// that reads as well: its stream ends behind what was received.
    ///
    /// Cancel safe: the session goes on closing, and another call, here or there, waits for the same
    /// outcome.
    pub async fn close(&self) -> Result<(), Error> {
        self.close_within(self.shared.config.close_timeout).await
    }

    /// As [`close`](Self::close), with another limit than
    /// [`close_timeout`](crate::SessionBuilder::close_timeout). The first call decides about the limit.
    pub async fn close_within(&self, limit: Duration) -> Result<(), Error> {
        close_within(&self.shared, &self.task, limit).await
    }

    /// The current state of the session; always current, and can be waited on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.shared.state.subscribe()
    }

    /// The events of the session from now on, as a stream that ends with it.
    #[must_use]
    pub fn events(&self) -> Events {
        events(&self.shared)
    }

    /// The figures of the session at this moment, as of the driver's last turn.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.shared.stats()
    }

    /// The ident of the session.
    #[must_use]
    pub fn ident(&self) -> &Ident {
        &self.shared.config.ident
    }

    /// The broker that it connects to.
    #[must_use]
    pub fn addr(&self) -> &BrokerAddr {
        &self.shared.config.addr
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle")
            .field("addr", &self.shared.config.addr)
            .field("ident", &self.shared.config.ident)
            .field("state", &*self.shared.state.borrow())
            .finish_non_exhaustive()
    }
}

/// The broker's answer about a channel, when it comes.
pub(super) type Granted = oneshot::Receiver<Result<(), Error>>;

/// Wants a channel, or no longer.
pub(super) fn want(shared: &Shared, channel: &str, wanted: bool) -> Result<(), Error> {
    let channel = publisher::parse(channel)?;
    if shared.outcome().is_some() {
        return Err(shared.outbox.closed());
    }
    shared.want(channel, wanted);
    Ok(())
}

/// Wants a channel; the broker's answer comes later.
pub(super) fn await_answer(shared: &Shared, channel: Channel, from: Option<SubscribeFrom>) -> Result<Granted, Error> {
    if shared.outcome().is_some() {
        return Err(shared.outbox.closed());
    }
    if let Some(from) = from {
        shared.want_from(channel.clone(), from);
    } else {
        shared.want(channel.clone(), true);
    }
    let granted = shared.await_grant(channel);
    shared.driver.wake();
    // It may have ended before it could hear of this.
    if shared.outcome().is_some() {
        return Err(shared.outbox.closed());
    }
    Ok(granted)
}

/// The events from now on.
pub(super) fn events(shared: &Shared) -> Events {
    let events = Events::new(shared.events.subscribe());
    if shared.outcome().is_some() { events.ended() } else { events }
}

/// Asks the driver to close the session, unless it was asked before, and waits for the outcome.
pub(super) async fn close_within(shared: &Shared, task: &SharedTask, limit: Duration) -> Result<(), Error> {
    let limit = limit.min(FOREVER);
    if shared.intent() == Intent::Run {
        let deadline = task.inside(Instant::now) + limit;
        shared.ask(Intent::Close(deadline));
    }
    let mut state = shared.state.subscribe();
    // The driver keeps the deadline; this second one holds even if its runtime stands still.
    let closed = state.wait_for(|state| *state == SessionState::Closed);
    let closed = task.inside(|| timeout(limit + shared.config.ending(), closed));
    drop(closed.await);
    shared.outcome().unwrap_or_else(|| {
        let (messages, bytes) = shared.outbox.unsent();
        Err(Error::new(Cause::Unsent { messages, bytes, why: None }))
    })
}
