//! Handlers: one function per channel, a wait for a particular message, and a filter on senders.
//!
//! ```text
//! cargo run --example handlers
//! ```
//!
//! It starts the broker itself, with the keys of a few sensors.

use std::{collections::HashMap, error::Error, pin::pin, time::Duration};

use futures::{Stream, StreamExt as _};
use hpfeeds::{ClientSession, Ident, Message, wire::Pattern};
use hpfeeds_broker::{Broker, Key};
use serde_json::Value;
use tokio::time::timeout;

type Handler = fn(&Ident, &Value);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let sensors = ["europe.athens", "europe.bergen", "africa.cairo"];
    let mut builder = Broker::builder().listen("127.0.0.1:0")?;
    for ident in ["collector"].into_iter().chain(sensors) {
        builder = builder.user(Key::new(ident, "secret")?.publish(["*"])?.subscribe(["*"])?);
    }
    let broker = builder.start().await?;

    let handlers: HashMap<&str, Handler> =
        HashMap::from([("cowrie.sessions", on_login as Handler), ("glastopf.events", on_request)]);
    let mut collector = ClientSession::connect(broker.local_addr(), "collector", "secret").await?;
    for channel in handlers.keys() {
        collector.subscribe(channel)?;
    }

    // A broker does not confirm a subscription, but it reads a connection in order: when a message
    // that we send after it comes back, the subscriptions are in place.
    collector.subscribe("collector.ready")?;
    collector.publish("collector.ready", "").await?;
    wait_for(&mut collector, |(_, channel, _)| channel == "collector.ready").await?;

    for ident in sensors {
        let mut sensor = ClientSession::connect(broker.local_addr(), ident, "secret").await?;
        sensor.publish("cowrie.sessions", first_line(include_str!("data/cowrie.sessions.ndjson"))).await?;
        sensor.publish("glastopf.events", first_line(include_str!("data/glastopf.events.ndjson"))).await?;
        sensor.publish("glastopf.events", "<html>").await?;
        sensor.close().await?;
    }

    // An ident can be trusted: the broker lets no client publish under the ident of another.
    let wanted = Pattern::new("europe.*")?;
    let (mut good, mut bad) = (0, 0);
    while good + bad < 6 {
        let from_europe = |(ident, ..): &Message| wanted.matches(ident);
        let (ident, channel, payload) = wait_for(&mut collector, from_europe).await?;
        match (handlers.get(channel.as_str()), serde_json::from_slice(&payload)) {
            (Some(handler), Ok(event)) => {
                handler(&ident, &event);
                good += 1;
            }
            (None, _) => println!("{ident}: no handler for {channel}"),
            (_, Err(error)) => {
                println!("{ident}: bad message on {channel}: {error}");
                bad += 1;
            }
        }
    }
    collector.close().await?;
    if (good, bad) == (4, 2) { Ok(()) } else { Err(format!("{good} good messages and {bad} bad ones").into()) }
}

fn on_login(ident: &Ident, event: &Value) {
    println!("{ident}: {} tried {} passwords", event["peerIP"], event["credentials"].as_array().map_or(0, Vec::len));
}

fn on_request(ident: &Ident, event: &Value) {
    println!("{ident}: {} asked for {}", event["source"][0], event["request_url"]);
}

/// The next message that satisfies `wanted`; messages before it are skipped. Gives up after five
/// seconds.
async fn wait_for<S>(messages: &mut S, wanted: impl Fn(&Message) -> bool) -> Result<Message, Box<dyn Error>>
where
    S: Stream<Item = Message> + Unpin,
{
    let mut matching = pin!(messages.filter(|message| std::future::ready(wanted(message))));
    match timeout(Duration::from_secs(5), matching.next()).await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err("the session ended".into()),
        Err(_elapsed) => Err("nothing of the kind arrived within five seconds".into()),
    }
}

fn first_line(text: &'static str) -> &'static str {
    text.lines().next().unwrap_or_default()
}
