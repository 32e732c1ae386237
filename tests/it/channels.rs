//! The streams of single channels above a session, against the real broker.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, stream::FusedStream as _};
use hpfeeds::{ChannelStream, ClientSession, WhenFull};
use hpfeeds_broker::Broker;
use tokio::time::timeout;

use crate::runtimes::in_both_runtimes;

/// A bound for what takes milliseconds: reached only when something hangs.
const SOON: Duration = Duration::from_secs(20);

in_both_runtimes!(
    each_stream_gets_its_own_channel_and_the_session_the_rest,
    streams_in_tasks_of_their_own_need_no_reader_of_the_session,
    a_session_that_waits_already_is_woken_beside_streams,
    a_full_stream_holds_up_the_others_until_it_is_read,
    a_full_stream_drops_what_its_policy_says_and_counts_it,
    a_dropped_stream_unsubscribes_and_leaves_nothing_to_the_session,
    a_channel_of_the_program_stays_subscribed,
    streams_end_with_the_session,
    a_stream_ends_when_its_session_is_dropped_with_unread_messages,
);

async fn connect(broker: &Broker) -> ClientSession {
    ClientSession::connect(broker.local_addr(), "dev", "dev").await.unwrap()
}

async fn next(stream: &mut ChannelStream) -> String {
    let (_, channel, payload) = timeout(SOON, stream.next()).await.expect("nothing arrived").expect("it ended");
    format!("{channel} {}", payload.escape_ascii())
}

async fn next_of(session: &mut ClientSession) -> String {
    let (_, channel, payload) = timeout(SOON, session.next()).await.expect("nothing arrived").expect("it ended");
    format!("{channel} {}", payload.escape_ascii())
}

async fn each_stream_gets_its_own_channel_and_the_session_the_rest() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    let mut one = session.channel("a.one").unwrap();
    let mut all = session.handle().channel("a.*").unwrap();
    session.subscribe("b").unwrap();
    assert!(session.channel("").unwrap_err().is_usage());
    assert_eq!((one.channel().as_str(), all.channel().as_str()), ("a.one", "a.*"));
    for (channel, payload) in [("a.one", "1"), ("b", "2"), ("a.two", "3"), ("b", "4"), ("a.one", "5")] {
        session.publish(channel, payload).await.unwrap();
    }
    assert_eq!([next(&mut all).await, next(&mut all).await, next(&mut all).await], ["a.one 1", "a.two 3", "a.one 5"]);
    assert_eq!([next_of(&mut session).await, next_of(&mut session).await], ["b 2", "b 4"]);
    assert_eq!([next(&mut one).await, next(&mut one).await], ["a.one 1", "a.one 5"]);
    assert!(one.next().now_or_never().is_none() && session.next().now_or_never().is_none());
    session.publish("a.one", "6").await.unwrap();
    let (_, _, payload) = one.wait_for(|(_, _, payload)| payload == "6", SOON).await.unwrap();
    assert_eq!(payload, "6");
    assert!(one.wait_for(|_| true, Duration::from_millis(1)).await.unwrap_err().is_timeout());
}

async fn streams_in_tasks_of_their_own_need_no_reader_of_the_session() {
    const EACH: usize = 5000;
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    let readers: Vec<_> = (0..4)
        .map(|n| {
            let stream = session.channel(format!("c.{n}")).unwrap();
            tokio::spawn(async move { stream.take(EACH).map(|(_, _, payload)| payload).collect::<Vec<_>>().await })
        })
        .collect();
    for number in 0..EACH {
        for n in 0..4 {
            session.publish(format!("c.{n}"), format!("{n} {number}")).await.unwrap();
        }
    }
    for (n, reader) in readers.into_iter().enumerate() {
        let payloads = timeout(SOON, reader).await.unwrap().unwrap();
        assert!(payloads.iter().enumerate().all(|(number, payload)| *payload == format!("{n} {number}")));
    }
    session.close().await.unwrap();
}

async fn a_session_that_waits_already_is_woken_beside_streams() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    session.subscribe("b").unwrap();
    let handle = session.handle();
    let reader = tokio::spawn(async move { (next_of(&mut session).await, session) });
    tokio::task::yield_now().await;
    let mut stream = handle.channel("a").unwrap();
    let waiting = tokio::spawn(async move { (next(&mut stream).await, stream) });
    tokio::task::yield_now().await;
    handle.publisher().publish("b", "1").await.unwrap();
    let (got, _session) = timeout(SOON, reader).await.unwrap().unwrap();
    assert_eq!(got, "b 1");
    handle.publisher().publish("a", "2").await.unwrap();
    assert_eq!(timeout(SOON, waiting).await.unwrap().unwrap().0, "a 2");
}

