use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
};

use hpfeeds::wire::extension::{Code, RefusedRange, StreamId};

use super::{
    idle::{MAX_OF_ACCOUNT, MAX_OF_ALL},
    *,
};
use crate::{delivery::outbox::Outbox, identity::quota::Account};

fn link() -> Arc<Link> {
    Link::new(Outbox::for_test())
}

fn key(account: &str, stream: u64) -> StreamKey {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&stream.to_be_bytes());
    StreamKey { account: Account::for_test(account), stream: StreamId::new(id) }
}

/// The stream, as a connection that finds it free gets it, and whether it was known.
fn claimed(table: &Arc<StreamTable>, key: StreamKey) -> (StreamHold, bool) {
    match table.claim(key, &link()) {
        Claimed::Now(hold, known) => (hold, known),
        Claimed::Later(_) => panic!("it is held"),
    }
}

/// Holds the stream for a moment, in which so much is decided.
fn decide(table: &Arc<StreamTable>, key: StreamKey, number: u64) {
    claimed(table, key).0.progress.decided = number;
}

fn decided(table: &Arc<StreamTable>, key: StreamKey) -> u64 {
    claimed(table, key).0.progress.decided
}

#[test]
fn a_stream_is_given_back_with_its_progress_and_known_from_then_on() {
    let table = Arc::<StreamTable>::default();
    let (mut hold, known) = claimed(&table, key("a", 1));
    assert!(!known && hold.progress.decided == 0 && hold.is(&key("a", 1)) && !hold.is(&key("b", 1)));
    hold.progress.decided = 5;
    hold.progress.refusals.add(RefusedRange { first: 3, count: 2, code: Code::NOT_ALLOWED });
    drop(hold);
    let (hold, known) = claimed(&table, key("a", 1));
    assert_eq!((known, hold.progress.decided, hold.progress.refusals.from(1).len()), (true, 5, 1));
    assert!(!claimed(&table, key("b", 1)).1, "another account has streams of its own");
    assert_eq!(table.len(), 1, "a stream of which nothing is known is forgotten");
}

#[test]
fn of_those_that_claim_a_stream_the_last_one_gets_it_and_the_others_are_fenced() {
    let table = Arc::<StreamTable>::default();
    let links = [(); 4].map(|()| link());
    let Claimed::Now(mut hold, _) = table.claim(key("a", 1), &links[0]) else { panic!("it is free") };
    let mut claims: Vec<_> = links[1..]
        .iter()
        .map(|link| match table.claim(key("a", 1), link) {
            Claimed::Later(claim) => claim,
            Claimed::Now(..) => panic!("it is held"),
        })
        .collect();
    assert_eq!([0, 1, 2, 3].map(|n| links[n].is_fenced()), [true, true, true, false]);
    assert!(claims.iter_mut().all(|claim| claim.take().is_none()), "the first still holds it");
    hold.progress.decided = 9;
    drop(hold);
    let taken: Vec<_> = claims.iter_mut().map(|claim| claim.take().map(|hold| hold.progress.decided)).collect();
    assert_eq!(taken, [None, None, Some(9)]);
    drop(claims);
    assert_eq!(decided(&table, key("a", 1)), 9);
}

#[test]
fn a_claim_that_is_given_up_leaves_the_stream_to_others() {
    let table = Arc::<StreamTable>::default();
    for given_back_first in [true, false] {
        let Claimed::Now(mut hold, _) = table.claim(key("a", 1), &link()) else { panic!("it is free") };
        let Claimed::Later(claim) = table.claim(key("a", 1), &link()) else { panic!("it is held") };
        hold.progress.decided = 4;
        if given_back_first {
            drop(hold);
            drop(claim);
        } else {
            drop(claim);
            drop(hold);
        }
        assert_eq!(decided(&table, key("a", 1)), 4);
    }
    assert_eq!(table.len(), 1);
}

#[test]
fn the_least_recently_used_streams_without_a_connection_are_first_out() {
    let table = Arc::<StreamTable>::default();
    let held: Vec<_> = (0..10u64).map(|n| claimed(&table, key("a", 1_000_000 + n)).0).collect();
    for n in 0..MAX_OF_ACCOUNT as u64 {
        decide(&table, key("a", n), n + 1);
    }
    decide(&table, key("b", 1), 77);
    // It was used last now.
    assert_eq!(decided(&table, key("a", 0)), 1);
    decide(&table, key("a", 5000), 5001);
    let known = |n| claimed(&table, key("a", n)).1;
    assert!(!known(1) && known(0) && known(2) && known(5000));
    assert_eq!(decided(&table, key("b", 1)), 77, "another account loses nothing");
    assert_eq!(table.len(), MAX_OF_ACCOUNT + 1 + held.len(), "those that are held have no bound");
}

#[test]
fn all_accounts_together_have_a_bound() {
    let table = Arc::<StreamTable>::default();
    let accounts = MAX_OF_ALL / MAX_OF_ACCOUNT;
    for n in 0..MAX_OF_ACCOUNT as u64 {
        for account in 0..=accounts {
            decide(&table, key(&format!("account-{account}"), n), 1);
        }
    }
    assert_eq!(table.len(), MAX_OF_ALL);
    assert!(!claimed(&table, key("account-0", 0)).1);
    assert!(claimed(&table, key("account-0", MAX_OF_ACCOUNT as u64 - 1)).1);
    let state = table.0.lock();
    assert_eq!(state.idle.len(), MAX_OF_ALL);
}

/// Each thread publishes when it holds the stream, and gives it back when it is fenced.
#[test]
fn threads_never_hold_one_stream_at_once() {
    let (table, holders) = (Arc::<StreamTable>::default(), AtomicU64::new(0));
    let total = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let mut own = link();
                    let mut hold = loop {
                        match table.claim(key("a", 1), &own) {
                            Claimed::Now(hold, _) => break hold,
                            // Until it has it, or another one has claimed it.
                            Claimed::Later(mut claim) => {
                                let fenced = || own.is_fenced();
                                let taken =
                                    std::iter::repeat_with(|| claim.take()).find(|hold| hold.is_some() || fenced());
                                if let Some(Some(hold)) = taken {
                                    break hold;
                                }
                            }
                        }
                        own = link();
                    };
                    assert_eq!(holders.fetch_add(1, SeqCst), 0, "one at a time");
                    let before = hold.progress.decided;
                    assert_eq!(before, total.load(SeqCst), "nothing was lost");
                    hold.progress.decided += 1;
                    total.fetch_add(1, SeqCst);
                    holders.fetch_sub(1, SeqCst);
                    drop(hold);
                }
            });
        }
    });
    assert_eq!((decided(&table, key("a", 1)), table.len()), (2000, 1));
}
