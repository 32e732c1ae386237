//! Series by name, with a bound.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use super::MAX_SERIES;

/// How long a series that nobody uses is told.
const KEEP: Duration = Duration::from_secs(60 * 60);

/// How often a full table is searched for what can go.
const SWEEP: Duration = Duration::from_secs(60);

/// A table of series. One is in use as long as somebody holds it.
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
    /// The series of that name, made if there is room for it: in this table, and as far as `room` knows.
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

    /// The series for what has no room. It may be one more than the limit.
    pub(super) fn other(&mut self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        let entry = self.entries.entry(key.clone());
        entry.or_insert_with(|| Entry { series: Arc::new(make()), unused_since: None }).series.clone()
    }

    pub(super) fn known(&self, key: &K) -> Option<Arc<V>> {
        self.entries.get(key).map(|entry| entry.series.clone())
    }

    /// Forgets what nobody has used for a while.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_used_for_an_hour_goes_and_makes_room() {
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
    fn being_used_again_starts_the_hour_again() {
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
