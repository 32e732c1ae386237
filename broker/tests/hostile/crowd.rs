//! Very many connections.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::{
    support::{Peer, within},
    target::{Bound, Target, count, dial, held, login, pair, periods, reset, rest},
};

/// Dials from many addresses. Returns the streams that were greeted, and what others were told.
async fn crowd(target: &Target, net: u8, addresses: usize, connections: usize) -> (Vec<TcpStream>, Vec<String>) {
    let (mut greeted, mut refused) = (Vec::new(), Vec::new());
    for n in 0..connections {
        let [.., a, b] = (n % addresses).to_be_bytes();
        let mut stream = dial([127, net, a, b], target.plain).await;
        let mut header = [0; 5];
        within(stream.read_exact(&mut header)).await.unwrap();
        if header[4] == 1 {
            greeted.push(stream);
        } else {
            refused.push(String::from_utf8(rest(&mut stream).await).unwrap());
        }
    }
    (greeted, refused)
}

fn reset_all(streams: Vec<TcpStream>) {
    // Ports that are reset can be used again at once.
    for stream in streams {
        reset(stream);
    }
}

#[tokio::test]
async fn ten_thousand_connections_that_never_authenticate() {
    const BEYOND: usize = 200;
    // The default limit; the honest pair has two of them.
    let limit = held(10_000 + BEYOND) - BEYOND;
    let max = limit.to_string();
    let mut target = Target::start(&["--handshake-timeout=120", "--max-connections", &max]).await;
    let begun = Instant::now();
    let (mut streams, refused) = crowd(&target, 10, 1000, limit - 2 + BEYOND).await;
    let took = begun.elapsed();
    // The oldest connections were evicted for the latest.
    assert_eq!((streams.len(), refused.len()), (limit - 2 + BEYOND, 0));
    for mut stream in streams.drain(..BEYOND) {
        let said = String::from_utf8_lossy(&rest(&mut stream).await).into_owned();
        assert!(said.ends_with("Too many connections"), "{said}");
    }
    let exchanged = target.exchange().await;
    let each = (target.memory("VmRSS:") - 16 * 1024 * 1024) / limit;
    println!(
        "figures: {} connections held after {took:.1?}: {each} bytes each, an honest message {exchanged:.0?}",
        streams.len()
    );
    // While they are all there.
    let held_up = Instant::now();
    let bound = Bound { idle: limit, ..Bound::default() };
    target.admits().await;
    println!("figures: newcomers among them exchange a message after {:.0?}", held_up.elapsed());
    reset_all(streams);
    target.survives(&format!("{limit} connections that never authenticate"), bound).await;
    let log = target.stops().await;
    assert!(log.len() < 40 && (1..=periods(begun)).contains(&count(&log, "turned away")), "{log:#?}");
}

async fn turned_away(target: &Target) -> usize {
    target.metric("hpfeeds_broker_rejected_connections_total").await
}

/// They hold all that they can get, and come again as fast as possible.
#[tokio::test]
async fn strangers_who_always_come_again() {
    const MAX: usize = 2000;
    const ATTACKERS: u8 = 8;
    const ROUNDS: usize = 20;
    let mut target = Target::start(&["--handshake-timeout=120", "--max-connections", &MAX.to_string()]).await;
    let (plain, mut attackers) = (target.plain, tokio::task::JoinSet::new());
    for n in 0..ATTACKERS {
        attackers.spawn(async move {
            let mut held = VecDeque::new();
            loop {
                held.push_back(dial([127, 14, 0, n], plain).await);
                if held.len() > MAX / usize::from(ATTACKERS) + 50
                    && let Some(oldest) = held.pop_front()
                {
                    reset(oldest);
                }
            }
        });
    }
    target.reaches("hpfeeds_broker_rejected_connections_total", 1000).await;
    let (before, mut tries) = (turned_away(&target).await, 0);
    for _ in 0..ROUNDS {
        // A client that is evicted comes again, as every client does.
        while within(tokio::task::spawn(async move { drop(pair(plain).await) })).await.is_err() {
            tries += 1;
            assert!(tries <= 4, "only now and then");
        }
        target.exchange().await;
    }
    let gave_way = turned_away(&target).await - before;
    assert!(attackers.try_join_next().is_none(), "the attack is over");
    attackers.shutdown().await;
    println!("figures: {gave_way} strangers gave way, {ROUNDS} pairs got in, {tries} had to come again");
    target.survives("strangers who always come again", Bound { idle: MAX, ..Bound::default() }).await;
    target.stops().await;
}

#[tokio::test]
async fn more_connections_than_an_address_may_have() {
    const ADDRESSES: usize = 20;
    const EACH: usize = 50;
    let mut target = Target::start(&["--handshake-timeout=60", "--max-connections-per-address=50"]).await;
    let (streams, refused) = crowd(&target, 11, ADDRESSES, ADDRESSES * EACH * 2).await;
    assert_eq!((streams.len(), refused.len()), (ADDRESSES * EACH, ADDRESSES * EACH));
    assert!(refused.iter().all(|text| text == "Too many connections from your address"), "{refused:?}");
    // One address at its limit takes nothing from another.
    drop(pair(target.plain).await);
    reset_all(streams);
    let bound = Bound { idle: 2 * ADDRESSES * EACH, ..Bound::default() };
    target.survives("more connections than an address may have", bound).await;
    // Every permit has been given back.
    let (streams, refused) = crowd(&target, 11, ADDRESSES, ADDRESSES * EACH).await;
    assert_eq!((streams.len(), refused.len()), (ADDRESSES * EACH, 0));
    target.stops().await;
}

/// With a key that was stolen: connections of one ident, up to its limit and beyond.
#[tokio::test]
async fn more_connections_than_an_ident_may_have() {
    let mut target = Target::start(&["--max-connections-per-ident=100"]).await;
    let begun = Instant::now();
    let mut peers = Vec::new();
    let mut refused = 0;
    for n in 0..300_usize {
        let [.., last] = n.to_be_bytes();
        // Each from its own address: whoever is refused waits for half a second.
        let from = [127, 12, u8::from(n > 255), last];
        let mut peer: Peer = login(from, target.plain, "mallory", "stolen").await;
        if n < 100 {
            peer.settle().await;
            peers.push(peer);
        } else {
            peer.expect_error("Too many connections for mallory").await;
            refused += 1;
        }
    }
    assert_eq!((peers.len(), refused), (100, 200));
    drop(peers);
    target.survives("more connections than an ident may have", Bound { idle: 300, ..Bound::default() }).await;
    let refusals = count(&target.stops().await, "turned away");
    assert!((1..=periods(begun)).contains(&refusals), "{refusals} lines");
}

/// As fast as they can: connect, and go.
#[tokio::test]
async fn connections_that_come_and_go() {
    const TIME: Duration = Duration::from_secs(2);
    let mut target = Target::start(&[]).await;
    let mut attackers = tokio::task::JoinSet::new();
    let (plain, until) = (target.plain, Instant::now() + TIME);
    for n in 0..50 {
        attackers.spawn(async move {
            let mut count = 0;
            while Instant::now() < until {
                let stream = dial([127, 13, 0, n], plain).await;
                stream.set_zero_linger().unwrap();
                count += 1;
            }
            count
        });
    }
    let mut count = 0;
    while let Some(more) = attackers.join_next().await {
        count += more.unwrap();
        target.exchange().await;
    }
    println!("figures: {count} connections came and went in {TIME:?}");
    target.survives("connections that come and go", Bound { idle: 1000, ..Bound::default() }).await;
    let log = target.stops().await;
    assert!(log.len() < 40, "{log:#?}");
}
