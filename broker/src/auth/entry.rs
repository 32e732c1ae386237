//! A key as the stores that programs share hold it: not yet checked.

use std::fmt;

use serde_json::{Map, Value};

use super::Key;

/// A key as it stands in a store, with its secret in clear text. It may hold names that no broker accepts.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "keys"), allow(unreachable_pub, reason = "public in `keys` only"))]
pub struct Entry {
    /// Who the key is for.
    pub ident: String,
    /// The person or project it belongs to.
    pub owner: String,
    /// What its holder has to know.
    pub secret: String,
    /// Channels, or patterns of them, that it may publish to.
    pub publish: Vec<String>,
    /// Channels, or patterns of them, that it may subscribe to.
    pub subscribe: Vec<String>,
}

impl Entry {
    /// Checks the names. The error says which of `names` (those of the fields `publish` and `subscribe`) is wrong.
    pub(crate) fn key(&self, names: [&str; 2]) -> Result<Key, String> {
        let key = Key::new(&self.ident, &self.secret).map_err(|cause| format!("the ident {cause}"))?.owner(&self.owner);
        let [publish, subscribe] = names;
        let key = key.publish(filled(&self.publish)).map_err(|cause| format!("a channel in {publish:?} {cause}"))?;
        key.subscribe(filled(&self.subscribe)).map_err(|cause| format!("a channel in {subscribe:?} {cause}"))
    }

    /// The entry of an ident in a JSON file.
    pub(crate) fn from_json(ident: &str, entry: &Value) -> Result<Self, String> {
        let Value::Object(entry) = entry else {
            return Err(format!("must be an object, not {}", kind(entry)));
        };
        Ok(Self {
            ident: ident.to_owned(),
            owner: text(entry, "owner")?.to_owned(),
            secret: text(entry, "secret")?.to_owned(),
            publish: list(field(entry, "pubchans")?).map_err(|cause| format!("\"pubchans\" {cause}"))?,
            subscribe: list(field(entry, "subchans")?).map_err(|cause| format!("\"subchans\" {cause}"))?,
        })
    }
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

/// The entries of a list. Empty ones are passed over: they stand in real files and match no channel.
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

/// A list of channels. The error goes on after the name of what holds it.
pub(crate) fn list(value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("must be a list of strings, not {}", kind(value)))?;
    let channels = list.iter().map(|value| {
        value.as_str().map(str::to_owned).ok_or_else(|| format!("must hold strings only, but holds {}", kind(value)))
    });
    channels.collect()
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
        let entry = Entry::from_json("bob", &value).unwrap();
        assert_eq!((entry.secret.as_str(), entry.publish.as_slice()), ("hunter2", &["a".to_owned()][..]));
        assert!(!format!("{entry:?}").contains("hunter2"));
    }
}
