//! The link of a publisher: listens to the events of its session, tells them on stderr while the
//! connection is kept going, and knows which channels the broker denies.

use std::{collections::BTreeSet, time::Duration};

use futures::StreamExt as _;
use hpfeeds::{Channel, Error, Events, SessionEvent};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    escape::Escaped,
    exit::{Failure, messages, notice},
};

/// How long a spool that cannot be used has to say so.
const OPENING: Duration = Duration::from_secs(1);

/// Denied channels that are remembered. More come from a broker that makes them up, or from lines
/// that name more than anybody uses.
const REMEMBERED: usize = 1000;

/// A task that listens to events until this is dropped.
pub(crate) struct Link {
    task: JoinHandle<()>,
    denied: watch::Receiver<Denied>,
    drained: watch::Receiver<bool>,
    full: watch::Receiver<bool>,
}

/// The channels that the broker does not let this key publish to.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    channels: BTreeSet<Channel>,
    cause: Option<Error>,
}

impl Link {
    /// Listens to the events of a session that is connected, and tells none: the end of the session
    /// says it all.
    pub(crate) fn listen(events: Events) -> Self {
        Self::start(events, Listener::new(false))
    }

    /// Tells events of a session with a spool, from the moment on that the spool is known to be
    /// usable; one that is not is an error, before any input is read.
    pub(crate) async fn tell_when_usable(mut events: Events) -> Result<Self, Failure> {
        let mut listener = Listener::new(true);
        let mut heard = Vec::new();
        let first = async {
            loop {
                match events.next().await {
                    Some(SessionEvent::Closed { cause: Some(cause) }) => return Err(cause.into()),
                    // The end follows, if it is one.
                    Some(event @ SessionEvent::SpoolFailing { .. }) => heard.push(event),
                    Some(event) => {
                        heard.push(event);
                        return Ok(());
                    }
                    None => return Err(Failure::new("the session ended")),
                }
            }
        };
        // Where nothing is heard, the spool is empty, and the broker does not answer.
        if let Ok(ended) = timeout(OPENING, first).await {
            ended?;
        }
        for event in &heard {
            listener.hear(event);
        }
        Ok(Self::start(events, listener))
    }

    /// Waits for the first connection, however long that takes, and tells events; a key that the
    /// broker does not accept then is an error, and later may be the fault of a broker that is being
    /// stopped.
    pub(crate) async fn tell_when_connected(mut events: Events) -> Result<Self, Failure> {
        let mut listener = Listener::new(true);
        loop {
            match events.next().await {
                Some(SessionEvent::AuthRejected { cause } | SessionEvent::Closed { cause: Some(cause) }) => {
                    return Err(cause.into());
                }
                Some(event) => {
                    listener.hear(&event);
                    if let SessionEvent::Connected { .. } = event {
                        return Ok(Self::start(events, listener));
                    }
                }
                None => return Err(Failure::new("the session ended")),
            }
        }
    }

