//! The options of a session, and its constructors.

use std::{fmt, mem, net::IpAddr, sync::Arc, time::Duration};

#[cfg(feature = "tls")]
use super::connect::tls::TlsOptions;
#[cfg(feature = "spool")]
use super::spool::{Feed, Spool};
use super::{
    config::{Config, FOREVER},
    connect::{
        addr::BrokerAddr,
        connector::Connector,
        tcp::{Keepalive, TcpConnector},
    },
    driver::backoff::Backoff,
    error::Error,
    receipt::Confirm,
    session::ClientSession,
    when_full::WhenFull,
};
use crate::wire::{Channel, Field, Ident, Limits, Secret};

/// How long a session with a spool leaves messages unconfirmed on a connection to a broker that
/// confirms them only by its end.
#[cfg(feature = "spool")]
const ROTATION: Duration = Duration::from_secs(30);

/// Everything about a session that can be chosen. Made by [`ClientSession::builder`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hpfeeds::Error> {
/// use std::time::Duration;
/// use hpfeeds::{Backoff, ClientSession};
///
/// let session = ClientSession::builder(("localhost", 20000), "sensor-17", "secret")
///     .send_queue(64 << 20)
///     .backoff(Backoff::new(Duration::from_secs(1), Duration::from_secs(60)))
///     .start()?;
/// session.subscribe("cowrie.sessions")?;
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until connect() or start()"]
pub struct SessionBuilder {
    addr: Result<BrokerAddr, Error>,
    ident: Result<Ident, Error>,
    secret: Secret,
    limits: Limits,
    send_queue: usize,
    receive_queue: usize,
    backoff: Backoff,
    max_retries: Option<u32>,
    keepalive: Keepalive,
    unacknowledged_timeout: Duration,
    handshake_timeout: Duration,
    auth_grace: Duration,
    close_timeout: Duration,
    close_stall_timeout: Option<Duration>,
    confirm: Confirm,
    manual_commit: bool,
    rotation: Option<Duration>,
    connector: Option<Arc<dyn Connector>>,
    on_full: WhenFull,
    local_address: Option<IpAddr>,
    channels: Vec<Channel>,
    #[cfg(feature = "spool")]
    spool: Option<Spool>,
    #[cfg(feature = "spool")]
    feed: Option<Feed>,
    #[cfg(feature = "tls")]
    tls: Option<TlsOptions>,
}

