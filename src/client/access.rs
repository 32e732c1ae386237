//! The constructors of a session builder from a URL and from the environment.

#[cfg(feature = "tls")]
use super::connect::tls::TlsOptions;
use super::{
    connect::{addr::BrokerAddr, url::BrokerUrl},
    environment::Settings,
    error::Error,
    options::SessionBuilder,
    session::ClientSession,
};
use crate::wire::{Channel, Secret};

impl SessionBuilder {
    /// A builder for the broker and the key of a [URL](BrokerUrl), such as
    /// `hpfeeds://sensor-17:secret@broker.example:20000`, or `hpfeeds+tls://…` for TLS with the
    /// system's roots; [`tls`](Self::tls) behind it says more.
    ///
    /// The session [subscribes](Self::subscribe) to the channels in the URL: leave them out where a
    /// program only publishes. Fails, without any part of the URL in the error, when it cannot be
    /// read, lacks the ident or the secret, or wants TLS of a build without the feature `tls`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = hpfeeds_broker::Broker::dev().await?;
    /// # let url = format!("hpfeeds://dev:dev@{}/cowrie.sessions", broker.local_addr());
    /// use hpfeeds::SessionBuilder;
    ///
    /// let mut session = SessionBuilder::from_url(url)?.connect().await?;
    /// session.publish("cowrie.sessions", "{}").await?;
    /// let (_, channel, _) = session.read().await.expect("a message");
    /// assert_eq!(channel, "cowrie.sessions");
    /// # Ok(()) }
    /// ```
    pub fn from_url<U>(url: U) -> Result<Self, Error>
    where
        U: TryInto<BrokerUrl, Error: Into<Error>>,
    {
        let url = url.try_into().map_err(Into::into)?;
        let ident = url.ident().ok_or_else(|| Error::url("names no ident: hpfeeds://IDENT:SECRET@HOST"))?;
        let secret = url.secret().ok_or_else(|| Error::url("has no secret: hpfeeds://IDENT:SECRET@HOST"))?;
        Self::of(url.addr().clone(), url.is_tls(), ident, secret, url.channels().to_vec())
    }

    /// A builder for the broker and the key that the environment names: in `HPFEEDS_URL`, a URL as
    /// [`from_url`](Self::from_url) takes it, or else in `HPFEEDS_HOST` (default: localhost),
    /// `HPFEEDS_PORT` (20000), `HPFEEDS_IDENT` and `HPFEEDS_SECRET`. The last two also complete a URL
    /// without a key, or without a secret. An empty variable counts as not set.
    ///
    /// Fails with the name of the variable, and never with the secret.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hpfeeds::Error> {
    /// let session = hpfeeds::SessionBuilder::from_env()?.connect().await?;
    /// session.publish("cowrie.sessions", "{}").await?;
    /// # Ok(()) }
    /// ```
    pub fn from_env() -> Result<Self, Error> {
        let Settings { addr, is_tls, ident, secret, channels } = Settings::read()?;
        Self::of(addr, is_tls, &ident, secret, channels)
    }

    fn of(addr: BrokerAddr, is_tls: bool, ident: &str, secret: Secret, channels: Vec<Channel>) -> Result<Self, Error> {
        let builder = ClientSession::builder(addr, ident, secret).subscribe(channels);
        if is_tls { builder.over_tls() } else { Ok(builder) }
    }

    #[cfg(feature = "tls")]
    #[allow(clippy::unnecessary_wraps, reason = "without the feature it fails")]
    fn over_tls(self) -> Result<Self, Error> {
        Ok(self.tls(TlsOptions::new()))
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self, reason = "with the feature it is what connects")]
    fn over_tls(self) -> Result<Self, Error> {
        Err(Error::url("wants TLS, which this program was built without: enable the feature tls of hpfeeds-client"))
    }
}
