//! Publishes what an asynchronous generator yields.
//!
//! ```text
//! cargo run --example async_stream
//! cargo run --example async_stream -- HOST:PORT IDENT SECRET
//! ```

mod support;

use std::{error::Error, time::Duration};

use async_stream::stream;
use futures::{Stream, StreamExt as _};
use hpfeeds::ClientSession;
use serde_json::json;
use tokio::time::{Instant, interval};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = support::broker().await?;
    let (addr, ident, secret) = broker.access();

    let mut session = ClientSession::connect(addr, ident, secret).await?;
    session.subscribe("sensor.heartbeat")?;

    // Publishes until the stream ends. When the send queue is full it waits for room, and the
    // generator waits with it.
    session.publish_stream("sensor.heartbeat", heartbeats().take(5)).await?;

    // Our own messages come back, because we subscribed to the channel.
    for expected in 1..=5 {
        let (_, _, payload) = session.read().await.ok_or("the session ended early")?;
        let heartbeat: serde_json::Value = serde_json::from_slice(&payload)?;
        println!("{heartbeat}");
        if heartbeat["number"] != expected {
            return Err(format!("expected heartbeat {expected}").into());
        }
    }
    session.close().await?;
    Ok(())
}

/// A stream of heartbeats of this sensor, ten a second, without an end. Inside of `stream!`,
/// `.await` works as anywhere else, and `yield` hands out an item.
fn heartbeats() -> impl Stream<Item = String> {
    stream! {
        let started = Instant::now();
        let mut ticks = interval(Duration::from_millis(100));
        for number in 1_u64.. {
            ticks.tick().await;
            yield json!({ "number": number, "uptime": started.elapsed().as_secs_f32() }).to_string();
        }
    }
}