impl SessionBuilder {
    fn new<A>(addr: A, ident: impl AsRef<str>, secret: impl Into<Secret>) -> Self
    where
        A: TryInto<BrokerAddr, Error: Into<Error>>,
    {
        let ident = ident.as_ref();
        Self {
            addr: addr.try_into().map_err(Into::into),
            ident: Ident::new(ident).map_err(|cause| Error::name(Field::Ident, ident, cause)),
            secret: secret.into(),
            limits: Limits::default(),
            send_queue: 8 << 20,
            receive_queue: 4 << 20,
            backoff: Backoff::default(),
            max_retries: None,
            keepalive: Keepalive::default(),
            unacknowledged_timeout: Duration::from_secs(120),
            handshake_timeout: Duration::from_secs(10),
            auth_grace: Duration::from_millis(250),
            close_timeout: Duration::from_secs(5),
            close_stall_timeout: None,
            confirm: Confirm::default(),
            manual_commit: false,
            rotation: None,
            connector: None,
            on_full: WhenFull::default(),
            local_address: None,
            channels: Vec::new(),
            #[cfg(feature = "spool")]
            spool: None,
            #[cfg(feature = "spool")]
            feed: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// How long frames may be, in both directions. Default: 1 MiB; the broker needs the same.
    ///
    /// A longer message from the broker is passed over, up to 64 MiB: read, thrown away, counted by
    /// [`skipped`](ClientSession::skipped) and told by
    /// [`SessionEvent::Skipped`](crate::SessionEvent::Skipped). One that claims more ends the
    /// connection, and the next attempt follows after the usual, growing delay.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many bytes of messages wait while the broker is away or slow, or has not confirmed them.
    /// Default: 8 MiB; never less than one maximal message. When it is full, `publish` waits and
    /// `try_publish` gives the payload back.
    ///
    /// With a broker that confirms, it bounds the rate: no more than this in one round trip (8 MiB
    /// in 100 ms are 80 MiB/s).
    pub fn send_queue(mut self, bytes: usize) -> Self {
        self.send_queue = bytes;
        self
    }

    /// The policy for messages that find the [send queue](Self::send_queue) full. Default:
    /// [`WhenFull::Wait`]. With a [spool](Self::spool), the policy of the spool holds.
    ///
    /// [`WhenFull::DropOldest`] makes room by messages that were never written to a connection, in pieces
    /// of 64 KiB, or of an eighth of a smaller queue. They count as [lost](crate::SessionStats::lost), receipts that were waited
    /// for fail, and [`SessionEvent::Dropped`](crate::SessionEvent::Dropped) tells of them. Messages that
    /// were written and are not confirmed stay, and while the queue holds nothing else, `publish` waits.
    /// `try_publish` gives the payload back, and makes room for the next.
    ///
    /// [`WhenFull::Refuse`] has `publish` fail at once with an error that
    /// [`is_full`](crate::Error::is_full); such messages count as
    /// [turned away](crate::SessionStats::turned_away).
    pub fn on_full(mut self, policy: WhenFull) -> Self {
        self.on_full = policy;
        self
    }

    /// How many received bytes wait for the program. Default: 4 MiB, plus one read of the socket;
    /// and, of a connection that broke, what the system still held. When it is full, the session
    /// stops reading, and the broker sees a slow consumer.
    ///
    /// A broker that knows the extension `hpx/1` is told this size as the window: it sends no more
    /// than that beyond what the program has taken, and the session reads on for what else the
    /// broker has to say. When connections break over and over while nothing is taken, the queue
    /// holds at most twice its size and one message; what comes beyond that is passed over and
    /// counted by [`skipped`](ClientSession::skipped).
    pub fn receive_queue(mut self, bytes: usize) -> Self {
        self.receive_queue = bytes;
        self
    }

    /// The delays between attempts. Default: 0.25 s to 30 s.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Gives up after so many failed attempts in a row to get back; the stream then ends, and
    /// `close` says why. Default: never. 0: one connection, no reconnecting.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// TCP keepalive. Default: 10 s idle, 5 s interval, 3 probes. Has no effect with a
    /// [`connector`](Self::connector) of your own.
    pub fn keepalive(mut self, keepalive: Keepalive) -> Self {
        self.keepalive = keepalive;
        self
    }

    /// The address of this machine that connections are made from, where it has several. Only addresses
    /// of the broker of the same family (IPv4 or IPv6) are tried then. Default: the system chooses. Has
    /// no effect with a [`connector`](Self::connector) of your own.
    pub fn local_address(mut self, address: IpAddr) -> Self {
        self.local_address = Some(address);
        self
    }

    /// The longest time that the peer's system may answer nothing while sent bytes are
    /// unacknowledged, when no keepalive probes are sent. Default: 2 minutes. A peer that reads nothing
    /// answers all the same, for as long as it likes. When the peer had closed its window before it
    /// died, three unanswered window probes count, which come at least every two minutes.
    ///
    /// Only on Linux and Android, and where the session may ask the system (`sock_diag`); elsewhere,
    /// and when this is zero, the system's own limit counts, which is a quarter of an hour on many.
    pub fn unacknowledged_timeout(mut self, timeout: Duration) -> Self {
        self.unacknowledged_timeout = timeout;
        self
    }

    /// How long dialling (with TLS) and the broker's greeting may take together, and then the answer
    /// of a broker that offers the extension `hpx/1`. Default: 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How long a broker that refuses the key may take to say so. Default: 250 ms.
    ///
    /// The protocol has no positive answer to a key, so a session counts as accepted when the
    /// broker has neither complained nor closed for this long, or has delivered something. Until
    /// then messages stay queued: what is sent to a broker that then refuses the key is lost. Raise
    /// it for brokers that ask a slow database. A broker that knows the extension `hpx/1` does
    /// answer, within [`handshake_timeout`](Self::handshake_timeout), and this has no effect.
    pub fn auth_grace(mut self, grace: Duration) -> Self {
        self.auth_grace = grace;
        self
    }

    /// How long [`close`](ClientSession::close) may take to send the queue and have it confirmed.
    /// Default: 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// How long [`close`](ClientSession::close) may take without progress: it ends when the
    /// broker's system has acknowledged nothing more for so long. Default: no limit but
    /// [`close_timeout`](Self::close_timeout), which is for all of it; raise that for a slow line,
    /// and bound the silence here.
    ///
    /// When everything is acknowledged and only to be read by the broker, which nobody can watch,
    /// it takes longer by the time that sending took, up to ten times as long in all. Where the
    /// system does not tell what is acknowledged (other than Linux), what is written counts.
    pub fn close_stall_timeout(mut self, silence: Duration) -> Self {
        self.close_stall_timeout = Some(silence);
        self
    }

    /// How much confirmation the session wants from its broker. Default: [`Confirm::IfOffered`].
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hpfeeds::Error> {
    /// use hpfeeds::{ClientSession, Confirm, wire::extension::Level};
    ///
    /// // Never with a broker that does not store what is published.
    /// let session = ClientSession::builder(("localhost", 20000), "sensor-17", "secret")
    ///     .confirm(Confirm::Required(Level::STORED))
    ///     .start()?;
    /// let receipt = session.publish_confirmed("cowrie.sessions", "{}").await?;
    /// assert!(receipt.level() >= Level::STORED);
    /// # Ok(()) }
    /// ```
    pub fn confirm(mut self, confirm: Confirm) -> Self {
        self.confirm = confirm;
        self
    }

    /// Leaves it to the program to say which messages of [mailboxes](ClientSession::subscribe_from)
    /// are processed: those before each [`commit`](ClientSession::commit). Default: false, where a
    /// message is processed when the program asks for the next one.
    ///
    /// For programs that take more than one message before they are done with the first, such as with
    /// `ready_chunks`, a buffer or tasks: without it, a message that such a program had taken and not
    /// finished when it crashed does not come again.
    pub fn manual_commit(mut self, manual: bool) -> Self {
        self.manual_commit = manual;
        self
    }

    /// Ends connections to brokers without the extension after so long with something unconfirmed.
    /// Sessions with a spool do so; this is for tests.
    #[doc(hidden)]
    pub fn rotation(mut self, after: Duration) -> Self {
        self.rotation = Some(after);
        self
    }

    /// Keeps messages that the broker has not confirmed in a folder, so that they outlive the
    /// connection and the program. Without this, they are in memory alone.
    ///
    /// A spool that is used by another process, belongs to another ident or can never be used ends
    /// the session at once: [`connect`](Self::connect) fails, and of a session that was
    /// [started](Self::start), [`close`](ClientSession::close) says why. With a spool, `close`
    /// writes what is left when its time is over, and then fails with an error that
    /// [is spooled](Error::spooled): the next program with the same folder sends it.
    #[cfg(feature = "spool")]
    pub fn spool(mut self, spool: Spool) -> Self {
        self.spool = Some(spool);
        self
    }

    /// Sends what a store of the program's own holds, for relays. Takes the place of a spool;
    /// nothing is published on the session besides.
    #[cfg(feature = "spool")]
    #[doc(hidden)]
    pub fn feed(mut self, feed: Feed) -> Self {
        self.feed = Some(feed);
        self
    }

    /// Subscribes to these channels, besides those that were given before, when the session is made.
    pub fn subscribe(mut self, channels: impl IntoIterator<Item = Channel>) -> Self {
        self.channels.extend(channels);
        self
    }

    /// Reaches the broker in another way than TCP or TLS.
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.connector = Some(Arc::new(connector));
        self
    }

    /// Connects over TLS. Without this, over plain TCP.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connects, and returns when the broker has accepted the key; or says why the first attempt
    /// failed. Later failures are repaired in the background.
    ///
    /// Takes one round trip after the broker's greeting where it offers the extension `hpx/1`, and
    /// otherwise at least [`auth_grace`](Self::auth_grace). Cancel safe: dropping the future ends the
    /// attempt.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(mut self) -> Result<ClientSession, Error> {
        let channels = mem::take(&mut self.channels);
        subscribed(ClientSession::open(self.build()?).await?, &channels)
    }

    /// Returns at once and connects in the background, as often as it takes. Fails only when an
    /// option makes no sense.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(mut self) -> Result<ClientSession, Error> {
        let channels = mem::take(&mut self.channels);
        subscribed(ClientSession::spawn(self.build()?), &channels)
    }

