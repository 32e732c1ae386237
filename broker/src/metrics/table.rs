//! A bounded table of series by name, which forgets those that have not been used for an hour.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

/// The most label sets of one metric: at most so many idents, and so many pairs of ident and
/// channel. Anything beyond is counted with [`OTHER`] instead.
pub(super) const MAX_SERIES: usize = 10_000;

/// The most channels of one ident, so that a single key does not take the room of all.
pub(super) const MAX_CHANNELS: usize = 1_000;

/// The ident or channel of anything that has no room of its own.
pub(super) const OTHER: &str = "other";

/// How long an unused series is kept.
const KEEP: Duration = Duration::from_secs(60 * 60);

/// How often a full table is searched for series to forget.
const SWEEP: Duration = Duration::from_secs(60);

/// A table of series. A series is in use as long as its `Arc` is held outside of the table.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    entries: HashMap<K, Entry<V>>,
    limit: usize,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Entry<V> {
    series: Arc<V>,
    unused_since: Option<Instant>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self::new(MAX_SERIES)
    }
}

impl<K, V> Table<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), limit, swept: None }
    }
}

impl<K: Eq + Hash + Clone, V> Table<K, V> {
    /// The series of that name, made if there is room for it: in this table, and by the answer of
    /// `room`.
    pub(super) fn get(
        &mut self,
        key: &K,
        now: impl FnOnce() -> Instant,
        room: impl FnOnce() -> bool,
        make: impl FnOnce(&K) -> Arc<V>,
    ) -> Option<Arc<V>> {
        if let Some(series) = self.known(key) {
            return Some(series);
        }
        if self.entries.len() >= self.limit {
            let now = now();
            if self.swept.is_none_or(|swept| now >= swept + SWEEP) {
                self.sweep(now);
            }
        }
        if self.entries.len() >= self.limit || !room() {
            return None;
        }
        Some(self.entries.entry(key.clone()).or_insert(Entry { series: make(key), unused_since: None }).series.clone())
    }

    /// The series for names that have no room. With it the table may be one over its limit.
    pub(super) fn other(&mut self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        let entry = self.entries.entry(key.clone());
        entry.or_insert_with(|| Entry { series: Arc::new(make()), unused_since: None }).series.clone()
    }

    pub(super) fn known(&self, key: &K) -> Option<Arc<V>> {
        self.entries.get(key).map(|entry| entry.series.clone())
    }

    /// Forgets series that have been unused for [`KEEP`].
    pub(super) fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        self.entries.retain(|_, entry| {
            if Arc::strong_count(&entry.series) > 1 {
                entry.unused_since = None;
                return true;
            }
            now < *entry.unused_since.get_or_insert(now) + KEEP
        });
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to_fit();
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&K, &Arc<V>)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.series))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// [`OTHER`] as an ident or a channel.
pub(super) fn other<N: FromStr<Err: Debug>>() -> N {
    OTHER.parse().expect("a legal name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_unused_for_an_hour_are_forgotten_and_make_room() {
        let mut table = Table::<_, ()>::new(2);
        let start = Instant::now();
        let get = |table: &mut Table<_, _>, key, now| table.get(&key, || now, || true, |_| Arc::default());
        let held = get(&mut table, 1, start);
        assert!(held.is_some() && get(&mut table, 2, start).is_some());
        // It is found unused now.
        assert_eq!(get(&mut table, 3, start), None);
        assert_eq!(get(&mut table, 3, start + KEEP * 99 / 100), None);
        // The last search was a moment ago.
        assert_eq!(get(&mut table, 3, start + KEEP), None);
        assert!(get(&mut table, 3, start + KEEP + SWEEP).is_some());
        assert_eq!(get(&mut table, 2, start + KEEP + SWEEP), None, "the room is taken");
        assert!(table.known(&1).is_some(), "it is in use");
    }

    #[test]
    fn use_starts_the_hour_again() {
        let mut table = Table::<_, ()>::new(2);
        let start = Instant::now();
        let get = |table: &mut Table<_, _>| table.get(&1, || start, || true, |_| Arc::default());
        drop(get(&mut table));
        table.sweep(start);
        let held = get(&mut table);
        table.sweep(start + KEEP);
        drop(held);
        table.sweep(start + KEEP);
        table.sweep(start + KEEP * 199 / 100);
        assert_eq!(table.len(), 1);
        table.sweep(start + 2 * KEEP);
        assert_eq!(table.len(), 0);
    }
}
