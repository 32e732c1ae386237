//! Key stores: the trait [`AuthStore`], the stores that come with the broker, and their error.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod admin;
pub(crate) mod chain;
mod entry;
pub(crate) mod env;
pub(crate) mod json;
pub(crate) mod key;
pub(crate) mod memory;
#[cfg(feature = "mongodb")]
pub(crate) mod mongo;
pub(crate) mod remarks;
#[cfg(feature = "_sql")]
pub(crate) mod sql;
mod text;

use std::{
    error, fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::stream::{self, Stream};
use hpfeeds::wire::Ident;
use tokio::time::sleep;

use self::key::Key;

/// The boxed future of [`AuthStore::lookup`]: the key, `None` for an unknown ident, or an error.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Result<Option<Arc<Key>>, AuthError>> + Send + 'a>>;

/// The boxed future of [`AuthStore::reload`].
pub type Reload<'a> = Pin<Box<dyn Future<Output = Result<(), AuthError>> + Send + 'a>>;

/// The boxed future of [`AuthStore::idents`].
pub type Idents<'a> = Pin<Box<dyn Future<Output = Result<Vec<Ident>, AuthError>> + Send + 'a>>;

/// The boxed stream of [`AuthStore::changes`]: one item for each change, or for several.
pub type Changes = Pin<Box<dyn Stream<Item = ()> + Send>>;

/// A key store: where the broker looks idents up.
///
/// A lookup happens once for each connection, while that connection waits and no other does, and
/// again for each connected ident when the store tells of [`changes`](Self::changes) or, if its
/// answers [may change](Self::may_change) without that, at the interval of
/// [`BrokerBuilder::recheck_keys`](crate::builder::BrokerBuilder::recheck_keys).
///
/// Cancel safety: the broker drops the future of a lookup when its deadline passes
/// ([`BrokerBuilder::auth_timeout`](crate::builder::BrokerBuilder::auth_timeout), 10 s by default)
/// or its connection ends. A store must answer the next lookup all the same.
///
/// An error lets nobody in: the client receives the same ERROR as for a wrong secret, and the error
/// is logged. Connections that have authenticated stay.
///
/// ```
/// use std::sync::Arc;
///
/// use hpfeeds_broker::{AuthStore, Key, Lookup};
///
/// /// Every ident that starts with `sensor-` has the same secret.
/// struct Fleet;
///
/// impl AuthStore for Fleet {
///     fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
///         Box::pin(async move {
///             if !ident.starts_with("sensor-") {
///                 return Ok(None);
///             }
///             let key = Key::new(ident, "s3cret").and_then(|key| key.publish(["cowrie.sessions"]));
///             Ok(key.ok().map(Arc::new))
///         })
///     }
/// }
///
/// let builder = hpfeeds_broker::Broker::builder().auth(Fleet);
/// # drop(builder);
/// ```
pub trait AuthStore: Send + Sync + 'static {
    /// The key of an ident (1 to 255 bytes), or `None` when the store does not know it.
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a>;

    /// Reads again what the store keeps in memory. On an error the store stays as it was. The
    /// default, for stores that look each ident up at its source, does nothing.
    fn reload(&self) -> Reload<'_> {
        Box::pin(async { Ok(()) })
    }

    /// Whether an answer may become another one without an item of [`changes`](Self::changes),
    /// which is the default. The broker asks once, when it starts. If not, the keys of live
    /// connections are looked up again only after such an item, or after
    /// [`Broker::recheck_now`](crate::broker::Broker::recheck_now): an idle broker does not wake up
    /// for that.
    fn may_change(&self) -> bool {
        true
    }

    /// The idents that have keys, so that a [snapshot](crate::broker::Broker::snapshot) shows those
    /// that have never connected. At most 10,000 are of use. Asked at the start and once a minute. The
    /// default, for stores that cannot list their keys, tells none.
    fn idents(&self) -> Idents<'_> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Tells when answers have changed, so that the change reaches live connections at once. The
    /// broker calls this once, when it starts. The default, for stores that do not know, never
    /// tells. A store that wraps another one passes on that store's answer, here and in
    /// [`may_change`](Self::may_change).
    fn changes(&self) -> Changes {
        Box::pin(stream::pending())
    }
}

/// The longest sleep until a time of the system's clock, which may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Waits for a time of the system's clock.
async fn sleep_until_time(time: SystemTime) {
    while let Ok(left) = time.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        sleep(left.min(LONGEST_SLEEP)).await;
    }
}

/// What to build for a kind of store that this program lacks.
#[cfg(any(
    all(feature = "_sql", not(all(feature = "sqlite", feature = "postgres", feature = "mysql"))),
    all(feature = "cli", not(all(feature = "_sql", feature = "mongodb"))),
))]
pub(crate) fn built_without(name: &str, feature: &str) -> String {
    format!("this hpfeeds-broker is built without {name}: build it with --features {feature}")
}

/// A key store that cannot be read: one line that names the store and the cause.
#[derive(Debug)]
pub struct AuthError {
    message: String,
}

impl AuthError {
    /// An error with the given text. The text is logged: it must hold no secret.
    #[must_use]
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string() }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl error::Error for AuthError {}