    fn start(mut events: Events, mut listener: Listener) -> Self {
        let (denied, drained) = (listener.denied.subscribe(), listener.drained.subscribe());
        let full = listener.full.subscribe();
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                listener.hear(&event);
            }
        });
        Self { task, denied, drained, full }
    }

    /// Why there is nothing to go on for, if so: each of these channels is denied, or any one when
    /// there are none.
    pub(crate) fn denial(&self, channels: &[Channel]) -> Option<Error> {
        self.denied.borrow().covers(channels)
    }

    /// Waits until there is nothing to go on for. Cancel safe.
    pub(crate) async fn denied(&mut self, channels: &[Channel]) -> Error {
        if let Ok(denied) = self.denied.wait_for(|denied| denied.covers(channels).is_some()).await
            && let Some(cause) = denied.covers(channels)
        {
            return cause;
        }
        // The session is over, whose end says more.
        std::future::pending().await
    }

    /// Whether the spool has been full.
    pub(crate) fn is_full(&self) -> bool {
        *self.full.borrow()
    }

    /// Waits until the spool is full. Cancel safe.
    pub(crate) async fn full(&mut self) {
        if self.full.wait_for(|full| *full).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until everything that was on disk is confirmed. Cancel safe.
    pub(crate) async fn drained(&mut self) {
        if self.drained.wait_for(|drained| *drained).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Denied {
    fn covers(&self, channels: &[Channel]) -> Option<Error> {
        let all = channels.iter().all(|channel| self.channels.contains(channel));
        self.cause.clone().filter(|_| all)
    }

    fn add(&mut self, channel: Option<&Channel>, cause: &Error) {
        self.cause.get_or_insert_with(|| cause.clone());
        if let Some(channel) = channel
            && self.channels.len() < REMEMBERED
        {
            self.channels.insert(channel.clone());
        }
    }
}

struct Listener {
    tells: bool,
    /// The notice that was said last: an outage is told once, not at every attempt.
    said: String,
    denied: watch::Sender<Denied>,
    drained: watch::Sender<bool>,
    full: watch::Sender<bool>,
}

impl Listener {
    fn new(tells: bool) -> Self {
        let (denied, drained, full) = (watch::Sender::default(), watch::Sender::default(), watch::Sender::default());
        Self { tells, said: String::new(), denied, drained, full }
    }

    fn hear(&mut self, event: &SessionEvent) {
        if let SessionEvent::Refused { channel, cause, .. } | SessionEvent::PublishDenied { channel, cause, .. } = event
            && cause.is_denied()
        {
            self.denied.send_modify(|denied| denied.add(channel.as_ref(), cause));
        }
        match event {
            SessionEvent::Drained { .. } => drop(self.drained.send_replace(true)),
            SessionEvent::Spooling { .. } => drop(self.drained.send_replace(false)),
            SessionEvent::SpoolFull { .. } => drop(self.full.send_replace(true)),
            _ => {}
        }
        if self.tells {
            self.tell(event);
        }
    }

    fn tell(&mut self, event: &SessionEvent) {
        match event {
            SessionEvent::Connected { broker } => {
                self.said.clear();
                notice(format_args!("connected to {}", Escaped(broker.as_bytes())));
            }
            SessionEvent::AuthRejected { cause } | SessionEvent::Disconnected { cause, unconfirmed: 0 } => {
                self.say(format!("{cause}; connecting again"));
            }
            SessionEvent::Disconnected { cause, unconfirmed } => {
                self.say(format!("{cause}; {} may be lost; connecting again", messages(*unconfirmed)));
            }
            SessionEvent::Refused { cause, .. } | SessionEvent::PublishDenied { cause, .. } => {
                self.say(cause.to_string());
            }
            SessionEvent::Spooling { messages: n, oldest } => {
                let oldest = oldest.filter(|oldest| *oldest >= Duration::from_secs(1));
                let oldest = oldest.map(|oldest| format!(", the oldest for {oldest:.0?}")).unwrap_or_default();
                self.say(format!("spooling: {} on disk{oldest}", messages(*n)));
            }
            // The end of the session is told by its closing.
            SessionEvent::Closed { .. } => {}
            event => self.say(event.to_string()),
        }
    }

    /// Says something, but not twice in a row.
    fn say(&mut self, text: String) {
        if self.said != text {
            notice(Escaped(text.as_bytes()));
            self.said = text;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn denied_channels_are_an_end_when_they_are_all_that_there_are() {
        let channel = |name: &str| Channel::new(name).unwrap();
        let cause = Channel::new("").map_err(Error::from).unwrap_err();
        let (one, both) = ([channel("a")], [channel("a"), channel("b")]);
        let mut denied = Denied::default();
        assert!(denied.covers(&[]).is_none() && denied.covers(&one).is_none());
        denied.add(Some(&one[0]), &cause);
        assert!(denied.covers(&[]).is_some() && denied.covers(&one).is_some() && denied.covers(&both).is_none());
        denied.add(Some(&both[1]), &cause);
        assert!(denied.covers(&both).is_some());
        for n in 0..2 * REMEMBERED {
            denied.add(Some(&channel(&n.to_string())), &cause);
        }
        assert_eq!(denied.channels.len(), REMEMBERED);
    }
}
