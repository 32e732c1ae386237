//! Merges several sessions into one stream that says which of them a message came from.
//!
//! ```text
//! cargo run --example merge_channels
//! cargo run --example merge_channels -- HOST:PORT IDENT SECRET
//! ```

mod support;

use std::{collections::BTreeMap, error::Error};

use futures::StreamExt as _;
use hpfeeds::ClientSession;
use tokio_stream::StreamMap;

/// How many events this example publishes on each channel.
const EVENTS: usize = 4;

/// The feeds to merge: a name of our own, the channel, and events for it.
const FEEDS: [(&str, &str, &str); 3] = [
    ("logins", "cowrie.sessions", include_str!("data/cowrie.sessions.ndjson")),
    ("malware", "dionaea.capture", include_str!("data/dionaea.capture.ndjson")),
    ("web", "glastopf.events", include_str!("data/glastopf.events.ndjson")),
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = support::broker().await?;
    let (addr, ident, secret) = broker.access();

    // One session a feed: each could as well be with another broker. A single session may subscribe
    // to many channels; several keep a flood on one from delaying the others.
    let mut feeds = StreamMap::new();
    for (name, channel, events) in FEEDS {
        let session = ClientSession::connect(addr, ident, secret).await?;
        session.subscribe(channel)?;
        for event in events.lines().take(EVENTS) {
            session.publish(channel, event).await?;
        }
        // A session is a stream, so it can be shortened like one: this feed ends after the last of
        // its events.
        feeds.insert(name, session.take(EVENTS));
    }

    // The map polls its streams in turn, hands out what is there together with the key, and drops a
    // stream that has ended. `feeds.remove(name)` would drop one earlier.
    let mut received = BTreeMap::<&str, usize>::new();
    while let Some((name, (_ident, channel, payload))) = feeds.next().await {
        println!("{name:8} {channel:16} {:5} bytes", payload.len());
        *received.entry(name).or_default() += 1;
    }

    println!("all feeds have ended: {received:?}");
    if received.into_values().eq([EVENTS; 3]) { Ok(()) } else { Err("some events did not arrive".into()) }
}
