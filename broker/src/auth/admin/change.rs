//! Changes of keys, and what they do to an entry.

use std::{
    collections::BTreeSet,
    fmt, mem,
    time::{Duration, SystemTime},
};

use crate::auth::{
    AuthError,
    entry::{Entry, OldSecret},
};

/// A change of one key.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new key. One with the same ident must not be there.
    Add(Entry),
    /// A new key, in place of one with the same ident.
    Put(Entry),
    /// Other fields for a key that is there.
    Set {
        /// The ident of the key.
        ident: String,
        /// The fields that change.
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
    /// Channels or patterns that are taken out of the list. One that is not in it is an error: the
    /// key may do as much as before.
    pub drop_publish: Vec<String>,
    pub drop_subscribe: Vec<String>,
    pub disabled: Option<bool>,
    /// For how long the secret that is replaced still counts, to the second; by default it no
    /// longer does, nor does any before it. Zero without a new secret ends the old ones that still
    /// count.
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
    pub(super) fn touches_publish(&self) -> bool {
        self.publish.is_some() || !self.add_publish.is_empty() || !self.drop_publish.is_empty()
    }

    /// As above, to subscribe to.
    pub(super) fn touches_subscribe(&self) -> bool {
        self.subscribe.is_some() || !self.add_subscribe.is_empty() || !self.drop_subscribe.is_empty()
    }

    /// Whether the secrets of the key, or their use, change.
    pub(super) fn touches_secret(&self) -> bool {
        self.secret.is_some() || self.disabled.is_some() || self.grace.is_some()
    }

    /// The key with other fields. The error is one line about the change.
    pub(super) fn amend(&self, mut entry: Entry, now: SystemTime) -> Result<Entry, String> {
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

/// Without the secret.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, publish, subscribe, .. } = self;
        let mut out = f.debug_struct("Fields");
        out.field("owner", owner).field("publish", publish).field("subscribe", subscribe).finish_non_exhaustive()
    }
}

/// Checks that no name reaches a store that a broker would refuse to read, nor an empty secret.
pub(super) fn check(change: &Change) -> Result<(), String> {
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
pub(super) struct Idents {
    pub(super) known: BTreeSet<String>,
}

impl Idents {
    /// Whether a change may come next, and whether the ident is there before it.
    pub(super) fn admit(&mut self, change: &Change) -> Result<bool, AuthError> {
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
