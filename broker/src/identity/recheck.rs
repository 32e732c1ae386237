//! The key recheck: looks the keys of live connections up again, so that a key that is removed or
//! changed has an effect on them.

use std::{future, pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::warn;

use crate::{
    auth::{AuthStore, key::Key},
    identity::{IdentRegistry, IdentState},
};

/// The most lookups under way at once.
const CONCURRENT: usize = 16;

/// The shortest time from one lookup to the next, on average: a database has others to serve as
/// well.
const MIN_GAP: Duration = Duration::from_millis(2);

/// After so many failures in a row, a store is left alone until the next round.
const MAX_FAILURES: usize = CONCURRENT;

/// Looks up all keys, for ever: when the store tells of changes, when
/// [asked](IdentRegistry::recheck) to, and once an `interval` if the store would not tell. A lookup
/// takes at most `limit`.
///
/// A round that was asked for comes after a change: what was found before may be old. So a round in
/// the background gives way to one that was asked for. That one is never cut short, or keys that
/// are at its end would not be looked up as long as requests go on; however many there are
/// meanwhile, one more round follows.
///
/// And then one in the background, whether or not there would be any: a client may just have
/// authenticated with what was found before.
pub(crate) async fn run(identities: &IdentRegistry, store: &dyn AuthStore, limit: Duration, interval: Duration) {
    let (may_change, mut changes) = (store.may_change(), store.changes().fuse());
    let (mut asked, mut due) = (false, may_change);
    loop {
        let start = Instant::now();
        if asked {
            look_up(identities.all(), store, limit, Duration::ZERO).await;
        }
        let background = async {
            if !asked && due {
                look_up(identities.all(), store, limit, interval).await;
            }
            if !asked && !may_change {
                // Without a timer, waiting for the next message is cheaper.
                return future::pending().await;
            }
            sleep_until(start + interval).await;
        };
        asked = tokio::select! {
            biased;
            () = background => false,
            () = identities.recheck.notified() => true,
            Some(()) = changes.next() => true,
        };
        due = true;
    }
}

/// One round, which takes about as long as it is spread over, or longer.
async fn look_up(identities: Vec<Arc<IdentState>>, store: &dyn AuthStore, limit: Duration, spread: Duration) {
    let count = u32::try_from(identities.len()).unwrap_or(u32::MAX).max(1);
    // The last ones have some time to be answered.
    let gap = (spread / 2 / count).max(MIN_GAP);
    let paced = stream::iter(identities.into_iter().enumerate()).then(move |(index, ident)| async move {
        if index > 0 && index.is_multiple_of(CONCURRENT) {
            sleep(gap * u32::try_from(CONCURRENT).unwrap_or(1)).await;
        }
        ident
    });
    let mut answers = pin!(paced.map(|ident| ask(store, ident, limit)).buffer_unordered(CONCURRENT));
    let (mut failures, mut in_a_row) = (0, 0);
    while let Some(answer) = answers.next().await {
        let Err(cause) = answer else {
            in_a_row = 0;
            continue;
        };
        failures += 1;
        in_a_row += 1;
        if failures == 1 {
            warn!(%cause, "cannot look up keys again: connections keep what they may do");
        }
        if in_a_row == MAX_FAILURES {
            break;
        }
    }
}

/// Looks up one key. An error changes nothing.
async fn ask(store: &dyn AuthStore, ident: Arc<IdentState>, limit: Duration) -> Result<(), String> {
    let as_of = ident.latest();
    match timeout(limit, store.lookup(ident.ident())).await {
        Ok(Ok(key)) => {
            ident.found(key.map(Key::current), as_of);
            Ok(())
        }
        Ok(Err(cause)) => Err(cause.to_string()),
        Err(_) => Err("the key store did not answer in time".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use futures::FutureExt as _;
    use parking_lot::Mutex;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        auth::{AuthError, Changes, Lookup},
        identity::{Membership, quota::QuotaRules},
        limits::rate::Rate,
    };

    const LIMIT: Duration = Duration::from_secs(10);
    const SPREAD: Duration = Duration::from_secs(5);

    /// Takes a second to answer, or longer.
    #[derive(Default)]
    struct Database {
        asked: AtomicUsize,
        busy: AtomicUsize,
        busiest: AtomicUsize,
        down: bool,
    }

    impl AuthStore for Database {
        fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
            Box::pin(async move {
                self.asked.fetch_add(1, Relaxed);
                self.busiest.fetch_max(self.busy.fetch_add(1, Relaxed) + 1, Relaxed);
                sleep(Duration::from_secs(1)).await;
                self.busy.fetch_sub(1, Relaxed);
                if self.down {
                    return Err(AuthError::new("down"));
                }
                Ok((ident != "0").then(|| Arc::new(Key::new(ident, "s").unwrap())))
            })
        }
    }

    fn members(count: usize) -> (Arc<IdentRegistry>, Vec<Membership>) {
        let rules = QuotaRules { max_connections: usize::MAX, publish: Rate::UNLIMITED, deliver: Rate::UNLIMITED };
        let identities = Arc::new(IdentRegistry::new(rules));
        let join = |n: usize| {
            let ident: hpfeeds::wire::Ident = n.to_string().parse().unwrap();
            identities.join(ident.clone(), Arc::new(Key::new(&ident, "s").unwrap()), "s".into()).unwrap()
        };
        let members = (0..count).map(join).collect();
        (identities, members)
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_are_spread_and_few_at_once() {
        for (count, least, most) in [(10, 1, 2), (500, 31, 40), (10_000, 625, 800)] {
            let (identities, members) = members(count);
            let (database, start) = (Database::default(), Instant::now());
            look_up(identities.all(), &database, LIMIT, SPREAD).await;
            let seconds = start.elapsed().as_secs();
            // Lookups of a second each are bound by how many are under way.
            assert!((least..=most).contains(&seconds), "{seconds} s for {count}");
            assert_eq!(database.asked.into_inner(), count);
            assert!(database.busiest.into_inner() <= CONCURRENT);
            assert_eq!(members.iter().filter(|member| member.has_news()).count(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn fast_store_is_not_asked_all_at_once() {
        let (identities, _members) = members(1600);
        let store = crate::auth::memory::MemoryStore::new();
        for (spread, least) in [(SPREAD, 99 * 32), (8 * SPREAD, 99 * 200), (Duration::ZERO, 99 * 32)] {
            let start = Instant::now();
            look_up(identities.all(), &store, LIMIT, spread).await;
            let elapsed = start.elapsed();
            assert!(elapsed >= Duration::from_millis(least) && elapsed < spread.max(SPREAD), "{elapsed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn store_that_is_down_is_left_alone() {
        let (identities, members) = members(1000);
        let mut database = Database { down: true, ..Database::default() };
        look_up(identities.all(), &database, LIMIT, SPREAD).await;
        assert!(database.asked.load(Relaxed) <= 2 * CONCURRENT);
        database.down = false;
        look_up(identities.all(), &database, Duration::from_millis(500), SPREAD).await;
        assert!(members.iter().all(|member| !member.has_news()));
    }

    /// Counts how often each ident is asked for.
    #[derive(Default)]
    struct Census {
        asked: Mutex<BTreeMap<String, usize>>,
        may_change: bool,
        changes: Mutex<Option<mpsc::Receiver<()>>>,
    }

    impl Census {
        /// The least and the most that one of so many idents was asked for.
        fn range(&self, idents: usize) -> (usize, usize) {
            let counts = self.asked.lock();
            let least = if counts.len() < idents { 0 } else { *counts.values().min().unwrap() };
            (least, counts.values().max().copied().unwrap_or(0))
        }
    }

    impl AuthStore for Arc<Census> {
        fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
            Box::pin(async move {
                *self.asked.lock().entry(ident.to_owned()).or_default() += 1;
                Ok(None)
            })
        }

        fn may_change(&self) -> bool {
            self.may_change
        }

        fn changes(&self) -> Changes {
            let Some(changes) = self.changes.lock().take() else {
                return Box::pin(stream::pending());
            };
            // It must not be polled any more once it has ended.
            Box::pin(stream::unfold(changes, async |mut changes| changes.recv().await.map(|()| ((), changes))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn store_is_asked_again_when_its_answers_may_change() {
        for may_change in [false, true] {
            let (identities, _members) = members(1);
            let census = Arc::new(Census { may_change, ..Census::default() });
            assert!(timeout(4 * SPREAD, run(&identities, &census, LIMIT, SPREAD)).await.is_err());
            assert_eq!(census.range(1).0 > 0, may_change);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn store_that_tells_of_changes_is_asked_then_or_on_request() {
        let (identities, _members) = members(10);
        let (teller, changes) = mpsc::channel(1);
        let census = Arc::new(Census { changes: Mutex::new(Some(changes)), ..Census::default() });
        let mut rounds = pin!(run(&identities, &census, LIMIT, SPREAD));
        let mut teller = Some(teller);
        // At once, and again for whoever has authenticated with an old answer meanwhile.
        for (request, least, most) in
            [("none", 0, 0), ("change", 1, 2), ("recheck", 3, 4), ("no more changes", 4, 4), ("recheck", 5, 6)]
        {
            match request {
                "change" => teller.as_ref().unwrap().try_send(()).unwrap(),
                "recheck" => identities.recheck.notify_one(),
                "no more changes" => drop(teller.take()),
                _ => {}
            }
            for (time, times) in [(SPREAD / 2, least), (Duration::from_secs(3600), most)] {
                assert!(timeout(time, &mut rounds).await.is_err());
                assert_eq!(census.range(10), (times, times), "{request}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_key_is_looked_up_while_requests_never_end() {
        let (identities, _members) = members(2000);
        let census = Arc::new(Census { may_change: true, ..Census::default() });
        let storm = async {
            // A round takes 4 seconds.
            for _ in 0..100 {
                sleep(Duration::from_millis(100)).await;
                identities.recheck.notify_one();
            }
        };
        let hour = Duration::from_secs(3600);
        tokio::select! {
            () = run(&identities, &census, LIMIT, hour) => {}
            () = storm => {}
        }
        let (least, most) = census.range(2000);
        assert!((2..=4).contains(&least) && most <= least + 2, "{least} to {most} times each");
        // The requests during the last round are one more round; and then it is quiet.
        census.asked.lock().clear();
        let asked_again = async {
            sleep(Duration::from_millis(100)).await;
            identities.recheck.notify_one();
            sleep(Duration::from_secs(1)).await;
            (0..10).for_each(|_| identities.recheck.notify_one());
            sleep(Duration::from_secs(60)).await;
        };
        identities.recheck.notified().now_or_never();
        tokio::select! {
            () = run(&identities, &census, LIMIT, 100 * hour) => {}
            () = asked_again => {}
        }
        let (least, most) = census.range(2000);
        // Some were looked up in the background, before anybody asked.
        assert!(least == 2 && most <= 3, "{least} to {most} times each");
    }
}
