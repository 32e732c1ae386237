//! One session, and a stream for each of several channels: each is read by a task of its own, at its
//! own speed.
//!
//! ```text
//! cargo run --example channels
//! cargo run --example channels -- HOST:PORT IDENT SECRET
//! ```

mod support;

use std::error::Error;

use futures::StreamExt as _;
use hpfeeds::{ClientSession, WhenFull};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = support::broker().await?;
    let (addr, ident, secret) = broker.access();
    let session = ClientSession::connect(addr, ident, secret).await?;

    // Nothing of this stream is ever lost: while its queue is full, all of the session wait.
    let logins = session.channel("cowrie.sessions")?;
    // Of this one, the newest matter: what is not read in time makes room for them, and is counted.
    let beats = session.channel("sensor.heartbeat")?.queue(1 << 20).when_full(WhenFull::DropOldest);

    let logins = tokio::spawn(logins.take(3).for_each(async |(ident, channel, payload)| {
        println!("{ident} on {channel}: {} bytes", payload.len());
    }));
    let beats = tokio::spawn(async move {
        let mut beats = beats;
        while let Some((ident, _, payload)) = beats.next().await {
            println!("{ident} is alive: {} (missed: {})", payload.escape_ascii(), beats.missed());
        }
    });

    for (number, event) in (1..).zip(include_str!("data/cowrie.sessions.ndjson").lines().take(3)) {
        session.publish("cowrie.sessions", event).await?;
        session.publish("sensor.heartbeat", format!("{number}")).await?;
    }
    // The first stream ends with its third message, and with it its subscription. A handle closes the
    // session from wherever it is; then the second stream ends as well.
    logins.await?;
    session.handle().close().await?;
    beats.await?;
    Ok(())
}
