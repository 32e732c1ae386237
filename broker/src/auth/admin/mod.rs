//! Adding, changing and removing keys in the stores that programs share: what `hpfeeds-broker keys` is made of.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use hpfeeds_broker::keys::{Change, Entry, Keys};
//!
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("users.json");
//! let keys = Keys::json(file);
//! let sensor = Entry {
//!     ident: "sensor".to_owned(),
//!     owner: "me".to_owned(),
//!     secret: "s3cret".to_owned(),
//!     publish: vec!["cowrie.sessions".to_owned()],
//!     ..Entry::default()
//! };
//! keys.apply(&[Change::Add(sensor.clone())]).await?;
//! assert_eq!(keys.get("sensor").await?, Some(sensor));
//! # Ok(()) }
//! ```

mod file;
mod sql;

use std::{
    collections::BTreeSet,
    mem,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};

use crate::auth::{
    AuthError, Remarks,
    json::{LISTS, entries},
    sql::{Database, DatabaseAddress},
};
pub use crate::auth::{Entry, OldSecret};

/// A store whose keys can be changed.
#[derive(Debug)]
pub struct Keys {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Json(PathBuf),
    Sql(Box<DatabaseAddress>),
}

/// One thing to do.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new key. One with the same ident must not be there.
    Add(Entry),
    /// A new key, in place of one with the same ident.
    Put(Entry),
    /// Other fields for a key that is there.
    Set {
        /// Whose.
        ident: String,
        /// Which.
        fields: Fields,
    },
    /// Removes the key of an ident, which must be there.
    Remove(String),
}

/// The fields of [`Change::Set`]; `None` stays as it is.
#[derive(Clone, Default)]
#[allow(missing_docs, reason = "the fields of `Entry`")]
pub struct Fields {
    pub owner: Option<String>,
    pub secret: Option<String>,
    pub publish: Option<Vec<String>>,
    pub subscribe: Option<Vec<String>>,
    /// Channels or patterns that are added to the list, unless they are in it.
    pub add_publish: Vec<String>,
    pub add_subscribe: Vec<String>,
    /// Such that are taken out of the list. One that is not in it is an error: the key may do as much as before.
    pub drop_publish: Vec<String>,
    pub drop_subscribe: Vec<String>,
    pub disabled: Option<bool>,
    /// For how long the secret that is replaced still counts, to the second; by default it no longer does, nor
    /// does any before it. Zero without a new secret ends those that still count.
    pub grace: Option<Duration>,
}

/// How many secrets of one key may count beside its own.
const MAX_OLD_SECRETS: usize = 8;

impl Fields {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owner.is_none() && !self.touches_publish() && !self.touches_subscribe() && !self.touches_secret()
    }

    /// Whether the list of channels to publish to becomes another.
    fn touches_publish(&self) -> bool {
        self.publish.is_some() || !self.add_publish.is_empty() || !self.drop_publish.is_empty()
    }

    /// As above, to subscribe to.
    fn touches_subscribe(&self) -> bool {
        self.subscribe.is_some() || !self.add_subscribe.is_empty() || !self.drop_subscribe.is_empty()
    }

    /// Whether it matters what opens the key.
    fn touches_secret(&self) -> bool {
        self.secret.is_some() || self.disabled.is_some() || self.grace.is_some()
    }

    /// The key with other fields. The error is one line about the change.
    fn amend(&self, mut entry: Entry, now: SystemTime) -> Result<Entry, String> {
        if let Some(owner) = &self.owner {
            entry.owner.clone_from(owner);
        }
        entry.publish =
            list("publish to", self.publish.as_ref(), entry.publish, &self.add_publish, &self.drop_publish)?;
        entry.subscribe =
            list("subscribe to", self.subscribe.as_ref(), entry.subscribe, &self.add_subscribe, &self.drop_subscribe)?;
        entry.disabled = self.disabled.unwrap_or(entry.disabled);
        let grace = self.grace.unwrap_or_default();
        if self.touches_secret() {
            entry.old_secrets.retain(|old| old.until > now);
        }
        match &self.secret {
            Some(secret) if grace.is_zero() => {
                entry.old_secrets.clear();
                entry.secret.clone_from(secret);
            }
            Some(secret) if *secret != entry.secret => {
                let until = now.checked_add(grace).ok_or("the time of grace is too long")?;
                entry.old_secrets.retain(|old| old.secret != *secret);
                if entry.old_secrets.len() >= MAX_OLD_SECRETS {
                    return Err(format!("{MAX_OLD_SECRETS} old secrets still count: end them with a grace of 0"));
                }
                let old = mem::replace(&mut entry.secret, secret.clone());
                entry.old_secrets.push(OldSecret { secret: old, until });
            }
            None if self.grace.is_some() && grace.is_zero() => entry.old_secrets.clear(),
            None if self.grace.is_some() => return Err("a time of grace needs a new secret".to_owned()),
            _ => {}
        }
        Ok(entry)
    }
}