    fn build(self) -> Result<Config, Error> {
        let addr = self.addr?;
        let tcp = TcpConnector { keepalive: self.keepalive, local_address: self.local_address };
        let connector: Arc<dyn Connector> = match self.connector {
            Some(connector) => connector,
            #[cfg(feature = "tls")]
            None if self.tls.is_some() => Arc::new(self.tls.unwrap_or_default().connector(tcp, &addr)?),
            None => Arc::new(tcp),
        };
        #[cfg(feature = "spool")]
        let on_full = match (&self.spool, &self.feed) {
            (Some(spool), _) => spool.when_full,
            (None, Some(_)) => WhenFull::Wait,
            (None, None) => self.on_full,
        };
        #[cfg(not(feature = "spool"))]
        let on_full = self.on_full;
        #[cfg(feature = "spool")]
        let rotation = self.rotation.or((self.spool.is_some() || self.feed.is_some()).then_some(ROTATION));
        #[cfg(not(feature = "spool"))]
        let rotation = self.rotation;
        Ok(Config {
            addr,
            ident: self.ident?,
            secret: self.secret,
            limits: self.limits,
            send_queue: self.send_queue,
            receive_queue: self.receive_queue,
            backoff: self.backoff,
            max_retries: self.max_retries,
            handshake_timeout: self.handshake_timeout.min(FOREVER),
            auth_grace: self.auth_grace.min(FOREVER),
            close_timeout: self.close_timeout.min(FOREVER),
            close_stall_timeout: self.close_stall_timeout,
            unacknowledged: self.unacknowledged_timeout,
            confirm: self.confirm,
            manual_commit: self.manual_commit,
            rotation: rotation.filter(|_| self.confirm != Confirm::Off),
            on_full,
            #[cfg(feature = "spool")]
            spool: self.spool,
            #[cfg(feature = "spool")]
            feed: self.feed,
            connector,
        })
    }
}

