//! An entry: a key as a store holds it, not yet checked.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hpfeeds::wire::Pattern;
use serde_json::{Map, Value};

use super::{key::Key, remarks::Remarks};

/// A key as it stands in a store, with its secret in clear text. It may hold names that no broker
/// accepts.
#[derive(Clone, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "cli"), allow(unreachable_pub, reason = "public in `keys` only"))]
pub struct Entry {
    /// The ident that the key is for.
    pub ident: String,
    /// The person or project it belongs to.
    pub owner: String,
    /// The secret, in clear text.
    pub secret: String,
    /// Channels, or patterns of them, that it may publish to.
    pub publish: Vec<String>,
    /// Channels, or patterns of them, that it may subscribe to.
    pub subscribe: Vec<String>,
    /// A disabled key: no secret authenticates with it.
    pub disabled: bool,
    /// Earlier secrets that still count for a while.
    pub old_secrets: Vec<OldSecret>,
}

/// A secret that has been replaced, and counts until a time of the system's clock (to the second).
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "cli"), allow(unreachable_pub, reason = "public in `keys` only"))]
#[allow(missing_docs, reason = "said above")]
pub struct OldSecret {
    pub secret: String,
    pub until: SystemTime,
}

impl OldSecret {
    /// `None`: no clock shows such a time.
    pub(crate) fn new(secret: &str, seconds: u64) -> Option<Self> {
        let until = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        Some(Self { secret: secret.to_owned(), until })
    }

    /// Since 1970.
    #[cfg(feature = "cli")]
    pub(crate) fn seconds(&self) -> u64 {
        self.until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// Without the secret.
impl fmt::Debug for OldSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OldSecret").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Entry {
    /// Checks the names. The error says which of `names` (those of the fields `publish` and
    /// `subscribe`) is wrong.
    pub(crate) fn key(&self, names: [&str; 2]) -> Result<Key, String> {
        let key = Key::new(&self.ident, &self.secret).map_err(|cause| format!("the ident {cause}"))?.owner(&self.owner);
        let key = if self.disabled { key.disabled() } else { key };
        let key = self.old_secrets.iter().fold(key, |key, old| key.old_secret(&old.secret, old.until));
        let [publish, subscribe] = names;
        let key = key.publish(filled(&self.publish)).map_err(|cause| format!("a channel in {publish:?} {cause}"))?;
        key.subscribe(filled(&self.subscribe)).map_err(|cause| format!("a channel in {subscribe:?} {cause}"))
    }

    /// The entry of an ident in a JSON file.
    pub(crate) fn from_json(ident: &str, entry: &Value, remarks: &mut Remarks) -> Result<Self, String> {
        let Value::Object(entry) = entry else {
            return Err(format!("must be an object, not {}", kind(entry)));
        };
        let mut channels = |name| {
            let list = list(field(entry, name)?).map_err(|cause| format!("{name:?} {cause}"))?;
            list.remark(format_args!("user {ident:?}: {name:?}"), remarks);
            Ok::<_, String>(list.channels)
        };
        let owner = owner(ident, field(entry, "owner")?)?;
        let secret = text(entry, "secret")?;
        let (disabled, secret) = match entry.get("disabled") {
            None | Some(Value::Null | Value::Bool(false)) => (false, secret),
            Some(Value::Bool(true)) => (true, secret),
            Some(Value::String(secret)) => (true, secret.as_str()),
            Some(other) => {
                return Err(format!("\"disabled\" must be a boolean or the secret, not {}", kind(other)));
            }
        };
        Ok(Self {
            ident: ident.to_owned(),
            owner,
            secret: secret.to_owned(),
            publish: channels("pubchans")?,
            subscribe: channels("subchans")?,
            disabled,
            old_secrets: old_secrets(entry)?,
        })
    }

    /// Remarks about a key: entries that are legal and probably not meant. `names` as for
    /// [`key`](Self::key).
    pub(crate) fn remark(&self, names: [&str; 2], remarks: &mut Remarks) {
        let ident = &self.ident;
        if self.secret.is_empty() {
            remarks.add(format_args!("user {ident:?}: the secret is empty: nobody can authenticate with this key"));
        }
        for (name, list) in names.into_iter().zip([&self.publish, &self.subscribe]) {
            for channel in list.iter().filter(|channel| is_literal(channel)) {
                remarks.add(format_args!(
                    "user {ident:?}: {name:?} holds {channel:?}, which is the name of one channel: \
                     a pattern is * or ends in .*"
                ));
            }
        }
    }
}

/// Whether an entry has a `*` that stands for itself.
fn is_literal(channel: &str) -> bool {
    Pattern::new(channel).is_ok_and(|pattern| pattern.has_literal_star())
}

/// Without the secret.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ident, owner, publish, subscribe, .. } = self;
        let mut out = f.debug_struct("Entry");
        out.field("ident", ident).field("owner", owner).field("publish", publish).field("subscribe", subscribe);
        out.finish_non_exhaustive()
    }
}

