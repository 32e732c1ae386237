//! Wrong secrets.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    support::Peer,
    target::{ATTACKER, Bound, Target, count, dial, login, periods},
};

/// How long a login takes, until the broker has acted on something.
async fn login_time(from: [u8; 4], to: SocketAddr) -> Duration {
    let begun = Instant::now();
    login(from, to, "mallory", "stolen").await.settle().await;
    begun.elapsed()
}

/// Guesses secrets until then. Returns how many.
async fn guess(from: [u8; 4], to: SocketAddr, until: Instant) -> usize {
    let mut guesses = 0;
    while Instant::now() < until {
        let ident = ["mallory", "root", "admin\n"][guesses % 3];
        let peer = Peer::greeted(dial(from, to).await).await.authenticate(ident, "guess").await;
        peer.expect_error(format!("Authentication failed for {ident}")).await;
        guesses += 1;
    }
    guesses
}

#[tokio::test]
async fn wrong_secrets_as_fast_as_possible() {
    const CONNECTIONS: usize = 200;
    const SECONDS: usize = 3;
    let mut target = Target::start(&[]).await;
    let plain = target.plain;
    let cpu = target.cpu().await;
    let begun = Instant::now();
    let until = begun + Duration::from_secs(SECONDS as u64);
    let mut attackers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        attackers.spawn(guess(ATTACKER, plain, until));
    }
    let (mut same, mut other) = (Vec::new(), Vec::new());
    while Instant::now() < until {
        other.push(login_time([127, 20, 0, 1], plain).await);
        same.push(login_time(ATTACKER, plain).await);
        target.exchange().await;
    }
    let mut guesses = 0;
    while let Some(more) = attackers.join_next().await {
        guesses += more.unwrap();
    }
    let cpu = target.cpu().await - cpu;
    println!(
        "figures: wrong secrets: {guesses} guesses of {CONNECTIONS} connections in {SECONDS} s, {cpu:.2} s of processor \
         time; a login from the same address took {:.1?} at most, from another {:.0?}",
        same.iter().max().unwrap(),
        other.iter().max().unwrap(),
    );
    // At first nobody waits, and then everybody half a second each time.
    assert!(guesses <= CONNECTIONS * (2 * SECONDS + 3), "{guesses}");
    let held = same.iter().filter(|time| **time >= Duration::from_millis(400)).min();
    let held = held.unwrap_or_else(|| panic!("the address is throttled: {same:?}"));
    // Clients that share it wait for half a second at most, and no others do. The machine may be busy now and then.
    assert!(*held < Duration::from_secs(3), "{same:?}");
    assert!(*other.iter().min().unwrap() < Duration::from_secs(1), "{other:?}");
    target.survives("wrong secrets as fast as possible", Bound { idle: CONNECTIONS, ..Bound::default() }).await;
    let lines = count(&target.stops().await, "authentication failed");
    assert!((1..=periods(begun)).contains(&lines), "{lines} lines");
}

/// More addresses than the broker remembers: nobody waits for long, and the log stays readable.
#[tokio::test]
async fn wrong_secrets_from_very_many_addresses() {
    const ADDRESSES: usize = 6000;
    const TASKS: usize = 50;
    let mut target = Target::start(&[]).await;
    let plain = target.plain;
    let mut attackers = JoinSet::new();
    for task in 0..TASKS {
        attackers.spawn(async move {
            for n in (task..ADDRESSES).step_by(TASKS) {
                let [.., a, b] = n.to_be_bytes();
                let mut stream =
                    Peer::greeted(dial([127, 21, a, b], plain).await).await.authenticate("root", "x").await;
                assert!(stream.next().await.is_some());
                stream.framed.into_inner().set_zero_linger().unwrap();
            }
        });
    }
    let begun = Instant::now();
    while let Some(done) = attackers.join_next().await {
        done.unwrap();
    }
    assert_eq!(target.metric("hpfeeds_broker_handshake_failures_total{reason=\"unknown-ident\"}").await, ADDRESSES);
    target
        .survives(&format!("wrong secrets from {ADDRESSES} addresses"), Bound { idle: TASKS, ..Bound::default() })
        .await;
    let lines = count(&target.stops().await, "authentication failed");
    assert!((1..=100 * periods(begun)).contains(&lines), "{lines} lines");
}
