//! Handlers: one asynchronous function per channel, a wait for a particular message, and a filter on
//! senders.
//!
//! ```text
//! cargo run --example handlers
//! ```
//!
//! It starts the broker itself, with the keys of a few sensors.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use hpfeeds::{ClientSession, Dispatcher, Message, wire::Pattern};
use hpfeeds_broker::{Broker, Key};
use serde_json::Value;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let sensors = ["europe.athens", "europe.bergen", "africa.cairo"];
    let mut builder = Broker::builder().listen("127.0.0.1:0")?;
    for ident in ["collector"].into_iter().chain(sensors) {
        builder = builder.user(Key::new(ident, "secret")?.publish(["*"])?.subscribe(["*"])?);
    }
    let broker = builder.start().await?;
    let mut collector = ClientSession::connect(broker.local_addr(), "collector", "secret").await?;

    // An ident can be trusted: the broker lets no client publish under the ident of another.
    let europe = &Pattern::new("europe.*")?;
    let (good, bad) = (&AtomicU32::new(0), &AtomicU32::new(0));
    let handle = &collector.handle();
    let count = |outcome: Result<String, serde_json::Error>| {
        let counter = match outcome {
            Ok(line) => {
                println!("{line}");
                good
            }
            Err(error) => {
                println!("bad message: {error}");
                bad
            }
        };
        counter.fetch_add(1, Relaxed);
    };
    let count = &count;
    // The functions get messages in turns. One that ends the session ends the dispatcher.
    let dispatcher = Dispatcher::<Error>::new()
        .on("cowrie.sessions", async move |message: Message| {
            if europe.matches(&message.0) {
                count(login(&message));
            }
            Ok(())
        })?
        .on("glastopf.*", async move |message: Message| {
            if europe.matches(&message.0) {
                count(request(&message));
            }
            Ok(())
        })?
        .on("collector.done", async move |_| Ok(handle.close().await?))?
        .otherwise(async |(ident, channel, _)| {
            println!("{ident}: no handler for {channel}");
            Ok(())
        });

    for channel in ["cowrie.sessions", "glastopf.*", "collector.ready"] {
        collector.subscribe(channel)?;
    }
    // The broker reads a connection in order: when a message that we send behind the subscriptions
    // comes back, they are in place.
    collector.publish("collector.ready", "").await?;
    let is_ready = |message: &Message| message.1 == "collector.ready";
    collector.wait_for(is_ready, Duration::from_secs(5)).await?;

    for ident in sensors {
        let mut sensor = ClientSession::connect(broker.local_addr(), ident, "secret").await?;
        sensor.publish("cowrie.sessions", first_line(include_str!("data/cowrie.sessions.ndjson"))).await?;
        sensor.publish("glastopf.events", first_line(include_str!("data/glastopf.events.ndjson"))).await?;
        sensor.publish("glastopf.events", "<html>").await?;
        sensor.close().await?;
    }
    collector.publish("collector.done", "").await?;
    dispatcher.run(&mut collector).await?;

    match (good.load(Relaxed), bad.load(Relaxed)) {
        (4, 2) => Ok(()),
        (good, bad) => Err(format!("{good} good messages and {bad} bad ones").into()),
    }
}

fn login((ident, _, payload): &Message) -> serde_json::Result<String> {
    let event: Value = serde_json::from_slice(payload)?;
    let passwords = event["credentials"].as_array().map_or(0, Vec::len);
    Ok(format!("{ident}: {} tried {passwords} passwords", event["peerIP"]))
}

fn request((ident, _, payload): &Message) -> serde_json::Result<String> {
    let event: Value = serde_json::from_slice(payload)?;
    Ok(format!("{ident}: {} asked for {}", event["source"][0], event["request_url"]))
}

fn first_line(text: &'static str) -> &'static str {
    text.lines().next().unwrap_or_default()
}
