//! Sessions with a feed, whose messages a program keeps itself, in virtual time.

use std::time::Duration;

use hpfeeds::{
    ClientSession,
    spool::{Chunk, FeedNews, FeedRefused, Feeder, feed},
    wire::{
        Frame, Limits,
        extension::{Code, Level, RefusedRange, StreamId, StreamPosition},
    },
};
use tokio::time::timeout;

use super::broker::{Broker, assert_all, assert_are};
use crate::support::IDENT;

fn id(byte: u8) -> StreamId {
    StreamId::new([byte; 16])
}

/// Consecutive numbers as the messages of a stream, from number `first` on.
fn chunk(stream: StreamId, first: u64, texts: std::ops::Range<u32>, length: usize) -> Chunk {
    let mut frames = bytes::BytesMut::new();
    let messages = u64::from(texts.end - texts.start);
    for text in texts {
        let payload = format!("{text} {}", "x".repeat(length)).into();
        let frame = Frame::Publish { ident: IDENT.try_into().unwrap(), channel: "c".try_into().unwrap(), payload };
        frame.encode(&mut frames, Limits::default()).unwrap();
    }
    Chunk::new(stream, first, vec![(frames.freeze(), messages)]).unwrap()
}

fn start(broker: &Broker) -> (Feeder, ClientSession) {
    let (feeder, feed) = feed();
    (feeder, broker.session().feed(feed).start().unwrap())
}

/// All news until a chunk is wanted and everything up to a position is released.
async fn until(feeder: &mut Feeder, released: impl Into<Option<StreamPosition>>) -> FeedNews {
    let released = released.into();
    let mut all = FeedNews::default();
    let mut is_released = released.is_none();
    let hear = async {
        while !is_released || !feeder.is_wanted() {
            let news = feeder.news().await;
            is_released |= news.released.last().copied() == released;
            all.released.extend(news.released);
            all.refused.extend(news.refused);
            all.broker = news.broker.or(all.broker.take());
        }
    };
    timeout(Duration::from_secs(100), hear).await.expect("news");
    all
}

