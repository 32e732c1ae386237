//! SUBSCRIBE with `*` and `prefix.*`.

use hpfeeds_broker::{Broker, BrokerBuilder, Key};

use crate::support::{Peer, builder, bytes, publish, start, subscribe, unsubscribe};

/// `carol` may read some of what `dev` publishes.
fn with_carol(subchans: &[&str]) -> BrokerBuilder {
    builder().user(Key::new("carol", "s").unwrap().publish(["private"]).unwrap().subscribe(subchans).unwrap())
}

async fn carol(broker: &Broker) -> Peer {
    Peer::login(broker.local_addr(), "carol", "s").await
}

/// Publishes an empty message to each channel, and returns the channels of which the reader gets one.
async fn received(broker: &Broker, reader: &mut Peer, channels: &[&str]) -> Vec<String> {
    reader.settle().await;
    let mut writer = Peer::dev(broker).await;
    writer.send_raw(&bytes(channels.iter().map(|channel| publish("dev", channel, "")))).await;
    writer.confirm().await;
    // Whatever comes before the answer to this is all.
    reader.send(subscribe(&reader.ident.clone(), "private")).await;
    reader.send(publish(&reader.ident.clone(), "private", "end")).await;
    let mut got = Vec::new();
    loop {
        let Some(hpfeeds::wire::Frame::Publish { channel, payload, .. }) = reader.next().await else {
            panic!("no message");
        };
        if payload == "end" {
            reader.send(unsubscribe("x", "private")).await;
            return got;
        }
        got.push(channel.to_string());
    }
}

const CHANNELS: [&str; 8] = ["cowrie.sessions", "cowrie", "cowrie.", "cowrie.a.b", "cowries.x", "x", "cowrie.*", "*"];

#[tokio::test]
async fn a_pattern_brings_every_channel_that_it_matches() {
    let broker = start(builder()).await;
    let mut reader = Peer::subscriber(&broker, &["cowrie.*"]).await;
    // None of these channels existed before, and a star in a PUBLISH is nothing but a character.
    for _ in 0..2 {
        let got = received(&broker, &mut reader, &CHANNELS).await;
        assert_eq!(got, ["cowrie.sessions", "cowrie.a.b", "cowrie.*"]);
    }
    reader.send(unsubscribe("dev", "cowrie.*")).await;
    assert!(received(&broker, &mut reader, &CHANNELS).await.is_empty());
    reader.send(subscribe("dev", "*")).await;
    // Its own message has come through the pattern.
    assert_eq!(received(&broker, &mut reader, &CHANNELS).await, CHANNELS);
}

#[tokio::test]
async fn overlapping_subscriptions_bring_each_message_once() {
    let broker = start(builder()).await;
    let mut reader = Peer::subscriber(&broker, &["cowrie.*", "*", "cowrie.sessions", "cowrie.*"]).await;
    let channels = ["cowrie.sessions", "cowrie.x", "y"];
    assert_eq!(received(&broker, &mut reader, &channels).await, channels);
    reader.send(unsubscribe("dev", "*")).await;
    assert_eq!(received(&broker, &mut reader, &channels).await, channels[..2]);
    reader.send(unsubscribe("dev", "cowrie.*")).await;
    assert_eq!(received(&broker, &mut reader, &channels).await, channels[..1]);
    reader.send(unsubscribe("dev", "cowrie.sessions")).await;
    assert!(received(&broker, &mut reader, &channels).await.is_empty());
}

#[tokio::test]
async fn a_pattern_brings_no_more_than_the_key_allows() {
    let broker = start(with_carol(&["cowrie.*", "x", "private"])).await;
    let mut reader = carol(&broker).await;
    reader.send(subscribe("carol", "*")).await;
    let got = received(&broker, &mut reader, &CHANNELS).await;
    assert_eq!(got, ["cowrie.sessions", "cowrie.a.b", "x", "cowrie.*"]);
    reader.send(unsubscribe("carol", "*")).await;
    reader.send(subscribe("carol", "cowrie.a.*")).await;
    assert_eq!(received(&broker, &mut reader, &CHANNELS).await, ["cowrie.a.b"]);
}

#[tokio::test]
async fn a_pattern_of_which_the_key_allows_nothing_is_denied() {
    for (subchans, denied) in [
        (&["cowrie.*", "x"][..], &["dionaea.*", "x.*", "cowrie", "cowrie.", "cowri*", "cow.*"][..]),
        (&["cowrie"], &["cowrie.*", "cowrie.x"]),
        (&[], &["*", "a.*", "a"]),
    ] {
        let broker = start(with_carol(subchans)).await;
        for text in denied {
            let mut peer = carol(&broker).await;
            peer.send(subscribe("carol", text)).await;
            peer.expect_error(format!("Authkey not allowed to sub here. ident=carol, chan={text}")).await;
        }
    }
}

#[tokio::test]
async fn the_first_message_of_a_new_channel_arrives() {
    let broker = start(builder()).await;
    let mut readers = [Peer::subscriber(&broker, &["c.*"]).await, Peer::subscriber(&broker, &["*"]).await];
    let mut writer = Peer::dev(&broker).await;
    for n in 0..200 {
        let message = publish("dev", &format!("c.{n}"), "x");
        writer.send(message.clone()).await;
        for reader in &mut readers {
            assert_eq!(reader.next().await.as_ref(), Some(&message));
        }
    }
}

#[tokio::test]
async fn patterns_count_as_subscriptions() {
    let broker = start(builder().max_subscriptions(2)).await;
    let mut peer = Peer::dev(&broker).await;
    for text in ["*", "a.*", "a.*"] {
        peer.send(subscribe("dev", text)).await;
    }
    peer.send(subscribe("dev", "a.b")).await;
    peer.expect_error("Too many subscriptions: the limit is 2").await;
}
