//! The link of a publisher that keeps going: tells the events of its session on stderr, and counts
//! what the broker has refused.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use futures::StreamExt as _;
use hpfeeds::{Events, SessionEvent};
use tokio::task::JoinHandle;

use crate::{
    escape::Escaped,
    exit::{Failure, messages, notice},
};

/// A task that tells events until it is dropped.
pub(crate) struct Link {
    task: JoinHandle<()>,
    discarded: Arc<AtomicU64>,
}

impl Link {
    /// Waits for the first connection, however long that takes; a key that the broker does not
    /// accept then is an error, and later may be the fault of a broker that is being stopped.
    pub(crate) async fn watch(mut events: Events) -> Result<Self, Failure> {
        let discarded = Arc::<AtomicU64>::default();
        let mut teller = Teller { said: String::new(), discarded: discarded.clone() };
        loop {
            match events.next().await {
                Some(SessionEvent::AuthRejected { cause } | SessionEvent::Closed { cause: Some(cause) }) => {
                    return Err(cause.into());
                }
                Some(event @ SessionEvent::Connected { .. }) => {
                    teller.tell(&event);
                    break;
                }
                Some(event) => teller.tell(&event),
                None => return Err(Failure::new("the session ended")),
            }
        }
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                teller.tell(&event);
            }
        });
        Ok(Self { task, discarded })
    }

    /// How many queued messages were discarded, as the broker denies their channels.
    pub(crate) fn discarded(&self) -> u64 {
        self.discarded.load(Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Teller {
    /// The notice that was said last: an outage is told once, not at every attempt.
    said: String,
    discarded: Arc<AtomicU64>,
}

impl Teller {
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
            SessionEvent::PublishDenied { cause, discarded, .. } => {
                self.discarded.fetch_add(*discarded, Relaxed);
                self.say(cause.to_string());
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