fn subscribed(session: ClientSession, channels: &[Channel]) -> Result<ClientSession, Error> {
    for channel in channels {
        session.subscribe(channel)?;
    }
    Ok(session)
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder").field("addr", &self.addr).field("ident", &self.ident).finish_non_exhaustive()
    }
}

impl ClientSession {
    /// Starts a session that connects in the background, as often as it takes, and returns at once.
    ///
    /// Fails only when the ident is not legal. A wrong secret or an unreachable broker shows in
    /// [`events`](Self::events), not here: use [`connect`](Self::connect) to learn it at once.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(
        host: impl Into<String>,
        port: u16,
        ident: impl AsRef<str>,
        secret: impl Into<Secret>,
    ) -> Result<Self, Error> {
        Self::builder((host, port), ident, secret).start()
    }

    /// Connects and authenticates, or says why that failed.
    ///
    /// The address is `(host, port)`, `"host:port"` or a [`SocketAddr`](std::net::SocketAddr).
    /// Takes a quarter of a second more than the network does where the broker does not know the
    /// extension `hpx/1`: see [`auth_grace`](SessionBuilder::auth_grace). Cancel safe.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect<A>(addr: A, ident: impl AsRef<str>, secret: impl Into<Secret>) -> Result<Self, Error>
    where
        A: TryInto<BrokerAddr, Error: Into<Error>>,
    {
        Self::builder(addr, ident, secret).connect().await
    }

    /// Sets everything else: TLS, limits, queue sizes, delays.
    pub fn builder<A>(addr: A, ident: impl AsRef<str>, secret: impl Into<Secret>) -> SessionBuilder
    where
        A: TryInto<BrokerAddr, Error: Into<Error>>,
    {
        SessionBuilder::new(addr, ident, secret)
    }
}
