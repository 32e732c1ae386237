//! The broker that an example talks to: yours, or one inside the program.

use std::{env, error::Error};

use hpfeeds_broker::Broker;

/// A broker, and the key that the example uses there.
pub(crate) struct Target {
    addr: String,
    ident: String,
    secret: String,
    /// Serves as long as it is held.
    _embedded: Option<Broker>,
}

impl Target {
    /// The address, the ident and the secret.
    pub(crate) fn access(&self) -> (&str, &str, &str) {
        (&self.addr, &self.ident, &self.secret)
    }
}

/// Takes `HOST:PORT IDENT SECRET` from the command line; without them, starts a broker inside this
/// program.
pub(crate) async fn broker() -> Result<Target, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match <[String; 3]>::try_from(arguments) {
        Ok([addr, ident, secret]) => Ok(Target { addr, ident, secret, _embedded: None }),
        Err(arguments) if arguments.is_empty() => {
            let broker = Broker::dev().await?;
            let (addr, dev) = (broker.local_addr().to_string(), "dev".to_owned());
            Ok(Target { addr, ident: dev.clone(), secret: dev, _embedded: Some(broker) })
        }
        Err(_) => Err("usage: [HOST:PORT IDENT SECRET]".into()),
    }
}
