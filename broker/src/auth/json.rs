//! Keys in a JSON file, which is watched for changes.

use std::{
    collections::BTreeMap,
    fmt, fs, future,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use futures::stream;
use serde_core::{
    Deserializer as _,
    de::{MapAccess, Visitor},
};
use serde_json::{Deserializer, Map, Value};
use tokio::sync::{oneshot, watch as signal};
use tracing::{info, warn};

use super::{
    AuthError, AuthStore, Changes, Idents, Lookup, Reload,
    entry::{Entry, kind},
    key::Key,
    memory::{Lists, MemoryStore},
    remarks::Remarks,
    sleep_until_time,
    text::utf8,
};
use crate::util::file_watch::{self, Errand, Fingerprint, Watcher};

/// The fields of the lists.
pub(crate) const LISTS: [&str; 2] = ["pubchans", "subchans"];

/// Keys in a JSON file, as the Python broker reads it:
///
/// ```json
/// {"ident": {"owner": "…", "secret": "…", "pubchans": ["…"], "subchans": ["…"]}}
/// ```
///
/// All four fields are required. `hpfeeds-broker keys` writes two more, which the Python broker
/// ignores: `disabled`, with the secret of a disabled key (`secret` is a random text then; a plain
/// `true` does as well), and `old_secrets`, `[{"secret": "…", "until": …}]` with a time in seconds
/// since 1970. Other fields are ignored. The lists hold channels or patterns; an entry of a list
/// that is no string is passed over, and an owner that is `null` is the ident, as in the Python
/// broker. No client can authenticate with an empty secret. The log names such entries when the
/// file is read.
///
/// A change of the file is seen within about 1.5 s, also when another file takes its name, or that
/// of a folder or link on its path, as the secrets of Kubernetes do. The change counts for live
/// connections, too. A file that cannot be read or is faulty changes nothing: the keys stay as they
/// were, and the cause is logged.
#[derive(Debug)]
pub struct JsonStore {
    file: Arc<File>,
    /// Reaches the thread that watches the file, and ends it when it is dropped.
    watched: mpsc::Sender<Errand>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// Replaced as a whole, so that a lookup sees either the old or the new file.
    keys: ArcSwap<MemoryStore>,
    /// Told when they have been.
    replaced: signal::Sender<()>,
}

impl JsonStore {
    /// Reads the file, and starts to watch it. The error names the file, and the line or the ident
    /// and field at fault.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, AuthError> {
        let path = path.into();
        // Before it is read: a change meanwhile is seen as one.
        let last = Fingerprint::of([&path]);
        let keys = ArcSwap::from_pointee(load(&path)?);
        let file = Arc::new(File { path, keys, replaced: signal::Sender::default() });
        let read = {
            let file = file.clone();
            move || {
                let keys = file.reload()?;
                info!(file = %file.path.display(), keys, "the keys have been read again");
                Ok(())
            }
        };
        let log = |cause: &AuthError| warn!(%cause, "the keys stay as they were");
        let watched = file_watch::spawn("keys", Watcher { path: file.path.clone(), last, read, log });
        let watched = watched
            .map_err(|cause| AuthError::new(format_args!("{}: cannot watch it: {cause}", file.path.display())))?;
        Ok(Self { file, watched })
    }

    /// Reads the file again, also for connections that have authenticated. On an error the old keys
    /// stay.
    pub fn reload(&self) -> Result<(), AuthError> {
        self.file.reload().map(drop)
    }
}

impl File {
    /// Returns how many keys there are now.
    fn reload(&self) -> Result<usize, AuthError> {
        let keys = load(&self.path)?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        self.replaced.send_replace(());
        Ok(count)
    }

    /// When the next old secret ends after a time.
    fn next_end(&self, after: SystemTime) -> Option<SystemTime> {
        self.keys.load().ends().filter(|end| *end > after).min()
    }

    fn get(&self, ident: &str) -> Option<Arc<Key>> {
        self.keys.load().get(ident)
    }
}

