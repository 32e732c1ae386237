//! Collects from three brokers, decodes, filters, encodes again, and publishes to a fourth.
//!
//! ```text
//! cargo run --example merge_brokers
//! ```
//!
//! It starts the four brokers itself. Three belong to honeypots and receive the sessions that
//! attackers had; the fourth gets the logins that succeeded, with the name of the honeypot.

use std::{error::Error, future::ready};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, stream::select_all};
use hpfeeds::{ClientSession, Message};
use hpfeeds_broker::{Broker, Key};
use serde::{Deserialize, Serialize};

/// The fields that are needed of an event on `cowrie.sessions`; serde skips the others.
#[derive(Deserialize)]
struct CowrieSession {
    #[serde(rename = "peerIP")]
    peer_ip: String,
    loggedin: Option<(String, String)>,
    commands: Vec<String>,
}

/// The event that is published to the fourth broker.
#[derive(Serialize, Deserialize)]
struct Login {
    honeypot: String,
    attacker: String,
    user: String,
    password: String,
    commands: usize,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let events: Vec<&str> = include_str!("data/cowrie.sessions.ndjson").lines().collect();
    let mut brokers = Vec::new();
    let mut sources = Vec::new();
    for (honeypot, events) in ["athens", "bergen", "cairo"].into_iter().zip(events.chunks(events.len().div_ceil(3))) {
        let broker = broker_with_key(honeypot).await?;
        let session = ClientSession::connect(broker.local_addr(), honeypot, "secret").await?;
        session.subscribe("cowrie.sessions")?;
        for event in events {
            session.publish("cowrie.sessions", *event).await?;
        }
        brokers.push(broker);
        // A collector's streams never end. These do, after the events that were just published.
        sources.push(session.take(events.len()));
    }

    let central = broker_with_key("collector").await?;
    let mut collector = ClientSession::connect(central.local_addr(), "collector", "secret").await?;
    collector.subscribe("logins")?;

    // The pipeline. `forward` wants a stream of `Result`s whose error is that of the sink, hence
    // the last line; it ends with the stream, or with the first error.
    let sink = collector.sink("logins")?.sink_err_into::<Box<dyn Error>>();
    select_all(sources)
        .filter_map(|message| ready(login(&message)))
        .map(|login| Ok(serde_json::to_vec(&login).map(Bytes::from)?))
        .forward(sink)
        .await?;

    // A subscriber of the fourth broker prints the logins.
    let expected = events.iter().filter(|event| event.contains(r#""loggedin": ["#)).count();
    for _ in 0..expected {
        let (_, _, payload) = collector.read().await.ok_or("the session ended early")?;
        let Login { honeypot, attacker, user, password, commands } = serde_json::from_slice(&payload)?;
        println!("{honeypot}: {attacker} got in as {user:?} with {password:?} and typed {commands} commands");
    }
    collector.close().await?;
    Ok(())
}

/// The successful login in a message. Anything else, also what is no JSON at all, is `None`: bytes
/// from a network of honeypots are no reason to stop.
fn login((ident, _channel, payload): &Message) -> Option<Login> {
    let CowrieSession { peer_ip, loggedin, commands } = serde_json::from_slice(payload).ok()?;
    let (user, password) = loggedin?;
    Some(Login { honeypot: ident.to_string(), attacker: peer_ip, user, password, commands: commands.len() })
}

/// A broker that knows one ident and lets it do everything.
async fn broker_with_key(ident: &str) -> Result<Broker, Box<dyn Error>> {
    let key = Key::new(ident, "secret")?.publish(["*"])?.subscribe(["*"])?;
    Ok(Broker::builder().listen("127.0.0.1:0")?.user(key).start().await?)
}
