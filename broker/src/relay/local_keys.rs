//! The local keys of a relay: the idents that it has keys for, as clients of this machine use them.

use std::{collections::HashMap, sync::Arc};

use hpfeeds::wire::{Ident, NameError, Secret};

use crate::auth::{AuthStore, Lookup, key::Key};

/// The keys that sensors authenticate with: each may use all channels, as the parent decides.
pub(crate) struct LocalKeys(HashMap<String, Arc<Key>>);

impl LocalKeys {
    /// The idents with their secrets. With `any_secret`, every secret is good for these idents.
    pub(crate) fn new(keys: &[(Ident, Secret)], any_secret: bool) -> Result<Self, NameError> {
        let key = |(ident, secret): &(Ident, Secret)| {
            let key = Key::new(ident, secret.clone())?.publish(["*"])?.subscribe(["*"])?;
            Ok((ident.to_string(), Arc::new(if any_secret { key.open() } else { key })))
        };
        keys.iter().map(key).collect::<Result<_, _>>().map(Self)
    }
}

impl AuthStore for LocalKeys {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        let key = self.0.get(ident).cloned();
        Box::pin(async { Ok(key) })
    }

    fn may_change(&self) -> bool {
        false
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_idents_with_a_key_are_let_in_and_with_any_secret_only_if_that_is_wanted() {
        let keys = [("one".parse().unwrap(), Secret::new("s"))];
        for any in [false, true] {
            let store = LocalKeys::new(&keys, any).unwrap();
            let key = store.lookup("one").await.unwrap().unwrap();
            assert!(key.accepts(&"s".into()) && key.may_publish("x") && key.may_subscribe("y"));
            assert_eq!(key.accepts(&"other".into()), any);
            assert!(store.lookup("One").await.unwrap().is_none(), "another spelling is another ident");
        }
    }
}
