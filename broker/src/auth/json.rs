use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use serde_json::{Map, Value};

use super::{AuthError, AuthStore, Key, Lookup, MemoryStore, Reload};

/// Keys in a JSON file, as the Python broker reads it:
///
/// ```json
/// {"ident": {"owner": "…", "secret": "…", "pubchans": ["…"], "subchans": ["…"]}}
/// ```
///
/// All four fields are required; others are ignored. The lists hold channels or patterns.
#[derive(Debug)]
pub struct JsonStore {
    path: PathBuf,
    /// Replaced as a whole, so that a lookup sees either the old or the new file.
    keys: ArcSwap<MemoryStore>,
}

impl JsonStore {
    /// Reads the file. The error names the file, and the line or the ident and field that is wrong.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, AuthError> {
        let path = path.into();
        let keys = ArcSwap::from_pointee(load(&path)?);
        Ok(Self { path, keys })
    }

    /// Reads the file again. On an error the old keys stay.
    ///
    /// Connections that have authenticated keep what they were allowed then.
    pub fn reload(&self) -> Result<(), AuthError> {
        self.keys.store(Arc::new(load(&self.path)?));
        Ok(())
    }
}

impl AuthStore for JsonStore {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(async move { Ok(self.keys.load().get(ident)) })
    }

    fn reload(&self) -> Reload<'_> {
        Box::pin(async move { Self::reload(self) })
    }
}

fn load(path: &Path) -> Result<MemoryStore, AuthError> {
    let fail = |cause: &dyn fmt::Display| AuthError::new(format_args!("{}: {cause}", path.display()));
    let text = fs::read(path).map_err(|cause| fail(&cause))?;
    parse(&text).map_err(|cause| fail(&cause))
}

fn parse(text: &[u8]) -> Result<MemoryStore, String> {
    let root: Value = serde_json::from_slice(text).map_err(|cause| cause.to_string())?;
    let Value::Object(users) = root else {
        return Err(format!("must hold an object of idents, not {}", kind(&root)));
    };
    users.iter().map(|(ident, entry)| key(ident, entry)).collect()
}

fn key(ident: &str, entry: &Value) -> Result<Key, String> {
    let Value::Object(entry) = entry else {
        return Err(format!("user {ident:?}: must be an object, not {}", kind(entry)));
    };
    let read = || {
        let (owner, secret) = (text(entry, "owner")?, text(entry, "secret")?);
        let (pubchans, subchans) = (channels(entry, "pubchans")?, channels(entry, "subchans")?);
        let key = Key::new(ident, secret).map_err(|cause| format!("the ident {cause}"))?.owner(owner);
        let key = key.publish(pubchans).map_err(|cause| format!("a channel in \"pubchans\" {cause}"))?;
        key.subscribe(subchans).map_err(|cause| format!("a channel in \"subchans\" {cause}"))
    };
    read().map_err(|cause| format!("user {ident:?}: {cause}"))
}

fn field<'a>(entry: &'a Map<String, Value>, name: &str) -> Result<&'a Value, String> {
    entry.get(name).ok_or_else(|| format!("{name:?} is missing"))
}

fn text<'a>(entry: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    let value = field(entry, name)?;
    value.as_str().ok_or_else(|| format!("{name:?} must be a string, not {}", kind(value)))
}

/// The entries of a list. Empty ones are passed over: they stand in real files and match no channel.
fn channels<'a>(entry: &'a Map<String, Value>, name: &str) -> Result<Vec<&'a str>, String> {
    let value = field(entry, name)?;
    let list = value.as_array().ok_or_else(|| format!("{name:?} must be a list of strings, not {}", kind(value)))?;
    let entries = list.iter().map(|value| {
        value.as_str().ok_or_else(|| format!("{name:?} must hold strings only, but holds {}", kind(value)))
    });
    entries.filter(|entry| entry.as_ref() != Ok(&"")).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_python_broker_reads() {
        let keys = parse(
            br#"{"bob": {"owner": "team", "secret": "s", "pubchans": ["a", ""], "subchans": ["b.*"], "note": 1},
                 "eve": {"owner": "e", "secret": "t", "pubchans": [], "subchans": []}}"#,
        )
        .unwrap();
        let bob = keys.get("bob").unwrap();
        assert_eq!(bob.owner, "team");
        assert!(bob.may_publish("a") && !bob.may_publish("") && bob.may_subscribe("b.x"));
        assert!(keys.get("eve").is_some() && keys.get("Bob").is_none());
    }

    #[test]
    fn every_fault_is_one_line_that_names_the_place() {
        let cases = [
            ("{\n \"bob\": {,}\n}", "key must be a string at line 2 column 10"),
            ("", "EOF while parsing a value at line 1 column 0"),
            ("[]", "must hold an object of idents, not a list"),
            (r#"{"bob": 3}"#, r#"user "bob": must be an object, not a number"#),
            (r#"{"bob": {}}"#, r#"user "bob": "owner" is missing"#),
            (r#"{"bob": {"owner": null}}"#, r#"user "bob": "owner" must be a string, not null"#),
            (
                r#"{"bob": {"owner": "", "secret": "hunter2", "pubchans": {}, "subchans": []}}"#,
                r#"user "bob": "pubchans" must be a list of strings, not an object"#,
            ),
            (
                r#"{"bob": {"owner": "", "secret": "hunter2", "pubchans": [], "subchans": [true]}}"#,
                r#"user "bob": "subchans" must hold strings only, but holds a boolean"#,
            ),
            (
                r#"{"": {"owner": "", "secret": "hunter2", "pubchans": [], "subchans": []}}"#,
                r#"user "": the ident is empty"#,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_bad_file_keeps_the_old_keys() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, r#"{"bob": {"owner": "", "secret": "s", "pubchans": [], "subchans": []}}"#).unwrap();
        let store = JsonStore::open(file.path()).unwrap();
        fs::write(&file, "{").unwrap();
        let error = store.reload().unwrap_err().to_string();
        assert!(error.starts_with(&file.path().display().to_string()), "{error}");
        assert!(store.keys.load().get("bob").is_some());
        fs::write(&file, "{}").unwrap();
        store.reload().unwrap();
        assert!(store.keys.load().get("bob").is_none());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = JsonStore::open("/nonexistent/users.json").unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/users.json: No such file"), "{error}");
    }
}