async fn a_full_stream_holds_up_the_others_until_it_is_read() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    let mut full = session.channel("full").unwrap().queue(1);
    let mut other = session.channel("other").unwrap();
    session.publish("full", "1").await.unwrap();
    session.publish_confirmed("full", "2").await.unwrap();
    // Its queue is full, so nothing more is dealt out until it is read.
    session.publish_confirmed("other", "3").await.unwrap();
    assert!(other.wait_for(|_| true, Duration::from_millis(20)).await.unwrap_err().is_timeout());
    let waiting = tokio::spawn(async move { next(&mut other).await });
    assert_eq!([next(&mut full).await, next(&mut full).await], ["full 1", "full 2"]);
    assert_eq!(timeout(SOON, waiting).await.unwrap().unwrap(), "other 3");
    assert_eq!(full.missed(), 0);
    // One that is dropped holds up nobody.
    let mut other = session.channel("other").unwrap();
    session.publish_confirmed("full", "4").await.unwrap();
    assert!(other.wait_for(|_| true, Duration::from_millis(20)).await.unwrap_err().is_timeout());
    session.publish_confirmed("other", "5").await.unwrap();
    assert!(other.wait_for(|_| true, Duration::from_millis(20)).await.unwrap_err().is_timeout());
    drop(full);
    assert_eq!(next(&mut other).await, "other 5");
    session.close().await.unwrap();
}

async fn a_full_stream_drops_what_its_policy_says_and_counts_it() {
    let broker = Broker::dev().await.unwrap();
    let session = connect(&broker).await;
    // Room for a few messages: each counts for its names and less than 200 bytes more.
    let mut oldest = session.channel("a").unwrap().queue(1000).when_full(WhenFull::DropOldest);
    let mut newest = session.channel("a").unwrap().queue(1000).when_full(WhenFull::Refuse);
    let mut last = session.channel("end").unwrap();
    for number in 0..100 {
        session.publish("a", number.to_string()).await.unwrap();
    }
    session.publish("end", "").await.unwrap();
    assert_eq!(next(&mut last).await, "end ");
    let first = next(&mut oldest).await;
    assert_eq!(first, format!("a {}", oldest.missed()));
    assert!((50..100).contains(&oldest.missed()) && (50..100).contains(&newest.missed()));
    let kept = 100 - newest.missed();
    for number in 0..kept {
        assert_eq!(next(&mut newest).await, format!("a {number}"));
    }
    for number in oldest.missed() + 1..100 {
        assert_eq!(next(&mut oldest).await, format!("a {number}"));
    }
    assert!(oldest.next().now_or_never().is_none() && newest.next().now_or_never().is_none());
}

async fn a_dropped_stream_unsubscribes_and_leaves_nothing_to_the_session() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    let (first, mut second) = (session.channel("a").unwrap(), session.channel("a").unwrap());
    session.subscribe_confirmed("b").await.unwrap();
    session.publish_confirmed("a", "on its way").await.unwrap();
    drop(first);
    // The other one has it still.
    session.publish("a", "still").await.unwrap();
    assert_eq!([next(&mut second).await, next(&mut second).await], ["a on its way", "a still"]);
    session.publish_confirmed("a", "on its way").await.unwrap();
    drop(second);
    // What was on its way comes to nobody, and nothing follows.
    session.publish_confirmed("b", "1").await.unwrap();
    session.publish_confirmed("a", "2").await.unwrap();
    assert_eq!(broker.stats().unrouted, 1, "nobody is subscribed any more");
    session.publish_confirmed("b", "3").await.unwrap();
    assert_eq!([next_of(&mut session).await, next_of(&mut session).await], ["b 1", "b 3"]);
    // Once more.
    let mut again = session.channel("a").unwrap();
    session.publish("a", "4").await.unwrap();
    assert_eq!(next(&mut again).await, "a 4");
}

async fn a_channel_of_the_program_stays_subscribed() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    session.subscribe("a").unwrap();
    let mut stream = session.channel("a").unwrap();
    session.publish("a", "1").await.unwrap();
    assert_eq!(next(&mut stream).await, "a 1");
    drop(stream);
    session.publish("a", "2").await.unwrap();
    assert_eq!(next_of(&mut session).await, "a 2");
}

async fn streams_end_with_the_session() {
    let broker = Broker::dev().await.unwrap();
    let mut session = connect(&broker).await;
    let handle = session.handle();
    let mut stream = session.channel("a").unwrap();
    session.publish_confirmed("a", "1").await.unwrap();
    session.close().await.unwrap();
    assert_eq!(next(&mut stream).await, "a 1");
    assert!(!stream.is_terminated() && timeout(SOON, stream.next()).await.unwrap().is_none() && stream.is_terminated());
    assert!(stream.wait_for(|_| true, SOON).await.unwrap_err().is_closed());
    assert!(handle.channel("b").unwrap_err().is_closed());
    assert!(timeout(SOON, session.next()).await.unwrap().is_none());
}

async fn a_stream_ends_when_its_session_is_dropped_with_unread_messages() {
    let broker = Broker::dev().await.unwrap();
    let session = ClientSession::builder(broker.local_addr(), "dev", "dev").receive_queue(1).connect().await.unwrap();
    session.subscribe_confirmed("b").await.unwrap();
    let mut stream = session.channel("a").unwrap();
    session.publish_confirmed("b", "nobody reads this").await.unwrap();
    session.publish_confirmed("a", "1").await.unwrap();
    // The stream has dealt out the message on b, which keeps it from going on.
    assert!(timeout(Duration::from_millis(200), stream.next()).await.is_err());
    drop(session);
    let ended = async { while stream.next().await.is_some() {} };
    timeout(SOON, ended).await.unwrap();
}
