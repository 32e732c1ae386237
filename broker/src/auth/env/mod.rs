//! Keys in environment variables.

#[cfg(feature = "cli")]
mod remarks;
mod variables;

use std::{env, fmt, path::PathBuf, sync::Arc};

use tokio::task::spawn_blocking;

use self::variables::{both, entries, idents, is_file, read};
use super::{AuthError, AuthStore, Idents, Lookup, key::Key};

/// Keys in environment variables, as the Python broker reads them.
///
/// `HPFEEDS_<IDENT>_SECRET` makes an ident known; `_OWNER` (default: the ident), `_PUBCHANS` and
/// `_SUBCHANS` (comma-separated channels or patterns, default: none) complete its key. The ident
/// stands there in upper case: idents that differ in nothing but case have the same key, and share
/// its limits.
///
/// `HPFEEDS_<IDENT>_SECRET_FILE` names a file with the secret instead (at most 64 KiB; line breaks
/// at its end are no part of the secret), as Docker and Kubernetes mount secrets. The file is read
/// at each lookup.
pub struct EnvStore {
    variable: Box<Variable>,
    may_change: bool,
    /// The variables are those of this process, which can be listed.
    is_process: bool,
}

type Variable = dyn Fn(&str) -> Result<String, env::VarError> + Send + Sync;

/// Where a secret is.
enum Source {
    Value(String),
    File { variable: String, path: PathBuf },
}

impl EnvStore {
    /// Reads the variables of this process, at each lookup. Only the process itself can change
    /// them: a program that does so calls
    /// [`Broker::recheck_now`](crate::broker::Broker::recheck_now). Unless a secret is in a file,
    /// live connections are not looked up again without that.
    #[must_use]
    pub fn new() -> Self {
        let in_files = env::vars_os().any(|(name, _)| is_file(&name));
        Self { may_change: in_files, is_process: true, ..Self::with(|name| env::var(name)) }
    }

    /// Reads variables through a function, at each lookup. Their values may change.
    pub fn with(variable: impl Fn(&str) -> Result<String, env::VarError> + Send + Sync + 'static) -> Self {
        Self { variable: Box::new(variable), may_change: true, is_process: false }
    }

    /// Remarks about the variables of this process that are probably not meant as they are: quotes,
    /// blanks and line breaks around a value, an ident that is not in upper case, a list without a
    /// secret, a file that cannot be read, and that there is no key at all. Each is a line that
    /// names the variable and never its value. Reads the files.
    #[cfg(feature = "cli")]
    pub(crate) fn remarks() -> Vec<String> {
        remarks::on(env::vars_os())
    }

    /// The secret of an ident, of which dashes and dots may stand as underscores in the variable.
    #[cfg(feature = "cli")]
    pub(crate) fn secret(&self, ident: &str) -> Result<Option<String>, AuthError> {
        let upper = ident.to_uppercase();
        let plain = upper.replace(['-', '.'], "_");
        let found = match self.source(&upper)? {
            None if plain != upper => self.source(&plain)?,
            found => found,
        };
        Ok(match found {
            None => None,
            Some(Source::Value(secret)) => Some(secret),
            Some(Source::File { variable, path }) => Some(read(&variable, &path)?),
        })
    }

    fn variable(&self, upper: &str, field: &str) -> Result<Option<String>, AuthError> {
        let name = format!("HPFEEDS_{upper}_{field}");
        match (self.variable)(&name) {
            Ok(value) => Ok(Some(value)),
            Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => Err(AuthError::new(format_args!("{name:?} is not UTF-8"))),
        }
    }

    fn source(&self, upper: &str) -> Result<Option<Source>, AuthError> {
        let filled = |field| Ok(self.variable(upper, field)?.filter(|value| !value.is_empty()));
        match (filled("SECRET")?, filled("SECRET_FILE")?) {
            (None, None) => Ok(None),
            (Some(secret), None) => Ok(Some(Source::Value(secret))),
            (None, Some(path)) => {
                Ok(Some(Source::File { variable: format!("HPFEEDS_{upper}_SECRET_FILE"), path: path.into() }))
            }
            (Some(_), Some(_)) => Err(both(upper)),
        }
    }

