//! Patterns: which channels they cover, and minimal sets of them.
//!
//! A text is `*`, `prefix.*` or a channel, see [`Pattern`](hpfeeds::wire::Pattern). The channels
//! that two texts stand for are disjoint, or one text covers the other: so an intersection is one
//! of the two, and what a client may receive is a set of texts of which none covers another.

use std::{collections::BTreeMap, iter, ops::Bound};

use hpfeeds::wire::{Channel, Pattern};

use crate::auth::key::Key;

/// The beginning of all channels that a pattern stands for; `None` when the text is a channel.
pub(crate) fn prefix(text: &str) -> Option<&str> {
    let prefix = text.strip_suffix('*')?;
    (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
}

/// The prefixes of the patterns that cover a text, the widest first.
pub(crate) fn prefixes(text: &str) -> impl Iterator<Item = &str> {
    // A pattern stands for more than its prefix: a final dot ends none.
    let dots = text.match_indices('.').filter_map(|(at, _)| text.get(..=at));
    iter::once("").chain(dots.filter(move |prefix| prefix.len() < text.len()))
}

/// Whether `wider` stands for every channel that `text` stands for.
pub(crate) fn covers(wider: &str, text: &str) -> bool {
    match prefix(wider) {
        Some(prefix) => text.len() > prefix.len() && text.starts_with(prefix),
        None => wider == text,
    }
}

/// The parts of a subscription that a key allows; none when it is denied.
pub(crate) fn allowed(key: &Key, wanted: &Channel) -> Vec<Channel> {
    // An entry that covers a pattern is one that matches its text.
    if key.may_subscribe(wanted) {
        return vec![wanted.clone()];
    }
    // Most clients want channels, which no entry is a part of.
    if prefix(wanted).is_none() {
        return Vec::new();
    }
    let entries = key.subchans.iter().map(Pattern::as_str);
    entries.filter(|entry| covers(wanted, entry)).filter_map(|entry| Channel::new(entry).ok()).collect()
}

/// A minimal set of texts: none covers another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::zero_sized_map_values, reason = "the functions below are for maps with values, too")]
pub(crate) struct SubscriptionSet(BTreeMap<Channel, ()>);

impl SubscriptionSet {
    /// Adds a text unless it is covered. If it was added: the texts that it covers, which are no
    /// longer there.
    pub(crate) fn insert(&mut self, text: Channel) -> Option<Vec<Channel>> {
        if is_covered(&self.0, &text) {
            return None;
        }
        // A channel covers nothing but itself.
        let inside = if prefix(&text).is_some() { self.inside(&text) } else { Vec::new() };
        for text in &inside {
            self.0.remove(text);
        }
        self.0.insert(text, ());
        Some(inside)
    }

    pub(crate) fn remove(&mut self, text: &str) {
        self.0.remove(text);
    }

    /// Removes at most `most` texts, and returns them.
    pub(crate) fn take(&mut self, most: usize) -> Vec<Channel> {
        iter::from_fn(|| self.0.pop_first()).take(most).map(|(text, ())| text).collect()
    }

    /// The texts of the set that a text covers.
    pub(crate) fn inside(&self, text: &str) -> Vec<Channel> {
        inside(&self.0, text).cloned().collect()
    }

    /// The texts that are in this set and not in the other.
    pub(crate) fn without(&self, other: &Self) -> Vec<Channel> {
        self.iter().filter(|text| !other.0.contains_key(*text)).cloned().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.0.keys()
    }
}

impl FromIterator<Channel> for SubscriptionSet {
    fn from_iter<I: IntoIterator<Item = Channel>>(texts: I) -> Self {
        let mut set = Self::default();
        for text in texts {
            let _ = set.insert(text);
        }
        set
    }
}

/// Whether a text is a key of the map, or something that covers it.
pub(crate) fn is_covered<V>(set: &BTreeMap<Channel, V>, text: &str) -> bool {
    if set.is_empty() || set.contains_key(text) {
        return !set.is_empty();
    }
    let mut pattern = String::with_capacity(text.len() + 1);
    prefixes(text).any(|prefix| {
        pattern.clear();
        pattern.push_str(prefix);
        pattern.push('*');
        set.contains_key(pattern.as_str())
    })
}

/// The keys of a map that a text covers.
pub(crate) fn inside<'a, V>(set: &'a BTreeMap<Channel, V>, text: &'a str) -> impl Iterator<Item = &'a Channel> {
    let (start, most) = prefix(text).map_or((text, 1), |prefix| (prefix, usize::MAX));
    let range = (Bound::Included(start), Bound::Unbounded);
    set.range::<str, _>(range)
        .map(|(other, _)| other)
        .take(most)
        .take_while(move |other| other.starts_with(start))
        .filter(|other| covers(text, other))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const TEXTS: [&str; 20] = [
        "*", "a", "b", "a.*", "a.b", "a.b.*", "a.b.c", "a.c", "a.", ".", ".*", "..*", "a*", "*.a", "a.b*", "**", "*.*",
        "a..b", "a..*", "é.*",
    ];

    fn channel(text: &str) -> Channel {
        text.parse().unwrap()
    }

    #[test]
    fn pattern_covers_the_channels_that_it_matches() {
        for pattern in TEXTS {
            for text in TEXTS {
                let matches = Pattern::new(pattern).unwrap().matches(text);
                assert_eq!(covers(pattern, text), matches, "{pattern} {text}");
                let by_prefix = prefix(pattern).is_some_and(|prefix| prefixes(text).any(|other| other == prefix));
                assert_eq!(by_prefix || pattern == text, matches, "{pattern} {text}");
            }
        }
    }

    #[test]
    fn covering_and_overlapping_are_exact() {
        // Names of all the lengths that matter: texts that these do not tell apart are the same.
        let names: Vec<_> =
            TEXTS.iter().flat_map(|text| [(*text).to_owned(), format!("{text}.x"), format!("{text}x")]).collect();
        for a in TEXTS {
            for b in TEXTS {
                let (a_has, b_has) = (Pattern::new(a).unwrap(), Pattern::new(b).unwrap());
                let all = names.iter().filter(|name| b_has.matches(name)).all(|name| a_has.matches(name));
                assert_eq!(covers(a, b), all, "{a} {b}");
                let any = names.iter().any(|name| a_has.matches(name) && b_has.matches(name));
                assert_eq!(covers(a, b) || covers(b, a), any, "{a} {b}");
            }
        }
    }

    #[test]
    fn key_allows_the_part_that_its_list_names() {
        let key = Key::new("i", "s").unwrap().subscribe(["a.b.*", "a.c", "x.*", "a.b.c"]).unwrap();
        let cases: [(&str, &[&str]); 9] = [
            ("*", &["a.b.*", "a.c", "x.*", "a.b.c"]),
            ("a.*", &["a.b.*", "a.c", "a.b.c"]),
            ("a.b.*", &["a.b.*"]),
            ("a.b.c.*", &["a.b.c.*"]),
            ("a.b.z", &["a.b.z"]),
            ("a.c", &["a.c"]),
            ("a.c.*", &[]),
            ("y.*", &[]),
            ("a.b", &[]),
        ];
        for (wanted, expected) in cases {
            assert_eq!(allowed(&key, &channel(wanted)), expected, "{wanted}");
        }
    }

    #[test]
    fn no_text_of_a_set_covers_another() {
        // Whatever order they come in.
        for first in TEXTS {
            for second in TEXTS {
                let texts = [first, second].into_iter().chain(TEXTS.into_iter().filter(|text| *text != "*"));
                let set: SubscriptionSet = texts.map(channel).collect();
                for one in set.iter() {
                    assert!(!set.iter().any(|other| other != one && covers(other, one)), "{one} {set:?}");
                }
                let all = first == "*" || second == "*";
                assert!(all == (set.iter().count() == 1), "{set:?}");
                assert!(TEXTS[1..].iter().all(|text| set.iter().any(|wider| covers(wider, text))), "{set:?}");
            }
        }
    }

    #[test]
    fn wider_text_replaces_the_texts_that_it_covers() {
        let mut set: SubscriptionSet = ["a.b", "a", "a.c.d", "ab", "a."].into_iter().map(channel).collect();
        assert_eq!(set.insert(channel("a.b")), None);
        assert_eq!(set.insert(channel("a.*")).unwrap(), ["a.b", "a.c.d"]);
        assert_eq!(set.insert(channel("a.x.*")), None);
        assert_eq!(set.insert(channel("*")).unwrap(), ["a", "a.", "a.*", "ab"]);
    }
}
