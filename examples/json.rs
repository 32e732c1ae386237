//! Publishes values as JSON, and reads them from payloads that may be anything.
//!
//! ```text
//! cargo run --features json --example json
//! cargo run --features json --example json -- HOST:PORT IDENT SECRET
//! ```

mod support;

use std::{error::Error, net::IpAddr};

use hpfeeds::{ClientSession, JsonPayload as _};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Login<'a> {
    peer: IpAddr,
    user: &'a str,
    password: &'a str,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = support::broker().await?;
    let (addr, ident, secret) = broker.access();
    let mut session = ClientSession::connect(addr, ident, secret).await?;
    session.subscribe("sensor.logins")?;

    let peer = "192.0.2.7".parse()?;
    for password in ["123456", "hunter2"] {
        session.publish_json("sensor.logins", &Login { peer, user: "root", password }).await?;
    }
    session.publish("sensor.logins", "<html>").await?;

    let (mut good, mut bad) = (0, 0);
    while good + bad < 3 {
        let (ident, _, payload) = session.read().await.ok_or("the session ended early")?;
        // Names and passwords are slices of the payload: nothing is copied.
        match payload.json::<Login<'_>>() {
            Ok(Login { peer, user, password }) => {
                println!("{ident}: {peer} tried {user:?} with {password:?}");
                good += 1;
            }
            Err(error) => {
                println!("{ident}: {error}");
                bad += 1;
            }
        }
    }
    session.close().await?;
    if (good, bad) == (2, 1) { Ok(()) } else { Err(format!("{good} good messages and {bad} bad ones").into()) }
}
