//! Spools that are full, and what each policy does then.

use std::time::Duration;

use futures::FutureExt as _;
use hpfeeds::{ClientSession, Limits, WhenFull};
use tokio::time::{sleep, timeout};

use super::{
    broker::{Broker, assert_all},
    online::{SECOND, told},
};
use crate::{sim_disk::SimDisk, support::small};

fn text(number: u32) -> String {
    format!("{number} {}", "x".repeat(1000))
}

/// A session with a broker that is away, whose queue and spool hold about 3 MB together.
async fn away(broker: &Broker, disk: &SimDisk, when_full: WhenFull) -> ClientSession {
    let spool = small(disk).max_bytes(2 << 20).when_full(when_full);
    let session = broker.session().send_queue(1 << 20).spool(spool).connect().await.unwrap();
    session.publish("c", text(0)).await.unwrap();
    session.flush().await.unwrap();
    broker.kill(true);
    session
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_makes_publish_wait_and_loses_nothing() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let session = away(&broker, &disk, WhenFull::Wait).await;
    let mut events = session.events();
    let mut number = 1;
    while timeout(10 * SECOND, session.publish("c", text(number))).await.is_ok() {
        number += 1;
        assert!(number < 10_000, "it has a limit");
    }
    assert!(number > 2000, "{number}");
    assert_eq!(told(&mut events), ["spooling", "full"]);
    broker.set(|settings| settings.down = false);
    session.publish("c", text(number)).await.unwrap();
    session.flush().await.unwrap();
    assert_all(&broker, number + 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_that_refuses_makes_publish_fail_at_once() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let session = away(&broker, &disk, WhenFull::Refuse).await;
    let mut number = 1;
    loop {
        match session.publish("c", text(number)).now_or_never() {
            Some(Ok(())) => number += 1,
            Some(Err(error)) if number > 2000 => {
                assert!(error.is_full(), "{error}");
                break;
            }
            // The disk is asked to take more.
            _ => sleep(Duration::from_millis(1)).await,
        }
        assert!(number < 10_000, "it has a limit");
    }
    broker.set(|settings| settings.down = false);
    session.flush().await.unwrap();
    assert_all(&broker, number);
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_that_drops_takes_the_oldest_and_says_so_in_hello() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let session = away(&broker, &disk, WhenFull::DropOldest).await;
    let mut events = session.events();
    let last = 10_000;
    for number in 1..=last {
        timeout(10 * SECOND, session.publish("c", text(number))).await.expect("nobody waits").unwrap();
    }
    broker.set(|settings| settings.down = false);
    let flushed = session.flush().await.unwrap();
    let (all, repeats) = broker.unique();
    assert_eq!(repeats, 0);
    let dropped = u64::from(last) + 1 - all.len() as u64;
    assert_eq!((flushed.confirmed, flushed.lost), (all.len() as u64, dropped));
    assert_eq!(session.stats().lost, dropped, "{:?}", session.stats());
    assert!(dropped > 6000, "{dropped}");
    // In order, and the newest are there.
    let numbers: Vec<u32> = all.iter().map(|text| text.parse().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.last() == Some(&last));
    // Each number of the stream is that of its message.
    for message in broker.received() {
        assert_eq!(message.number, message.text.parse::<u64>().unwrap() + 1);
    }
    assert!(told(&mut events).contains(&"full".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn messages_that_were_sent_and_are_unconfirmed_are_never_dropped() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let spool = small(&disk).max_bytes(2 << 20).when_full(WhenFull::DropOldest);
    let session = broker.session().send_queue(1 << 20).spool(spool).connect().await.unwrap();
    broker.set(|settings| settings.ack_after = None);
    for number in 0..8000 {
        timeout(10 * SECOND, session.publish("c", text(number))).await.expect("nobody waits").unwrap();
    }
    let sent = broker.count();
    assert!(sent > 300, "{sent}");
    broker.forget();
    broker.set(|settings| settings.ack_after = Some(Duration::ZERO));
    broker.kill(false);
    let flushed = session.flush().await.unwrap();
    let (all, repeats) = broker.unique();
    assert!(repeats >= sent, "all that were unconfirmed came once more: {repeats} of {sent}");
    assert_eq!(all.len() as u64 + flushed.lost, 8000);
    assert_eq!(session.stats().lost, flushed.lost);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_does_not_stop_a_session_that_drops() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let session = away(&broker, &disk, WhenFull::DropOldest).await;
    disk.faults(|faults| faults.halt_after = Some(0));
    let last = 5000;
    for number in 1..=last {
        timeout(10 * SECOND, session.publish("c", text(number))).await.expect("nobody waits").unwrap();
    }
    broker.set(|settings| settings.down = false);
    let flushed = session.flush().await.unwrap();
    let (all, _) = broker.unique();
    assert_eq!((flushed.confirmed, flushed.confirmed + flushed.lost), (all.len() as u64, u64::from(last) + 1));
    assert_eq!(all.last(), Some(&last.to_string()));
    assert_eq!(session.stats().lost, flushed.lost);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_dropped_alone_is_not_confirmed_by_the_next_one() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    disk.faults(|faults| faults.halt_after = Some(0));
    broker.set(|settings| settings.down = true);
    let spool = small(&disk).when_full(WhenFull::DropOldest);
    let session = broker.session().send_queue(1 << 20).spool(spool).start().unwrap();
    let large = |number: u32| format!("{number} {}", "x".repeat(600 << 10));
    // The queue holds one of them.
    let publisher = session.publisher();
    let first = tokio::spawn(async move { publisher.publish_confirmed("c", large(0)).await });
    sleep(SECOND).await;
    for number in 1..3 {
        timeout(10 * SECOND, session.publish("c", large(number))).await.expect("the older one goes").unwrap();
    }
    broker.set(|settings| settings.down = false);
    let flushed = timeout(60 * SECOND, session.flush()).await.expect("all that is left is confirmed").unwrap();
    assert_eq!((flushed.confirmed, flushed.lost), (1, 2));
    assert!(first.await.unwrap().is_err(), "it was dropped");
    let received = broker.received();
    assert_eq!(received.iter().map(|message| (message.number, &message.text[..])).collect::<Vec<_>>(), [(3, "2")]);
}

#[tokio::test(start_paused = true)]
async fn messages_that_were_read_back_stay_in_memory_until_they_are_confirmed() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set_pipe(4 << 10);
    let builder = broker.session().limits(Limits::new(4000)).send_queue(64 << 10);
    let session = builder.spool(small(&disk).max_bytes(16 << 20)).connect().await.unwrap();
    broker.kill(true);
    for number in 0..250 {
        session.publish("c", text(number)).await.unwrap();
    }
    // All of it is read back, and hardly anything can be written.
    broker.set(|settings| (settings.stalls, settings.down) = (true, false));
    sleep(5 * SECOND).await;
    assert!(broker.count() < 20);
    for number in 250..600 {
        timeout(60 * SECOND, session.publish("c", text(number))).await.expect("the disk has room").unwrap();
    }
    broker.set(|settings| settings.stalls = false);
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, flushed.lost), (600, 0));
    assert_all(&broker, 600);
}

