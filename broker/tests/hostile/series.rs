//! Names without end, of who has a key and of who has none.

use std::time::{Duration, Instant};

use hpfeeds::wire::{Frame, Limits};

use crate::{
    scrape,
    support::{Peer, bytes, publish, subscribe, unsubscribe, within},
    target::{ATTACKER, Bound, MIB, Target, dial, login, whole},
};

/// Frames one after the other, in pieces of a megabyte.
async fn send_all(peer: &mut Peer, frames: impl Iterator<Item = Frame>) {
    let mut bytes = bytes::BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes, Limits::default()).unwrap();
        if bytes.len() > MIB {
            peer.send_raw(&bytes.split()).await;
        }
    }
    peer.send_raw(&bytes).await;
}

#[tokio::test]
async fn channels_without_end() {
    const CHANNELS: usize = 100_000;
    let mut target = Target::start(&[]).await;
    let mut peer = login(ATTACKER, target.plain, "mallory", "stolen").await;
    let name = |n: usize| format!("{n:0>200}");
    send_all(&mut peer, (0..CHANNELS).map(|n| publish("mallory", &name(n), "x"))).await;
    peer.confirm().await;
    let begun = Instant::now();
    let answer = scrape::request(target.exporter, "GET", "/metrics", "").await;
    let took = begun.elapsed();
    let exposed = scrape::Exposed::parse(&answer.body);
    let selector = "hpfeeds_broker_receive_publish_count_total{ident=\"mallory\"}";
    assert_eq!(exposed.sum(selector).map(whole), Some(CHANNELS), "nothing is uncounted");
    let series = exposed.select(selector).len();
    // See docs/metrics.md.
    assert!(series <= 1001, "{series}");
    println!(
        "figures: {CHANNELS} channels: {series} series for each metric, {} KiB of metrics in {took:.0?}",
        answer.body.len() / 1024
    );
    target.survives(&format!("{CHANNELS} channels"), Bound { active: 2, metrics: 32 * MIB, ..Bound::default() }).await;
    assert!(target.stops().await.len() < 20, "nothing is logged for a channel");
}

#[tokio::test]
async fn idents_without_end() {
    const IDENTS: usize = 3000;
    let mut target = Target::start(&[]).await;
    let mut attackers = tokio::task::JoinSet::new();
    let plain = target.plain;
    for task in 0..30 {
        attackers.spawn(async move {
            for n in (task..IDENTS).step_by(30) {
                let [.., a, b] = n.to_be_bytes();
                let peer = Peer::greeted(dial([127, 40, a, b], plain).await).await;
                let mut peer = peer.authenticate(&format!("{n:0>250}"), "x").await;
                assert!(peer.next().await.is_some());
                peer.framed.into_inner().set_zero_linger().unwrap();
            }
        });
    }
    while let Some(done) = attackers.join_next().await {
        done.unwrap();
    }
    let exposed = target.metrics().await;
    assert!(exposed.samples.len() < 300, "{} samples", exposed.samples.len());
    let strangers = exposed.sum("hpfeeds_broker_connection_error_total{ident=\"\",category=\"invalid-ident\"}");
    assert_eq!(strangers.map(whole), Some(IDENTS));
    target.survives(&format!("{IDENTS} idents that fail"), Bound { idle: 30, ..Bound::default() }).await;
    target.stops().await;
}

