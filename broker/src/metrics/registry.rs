//! The registry of metrics: the owner of all counters, from which snapshots are taken.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use hpfeeds::wire::Ident;
use parking_lot::Mutex;

use crate::metrics::{
    books::Books,
    category::Category,
    channels::AllChannels,
    connection::ConnectionTotals,
    counters::Counters,
    endpoints::Endpoints,
    failures::Reason,
    ident::IdentSeries,
    latency::{Latency, Timing},
    levels::Levels,
    process::ProcessUsage,
    rates::RateSamples,
    session::SessionMetrics,
    snapshot::Snapshot,
    stall::{Stall, Stalls},
    table::{OTHER, Table, other},
};

/// All metrics of one broker.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// The outboxes share them.
    pub(crate) counters: Arc<Counters>,
    pub(crate) endpoints: Endpoints,
    pub(crate) rates: RateSamples,
    idents: Mutex<Table<Ident, IdentSeries>>,
    channels: Arc<AllChannels>,
    /// Clients that have not authenticated.
    unauthenticated: Arc<IdentSeries>,
    authentication: Latency,
    stalls: Arc<Stalls>,
}

impl Metrics {
    /// Metrics of a broker that listens at `addrs`.
    pub(crate) fn new(addrs: &[SocketAddr]) -> Self {
        let channels = Arc::default();
        let unauthenticated = Arc::new(IdentSeries::new(&channels));
        Self {
            counters: Arc::default(),
            endpoints: Endpoints::new(addrs, unauthenticated.clone()),
            rates: RateSamples::default(),
            idents: Mutex::default(),
            channels,
            unauthenticated,
            authentication: Latency::default(),
            stalls: Arc::default(),
        }
    }

    /// Counts a client that has authenticated, and returns the metrics of its session.
    pub(crate) fn session(&self, ident: &Ident, owner: &str) -> SessionMetrics {
        self.counters.authenticated.add(1);
        let new = || IdentSeries::new(&self.channels);
        let mut idents = self.idents.lock();
        let (series, owner) = match idents.get(ident, Instant::now, || true, |_| Arc::new(new())) {
            Some(series) => (series, owner),
            None => (idents.other(&other(), new), OTHER),
        };
        drop(idents);
        SessionMetrics::open(ident.clone(), owner, series)
    }

    /// Counts a handshake that failed.
    pub(crate) fn failed(&self, reason: Reason) {
        self.counters.failures.add(reason);
        if let Reason::InvalidFirstMessage = reason {
            self.unauthenticated.error(Category::InvalidFirstMessage);
        }
    }

    /// Counts the error of a client whose authentication failed. The claimed ident is a label only
    /// when another client has proved to be that.
    pub(crate) fn rejected(&self, claimed: &Ident, category: Category) {
        let known = self.idents.lock().known(claimed);
        known.as_ref().unwrap_or(&self.unauthenticated).error(category);
    }