impl AuthStore for JsonStore {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(async move { Ok(self.file.get(ident)) })
    }

    fn reload(&self) -> Reload<'_> {
        let (file, (answer, answered)) = (self.file.clone(), oneshot::channel());
        // When the thread has ended, so has `answer`.
        let _ = self.watched.send(Box::new(move || _ = answer.send(file.reload().map(drop))));
        Box::pin(async move { answered.await.unwrap_or_else(|cause| Err(AuthError::new(cause))) })
    }

    fn may_change(&self) -> bool {
        false
    }

    fn idents(&self) -> Idents<'_> {
        Box::pin(async { Ok(self.file.keys.load().all()) })
    }

    fn changes(&self) -> Changes {
        let told = (self.file.clone(), self.file.replaced.subscribe(), SystemTime::now());
        Box::pin(stream::unfold(told, async |(file, mut replaced, last)| {
            let end = file.next_end(last);
            let ended = async {
                match end {
                    Some(end) => sleep_until_time(end).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                changed = replaced.changed() => changed.ok()?,
                () = ended => {}
            }
            // A subscriber of changes that is told now sees everything that has ended before.
            Some(((), (file, replaced, SystemTime::now())))
        }))
    }
}

fn load(path: &Path) -> Result<MemoryStore, AuthError> {
    let fail = |cause: &dyn fmt::Display| AuthError::new(format_args!("{}: {cause}", path.display()));
    let text = fs::read(path).map_err(|cause| fail(&cause))?;
    let mut remarks = Remarks::default();
    let keys = parse(&text, &mut remarks).map_err(|cause| fail(&cause))?;
    remarks.log(&path.display());
    Ok(keys)
}

pub(crate) fn parse(text: &[u8], remarks: &mut Remarks) -> Result<MemoryStore, String> {
    let (mut keys, mut lists) = (MemoryStore::new(), Lists::default());
    // Of two users with one ident the last counts, with its fault or without; the first fault is
    // told.
    let mut faults = BTreeMap::new();
    let users = Users(|ident: String, value: &Value| {
        let key = entry(&ident, value, remarks).and_then(|entry| {
            entry.remark(LISTS, remarks);
            entry.key(LISTS).map_err(|cause| format!("user {ident:?}: {cause}"))
        });
        match key {
            Ok(key) => {
                faults.remove(&ident);
                keys.insert(lists.share(key));
            }
            Err(fault) => _ = faults.insert(ident, fault),
        }
    });
    let mut json = Deserializer::from_slice(utf8(text)?);
    if let Err(cause) = json.deserialize_map(users).and_then(|()| json.end()) {
        return Err(object(text).err().unwrap_or_else(|| cause.to_string()));
    }
    faults.into_values().next().map_or(Ok(keys), Err)
}

/// Visitor that takes the users one after the other: all of them at once, as values, take several
/// times the memory of their keys.
struct Users<F>(F);

impl<'de, F: FnMut(String, &Value)> Visitor<'de> for Users<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of idents")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut users: A) -> Result<(), A::Error> {
        while let Some((ident, value)) = users.next_entry()? {
            (self.0)(ident, &value);
        }
        Ok(())
    }
}

/// The entries of a file in this format, in the order of the idents.
#[cfg(feature = "cli")]
pub(crate) fn entries(text: &[u8], remarks: &mut Remarks) -> Result<Vec<Entry>, String> {
    let root = object(text)?;
    root.iter().map(|(ident, value)| entry(ident, value, remarks)).collect()
}

/// One entry. The error names the ident and the field.
pub(crate) fn entry(ident: &str, value: &Value, remarks: &mut Remarks) -> Result<Entry, String> {
    Entry::from_json(ident, value, remarks).map_err(|cause| format!("user {ident:?}: {cause}"))
}