#[tokio::test]
async fn subscriptions_without_end() {
    const CONNECTIONS: usize = 8;
    const MAX: usize = 10_000;
    let mut target = Target::start(&[]).await;
    let mut peers = Vec::new();
    for n in 0..CONNECTIONS {
        let mut peer = login(ATTACKER, target.plain, "mallory", "stolen").await;
        // Channels of their own, channels of all, patterns of their own, patterns of all.
        let name = |i: usize| match n % 4 {
            0 => format!("{n}.{i:0>200}"),
            1 => format!("{i:0>200}"),
            2 => format!("{n}.{i:0>200}.*"),
            _ => format!("{i:0>200}.*"),
        };
        send_all(&mut peer, (0..MAX - 1).map(|i| subscribe("mallory", &name(i)))).await;
        peer.settle().await;
        target.exchange().await;
        peers.push(peer);
    }
    let count = CONNECTIONS * (MAX - 1);
    let each = (target.memory("VmRSS:") - 16 * MIB) / count;
    // And no more than that.
    for peer in &mut peers {
        send_all(peer, ["one", "too many"].into_iter().map(|name| subscribe("mallory", name))).await;
    }
    for peer in peers {
        peer.expect_error(format!("Too many subscriptions: the limit is {MAX}")).await;
    }
    println!("figures: {count} subscriptions: {each} bytes each");
    let bound = Bound { active: CONNECTIONS, subscriptions: count, ..Bound::default() };
    target.survives(&format!("{count} subscriptions"), bound).await;
    target.stops().await;
}

/// Each change of a pattern makes everybody look up again which of them match, and names with very many dots make that
/// long.
#[tokio::test]
async fn patterns_that_come_and_go_and_names_of_dots() {
    const ROUNDS: usize = 20;
    let mut target = Target::start(&[]).await;
    let plain = target.plain;
    let mut attackers = tokio::task::JoinSet::new();
    for n in 0..4_usize {
        attackers.spawn(async move {
            let mut peer = login(ATTACKER, plain, "mallory", "stolen").await;
            let dots = ".".repeat(252);
            let frames = (0..200).flat_map(|i| {
                if n < 2 {
                    let pattern = format!("{}{n}.*", &dots[..i]);
                    vec![subscribe("mallory", &pattern), unsubscribe("mallory", &pattern)]
                } else {
                    vec![publish("mallory", &format!("{dots}{n}{}", i % 10), "x")]
                }
            });
            let frames: Vec<_> = frames.collect();
            let (count, batch) = (frames.len(), bytes(frames));
            for _ in 0..ROUNDS {
                within(peer.send_raw(&batch)).await;
                // The outstanding messages are bounded, however slow the machine is. On a channel of its own.
                peer.settle_on(&format!("settled-{n}")).await;
            }
            count * ROUNDS
        });
    }
    let (mut worst, mut frames) = (Duration::ZERO, 0);
    while !attackers.is_empty() {
        worst = worst.max(target.exchange().await);
        while let Some(more) = attackers.try_join_next() {
            frames += more.unwrap();
        }
    }
    println!(
        "figures: {frames} patterns that come and go and names of dots: an honest message took {worst:.0?} at most"
    );
    target.survives("patterns that come and go", Bound { active: 8, ..Bound::default() }).await;
    target.stops().await;
}

/// One with very many subscribers, which changes as often as the broker can follow.
#[tokio::test]
async fn a_crowded_channel_that_changes_all_the_time() {
    const SUBSCRIBERS: usize = 1000;
    const ROUNDS: usize = 30;
    let mut target = Target::start(&[]).await;
    let mut crowd = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut peer = login(ATTACKER, target.plain, "mallory", "stolen").await;
        peer.send(subscribe("mallory", "crowded")).await;
        crowd.push(peer);
    }
    let plain = target.plain;
    let churning = tokio::spawn(async move {
        let mut peer = login(ATTACKER, plain, "mallory", "stolen").await;
        let batch = bytes((0..500).flat_map(|_| [subscribe("mallory", "crowded"), unsubscribe("mallory", "crowded")]));
        for _ in 0..ROUNDS {
            peer.send_raw(&batch).await;
            // The outstanding messages are bounded, however slow the machine is.
            peer.settle().await;
        }
        1000 * ROUNDS
    });
    let mut worst = Duration::ZERO;
    while !churning.is_finished() {
        worst = worst.max(target.exchange().await);
    }
    let changes = churning.await.unwrap();
    println!(
        "figures: {changes} changes of a list of {SUBSCRIBERS} subscribers: an honest message took {worst:.0?} at most"
    );
    drop(crowd);
    target.survives("a crowded channel that changes", Bound { active: 8, idle: SUBSCRIBERS, ..Bound::default() }).await;
    target.stops().await;
}
