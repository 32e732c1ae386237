use std::{env, fmt, sync::Arc};

use super::{AuthError, AuthStore, Key, Lookup};

/// Keys in environment variables, as the Python broker reads them.
///
/// `HPFEEDS_<IDENT>_SECRET` makes an ident known; `_OWNER` (default: the ident), `_PUBCHANS` and `_SUBCHANS`
/// (comma-separated channels or patterns, default: none) say more. The ident stands there in upper case: idents that
/// differ in nothing but case have the same key, and share its limits.
pub struct EnvStore {
    variable: Box<Variable>,
    may_change: bool,
}

type Variable = dyn Fn(&str) -> Result<String, env::VarError> + Send + Sync;

impl EnvStore {
    /// Reads the variables of this process, for each connection anew. A program that changes them itself asks for
    /// [`Broker::recheck_now`](crate::Broker::recheck_now): nobody else can, so live connections are not looked up again.
    #[must_use]
    pub fn new() -> Self {
        Self { may_change: false, ..Self::with(|name| env::var(name)) }
    }

    /// Reads variables from somewhere else, where they may change.
    pub fn with(variable: impl Fn(&str) -> Result<String, env::VarError> + Send + Sync + 'static) -> Self {
        Self { variable: Box::new(variable), may_change: true }
    }

    fn get(&self, ident: &str) -> Result<Option<Arc<Key>>, AuthError> {
        let upper = ident.to_uppercase();
        let variable = |field: &str| {
            let name = format!("HPFEEDS_{upper}_{field}");
            match (self.variable)(&name) {
                Ok(value) => Ok(Some(value)),
                Err(env::VarError::NotPresent) => Ok(None),
                Err(env::VarError::NotUnicode(_)) => Err(AuthError::new(format_args!("{name:?} is not UTF-8"))),
            }
        };
        let Some(secret) = variable("SECRET")?.filter(|secret| !secret.is_empty()) else {
            return Ok(None);
        };
        let owner = variable("OWNER")?.unwrap_or_else(|| ident.to_owned());
        let pubchans = variable("PUBCHANS")?.unwrap_or_default();
        let subchans = variable("SUBCHANS")?.unwrap_or_default();
        let key = Key::new(ident, secret)
            .map(|key| key.owner(owner).account(upper.as_str()))
            .and_then(|key| key.publish(entries(&pubchans)))
            .and_then(|key| key.subscribe(entries(&subchans)))
            .map_err(|cause| AuthError::new(format_args!("environment variables of {ident:?}: a channel {cause}")))?;
        Ok(Some(Arc::new(key)))
    }
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|entry| !entry.is_empty())
}

impl Default for EnvStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EnvStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvStore")
    }
}

impl AuthStore for EnvStore {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(async move { self.get(ident) })
    }

    fn may_change(&self) -> bool {
        self.may_change
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn store(variables: &[(&str, &str)]) -> EnvStore {
        let variables: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        EnvStore::with(move |name| variables.get(name).cloned().ok_or(env::VarError::NotPresent))
    }

    #[test]
    fn reads_the_variables_of_the_python_broker() {
        let store = store(&[
            ("HPFEEDS_BOB_SECRET", "s"),
            ("HPFEEDS_BOB_OWNER", "team"),
            ("HPFEEDS_BOB_PUBCHANS", "a,b.*"),
            ("HPFEEDS_BOB_SUBCHANS", "c"),
        ]);
        let key = store.get("Bob").unwrap().unwrap();
        assert_eq!((key.ident.as_str(), key.owner.as_str()), ("Bob", "team"));
        assert!(key.may_publish("a") && key.may_publish("b.x") && !key.may_publish("c"));
        assert!(key.may_subscribe("c") && !key.may_subscribe("a"));
    }

    #[test]
    fn only_the_secret_is_required() {
        let key = store(&[("HPFEEDS_BOB_SECRET", "s")]).get("bob").unwrap().unwrap();
        assert_eq!(key.owner, "bob");
        assert!(!key.may_publish("") && !key.may_subscribe(""));
    }

    #[test]
    fn no_secret_or_an_empty_one_is_nobody() {
        assert!(store(&[]).get("bob").unwrap().is_none());
        assert!(store(&[("HPFEEDS_BOB_SECRET", ""), ("HPFEEDS_BOB_PUBCHANS", "a")]).get("bob").unwrap().is_none());
    }

    #[test]
    fn a_name_that_no_variable_can_have_is_nobody() {
        for ident in ["a=b", "a\0b", "\u{1F41D}"] {
            assert!(EnvStore::new().get(ident).unwrap().is_none(), "{ident:?}");
        }
    }
}
