//! A session that survives a restart of its broker.
//!
//! ```text
//! cargo run --example reconnect
//! ```
//!
//! It starts the broker itself, because it stops it too.

use std::error::Error;

use futures::StreamExt as _;
use hpfeeds::{ClientSession, Events, SessionEvent, SessionState};
use hpfeeds_broker::Broker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = Broker::dev().await?;
    let addr = broker.local_addr();

    let mut session = ClientSession::connect(addr, "dev", "dev").await?;
    let (mut events, mut state) = (session.events(), session.state());
    connected(&mut events).await?;

    session.subscribe("demo")?;
    session.publish("demo", "before").await?;
    expect(&mut session, "before").await?;

    println!("the broker goes down");
    broker.shutdown().await;

    // The state is a `tokio::sync::watch`, and can be waited on. Here that matters: messages that
    // are written to a connection without a reader are lost. Once the session knows, messages stay
    // in its queue.
    state.wait_for(|state| *state != SessionState::Connected).await?;
    for payload in ["first", "second", "third"] {
        session.publish("demo", payload).await?;
    }
    println!("three messages are queued, and the session is {}", *state.borrow());

    println!("the broker comes back");
    let broker = Broker::dev_builder().listen(addr)?.start().await?;
    connected(&mut events).await?;

    // The session subscribed again before it sent the queue, so the messages come back to us, in
    // order.
    for payload in ["first", "second", "third"] {
        expect(&mut session, payload).await?;
    }

    // `close` confirms what was written to this connection. A broker of this project confirms it
    // when it shuts down, too; with others, the message from before the restart is unconfirmed for
    // ever.
    session.close().await?;
    println!("closed; unconfirmed over the life of the session: {}", session.unconfirmed());
    broker.shutdown().await;
    Ok(())
}

/// Prints what happens to the session, until it is connected. A program that runs for long does
/// this in a task of its own, for its log: events tell why nothing arrives. In `Disconnected`,
/// `unconfirmed` is how many messages were written to that connection, and so may be lost.
async fn connected(events: &mut Events) -> Result<(), Box<dyn Error>> {
    while let Some(event) = events.next().await {
        println!("event: {event}");
        if let SessionEvent::Connected { .. } = event {
            return Ok(());
        }
    }
    Err("the session ended early".into())
}

async fn expect(session: &mut ClientSession, expected: &str) -> Result<(), Box<dyn Error>> {
    let (_, _, payload) = session.read().await.ok_or("the session ended early")?;
    println!("received {payload:?}");
    if payload == expected { Ok(()) } else { Err(format!("expected {expected:?}").into()) }
}
