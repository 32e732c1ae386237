//! Tables keyed by the source of a connection: the address or network that a limit applies to.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;

use crate::util::collections::shrink;

/// The source of a connection: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    /// The address, or the network's first.
    pub(crate) fn ip(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// A bounded table of what sources did lately: an entry expires `ttl` after its last
/// [refresh](Self::refresh). A full table forgets the entry that was refreshed longest ago, so that
/// an attacker with many addresses takes a bounded amount of memory.
///
/// The key is the source, or has it as a part.
#[derive(Debug)]
pub(crate) struct SourceTable<V, K = Source> {
    ttl: Duration,
    /// The most entries.
    capacity: usize,
    entries: HashMap<K, Entry<V>>,
    /// The key of each entry, by the time of its last refresh.
    order: BTreeSet<(Instant, K)>,
}

#[derive(Debug)]
struct Entry<V> {
    refreshed: Instant,
    value: V,
}

impl<V, K: Clone + Ord + Hash> SourceTable<V, K> {
    pub(crate) fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity, entries: HashMap::new(), order: BTreeSet::new() }
    }

    /// The value of an entry that has not expired; its expiry stays.
    pub(crate) fn get_mut(&mut self, key: &K, now: Instant) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        (now < entry.refreshed + self.ttl).then_some(&mut entry.value)
    }

    /// The time at which an entry expires, if that is in the future.
    pub(crate) fn expiry(&self, key: &K, now: Instant) -> Option<Instant> {
        let expiry = self.entries.get(key)?.refreshed + self.ttl;
        (now < expiry).then_some(expiry)
    }

    /// Has an entry expire `ttl` from now, and returns its value. An entry that does not exist or
    /// has expired gets a `new` value.
    pub(crate) fn refresh(&mut self, key: K, now: Instant, new: impl FnOnce() -> V) -> &mut V {
        let old = self.take(&key).filter(|entry| now < entry.refreshed + self.ttl);
        if self.entries.len() >= self.capacity {
            self.expire(now).for_each(drop);
        }
        if self.entries.len() >= self.capacity
            && let Some((_, stalest)) = self.order.pop_first()
        {
            self.entries.remove(&stalest);
        }
        // Callers look at the clock before they wait for the lock of the table.
        let refreshed = old.as_ref().map_or(now, |old| old.refreshed.max(now));
        let value = old.map_or_else(new, |old| old.value);
        self.order.insert((refreshed, key.clone()));
        &mut self.entries.entry(key).insert_entry(Entry { refreshed, value }).into_mut().value
    }

    /// Forgets an entry; its value, also when it has expired.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.take(key).map(|entry| entry.value)
    }

    /// Forgets the expired entries, each when the iterator comes to it.
    pub(crate) fn expire(&mut self, now: Instant) -> impl Iterator<Item = V> {
        std::iter::from_fn(move || {
            self.order.first().filter(|(refreshed, _)| now >= *refreshed + self.ttl)?;
            let (_, key) = self.order.pop_first()?;
            let entry = self.entries.remove(&key);
            shrink(&mut self.entries);
            entry.map(|entry| entry.value)
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, also expired ones, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.order.len());
        self.entries.len()
    }

    fn take(&mut self, key: &K) -> Option<Entry<V>> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.order.remove(&(entry.refreshed, key));
        Some(entry)
    }
}

/// A table of what sources hold now, such as connections. Entries neither expire nor give way: a
/// count that is forgotten would never be right again. Each entry stands for something held, which
/// bounds the table.
#[derive(Debug)]
pub(crate) struct HeldBySource<V>(HashMap<Source, V>);

impl<V> Default for HeldBySource<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<V> HeldBySource<V> {
    /// The value of a source, which is `new` when there is none.
    pub(crate) fn hold(&mut self, source: Source, new: impl FnOnce() -> V) -> &mut V {
        self.0.entry(source).or_insert_with(new)
    }