fn at(stream: StreamId, number: u64) -> StreamPosition {
    StreamPosition { stream, number }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_fed_goes_on_with_each_chunk_under_its_own_id() {
    let broker = Broker::new();
    let (mut feeder, mut session) = start(&broker);
    let news = until(&mut feeder, None).await;
    assert!(news.released.is_empty());
    feeder.give(chunk(id(1), 8, 0..5, 10));
    let news = until(&mut feeder, at(id(1), 12)).await;
    assert_eq!(news.broker.unwrap().level, Some(Level::ROUTED));
    feeder.give(chunk(id(1), 13, 5..10, 10));
    until(&mut feeder, at(id(1), 17)).await;
    feeder.give(chunk(id(2), 1, 10..20, 10));
    until(&mut feeder, at(id(2), 10)).await;
    assert_all(&broker, 20);
    let hellos = broker.hellos();
    assert_eq!(hellos[hellos.len() - 2..], [(id(1), 8), (id(2), 1)]);
    feeder.end();
    session.close().await.unwrap();
    assert!(feeder.news().await.is_over);
}

#[tokio::test(start_paused = true)]
async fn a_new_session_with_the_same_stream_repeats_nothing_that_its_broker_knows() {
    let broker = Broker::new();
    let (mut feeder, session) = start(&broker);
    until(&mut feeder, None).await;
    feeder.give(chunk(id(1), 1, 0..50, 10));
    until(&mut feeder, at(id(1), 50)).await;
    drop(session);
    // The program was killed before it had stored how far that was.
    let (mut feeder, session) = start(&broker);
    until(&mut feeder, None).await;
    feeder.give(chunk(id(1), 1, 0..60, 10));
    until(&mut feeder, at(id(1), 60)).await;
    assert_all(&broker, 60);
    // A broker that has forgotten it gets what is fed.
    broker.forget();
    drop(session);
    let (mut feeder, _session) = start(&broker);
    until(&mut feeder, None).await;
    feeder.give(chunk(id(1), 51, 50..60, 10));
    until(&mut feeder, at(id(1), 60)).await;
    assert_are(&broker, 0..60, 10);
}

#[tokio::test(start_paused = true)]
async fn a_feeder_hears_what_was_refused_before_it_is_released() {
    let broker = Broker::new();
    broker.set(|settings| {
        settings.largest = Some(500);
        settings.refused = vec![RefusedRange { first: 3, count: 2, code: Code::NOT_ALLOWED }];
    });
    let (mut feeder, session) = start(&broker);
    until(&mut feeder, None).await;
    feeder.give(chunk(id(1), 1, 0..10, 10));
    until(&mut feeder, at(id(1), 10)).await;
    drop(session);
    let (mut feeder, _session) = start(&broker);
    until(&mut feeder, None).await;
    feeder.give(chunk(id(1), 1, 0..10, 10));
    let news = until(&mut feeder, at(id(1), 10)).await;
    let refused = |first, count, code| FeedRefused { stream: id(1), first, count, code };
    assert_eq!(news.refused, [refused(3, 2, Some(Code::NOT_ALLOWED))]);
    // One that is longer than the broker takes, between two that are not.
    feeder.give(chunk(id(1), 11, 10..11, 10));
    until(&mut feeder, at(id(1), 11)).await;
    feeder.give(chunk(id(1), 12, 11..12, 600));
    let news = until(&mut feeder, at(id(1), 12)).await;
    assert_eq!(news.refused, [refused(12, 1, None)]);
    feeder.give(chunk(id(1), 13, 12..13, 10));
    until(&mut feeder, at(id(1), 13)).await;
    // Two in a row, in one chunk with others.
    let parts = [chunk(id(1), 14, 13..15, 10), chunk(id(1), 16, 15..17, 600), chunk(id(1), 18, 17..19, 10)];
    let pieces = parts.map(|chunk| chunk.pieces).concat();
    feeder.give(Chunk::new(id(1), 14, pieces).unwrap());
    let news = until(&mut feeder, at(id(1), 19)).await;
    assert_eq!(news.refused, [refused(16, 2, None)]);
    assert_are(&broker, (0..11).chain(12..15).chain(17..19), 0);
}

#[tokio::test(start_paused = true)]
async fn numbers_that_are_passed_over_are_told_to_the_broker() {
    let broker = Broker::new();
    let (mut feeder, _session) = start(&broker);
    until(&mut feeder, None).await;
    feeder.give(chunk(id(1), 1, 0..3, 10));
    until(&mut feeder, at(id(1), 3)).await;
    feeder.give(chunk(id(1), 9, 3..6, 10));
    until(&mut feeder, at(id(1), 11)).await;
    assert_all(&broker, 6);
    assert_eq!(broker.received().iter().map(|message| message.number).collect::<Vec<_>>(), [1, 2, 3, 9, 10, 11]);
}

#[tokio::test(start_paused = true)]
async fn an_old_broker_confirms_what_is_fed_by_its_end_of_stream() {
    let broker = Broker::new();
    broker.set(|settings| settings.extended = false);
    let (mut feeder, mut session) = start(&broker);
    let news = until(&mut feeder, None).await;
    assert!(news.released.is_empty());
    feeder.give(chunk(id(1), 1, 0..5, 10));
    let news = until(&mut feeder, at(id(1), 5)).await;
    assert!(!news.broker.unwrap().is_extended);
    assert_all(&broker, 5);
    // The next stream waits for the confirmation, and does not wait for half a minute.
    feeder.give(chunk(id(1), 6, 5..10, 10));
    until(&mut feeder, None).await;
    let before = tokio::time::Instant::now();
    feeder.give(chunk(id(2), 1, 10..12, 10));
    until(&mut feeder, at(id(1), 10)).await;
    assert!(before.elapsed() < Duration::from_secs(2));
    feeder.end();
    session.close().await.unwrap();
    assert_all(&broker, 12);
}
