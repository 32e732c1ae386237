//! Who may connect, and what they may do.

#[cfg(feature = "keys")]
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
mod remarks;
#[cfg(feature = "sql")]
pub(crate) mod sql;
mod text;

use std::{
    error, fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::stream::{self, Stream};
use tokio::time::sleep;

#[cfg(not(feature = "keys"))]
use self::entry::Entry;
#[cfg(feature = "keys")]
pub use self::entry::{Entry, OldSecret};
#[cfg(feature = "mongodb")]
pub use self::mongo::{MongoAddress, MongoStore};
pub(crate) use self::remarks::Remarks;
#[cfg(feature = "sql")]
pub use self::sql::{DatabaseAddress, SqlStore};
pub use self::{chain::ChainStore, env::EnvStore, json::JsonStore, key::Key, memory::MemoryStore};

/// What [`AuthStore::lookup`] returns: a future that can be kept in a box.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = Result<Option<Arc<Key>>, AuthError>> + Send + 'a>>;

/// What [`AuthStore::reload`] returns.
pub type Reload<'a> = Pin<Box<dyn Future<Output = Result<(), AuthError>> + Send + 'a>>;

/// What [`AuthStore::changes`] returns: an item for each change, or for several.
pub type Changes = Pin<Box<dyn Stream<Item = ()> + Send>>;

/// Where the broker finds the keys.
///
/// A lookup happens once per connection, while that connection waits and no other does, and again for each connected
/// ident when the store tells of [`changes`](Self::changes) or, if its answers [may change](Self::may_change) without that,
/// now and then ([`BrokerBuilder::recheck_keys`](crate::builder::BrokerBuilder::recheck_keys)). It is given a deadline
/// ([`BrokerBuilder::auth_timeout`](crate::builder::BrokerBuilder::auth_timeout)) and is dropped when that passes. An error
/// lets nobody in: the client hears the same as for a wrong secret, and the operator finds the error in the log. For
/// those who are in, an error changes nothing.
///
/// ```
/// use std::sync::Arc;
///
/// use hpfeeds_broker::{AuthStore, Key, Lookup};
///
/// /// Everybody whose ident starts with `sensor-` has the same secret.
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
    /// The key of an ident, or `None` when the store does not know it.
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a>;

    /// Reads anew what the store keeps in memory. On an error it stays as it was. The default, for stores that look
    /// each ident up where it is, does nothing.
    fn reload(&self) -> Reload<'_> {
        Box::pin(async { Ok(()) })
    }

    /// Whether an answer may be another one later without an item of [`changes`](Self::changes), which is the default. It
    /// is asked once, when the broker starts. If not, the keys of live connections are looked up again only after such an
    /// item, or when [`Broker::recheck_now`](crate::broker::Broker::recheck_now) asks for it: a broker that has nothing to do does
    /// not wake up for that.
    fn may_change(&self) -> bool {
        true
    }

    /// Tells when answers have changed, so that they count for live connections at once. It is called once, when the broker
    /// starts. The default, for stores that do not know, never tells. A store that wraps another passes on what that says,
    /// here and in [`may_change`](Self::may_change).
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

/// A key store that cannot be read: one line that says which and why.
#[derive(Debug)]
pub struct AuthError {
    message: String,
}

impl AuthError {
    /// An error with the given text. It is logged: it must hold no secret.
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