    /// Observes the time from AUTH to the decision about it, until the guard is dropped.
    pub(crate) fn time_authentication(&self) -> Timing<'_> {
        self.authentication.start()
    }

    /// A publisher waits for subscribers until the guard is dropped.
    pub(crate) fn stall(&self) -> Stall {
        self.stalls.begin()
    }

    /// Reads all numbers without stopping the threads that count, and forgets series that have not
    /// been used for an hour.
    pub(crate) fn snapshot(&self, levels: Levels, now: Instant) -> Snapshot {
        let idents: Vec<_> = {
            let mut table = self.idents.lock();
            table.sweep(now);
            table.all().map(|(ident, series)| (ident.clone(), series.clone())).collect()
        };
        let mut idents: Vec<_> = idents.into_iter().map(|(ident, series)| (ident, series.counts(now))).collect();
        idents.sort_by(|a, b| a.0.cmp(&b.0));
        let totals = self.counters.totals();
        let open =
            |read: fn(&ConnectionTotals) -> u64| idents.iter().map(|(_, counts)| read(&counts.totals)).sum::<u64>();
        let (copies, taken) = (totals.copies + open(|totals| totals.copies), open(|totals| totals.taken));
        let books = Books::of(&totals, self.channels.copies.get() + copies, self.channels.taken.get() + taken);
        Snapshot {
            totals,
            books,
            levels,
            authentication: self.authentication.counts(),
            stalls: self.stalls.counts(),
            endpoints: self.endpoints.counts(),
            unauthenticated: self.unauthenticated.counts(now),
            idents,
            unrouted: self.channels.unrouted_counts(now),
            process: ProcessUsage::read(),
            seen: Vec::new(),
            certificates: Vec::new(),
            storage: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};

    use hpfeeds::wire::Channel;

    use super::*;
    use crate::metrics::{
        connection::ConnectionTotals,
        ident::IdentCounts,
        sizes::Sizes,
        table::{MAX_CHANNELS, MAX_SERIES},
    };

    fn metrics() -> Metrics {
        Metrics::new(&[([127, 0, 0, 1], 1).into()])
    }

    fn counts(metrics: &Metrics, ident: &Ident) -> IdentCounts {
        metrics.idents.lock().known(ident).unwrap().counts(Instant::now())
    }

    fn ident(n: usize) -> Ident {
        format!("ident-{n}").parse().unwrap()
    }

    #[test]
    fn idents_beyond_the_limit_are_counted_as_other() {
        let metrics = metrics();
        let mut sessions: Vec<_> = (0..MAX_SERIES + 3).map(|n| metrics.session(&ident(n), "owner")).collect();
        assert_eq!(metrics.idents.lock().len(), MAX_SERIES + 1);
        let others = counts(&metrics, &other());
        assert_eq!(others.ready, 3);
        assert_eq!(others.owners, BTreeMap::from([(OTHER.to_owned(), 3)]), "their owners are no labels");
        assert_eq!(sessions.pop().unwrap().ident(), &ident(MAX_SERIES + 2));
        // An ident may have that name.
        let named = metrics.session(&other(), "owner");
        drop(named);
        assert_eq!(metrics.idents.lock().len(), MAX_SERIES + 1);
    }

    #[test]
    fn channels_beyond_the_limits_are_counted_as_other() {
        let metrics = metrics();
        let channel = |n: usize| format!("channel-{n}").parse().unwrap();
        let sizes = || {
            let mut sizes = Sizes::new(0);
            sizes.add(5, 1);
            sizes
        };
        let greedy = metrics.session(&ident(0), "owner");
        for n in 0..MAX_CHANNELS + 7 {
            greedy.channel(&channel(n)).published(&sizes(), 5);
        }
        assert_eq!(metrics.channels.count.load(Relaxed), MAX_CHANNELS + 1);
        let others = greedy.channel(&other());
        assert_eq!(others.counts().bytes, 35);
        let many: Vec<_> = (1..20).map(|n| metrics.session(&ident(n), "owner")).collect();
        for session in &many {
            for n in 0..MAX_CHANNELS {
                drop(session.subscribed(&channel(n)));
            }
        }
        // One for what is beyond, for each ident that had no room.
        assert!((MAX_SERIES..MAX_SERIES + 20).contains(&metrics.channels.count.load(Relaxed)));
        assert_eq!(many[18].channel(&channel(1)).counts().subscriptions, Some(0));
        drop((greedy, many, others));
        let later = Instant::now() + Duration::from_secs(2 * 60 * 60);
        metrics.idents.lock().sweep(Instant::now());
        assert_eq!(metrics.idents.lock().len(), 20);
        metrics.idents.lock().sweep(later);
        assert_eq!((metrics.idents.lock().len(), metrics.channels.count.load(Relaxed)), (0, 0));
    }

    #[test]
    fn unrouted_messages_of_a_channel_outlive_their_ident() {
        let metrics = metrics();
        let unrouted = |now| metrics.channels.unrouted_counts(now);
        let channel = |n: usize| format!("channel-{n}").parse::<Channel>().unwrap();
        let start = Instant::now();
        let [one, two, greedy] = [0, 1, 2].map(|n| metrics.session(&ident(n), "owner"));
        one.channel(&channel(0)).unrouted(3);
        two.channel(&channel(0)).unrouted(4);
        assert_eq!(unrouted(start), [(channel(0), 7)]);
        // Its numbers go, and the counts stay: a counter that falls is taken for one that has
        // started again.
        drop(one);
        let hours = |n: u64| start + Duration::from_secs(n * 60 * 60);
        for n in [0, 2] {
            metrics.idents.lock().sweep(hours(n));
            assert_eq!(metrics.idents.lock().len(), if n == 0 { 3 } else { 2 });
            assert_eq!(unrouted(hours(n)), [(channel(0), 7)]);
        }
        for n in 0..MAX_CHANNELS + 7 {
            greedy.channel(&channel(n)).unrouted(1);
        }
        let all = unrouted(hours(2));
        assert_eq!(all.len(), MAX_CHANNELS + 1);
        assert_eq!(all.iter().find(|(name, _)| *name == OTHER).map(|(_, count)| *count), Some(7));
        assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), 7 + MAX_CHANNELS as u64 + 7);
        drop((two, greedy));
        for n in [2, 4, 6] {
            metrics.idents.lock().sweep(hours(n));
            let _ = unrouted(hours(n));
        }
        assert_eq!(unrouted(hours(6)), [], "unused counters are forgotten");
    }

    #[test]
    fn sums_do_not_fall_when_a_connection_ends() {
        let metrics = metrics();
        let (one, two) = (metrics.session(&ident(0), "a"), metrics.session(&ident(0), "b"));
        one.received(10);
        two.received(1);
        one.queued(100, 90);
        one.sent(40);
        two.dropped(3);
        let counts = || counts(&metrics, &ident(0));
        let totals = counts().totals;
        assert_eq!(
            (totals.received, totals.filled, totals.drained, totals.queued, totals.dropped),
            (11, 90, 40, 60, 3)
        );
        assert_eq!(counts().owners.len(), 2);
        drop(one);
        assert_eq!(counts().totals, ConnectionTotals { queued: 0, ..totals });
        assert_eq!((counts().ready, counts().lost, counts().owners.len()), (2, 1, 1));
    }

    #[test]
    fn failed_authentication_counts_for_an_ident_only_when_that_is_proved() {
        let metrics = metrics();
        let errors = |series: &IdentSeries| series.counts(Instant::now()).errors.iter().sum::<u64>();
        metrics.rejected(&ident(0), Category::InvalidSecret);
        assert_eq!((errors(&metrics.unauthenticated), metrics.idents.lock().len()), (1, 0));
        drop(metrics.session(&ident(0), "owner"));
        metrics.rejected(&ident(0), Category::InvalidSecret);
        assert_eq!(errors(&metrics.unauthenticated), 1);
        assert_eq!(errors(&metrics.idents.lock().known(&ident(0)).unwrap()), 1);
        let listening = metrics.endpoints.listening(([127, 0, 0, 1], 1).into());
        drop(listening.connection());
        assert_eq!(metrics.unauthenticated.counts(Instant::now()).lost, 1);
    }

    #[test]
    fn a_refusal_is_counted_once() {
        let metrics = metrics();
        let (one, two) = (metrics.session(&ident(0), "a"), metrics.session(&ident(0), "a"));
        one.error(Category::NoPubPermission);
        one.refused();
        two.refused();
        let errors = counts(&metrics, &ident(0)).errors;
        let named: Vec<_> = Category::ALL.iter().zip(errors).filter(|(_, count)| *count > 0).collect();
        assert_eq!(named, [(&"no-pub-permission", 1), (&"invalid-message", 1)]);
    }
}