/// A list with what is added and without what is dropped.
fn list(
    what: &str,
    new: Option<&Vec<String>>,
    old: Vec<String>,
    add: &[String],
    drop: &[String],
) -> Result<Vec<String>, String> {
    let mut list = new.cloned().unwrap_or(old);
    if let Some(absent) = drop.iter().find(|channel| !list.contains(channel)) {
        return Err(format!("{absent:?} is not in the list of what it may {what}"));
    }
    list.retain(|channel| !drop.contains(channel));
    for channel in add {
        if !list.contains(channel) {
            list.push(channel.clone());
        }
    }
    Ok(list)
}

/// What stands in the place of the secret of a disabled key, where every broker looks: nobody knows it.
fn nobodys_secret() -> Result<String, String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|cause| format!("no randomness: {cause}"))?;
    Ok(format!("disabled-{:032x}", u128::from_ne_bytes(random)))
}

/// Without the secret.
impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { owner, publish, subscribe, .. } = self;
        let mut out = f.debug_struct("Fields");
        out.field("owner", owner).field("publish", publish).field("subscribe", subscribe).finish_non_exhaustive()
    }
}

impl Keys {
    /// Those in a JSON file, see [`JsonStore`](crate::auth::json::JsonStore). The first change creates it, for its owner alone.
    #[must_use]
    pub fn json(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Json(path.into()) }
    }

    /// Those in a database. The first change creates its table, and a file.
    #[must_use]
    pub fn sql(address: DatabaseAddress) -> Self {
        Self { place: Place::Sql(Box::new(address)) }
    }

    /// Whether a key has an owner; otherwise it is the ident.
    #[must_use]
    pub fn has_owners(&self) -> bool {
        match &self.place {
            Place::Json(_) => true,
            Place::Sql(address) => address.table.owner.is_some(),
        }
    }

    /// Every key, in the order of the idents. One that cannot be read is an error: see [`listing`](Self::listing).
    pub async fn all(&self) -> Result<Vec<Entry>, AuthError> {
        let Listing { entries, faults, .. } = self.listing().await?;
        faults.into_iter().next().map_or(Ok(entries), Err)
    }

    /// Every key that can be read, and what is wrong with the others.
    pub async fn listing(&self) -> Result<Listing, AuthError> {
        match &self.place {
            Place::Json(path) => file::all(path),
            Place::Sql(address) => sql::all(&Database::new(address.creating(false))).await,
        }
    }

    /// The key of an ident.
    pub async fn get(&self, ident: &str) -> Result<Option<Entry>, AuthError> {
        match &self.place {
            Place::Json(path) => file::get(path, ident),
            Place::Sql(address) => sql::get(&Database::new(address.creating(false)), ident).await,
        }
    }

    /// Does all of it or nothing.
    ///
    /// A JSON file is replaced by another, so that nobody reads half of it. Programs that change the same store by this
    /// wait for each other, at most 10 seconds.
    pub async fn apply(&self, changes: &[Change]) -> Result<(), AuthError> {
        for change in changes {
            check(change).map_err(AuthError::new)?;
        }
        match &self.place {
            Place::Json(path) => file::apply(path, changes).await,
            Place::Sql(address) => {
                let adds = changes.iter().any(|change| matches!(change, Change::Add(_) | Change::Put(_)));
                sql::apply(&address.creating(adds), changes, adds).await
            }
        }
    }
}

/// What a store holds.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// The keys that can be read, in the order of the idents.
    pub entries: Vec<Entry>,
    /// One for each key that cannot: the store, the ident and what is wrong.
    pub faults: Vec<AuthError>,
    /// What may not be meant as it is written, such as `cowrie*` or an empty secret: at most some twenty lines.
    pub remarks: Vec<String>,
}

