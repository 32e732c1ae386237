//! Keys as text: the format of JSON files.

use serde_json::{Map, Value, json};

use crate::auth::{AuthError, entry::Entry, json::entries, remarks::Remarks};

/// Keys in the format of JSON files. The error is the line, or the ident and field that is wrong.
pub fn from_json(text: &[u8]) -> Result<Vec<Entry>, AuthError> {
    entries(text, &mut Remarks::default()).map_err(AuthError::new)
}

/// Keys in the format of JSON files, with their secrets. An error means that the system has no
/// randomness, of which disabled keys need some.
pub fn to_json(entries: &[Entry]) -> Result<String, AuthError> {
    let root = entries.iter().map(|entry| Ok((entry.ident.clone(), value(entry)?.into())));
    root.collect::<Result<_, String>>().map(print).map_err(AuthError::new)
}

/// The entry of a key.
pub(super) fn value(entry: &Entry) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    let Entry { owner, publish, subscribe, .. } = entry;
    map.insert("owner".to_owned(), json!(owner));
    map.insert("pubchans".to_owned(), json!(publish));
    map.insert("subchans".to_owned(), json!(subscribe));
    put_secrets(&mut map, entry)?;
    Ok(map)
}

/// Writes the secrets of a key. The Python broker looks at `secret` alone.
pub(super) fn put_secrets(map: &mut Map<String, Value>, entry: &Entry) -> Result<(), String> {
    let Entry { secret, disabled, old_secrets, .. } = entry;
    if *disabled {
        map.insert("secret".to_owned(), nobodys_secret()?.into());
        map.insert("disabled".to_owned(), json!(secret));
    } else {
        map.insert("secret".to_owned(), json!(secret));
        map.remove("disabled");
    }
    map.remove("old_secrets");
    if !old_secrets.is_empty() {
        let old = old_secrets.iter().map(|old| json!({"secret": old.secret, "until": old.seconds()}));
        map.insert("old_secrets".to_owned(), old.collect());
    }
    Ok(())
}

/// The text of a file.
pub(super) fn print(root: Map<String, Value>) -> String {
    // With string keys and no more than this, there is nothing that JSON cannot say.
    format!("{:#}\n", Value::Object(root))
}

/// A random text in the place of the secret of a disabled key, where every broker looks.
pub(super) fn nobodys_secret() -> Result<String, String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|cause| format!("no randomness: {cause}"))?;
    Ok(format!("disabled-{:032x}", u128::from_ne_bytes(random)))
}