/// The entries of a list. Empty ones are passed over: they stand in real files and match no
/// channel.
fn filled(list: &[String]) -> impl Iterator<Item = &String> {
    list.iter().filter(|channel| !channel.is_empty())
}

fn field<'a>(entry: &'a Map<String, Value>, name: &str) -> Result<&'a Value, String> {
    entry.get(name).ok_or_else(|| format!("{name:?} is missing"))
}

fn text<'a>(entry: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    let value = field(entry, name)?;
    value.as_str().ok_or_else(|| format!("{name:?} must be a string, not {}", kind(value)))
}

fn old_secrets(entry: &Map<String, Value>) -> Result<Vec<OldSecret>, String> {
    let Some(list) = entry.get("old_secrets") else {
        return Ok(Vec::new());
    };
    let old = |value: &Value| OldSecret::new(value.get("secret")?.as_str()?, value.get("until")?.as_u64()?);
    let all = list.as_array().and_then(|list| list.iter().map(old).collect());
    all.ok_or_else(|| {
        "\"old_secrets\" must be a list of objects with \"secret\" and \"until\", in seconds since 1970".to_owned()
    })
}

/// As in the Python broker, which shows what is there: whoever has none owns itself.
fn owner(ident: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(ident.to_owned()),
        Value::String(owner) => Ok(owner.clone()),
        Value::Number(owner) => Ok(owner.to_string()),
        other => Err(format!("\"owner\" must be a string, not {}", kind(other))),
    }
}

/// The channels of a list, and what else stood there, which no channel can be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) channels: Vec<String>,
    /// The kind of the first entry that is no string.
    other: Option<&'static str>,
}

impl List {
    /// `place` names the list.
    pub(crate) fn remark(&self, place: fmt::Arguments<'_>, remarks: &mut Remarks) {
        if let Some(kind) = self.other {
            remarks.add(format_args!("{place} holds {kind}, which is no channel and is passed over"));
        }
    }
}

/// A list of channels. The error goes on after the name of what holds it.
pub(crate) fn list(value: &Value) -> Result<List, String> {
    let entries = value.as_array().ok_or_else(|| format!("must be a list of strings, not {}", kind(value)))?;
    let mut list = List::default();
    for entry in entries {
        match entry {
            Value::String(channel) => list.channels.push(channel.clone()),
            // For the Python broker it is an entry that no channel is equal to.
            other => list.other = list.other.or(Some(kind(other))),
        }
    }
    Ok(list)
}

/// A list of channels where the Python broker takes one string for a list, too: all channels in
/// which are parts of it. That is a list written as JSON twice, or channels with commas between
/// them. Other parts, such as the first half of a name, allow nothing here.
#[cfg(any(feature = "_sql", feature = "mongodb"))]
pub(crate) fn list_or_text(value: &Value) -> Result<List, String> {
    let Value::String(text) = value else {
        return list(value);
    };
    if let Ok(inner @ Value::Array(_)) = serde_json::from_str(text) {
        return list(&inner);
    }
    let channels = text.split(',').map(str::trim).filter(|channel| !channel.is_empty());
    Ok(List { channels: channels.map(str::to_owned).collect(), other: None })
}

pub(crate) fn kind(value: &Value) -> &'static str {
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
    fn debug_does_not_show_the_secret() {
        let value = serde_json::json!({"owner": "o", "secret": "hunter2", "pubchans": ["a"], "subchans": []});
        let entry = Entry::from_json("bob", &value, &mut Remarks::default()).unwrap();
        assert_eq!((entry.secret.as_str(), entry.publish.as_slice()), ("hunter2", &["a".to_owned()][..]));
        assert!(!format!("{entry:?}").contains("hunter2"));
    }

    #[test]
    #[cfg(any(feature = "_sql", feature = "mongodb"))]
    fn one_string_is_a_list_where_it_is_one_for_the_python_broker() {
        for (text, expected) in [
            ("cowrie.sessions", &["cowrie.sessions"][..]),
            (r#"["a", "b.*"]"#, &["a", "b.*"]),
            ("a, b.*,,c", &["a", "b.*", "c"]),
            ("", &[]),
        ] {
            assert_eq!(list_or_text(&text.into()).unwrap().channels, expected, "{text}");
        }
        assert!(list(&"a".into()).is_err());
    }
}
