//! Receives what was published while the collector was away, from a mailbox of the broker.
//!
//! ```text
//! cargo run --example mailbox
//! ```

use std::error::Error;

use hpfeeds::{ClientSession, SubscribeFrom};
use hpfeeds_broker::{Broker, Key};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let sensor = Key::new("sensor", "s3cret")?.publish(["cowrie.*"])?;
    let collector = Key::new("collector", "s3cret")?.subscribe(["cowrie.*"])?;
    let broker = Broker::builder()
        .listen("127.0.0.1:0")?
        .user(sensor)
        .user(collector)
        .data_dir(folder.path())
        .mailbox("collector/elastic=cowrie.*")?
        .start()
        .await?;

    // Nobody is there to receive: the messages are stored, and each is confirmed when it is.
    let mut sensor = ClientSession::connect(broker.local_addr(), "sensor", "s3cret").await?;
    for number in 1..=4 {
        let receipt = sensor.publish_confirmed("cowrie.sessions", number.to_string()).await?;
        println!("stored at level {}", receipt.level().0);
    }
    sensor.close().await?;

    // A collector that crashes after the third message, of which it had processed two.
    receive(&broker, 3, 2).await?;
    // The next one begins with the first that was not processed.
    let received = receive(&broker, 2, 2).await?;
    if received != ["3", "4"] {
        return Err(format!("received {received:?}").into());
    }
    broker.shutdown().await;
    Ok(())
}

/// Receives some messages, and processes some of them.
async fn receive(broker: &Broker, take: usize, process: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let builder = ClientSession::builder(broker.local_addr(), "collector", "s3cret");
    let mut session = builder.manual_commit(true).connect().await?;
    session.subscribe_from("cowrie.*", SubscribeFrom::mailbox("elastic")).await?;
    let mut received = Vec::new();
    while received.len() < take {
        let (ident, channel, payload) = session.read().await.ok_or("the session ended early")?;
        let origin = session.origin().ok_or("the message came from no mailbox")?;
        println!("{origin}: {ident} on {channel}: {}", payload.escape_ascii());
        received.push(String::from_utf8(payload.to_vec())?);
        if received.len() == process {
            // Here it would be on the disk, or in a database, and not before.
            session.commit();
        }
    }
    session.close().await?;
    Ok(received)
}
