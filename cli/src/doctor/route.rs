//! The route of a diagnosis: which address, over what, with which key, and for how long each check
//! waits.

use std::{net::SocketAddr, time::Duration};

use hpfeeds::{BrokerAddr, Ident, Limits, Secret, TlsOptions};

/// The time that each check has of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) dns: Duration,
    pub(super) tcp: Duration,
    pub(super) tls: Duration,
    pub(super) greeting: Duration,
    pub(super) auth: Duration,
    pub(super) subscribe: Duration,
    /// Without any progress.
    pub(super) echo: Duration,
    /// The silence by which a broker without the extension accepts something.
    pub(super) grace: Duration,
}

impl Times {
    /// The checks' own times, or one for all of them.
    pub(super) fn new(all: Option<Duration>) -> Self {
        let seconds = |own| all.unwrap_or(Duration::from_secs(own));
        Self {
            dns: seconds(5),
            tcp: seconds(3),
            tls: seconds(5),
            greeting: seconds(5),
            auth: seconds(10),
            subscribe: seconds(5),
            echo: seconds(5),
            grace: Duration::from_millis(500),
        }
    }
}

/// Where the broker is, and how it is spoken to.
pub(super) struct Route {
    pub(super) addr: BrokerAddr,
    /// The address that is used.
    pub(super) address: SocketAddr,
    pub(super) tls: Option<TlsOptions>,
    /// Another name than the host's in the certificate.
    pub(super) tls_name: Option<String>,
    /// Whether a file says whom to trust.
    pub(super) own_trust: bool,
    pub(super) cert_days: u32,
    pub(super) limits: Limits,
    pub(super) times: Times,
}

/// The key, as far as it is given.
pub(super) struct Key {
    pub(super) ident: Ident,
    pub(super) secret: Secret,
    /// The oddity of the secret, as a part of a sentence.
    pub(super) oddity: Option<&'static str>,
}