    fn key(&self, ident: &str, upper: &str, secret: String) -> Result<Option<Arc<Key>>, AuthError> {
        let owner = self.variable(upper, "OWNER")?.unwrap_or_else(|| ident.to_owned());
        let pubchans = self.variable(upper, "PUBCHANS")?.unwrap_or_default();
        let subchans = self.variable(upper, "SUBCHANS")?.unwrap_or_default();
        let key = Key::new(ident, secret)
            .map(|key| key.owner(owner).account(upper))
            .and_then(|key| key.publish(entries(&pubchans)))
            .and_then(|key| key.subscribe(entries(&subchans)))
            .map_err(|cause| AuthError::new(format_args!("environment variables of {ident:?}: a channel {cause}")))?;
        Ok(Some(Arc::new(key)))
    }
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
        Box::pin(async move {
            let upper = ident.to_uppercase();
            let secret = match self.source(&upper)? {
                None => return Ok(None),
                Some(Source::Value(secret)) => secret,
                Some(Source::File { variable, path }) => {
                    let read = spawn_blocking(move || read(&variable, &path)).await;
                    read.unwrap_or_else(|cause| Err(AuthError::new(cause)))?
                }
            };
            self.key(ident, &upper, secret)
        })
    }

    /// In upper case, as they stand in the variables of this process.
    fn idents(&self) -> Idents<'_> {
        Box::pin(async { Ok(if self.is_process { idents(env::vars_os()) } else { Vec::new() }) })
    }

    fn may_change(&self) -> bool {
        self.may_change
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::{collections::HashMap, fs};

    use futures::FutureExt as _;

    use super::*;

    fn store(variables: &[(&str, &str)]) -> EnvStore {
        let variables: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        EnvStore::with(move |name| variables.get(name).cloned().ok_or(env::VarError::NotPresent))
    }

    impl EnvStore {
        /// Without a file, it waits for nothing.
        fn get(&self, ident: &str) -> Result<Option<Arc<Key>>, AuthError> {
            self.lookup(ident).now_or_never().unwrap()
        }
    }

    #[tokio::test]
    async fn a_file_holds_the_secret_and_is_read_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let one =
            store(&[("HPFEEDS_BOB_SECRET_FILE", path), ("HPFEEDS_BOB_SECRET", ""), ("HPFEEDS_BOB_PUBCHANS", "a")]);
        for (text, secret) in [("hunter2\n", "hunter2"), ("\u{FEFF} a b \r\n", " a b "), ("x\n\n", "x"), ("y", "y")] {
            fs::write(&file, text).unwrap();
            let key = one.lookup("bob").await.unwrap().unwrap();
            let nonce = hpfeeds::wire::Nonce::new([1]);
            assert!(key.secret.verify(&nonce, &hpfeeds::wire::Secret::new(secret).sign(&nonce)), "{text:?}");
            assert!(key.may_publish("a"));
        }
        let long = vec![b'x'; 65_537];
        for (text, cause) in [
            (&b"\n"[..], "is empty"),
            (b"\xFF\xFEa\0", "is UTF-16: save it as UTF-8"),
            (b"hunter\xFF", "is not UTF-8"),
            (&long, "is longer than a secret of 65536 bytes"),
        ] {
            fs::write(&file, text).unwrap();
            let error = one.lookup("bob").await.unwrap_err().to_string();
            assert_eq!(error, format!("HPFEEDS_BOB_SECRET_FILE: {path}: {cause}"));
        }
        let error =
            store(&[("HPFEEDS_BOB_SECRET_FILE", "/nonexistent/x")]).lookup("bob").await.unwrap_err().to_string();
        assert!(error.starts_with("HPFEEDS_BOB_SECRET_FILE: /nonexistent/x: No such file"), "{error}");
        let two = store(&[("HPFEEDS_BOB_SECRET_FILE", path), ("HPFEEDS_BOB_SECRET", "hunter2")]);
        let error = two.lookup("bob").await.unwrap_err().to_string();
        assert!(error.starts_with("HPFEEDS_BOB_SECRET and HPFEEDS_BOB_SECRET_FILE are both set"), "{error}");
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

    #[cfg(feature = "cli")]
    #[test]
    fn secret_of_an_ident_with_dashes_and_dots_may_stand_under_underscores() {
        let exact = store(&[("HPFEEDS_COWRIE-1.A_SECRET", "one"), ("HPFEEDS_COWRIE_1_A_SECRET", "two")]);
        assert_eq!(exact.secret("cowrie-1.a").unwrap().as_deref(), Some("one"));
        let plain = store(&[("HPFEEDS_COWRIE_1_A_SECRET", "two")]);
        assert_eq!(plain.secret("cowrie-1.a").unwrap().as_deref(), Some("two"));
        assert_eq!(plain.secret("cowrie").unwrap(), None);
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
