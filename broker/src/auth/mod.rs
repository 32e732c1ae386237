//! Who may connect, and what they may do.

mod chain;
mod entry;
mod env;
pub(crate) mod json;
mod memory;
#[cfg(feature = "mongodb")]
mod mongo;
mod remarks;
#[cfg(feature = "sql")]
pub(crate) mod sql;
mod text;
mod watch;

use std::{error, fmt, pin::Pin, sync::Arc};

use futures::stream::{self, Stream};
use hpfeeds::wire::{Ident, NameError, Pattern, Secret};

#[cfg(feature = "keys")]
pub use self::entry::Entry;
#[cfg(not(feature = "keys"))]
use self::entry::Entry;
#[cfg(feature = "mongodb")]
pub use self::mongo::{MongoAddress, MongoStore};
pub(crate) use self::remarks::Remarks;
#[cfg(feature = "sql")]
pub use self::sql::{DatabaseAddress, SqlStore};
pub use self::{chain::ChainStore, env::EnvStore, json::JsonStore, memory::MemoryStore};

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
/// now and then ([`BrokerBuilder::recheck_keys`](crate::BrokerBuilder::recheck_keys)). It is given a deadline
/// ([`BrokerBuilder::auth_timeout`](crate::BrokerBuilder::auth_timeout)) and is dropped when that passes. An error
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
    /// item, or when [`Broker::recheck_now`](crate::Broker::recheck_now) asks for it: a broker that has nothing to do does
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

/// An authkey: who somebody is and what they may do.
#[derive(Debug, Clone)]
pub struct Key {
    pub(crate) ident: Ident,
    pub(crate) owner: String,
    pub(crate) account: Option<Box<str>>,
    pub(crate) secret: Secret,
    /// Many keys have the same lists: a store that keeps all of them shares these.
    pub(crate) pubchans: Arc<[Pattern]>,
    pub(crate) subchans: Arc<[Pattern]>,
}

impl Key {
    /// A key that may do nothing yet, owned by itself. The ident has 1 to 255 bytes. With an empty secret nobody can
    /// authenticate: everybody would know it.
    pub fn new(ident: impl AsRef<str>, secret: impl Into<Secret>) -> Result<Self, NameError> {
        let ident = Ident::new(ident)?;
        let owner = ident.to_string();
        Ok(Self {
            ident,
            owner,
            account: None,
            secret: secret.into(),
            pubchans: Arc::default(),
            subchans: Arc::default(),
        })
    }

    /// Names the person or project that the key belongs to; the default is the ident. It shows in logs and metrics.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }

    /// Shares its limits on connections and rates with all keys of the same account; the default is the ident. For stores
    /// in which one secret has many idents. What a connected key shares its limits with changes when it connects again.
    #[must_use]
    pub fn account(mut self, account: impl Into<Box<str>>) -> Self {
        self.account = Some(account.into());
        self
    }

    /// Adds channels, or [patterns](Pattern) of them, that it may publish to.
    pub fn publish(mut self, channels: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, NameError> {
        self.pubchans = longer(&self.pubchans, channels)?;
        Ok(self)
    }

    /// Adds channels, or [patterns](Pattern) of them, that it may subscribe to.
    pub fn subscribe(mut self, channels: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, NameError> {
        self.subchans = longer(&self.subchans, channels)?;
        Ok(self)
    }

    /// Why nobody can authenticate with it, for the log.
    pub(crate) fn unusable(&self) -> Option<&'static str> {
        self.secret.is_empty().then_some("the secret in the key store is empty")
    }

    pub(crate) fn may_publish(&self, channel: &str) -> bool {
        self.pubchans.iter().any(|pattern| pattern.matches(channel))
    }

    pub(crate) fn may_subscribe(&self, channel: &str) -> bool {
        self.subchans.iter().any(|pattern| pattern.matches(channel))
    }
}

/// A list and more channels.
fn longer(list: &[Pattern], channels: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Arc<[Pattern]>, NameError> {
    list.iter().cloned().map(Ok).chain(channels.into_iter().map(Pattern::new)).collect()
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_key_allows_what_its_lists_say() {
        let key = Key::new("bob", "s").unwrap().publish(["a", "b.*"]).unwrap().subscribe(["c"]).unwrap();
        assert!(key.may_publish("a") && key.may_publish("b.x") && !key.may_publish("c"));
        assert!(key.may_subscribe("c") && !key.may_subscribe("a"));
        assert_eq!(key.owner, "bob");
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        assert!(!format!("{:?}", Key::new("bob", "hunter2").unwrap()).contains("hunter2"));
    }
}
