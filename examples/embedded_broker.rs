//! A broker inside a program, with a key that may not do everything.
//!
//! ```text
//! cargo run --example embedded_broker
//! ```

use std::error::Error;

use futures::StreamExt as _;
use hpfeeds::{ClientSession, SessionEvent};
use hpfeeds_broker::{Broker, Key};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Port 0: the system picks a free one. A channel is exact, or `prefix.*`, or `*`.
    let sensor = Key::new("sensor", "s3cret")?.publish(["cowrie.*"])?.subscribe(["cowrie.*"])?;
    let broker = Broker::builder().listen("127.0.0.1:0")?.user(sensor).start().await?;
    println!("the broker listens on {}", broker.local_addr());

    // A wrong secret is an error of `connect`.
    let Err(rejected) = ClientSession::connect(broker.local_addr(), "sensor", "guess").await else {
        return Err("the broker accepted a wrong secret".into());
    };
    println!("wrong secret:   {rejected}");

    let mut session = ClientSession::connect(broker.local_addr(), "sensor", "s3cret").await?;
    let mut events = session.events();
    session.subscribe("cowrie.sessions")?;

    // An allowed channel.
    session.publish("cowrie.sessions", "hello").await?;
    let (ident, channel, payload) = session.read().await.ok_or("the session ended early")?;
    println!("allowed:        {ident} on {channel}: {payload:?}");

    // A channel that the key does not cover. `publish` only queues the message, so it succeeds; the
    // broker's refusal comes later, as an event.
    session.publish("dionaea.capture", "malware").await?;
    while let Some(event) = events.next().await {
        if let SessionEvent::Refused { cause, .. } = event {
            println!("denied, event:  {cause}");
            break;
        }
    }

    // `publish_confirmed` waits for the broker's decision, and fails with its refusal.
    let Err(denied) = session.publish_confirmed("dionaea.capture", "more malware").await else {
        return Err("the broker took a message for a channel that it denies".into());
    };
    println!("denied, error:  {denied}");

    // The connection stays, and the other channels still flow.
    session.publish("cowrie.sessions", "still here").await?;
    let (ident, channel, payload) = session.read().await.ok_or("the session ended early")?;
    println!("still allowed:  {ident} on {channel}: {payload:?}");

    // `close` reports the message that did not get through.
    match session.close().await {
        Err(refused) if refused.is_denied() => println!("close:          {refused}"),
        outcome => return Err(format!("close should name the refused message, not say {outcome:?}").into()),
    }
    broker.shutdown().await;
    Ok(())
}
