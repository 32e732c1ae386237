//! An authkey: an ident, its secrets, and the channels that it may use.

use std::{sync::Arc, time::SystemTime};

use hpfeeds::wire::{Digest, Ident, NameError, Nonce, Pattern, Secret};

/// An authkey: an ident, the secrets that it authenticates with, and the channels that it may
/// publish to and subscribe to.
#[derive(Debug, Clone)]
pub struct Key {
    pub(crate) ident: Ident,
    pub(crate) owner: String,
    pub(crate) account: Option<Box<str>>,
    pub(crate) secret: Secret,
    /// Earlier secrets, and when each ends.
    pub(crate) old_secrets: Box<[(Secret, SystemTime)]>,
    pub(crate) disabled: bool,
    /// Any secret is good: the key is for clients of this machine alone.
    pub(crate) is_open: bool,
    /// Many keys have the same lists: a store that keeps all of them shares these.
    pub(crate) pubchans: Arc<[Pattern]>,
    pub(crate) subchans: Arc<[Pattern]>,
}

impl Key {
    /// A key without channels, owned by itself. The ident has 1 to 255 bytes. With an empty secret
    /// no client can authenticate.
    pub fn new(ident: impl AsRef<str>, secret: impl Into<Secret>) -> Result<Self, NameError> {
        let ident = Ident::new(ident)?;
        let owner = ident.to_string();
        Ok(Self {
            ident,
            owner,
            account: None,
            secret: secret.into(),
            old_secrets: Box::default(),
            disabled: false,
            is_open: false,
            pubchans: Arc::default(),
            subchans: Arc::default(),
        })
    }

    /// Names the person or project that the key belongs to; the default is the ident. It shows in
    /// logs and metrics.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }

    /// Shares its limits on connections and rates with all keys of the same account; the default is
    /// the ident. For stores in which one secret has many idents. A change counts for connections
    /// that come after it.
    #[must_use]
    pub fn account(mut self, account: impl Into<Box<str>>) -> Self {
        self.account = Some(account.into());
        self
    }

    /// Accepts an earlier secret, too, until a time of the system's clock, so that a secret can be
    /// replaced while the client still has the old one. A connection that has authenticated with
    /// the old one ends when the key is looked up again after that time: at once with
    /// [`MemoryStore`](crate::auth::memory::MemoryStore) and
    /// [`JsonStore`](crate::auth::json::JsonStore), within
    /// [`recheck_keys`](crate::builder::BrokerBuilder::recheck_keys) with another store whose
    /// answers [may change](crate::auth::AuthStore::may_change).
    #[must_use]
    pub fn old_secret(mut self, secret: impl Into<Secret>, until: SystemTime) -> Self {
        let mut old = self.old_secrets.into_vec();
        old.push((secret.into(), until));
        self.old_secrets = old.into();
        self
    }

    /// Disables the key: no client can authenticate with it. Stores that are asked later are not
    /// asked for its ident.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.disabled = true;
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

    /// Accepts any secret.
    #[cfg(feature = "cli")]
    pub(crate) fn open(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// Why no client can authenticate with the key, for the log.
    pub(crate) fn unusable(&self) -> Option<&'static str> {
        if self.disabled {
            return Some("the key is disabled");
        }
        self.secret.is_empty().then_some("the secret in the key store is empty")
    }

    /// The key as it is now: without the secrets whose time is over.
    pub(crate) fn current(self: Arc<Self>) -> Arc<Self> {
        if self.old_secrets.is_empty() { self } else { self.at(SystemTime::now()) }
    }

    fn at(self: Arc<Self>, now: SystemTime) -> Arc<Self> {
        if self.old_secrets.iter().all(|(_, until)| *until > now) {
            return self;
        }
        let left = self.old_secrets.iter().filter(|(_, until)| *until > now).cloned().collect();
        Arc::new(Self { old_secrets: left, ..Self::clone(&self) })
    }

    /// The secret that a client has answered with. All are tried, so that the time tells nothing
    /// about which one it was.
    pub(crate) fn proved(&self, nonce: &Nonce, digest: &Digest) -> Option<&Secret> {
        let mut proved = self.is_open.then_some(&self.secret);
        for secret in self.secrets() {
            if secret.verify(nonce, digest) && !secret.is_empty() {
                proved = Some(secret);
            }
        }
        proved
    }

    /// Whether the key accepts a secret. Secrets are compared by their signatures alone.
    pub(crate) fn accepts(&self, secret: &Secret) -> bool {
        let nonce = Nonce::new([]);
        self.unusable().is_none() && self.proved(&nonce, &secret.sign(&nonce)).is_some()
    }

    /// Whether both keys accept the same secrets, until the same times.
    pub(crate) fn has_secrets_of(&self, other: &Self) -> bool {
        let nonce = Nonce::new([]);
        let ends = |key: &Self| key.old_secrets.iter().map(|(_, until)| *until).collect::<Vec<_>>();
        self.disabled == other.disabled
            && ends(self) == ends(other)
            && self.secrets().zip(other.secrets()).all(|(one, other)| one.verify(&nonce, &other.sign(&nonce)))
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.secret).chain(self.old_secrets.iter().map(|(secret, _)| secret))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_key_allows_what_its_lists_say() {
        let key = Key::new("bob", "s").unwrap().publish(["a", "b.*"]).unwrap().subscribe(["c"]).unwrap();
        assert!(key.may_publish("a") && key.may_publish("b.x") && !key.may_publish("c"));
        assert!(key.may_subscribe("c") && !key.may_subscribe("a"));
        assert_eq!(key.owner, "bob");
    }

    #[test]
    fn an_old_secret_counts_for_its_time_and_no_longer() {
        let (now, nonce) = (SystemTime::now(), Nonce::new([1]));
        let until = |seconds| now + Duration::from_secs(seconds);
        let key = Arc::new(Key::new("bob", "new").unwrap().old_secret("old", until(10)).old_secret("older", until(5)));
        let opened = |key: &Key, secret: &str| key.proved(&nonce, &Secret::new(secret).sign(&nonce)).is_some();
        for (seconds, expected) in [(0, [true, true, true]), (5, [true, true, false]), (10, [true, false, false])] {
            let key = key.clone().at(until(seconds));
            assert_eq!(["new", "old", "older"].map(|secret| opened(&key, secret)), expected, "after {seconds} s");
            assert!(!opened(&key, "other") && !opened(&key, ""));
        }
        assert!(!key.has_secrets_of(&key.clone().at(until(5))) && key.has_secrets_of(&key.clone().at(until(4))));
        assert!(key.accepts(&"old".into()) && !Key::clone(&key).disabled().accepts(&"new".into()));
    }

    #[test]
    fn an_empty_secret_opens_nothing() {
        let nonce = Nonce::new([1]);
        let digest = Secret::new("").sign(&nonce);
        let until = SystemTime::now() + Duration::from_secs(10);
        for key in [Key::new("bob", "").unwrap(), Key::new("bob", "s").unwrap().old_secret("", until)] {
            assert!(key.proved(&nonce, &digest).is_none() && !key.accepts(&"".into()));
        }
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        assert!(!format!("{:?}", Key::new("bob", "hunter2").unwrap()).contains("hunter2"));
    }
}
