//! Publishes events with a spool on disk, and asks for the confirmation of each.
//!
//! ```text
//! cargo run --features spool --example spool
//! cargo run --features spool --example spool -- HOST:PORT IDENT SECRET
//! ```

mod support;

use std::error::Error;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use hpfeeds::{ClientSession, Spool};

/// Events as the SSH honeypot Cowrie writes them: one JSON object a line.
const EVENTS: &str = include_str!("data/cowrie.sessions.ndjson");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = support::broker().await?;
    let (addr, ident, secret) = broker.access();

    // Events that the broker does not confirm within a second go to files in this folder, and so do
    // those that the program holds when it is closed while the broker is away. The next start sends
    // them first. A sensor keeps its own folder, such as /var/lib/SENSOR/spool.
    let folder = tempfile::tempdir()?;
    let spool = Spool::dir(folder.path().join("spool"));
    let mut session = ClientSession::builder(addr, ident, secret).spool(spool).start()?;

    // Each future is ready when the broker has decided its message; 64 are under way at a time.
    let publisher = session.publisher();
    let receipts: Vec<_> = stream::iter(EVENTS.lines())
        .map(|event| publisher.publish_confirmed("cowrie.sessions", event))
        .buffered(64)
        .try_collect()
        .await?;
    for receipt in receipts.iter().take(3) {
        println!("confirmed: message {}", receipt.position().number);
    }

    let stats = session.stats();
    println!("{} events confirmed, {} on disk", receipts.len(), stats.spooled);
    session.close().await?;
    Ok(())
}
