//! The tail: messages as the broker streams a part of them, the last ones kept.

use std::{collections::VecDeque, time::Duration};

use http_body_util::BodyExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    fault::Fault,
    http::Client,
    model::{TailEvent, TailMessage},
    query::tail_path,
    sse::{Event, Parser},
};

/// Without a byte for so long the stream is broken: the broker writes one each 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The delay before a stream that broke is opened again.
const DELAY: Duration = Duration::from_secs(2);

/// The events in a second, and the time without one after which nothing comes.
const EVENTS: usize = 2;
const QUIET: Duration = Duration::from_secs(2);

/// The messages that are kept.
const KEPT: usize = 500;

/// The bytes of a payload or a name that are kept.
const LONGEST: usize = 4096;

/// News of the stream.
#[derive(Debug)]
pub(super) enum TailUpdate {
    Messages(TailEvent),
    /// It is open, and nothing has come yet.
    Open,
    /// It is not open, for this reason.
    Closed(Fault),
}

/// The last messages.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) messages: VecDeque<TailMessage>,
    /// All that have come since the pane was opened first: the number of the next one.
    pub(super) taken: usize,
    /// Messages a second that pass the filter, how many of them the last event had, and its time.
    rate: f64,
    shown: usize,
    heard: Option<Instant>,
    /// Why the stream is not open.
    pub(super) fault: Option<String>,
    pub(super) is_open: bool,
}

impl Tail {
    pub(super) fn update(&mut self, update: TailUpdate) {
        match update {
            TailUpdate::Open => (self.is_open, self.fault) = (true, None),
            TailUpdate::Closed(fault) => (self.is_open, self.fault, self.rate) = (false, Some(fault.text), 0.0),
            TailUpdate::Messages(event) => {
                (self.is_open, self.fault) = (true, None);
                (self.rate, self.shown) = (event.rate, event.messages.len());
                self.heard = Some(Instant::now());
                for mut message in event.messages.into_iter().take(KEPT) {
                    for text in [&mut message.payload, &mut message.ident, &mut message.channel] {
                        shorten(text);
                    }
                    if self.messages.len() == KEPT {
                        self.messages.pop_front();
                    }
                    self.messages.push_back(message);
                    self.taken += 1;
                }
            }
        }
    }

    /// How many messages a second are shown, and how many pass the filter. The broker says nothing when
    /// there are none.
    pub(super) fn rates(&self, now: Instant) -> (usize, f64) {
        let is_new = self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < QUIET);
        if is_new { (self.shown * EVENTS, self.rate) } else { (0, 0.0) }
    }

    /// The number of the oldest message that is kept.
    pub(super) fn first(&self) -> usize {
        self.taken - self.messages.len()
    }
}

/// Lets go of what is never shown.
fn shorten(text: &mut String) {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.shrink_to_fit();
    }
}

/// Streams messages until nobody listens.
pub(super) async fn run(mut client: Client, filter: String, updates: mpsc::Sender<TailUpdate>) {
    let path = tail_path(&filter);
    loop {
        let Err(fault) = follow(&mut client, &path, &updates).await else { return };
        if updates.send(TailUpdate::Closed(fault)).await.is_err() {
            return;
        }
        sleep(DELAY).await;
    }
}

/// Streams messages until the stream breaks, which is the error, or nobody listens.
async fn follow(client: &mut Client, path: &str, updates: &mpsc::Sender<TailUpdate>) -> Result<(), Fault> {
    let mut stream = client.stream(path).await?;
    if updates.send(TailUpdate::Open).await.is_err() {
        return Ok(());
    }
    let mut parser = Parser::default();
    loop {
        let frame = match timeout(SILENCE, stream.body.frame()).await {
            Err(_elapsed) => return Err(Fault::new("the stream of messages went silent")),
            Ok(None) => return Err(Fault::new("the broker ended the stream of messages")),
            Ok(Some(Err(cause))) => return Err(Fault::http(&client.address, &cause)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Some(bytes) = frame.data_ref() else { continue };
        let mut events = Vec::new();
        parser.take(bytes, |event| events.push(event)).map_err(Fault::new)?;
        for Event { kind, data } in events {
            match kind.as_str() {
                "tail" => {
                    let event = serde_json::from_str(&data)
                        .map_err(|cause| Fault::new(format!("an event of the stream is not as expected: {cause}")))?;
                    if updates.send(TailUpdate::Messages(event)).await.is_err() {
                        return Ok(());
                    }
                }
                "gone" => return Err(Fault::new("the broker is stopping")),
                // The snapshot and its changes, which are polled for; and what a newer broker adds.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_messages_are_kept_and_not_more_of_them_than_is_shown() {
        let mut tail = Tail::default();
        let message =
            |n: usize| TailMessage { ident: n.to_string(), payload: "é".repeat(10_000), ..TailMessage::default() };
        for n in 0..30 {
            let messages = (0..50).map(|at| message(n * 50 + at)).collect();
            tail.update(TailUpdate::Messages(TailEvent { rate: 3412.0, messages, ..TailEvent::default() }));
        }
        assert_eq!((tail.messages.len(), tail.taken, tail.first()), (KEPT, 1500, 1000));
        assert_eq!(tail.rates(Instant::now()), (100, 3412.0));
        assert_eq!(tail.rates(Instant::now() + QUIET), (0, 0.0));
        assert_eq!((&*tail.messages[0].ident, tail.messages[0].payload.len()), ("1000", LONGEST));
        tail.update(TailUpdate::Closed(Fault::new("gone")));
        assert_eq!((tail.is_open, tail.fault.as_deref(), tail.messages.len()), (false, Some("gone"), KEPT));
        tail.update(TailUpdate::Open);
        assert_eq!((tail.is_open, tail.fault), (true, None));
    }
}
