//! Subscribes to two channels and prints what arrives.
//!
//! ```text
//! cargo run --example subscribe
//! cargo run --example subscribe -- HOST:PORT IDENT SECRET
//! ```
//!
//! It publishes the messages that it waits for, so that there is something to see, and ends after
//! them.

mod support;

use std::error::Error;

use futures::StreamExt as _;
use hpfeeds::ClientSession;

const COWRIE: &str = include_str!("data/cowrie.sessions.ndjson");
const GLASTOPF: &str = include_str!("data/glastopf.events.ndjson");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = support::broker().await?;
    let (addr, ident, secret) = broker.access();

    // Subscribing does not wait for the broker: the protocol has no answer to it. The session
    // remembers the channels and asks for them again after every reconnect.
    let mut session = ClientSession::connect(addr, ident, secret).await?;
    session.subscribe("cowrie.sessions")?;
    session.subscribe("glastopf.events")?;

    // When nothing arrives, the events say why: a denied channel, a wrong key, a broker that is
    // away. Log them.
    let mut events = session.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            eprintln!("{event}");
        }
    });

    // A broker forwards a message to all subscribers of its channel, the publisher included. It
    // reads a connection in order, so the subscriptions above are in place when these messages
    // come.
    for (cowrie, glastopf) in COWRIE.lines().zip(GLASTOPF.lines()).take(3) {
        session.publish("cowrie.sessions", cowrie).await?;
        session.publish("glastopf.events", glastopf).await?;
    }

    // The stream goes on across reconnects, until the session is closed.
    let mut received = 0;
    while let Some((ident, channel, payload)) = session.next().await {
        println!("{ident} on {channel}: {} bytes", payload.len());
        received += 1;
        if received == 6 {
            session.close().await?;
        }
    }
    if received < 6 { Err(format!("the session ended after {received} messages").into()) } else { Ok(()) }
}
