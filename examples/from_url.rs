//! Receives from the broker of a URL, or of the environment: no address and no key is in the program.
//!
//! ```text
//! cargo run --example from_url
//! HPFEEDS_URL=hpfeeds://IDENT:SECRET@HOST:PORT/CHANNEL cargo run --example from_url
//! ```

use std::{env, error::Error, time::Duration};

use hpfeeds::{BrokerUrl, SessionBuilder};
use hpfeeds_broker::Broker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Without a variable that says otherwise, a broker inside of this program. In the ident, the secret
    // and the channels of a URL, `%2F` stands for `/`.
    let embedded = Broker::dev().await?;
    let builder = if env::var_os("HPFEEDS_URL").is_some() {
        SessionBuilder::from_env()?
    } else {
        let url: BrokerUrl = format!("hpfeeds://dev:dev@{}/sensor%2Fheartbeat", embedded.local_addr()).parse()?;
        // Shown without its secret, as everywhere.
        println!("connecting to {url}");
        SessionBuilder::from_url(url)?
    };

    // The session is subscribed to the channels of the URL.
    let mut session = builder.connect().await?;
    session.publish("sensor/heartbeat", "to whom it may concern").await?;
    let (ident, channel, payload) = session.wait_for(|_| true, Duration::from_secs(60)).await?;
    println!("{ident} on {channel}: {}", payload.escape_ascii());
    session.close().await?;
    Ok(())
}
