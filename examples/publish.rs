//! Publishes events, and makes sure that the broker has read them.
//!
//! ```text
//! cargo run --example publish
//! cargo run --example publish -- HOST:PORT IDENT SECRET
//! ```

mod support;

use std::error::Error;

use hpfeeds::ClientSession;

/// Events as the SSH honeypot Cowrie writes them: one JSON object a line.
const EVENTS: &str = include_str!("data/cowrie.sessions.ndjson");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = support::broker().await?;
    let (addr, ident, secret) = broker.access();

    let mut session = ClientSession::connect(addr, ident, secret).await?;
    println!("connected to {addr} as {ident}");

    // A payload is bytes; their meaning is between the publisher and its subscribers. `publish`
    // puts the message in the session's queue: it is fast, and it does not fail when the broker
    // happens to be away.
    for event in EVENTS.lines() {
        session.publish("cowrie.sessions", event).await?;
    }

    // So the end is the place to ask whether everything arrived: `close` sends what is queued and
    // returns `Ok` when the broker has read all of it and refused nothing. Dropping the session
    // instead would lose the queue.
    session.close().await?;
    println!("the broker has read {} events", EVENTS.lines().count());
    Ok(())
}
