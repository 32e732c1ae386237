//! Publishes and receives without asynchronous code.
//!
//! ```text
//! cargo run --features blocking --example blocking
//! cargo run --features blocking --example blocking -- HOST:PORT IDENT SECRET
//! ```

mod support;

use std::{error::Error, thread, time::Duration};

use hpfeeds::blocking::ClientSession;

fn main() -> Result<(), Box<dyn Error>> {
    // The broker of the example lives in a runtime; a program has it elsewhere.
    let runtime = tokio::runtime::Runtime::new()?;
    let broker = runtime.block_on(support::broker())?;
    let (addr, ident, secret) = broker.access();

    // The connection is served by a thread of its own, which ends with the session.
    let mut session = ClientSession::connect(addr, ident, secret)?;
    session.subscribe_confirmed("sensor.heartbeat")?;

    // Threads share the session.
    thread::scope(|scope| {
        for number in 1..=3 {
            let session = &session;
            scope.spawn(move || session.publish("sensor.heartbeat", format!("{number}")));
        }
    });
    for _ in 0..3 {
        let (ident, channel, payload) = session.next(Duration::from_secs(10))?;
        println!("{ident} on {channel}: {}", payload.escape_ascii());
    }
    match session.publish_confirmed("sensor.heartbeat", "4") {
        Ok(receipt) => println!("confirmed as number {}", receipt.position().number),
        Err(error) if error.is_not_confirmable() => println!("this broker confirms nothing"),
        Err(error) => return Err(error.into()),
    }
    // Its own message comes first; then nothing does.
    session.next(Duration::from_secs(10))?;
    match session.next(Duration::from_millis(100)) {
        Err(error) if error.is_timeout() => println!("{error}"),
        other => return Err(format!("nothing should come: {other:?}").into()),
    }
    session.close()?;
    Ok(())
}