/// The file as it is.
pub(crate) fn object(text: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(utf8(text)?).map_err(|cause| cause.to_string())? {
        Value::Object(root) => Ok(root),
        other => Err(format!("must hold an object of idents, not {}", kind(&other))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<MemoryStore, String> {
        super::parse(text, &mut Remarks::default())
    }

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
            (r#"{"bob": {"owner": []}}"#, r#"user "bob": "owner" must be a string, not a list"#),
            ("\u{FEFF}[]", "must hold an object of idents, not a list"),
            ("{\0}\0", "is UTF-16: save it as UTF-8"),
            (
                r#"{"bob": {"owner": "", "secret": "hunter2", "pubchans": {}, "subchans": []}}"#,
                r#"user "bob": "pubchans" must be a list of strings, not an object"#,
            ),
            (
                r#"{"bob": {"owner": "", "secret": "hunter2", "pubchans": [], "subchans": "a"}}"#,
                r#"user "bob": "subchans" must be a list of strings, not a string"#,
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
    fn odd_entries_count_as_in_the_python_broker_and_are_named() {
        let mut remarks = Remarks::default();
        let text = r#"{"bob": {"owner": null, "secret": "hunter2", "pubchans": ["a", 5, null], "subchans": ["cowrie*"]},
            "eve": {"owner": 7, "secret": "", "pubchans": [], "subchans": ["*.sessions", "b.*", "*"]}}"#;
        let keys = super::parse(format!("\u{FEFF}{text}").as_bytes(), &mut remarks).unwrap();
        let (bob, eve) = (keys.get("bob").unwrap(), keys.get("eve").unwrap());
        assert_eq!((bob.owner.as_str(), eve.owner.as_str()), ("bob", "7"));
        assert!(bob.may_publish("a") && bob.may_subscribe("cowrie*") && !bob.may_subscribe("cowrie.sessions"));
        let lines = remarks.into_lines();
        let expected = [
            r#"user "bob": "pubchans" holds a number, which is no channel and is passed over"#,
            r#"user "bob": "subchans" holds "cowrie*", which is the name of one channel: a pattern is * or ends in .*"#,
            r#"user "eve": the secret is empty: nobody can authenticate with this key"#,
            r#"user "eve": "subchans" holds "*.sessions", which is the name of one channel: a pattern is * or ends in .*"#,
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_last_user_of_an_ident_counts_and_the_first_fault_is_told() {
        let user = |ident: &str, secret: &str| {
            format!(r#""{ident}": {{"owner": "o", "secret": {secret}, "pubchans": [], "subchans": []}}"#)
        };
        let file = |users: &[(&str, &str)]| {
            let users: Vec<_> = users.iter().map(|(ident, secret)| user(ident, secret)).collect();
            parse(format!("{{{}}}", users.join(",")).as_bytes())
        };
        let fault = |ident: &str| format!("user {ident:?}: \"secret\" must be a string, not a number");
        assert_eq!(file(&[("eve", "1"), ("bob", "2"), ("amy", "\"s\"")]).unwrap_err(), fault("bob"));
        assert_eq!(file(&[("bob", "1"), ("bob", "\"s\"")]).unwrap().len(), 1);
        assert_eq!(file(&[("bob", "\"s\""), ("bob", "1")]).unwrap_err(), fault("bob"));
        // That the file is no JSON is worse.
        assert!(parse(format!("{{{}, ]", user("bob", "1")).as_bytes()).unwrap_err().contains("line 1 column"));
        assert!(parse(format!("{{{}}} x", user("bob", "\"s\"")).as_bytes()).unwrap_err().contains("trailing"));
    }

    #[test]
    fn a_bad_file_keeps_the_old_keys() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, r#"{"bob": {"owner": "", "secret": "s", "pubchans": [], "subchans": []}}"#).unwrap();
        let store = JsonStore::open(file.path()).unwrap();
        fs::write(&file, "{").unwrap();
        let error = store.reload().unwrap_err().to_string();
        assert!(error.starts_with(&file.path().display().to_string()), "{error}");
        assert!(store.file.get("bob").is_some());
        fs::write(&file, "{}").unwrap();
        store.reload().unwrap();
        assert!(store.file.get("bob").is_none());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = JsonStore::open("/nonexistent/users.json").unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/users.json: No such file"), "{error}");
    }
}