#[tokio::test(start_paused = true)]
async fn messages_that_leave_memory_between_an_older_stream_and_their_own_hello_are_read_back() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| (settings.down, settings.ack_after) = (true, Some(SECOND)));
    let start = || {
        let builder = broker.session().limits(Limits::new(4000)).send_queue(64 << 10);
        builder.spool(small(&disk).max_bytes(16 << 20)).start().unwrap()
    };
    let session = start();
    // More than is asked for at once.
    for number in 0..60 {
        session.publish("c", text(number)).await.unwrap();
    }
    sleep(2 * SECOND).await;
    drop(session);
    let session = start();
    for number in 60..70 {
        session.publish("c", text(number)).await.unwrap();
    }
    sleep(2 * SECOND).await;
    // They are durable, and in memory as well.
    broker.set(|settings| settings.down = false);
    while broker.count() < 60 {
        sleep(Duration::from_millis(10)).await;
    }
    broker.set(|settings| settings.stalls = true);
    sleep(2 * SECOND).await;
    // The older stream is confirmed, and HELLO of this one is not answered yet: now they leave.
    for number in 70..110 {
        timeout(60 * SECOND, session.publish("c", text(number))).await.expect("the disk has room").unwrap();
    }
    assert_eq!(broker.count(), 60);
    broker.set(|settings| settings.stalls = false);
    let flushed = timeout(60 * SECOND, session.flush()).await.expect("all are confirmed").unwrap();
    assert_eq!((flushed.confirmed, flushed.lost), (50, 0));
    assert_all(&broker, 110);
}

#[tokio::test(start_paused = true)]
async fn messages_that_leave_memory_while_older_streams_are_replayed_are_read_back() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set_pipe(4 << 10);
    broker.set(|settings| settings.down = true);
    let start = || {
        let builder = broker.session().limits(Limits::new(4000)).send_queue(64 << 10);
        builder.spool(small(&disk).max_bytes(16 << 20)).start().unwrap()
    };
    let session = start();
    for number in 0..100 {
        session.publish("c", text(number)).await.unwrap();
    }
    sleep(2 * SECOND).await;
    drop(session);
    broker.set(|settings| (settings.stalls, settings.down) = (true, false));
    let session = start();
    for number in 100..600 {
        timeout(60 * SECOND, session.publish("c", text(number))).await.expect("the disk has room").unwrap();
        if number % 20 == 0 {
            sleep(SECOND).await;
        }
        if number == 400 {
            // Now and then a little of the older stream goes out.
            broker.set(|settings| settings.stalls = false);
        }
    }
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, flushed.lost), (500, 0));
    assert_all(&broker, 600);
}