    /// Gives a part of a value back, and forgets the source if `release` says that nothing is left.
    pub(crate) fn release(&mut self, source: Source, release: impl FnOnce(&mut V) -> bool) {
        if self.0.get_mut(&source).is_some_and(release) {
            self.0.remove(&source);
            shrink(&mut self.0);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn source(text: &str) -> Source {
        Source::from(text.parse::<IpAddr>().unwrap())
    }

    fn nth(n: u8) -> Source {
        Source::from(IpAddr::from([10, 0, 0, n]))
    }

    #[test]
    fn source_is_an_ipv4_address_or_64_bits_of_an_ipv6_address() {
        assert_eq!(source("::ffff:1.2.3.4"), source("1.2.3.4"));
        assert_ne!(source("1.2.3.5"), source("1.2.3.4"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    #[test]
    fn entry_expires_after_its_last_refresh() {
        let (mut table, start) = (SourceTable::new(TTL, 10), Instant::now());
        *table.refresh(nth(1), start, || 1) += 1;
        assert_eq!(table.expiry(&nth(1), start), Some(start + TTL));
        // A look prolongs nothing; a refresh does, and keeps the value.
        assert_eq!(table.get_mut(&nth(1), start + TTL / 2), Some(&mut 2));
        assert_eq!(table.get_mut(&nth(1), start + TTL), None);
        *table.refresh(nth(1), start + TTL / 2, || 1) += 1;
        assert_eq!(table.get_mut(&nth(1), start + TTL), Some(&mut 3));
        assert_eq!(table.expiry(&nth(1), start + TTL), Some(start + TTL * 3 / 2));
        assert_eq!(table.expiry(&nth(1), start + TTL * 3 / 2), None);
        assert_eq!(*table.refresh(nth(1), start + TTL * 3 / 2, || 1), 1);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn refresh_by_an_older_clock_shortens_nothing() {
        let (mut table, start) = (SourceTable::new(TTL, 10), Instant::now());
        table.refresh(nth(1), start + TTL / 2, || ());
        table.refresh(nth(1), start, || ());
        assert_eq!(table.expiry(&nth(1), start), Some(start + TTL * 3 / 2));
    }

    #[test]
    fn expired_entries_are_handed_over_once_the_stalest_first() {
        let (mut table, start) = (SourceTable::new(TTL, 10), Instant::now());
        for n in [3, 1, 2] {
            table.refresh(nth(n), start + u32::from(n) * TTL / 10, || n);
        }
        assert_eq!(table.expire(start + TTL * 12 / 10).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(table.expire(start + TTL * 12 / 10).count(), 0);
        assert_eq!((table.len(), table.remove(&nth(3)), table.remove(&nth(3))), (1, Some(3), None));
        assert!(table.is_empty());
    }

    #[test]
    fn full_table_forgets_expired_entries_first_and_then_the_stalest() {
        let (mut table, start) = (SourceTable::new(TTL, 3), Instant::now());
        let at = |second: u8| start + Duration::from_secs(second.into());
        for n in 0..3 {
            table.refresh(nth(n), at(n), || n);
        }
        // The entry 0 is no longer the stalest.
        table.refresh(nth(0), at(3), || 9);
        table.refresh(nth(4), at(4), || 4);
        assert_eq!(table.len(), 3);
        assert_eq!([0, 1, 2, 4].map(|n| table.get_mut(&nth(n), at(4)).copied()), [Some(0), None, Some(2), Some(4)]);
        table.refresh(nth(5), at(13), || 5);
        assert_eq!([0, 2, 4, 5].map(|n| table.entries.contains_key(&nth(n))), [false, false, true, true]);
        // A known source takes no room from another.
        table.refresh(nth(6), at(13), || 6);
        table.refresh(nth(5), at(14), || 0);
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn source_is_forgotten_when_it_holds_nothing() {
        let mut table = HeldBySource::default();
        let leave = |count: &mut u32| {
            *count -= 1;
            *count == 0
        };
        *table.hold(nth(1), || 0) += 1;
        *table.hold(nth(1), || 0) += 1;
        table.release(nth(2), |_| true);
        table.release(nth(1), leave);
        assert_eq!((table.len(), *table.hold(nth(1), || 0)), (1, 1));
        table.release(nth(1), leave);
        assert_eq!(table.len(), 0);
    }
}