impl Listing {
    fn add(&mut self, entry: Result<Entry, AuthError>, lists: [&str; 2], remarks: &mut Remarks) {
        match entry {
            Ok(entry) => {
                entry.remark(lists, remarks);
                self.entries.push(entry);
            }
            Err(cause) => self.faults.push(cause),
        }
    }
}

/// What entries may not be meant to say, a line each: a `*` that stands for itself, or an empty secret. At most some
/// twenty lines.
#[must_use]
pub fn remarks<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<String> {
    let mut remarks = Remarks::default();
    entries.into_iter().for_each(|entry| entry.remark(LISTS, &mut remarks));
    remarks.into_lines()
}

/// Keys in the format of JSON files. The error is the line, or the ident and field that is wrong.
pub fn from_json(text: &[u8]) -> Result<Vec<Entry>, AuthError> {
    entries(text, &mut Remarks::default()).map_err(AuthError::new)
}

/// Keys in the format of JSON files, with their secrets. An error means that the system has no randomness, of which
/// disabled keys need some.
pub fn to_json(entries: &[Entry]) -> Result<String, AuthError> {
    let root = entries.iter().map(|entry| Ok((entry.ident.clone(), value(entry)?.into())));
    root.collect::<Result<_, String>>().map(print).map_err(AuthError::new)
}

fn value(entry: &Entry) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    let Entry { owner, publish, subscribe, .. } = entry;
    map.insert("owner".to_owned(), json!(owner));
    map.insert("pubchans".to_owned(), json!(publish));
    map.insert("subchans".to_owned(), json!(subscribe));
    put_secrets(&mut map, entry)?;
    Ok(map)
}

/// Writes what opens a key. The Python broker looks at `secret` alone.
fn put_secrets(map: &mut Map<String, Value>, entry: &Entry) -> Result<(), String> {
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

fn print(root: Map<String, Value>) -> String {
    // With string keys and no more than this, there is nothing that JSON cannot say.
    format!("{:#}\n", Value::Object(root))
}

/// Names that a broker would refuse to read reach no store, nor does a secret that everybody knows.
fn check(change: &Change) -> Result<(), String> {
    let names = ["publish", "subscribe"];
    let secret = match change {
        Change::Add(entry) | Change::Put(entry) => Some((&entry.ident, &entry.secret)),
        Change::Set { ident, fields } => fields.secret.as_ref().map(|secret| (ident, secret)),
        Change::Remove(_) => None,
    };
    if let Some((ident, _)) = secret.filter(|(_, secret)| secret.is_empty()) {
        return Err(format!("ident {ident:?}: the secret is empty"));
    }
    match change {
        Change::Add(entry) | Change::Put(entry) => {
            entry.key(names).map_err(|cause| format!("ident {:?}: {cause}", entry.ident)).map(drop)
        }
        Change::Set { ident, fields } => {
            let all =
                |list: &Option<Vec<String>>, more: &[String]| list.iter().flatten().chain(more).cloned().collect();
            let entry = Entry {
                ident: ident.clone(),
                publish: all(&fields.publish, &fields.add_publish),
                subscribe: all(&fields.subscribe, &fields.add_subscribe),
                ..Entry::default()
            };
            entry.key(names).map_err(|cause| format!("ident {ident:?}: {cause}")).map(drop)
        }
        Change::Remove(_) => Ok(()),
    }
}

/// Follows which idents there are while changes are made one after another.
struct Idents {
    known: BTreeSet<String>,
}

impl Idents {
    /// Whether a change may come next, and whether the ident is there before it.
    fn admit(&mut self, change: &Change) -> Result<bool, AuthError> {
        match change {
            Change::Add(entry) => {
                if self.known.insert(entry.ident.clone()) {
                    Ok(false)
                } else {
                    Err(AuthError::new(format_args!("ident {:?} has a key already", entry.ident)))
                }
            }
            Change::Put(entry) => Ok(!self.known.insert(entry.ident.clone())),
            Change::Set { ident, .. } if self.known.contains(ident) => Ok(true),
            Change::Remove(ident) if self.known.remove(ident) => Ok(true),
            Change::Set { ident, .. } | Change::Remove(ident) => {
                Err(AuthError::new(format_args!("ident {ident:?} has no key")))
            }
        }
    }
}
