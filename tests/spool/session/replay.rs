//! Messages that outlive the connection and the program.

use std::time::Duration;

use futures::StreamExt as _;
use hpfeeds::{
    Backoff, ClientSession, Limits, SessionEvent,
    wire::extension::{Code, RefusedRange},
};
use tokio::time::{sleep, timeout};

use super::{
    broker::{Broker, assert_all, assert_are},
    online::{SECOND, told},
};
use crate::{sim_disk::SimDisk, support::small};

async fn publish(session: &ClientSession, numbers: std::ops::Range<u32>, length: usize) {
    for number in numbers {
        session.publish("c", format!("{number} {}", "x".repeat(length))).await.unwrap();
    }
}

fn texts(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_killed_program_loses_at_most_what_is_younger_than_after() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    let session = broker.session().spool(small(&disk)).start().unwrap();
    publish(&session, 0..100, 50).await;
    sleep(SECOND + Duration::from_millis(100)).await;
    publish(&session, 100..110, 50).await;
    // A power cut: only what is durable is there.
    let images: Vec<_> = (0..20).map(|seed| disk.crash(seed)).collect();
    drop(session);
    for image in images {
        let broker = Broker::new();
        let session = broker.session().spool(small(&image)).connect().await.unwrap();
        publish(&session, 200..210, 50).await;
        session.flush().await.unwrap();
        assert_are(&broker, (0..100).chain(200..210), 0);
        let hellos = broker.hellos();
        let [(old, 1), (new, 1)] = hellos[..] else { panic!("one HELLO for each stream: {hellos:?}") };
        assert_ne!(old, new, "a stream from disk is never appended to");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_several_programs_come_oldest_first_and_each_once() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    for program in 0..4 {
        let session = broker.session().spool(small(&disk)).start().unwrap();
        publish(&session, program * 100..program * 100 + 100, 100).await;
        sleep(2 * SECOND).await;
        drop(session);
    }
    broker.set(|settings| settings.down = false);
    let mut session = broker.session().spool(small(&disk)).connect().await.unwrap();
    let mut events = session.events();
    publish(&session, 400..500, 100).await;
    session.flush().await.unwrap();
    assert_all(&broker, 500);
    assert_eq!(broker.hellos().len(), 5);
    session.close().await.unwrap();
    assert_eq!(told(&mut events), ["spooling", "drained"]);
    let names: Vec<_> = disk.files().into_keys().collect();
    assert_eq!(names, ["cursor", "spool"]);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_stored_while_the_spool_is_opened_go_behind_older_streams() {
    for is_up in [false, true] {
        let (broker, disk) = (Broker::new(), SimDisk::new(1));
        broker.set(|settings| settings.down = true);
        let session = broker.session().spool(small(&disk).write_through()).start().unwrap();
        publish(&session, 0..50, 100).await;
        drop(session);
        broker.set(|settings| settings.down = !is_up);
        let session = broker.session().spool(small(&disk.kill()).write_through()).start().unwrap();
        // The driver has not run yet.
        publish(&session, 50..60, 100).await;
        sleep(2 * SECOND).await;
        broker.set(|settings| settings.down = false);
        publish(&session, 60..70, 100).await;
        let flushed = session.flush().await.unwrap();
        assert_eq!((flushed.confirmed, flushed.lost), (20, 0));
        assert_all(&broker, 70);
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_stream_that_is_found_late_is_not_starved_by_a_steady_publisher() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    let session = broker.session().spool(small(&disk)).start().unwrap();
    publish(&session, 0..50, 100).await;
    sleep(2 * SECOND).await;
    drop(session);
    let disk = disk.kill();
    disk.faults(|faults| faults.halt_after = Some(0));
    broker.set(|settings| (settings.down, settings.ack_after) = (false, Some(Duration::from_millis(300))));
    let session = broker.session().spool(small(&disk)).connect().await.unwrap();
    publish(&session, 50..51, 100).await;
    sleep(SECOND).await;
    assert_eq!(broker.count(), 1, "the disk fails: the session goes on in memory");
    disk.faults(|faults| faults.halt_after = None);
    // Something is unconfirmed all the time.
    for number in 51..251 {
        publish(&session, number..number + 1, 100).await;
        sleep(Duration::from_millis(100)).await;
    }
    let stats = session.stats();
    assert_eq!(broker.received().iter().filter(|message| message.text.parse::<u32>().unwrap() < 50).count(), 50);
    assert!(stats.spooled < 20, "{stats:?}");
    session.flush().await.unwrap();
    let (mut texts, repeats) = broker.unique();
    assert_eq!(repeats, 0);
    // In order but for the older ones, which came between them.
    let first = texts.iter().position(|text| text == "0").unwrap();
    assert!(first < 150, "{first}");
    let older: Vec<_> = texts.drain(first..first + 50).collect();
    assert_eq!((older, texts), (self::texts(0..50), self::texts(50..251)));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_in_memory_is_read_back_in_order_behind_what_does() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let spool = small(&disk).max_bytes(64 << 20);
    let session = broker.session().send_queue(1 << 20).spool(spool).connect().await.unwrap();
    publish(&session, 0..10, 1000).await;
    session.flush().await.unwrap();
    broker.kill(true);
    // Far more than the queue holds.
    publish(&session, 10..20_000, 1000).await;
    let stats = session.stats();
    assert!(stats.queued < 2000 && stats.spooled > 18_000, "{stats:?}");
    broker.set(|settings| settings.down = false);
    // New ones wait behind those on disk.
    publish(&session, 20_000..20_500, 1000).await;
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, flushed.lost), (20_500, 0));
    assert_all(&broker, 20_500);
    sleep(2 * SECOND).await;
    assert_eq!((session.stats().spooled, session.stats().queued), (0, 0));
    // It is as before.
    let before = disk.operations();
    publish(&session, 20_500..20_600, 1000).await;
    session.flush().await.unwrap();
    assert_eq!((disk.operations(), broker.count()), (before, 20_600));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_killed_again_and_again_gets_everything_once() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.ack_after = Some(Duration::from_millis(700)));
    let spool = small(&disk).max_bytes(64 << 20);
    let session = broker.session().send_queue(1 << 20).spool(spool).start().unwrap();
    for round in 0..20 {
        publish(&session, round * 500..round * 500 + 500, 1000).await;
        sleep(Duration::from_millis(u64::from(round) * 130 % 900)).await;
        broker.kill(round % 3 == 0);
        sleep(SECOND).await;
        broker.set(|settings| settings.down = false);
    }
    session.flush().await.unwrap();
    let (all, _) = broker.unique();
    assert_eq!(all, texts(0..10_000));
}

#[tokio::test(start_paused = true)]
async fn a_copied_spool_makes_nothing_new_look_like_a_repeat() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    let session = broker.session().spool(small(&disk)).start().unwrap();
    publish(&session, 0..500, 100).await;
    sleep(2 * SECOND).await;
    drop(session);
    let copies = [disk.kill(), disk.kill(), disk.kill()];
    broker.set(|settings| settings.down = false);
    let sessions: Vec<_> = copies.iter().map(|copy| broker.session().spool(small(copy)).start().unwrap()).collect();
    for (program, session) in (1..).zip(&sessions) {
        publish(session, program * 1000..program * 1000 + 100, 100).await;
    }
    for session in &sessions {
        session.flush().await.unwrap();
    }
    let (mut all, repeats) = broker.unique();
    assert_eq!(repeats, 0);
    all.sort_by_key(|text| text.parse::<u32>().unwrap());
    assert_eq!(all, [texts(0..500), texts(1000..1100), texts(2000..2100), texts(3000..3100)].concat());
}

#[tokio::test(start_paused = true)]
async fn repeats_come_only_where_the_broker_has_forgotten_the_stream() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let session = broker.session().spool(small(&disk)).connect().await.unwrap();
    publish(&session, 0..100, 50).await;
    session.flush().await.unwrap();
    broker.set(|settings| settings.ack_after = None);
    publish(&session, 100..150, 50).await;
    sleep(2 * SECOND).await;
    assert_eq!(broker.count(), 150);
    broker.forget();
    broker.kill(false);
    broker.set(|settings| settings.ack_after = Some(Duration::ZERO));
    session.flush().await.unwrap();
    // Confirmed messages do not come again, others do.
    assert_are(&broker, 0..150, 50);
    assert_eq!(session.stats().resent, 50);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_another_program_has_sent_is_released_without_sending_it() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    let session = broker.session().spool(small(&disk).max_bytes(64 << 20)).start().unwrap();
    publish(&session, 0..9000, 100).await;
    sleep(2 * SECOND).await;
    drop(session);
    let copy = disk.kill();
    broker.set(|settings| settings.down = false);
    let mut first = broker.session().spool(small(&disk).max_bytes(64 << 20)).connect().await.unwrap();
    sleep(3 * SECOND).await;
    first.close().await.unwrap();
    assert_eq!(broker.count(), 9000);
    let mut second = broker.session().spool(small(&copy).max_bytes(64 << 20)).connect().await.unwrap();
    publish(&second, 10_000..10_010, 100).await;
    second.close().await.unwrap();
    assert_are(&broker, (0..9000).chain(10_000..10_010), 0);
    let names: Vec<_> = copy.files().into_keys().collect();
    assert_eq!(names, ["cursor", "spool"]);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_about_to_be_sent_are_let_go_when_another_program_has_sent_them() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set_pipe(4 << 10);
    broker.set(|settings| settings.down = true);
    let session = broker.session().spool(small(&disk)).start().unwrap();
    publish(&session, 0..300, 100).await;
    sleep(2 * SECOND).await;
    drop(session);
    let copy = disk.kill();
    // The first program has all of them in memory when its connection breaks.
    broker.set(|settings| (settings.down, settings.stalls) = (false, true));
    let backoff = Backoff::new(20 * SECOND, 20 * SECOND);
    let first = broker.session().backoff(backoff).spool(small(&disk)).connect().await.unwrap();
    sleep(2 * SECOND).await;
    broker.kill(true);
    sleep(SECOND).await;
    broker.set(|settings| (settings.down, settings.stalls) = (false, false));
    let mut second = broker.session().spool(small(&copy)).connect().await.unwrap();
    second.close().await.unwrap();
    assert_all(&broker, 300);
    publish(&first, 1000..1010, 100).await;
    first.flush().await.unwrap();
    assert_are(&broker, (0..300).chain(1000..1010), 0);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_stream_is_renamed_on_disk_as_well() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let spool = small(&disk).max_bytes(64 << 20);
    let session = broker.session().send_queue(1 << 20).spool(spool).connect().await.unwrap();
    publish(&session, 0..10, 1000).await;
    session.flush().await.unwrap();
    broker.kill(true);
    publish(&session, 10..4000, 1000).await;
    assert!(session.stats().spooled > 2000);
    broker.confuse();
    broker.set(|settings| settings.down = false);
    session.flush().await.unwrap();
    assert_all(&broker, 4000);
    sleep(2 * SECOND).await;
    assert_eq!(session.stats().spooled, 0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_the_extension_gets_the_same_order() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| (settings.down, settings.extended) = (true, false));
    for program in 0..2 {
        let session = broker.session().spool(small(&disk)).start().unwrap();
        publish(&session, program * 100..program * 100 + 100, 100).await;
        sleep(2 * SECOND).await;
        drop(session);
    }
    broker.set(|settings| settings.down = false);
    let mut session = broker.session().spool(small(&disk)).connect().await.unwrap();
    publish(&session, 200..300, 100).await;
    session.close().await.unwrap();
    assert_all(&broker, 300);
}

#[tokio::test(start_paused = true)]
async fn receipts_come_for_messages_that_were_on_disk_alone() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let spool = small(&disk).max_bytes(64 << 20);
    let session = broker.session().send_queue(1 << 20).spool(spool).connect().await.unwrap();
    broker.kill(true);
    let publisher = session.publisher();
    let tasks: Vec<_> = (0..3000)
        .map(|number| {
            let publisher = publisher.clone();
            let text = format!("{number} {}", "x".repeat(1000));
            tokio::spawn(async move { publisher.publish_confirmed("c", text).await })
        })
        .collect();
    sleep(3 * SECOND).await;
    assert!(session.stats().spooled > 2000, "{:?}", session.stats());
    broker.set(|settings| settings.down = false);
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap().unwrap().position().number);
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=3000), "one for each");
    assert_eq!((broker.unique().0.len(), broker.count()), (3000, 3000));
}

#[tokio::test(start_paused = true)]
async fn a_stored_message_that_a_smaller_broker_does_not_take_costs_itself_alone() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    let session = broker.session().spool(small(&disk)).start().unwrap();
    publish(&session, 0..50, 100).await;
    publish(&session, 50..51, 5000).await;
    publish(&session, 51..100, 100).await;
    sleep(2 * SECOND).await;
    drop(session);
    broker.set(|settings| (settings.down, settings.largest) = (false, Some(2000)));
    let mut session = broker.session().spool(small(&disk)).connect().await.unwrap();
    publish(&session, 100..150, 100).await;
    session.flush().await.unwrap();
    assert_are(&broker, (0..50).chain(51..150), 0);
    assert_eq!(session.stats().refused, 1);
    drop(session.close().await);
    assert!(disk.files().keys().all(|name| !name.contains(".seg")));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_takes_no_message_at_all_costs_none() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    let session = broker.session().spool(small(&disk)).start().unwrap();
    publish(&session, 0..50, 100).await;
    sleep(2 * SECOND).await;
    drop(session);
    broker.set(|settings| (settings.down, settings.largest) = (false, Some(0)));
    let session = broker.session().spool(small(&disk)).start().unwrap();
    publish(&session, 50..60, 100).await;
    sleep(60 * SECOND).await;
    let stats = session.stats();
    assert_eq!((stats.refused, stats.lost, broker.count()), (0, 0, 0));
    broker.set(|settings| settings.largest = None);
    session.flush().await.unwrap();
    assert_all(&broker, 60);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_stored_while_a_longer_one_is_held_back_go_behind_it() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| (settings.down, settings.largest) = (true, Some(2000)));
    broker.set(|settings| settings.ack_after = Some(3 * SECOND));
    let session = broker.session().spool(small(&disk).write_through()).start().unwrap();
    publish(&session, 0..10, 100).await;
    publish(&session, 10..11, 5000).await;
    publish(&session, 11..15, 100).await;
    broker.set(|settings| settings.down = false);
    while broker.count() < 10 {
        sleep(Duration::from_millis(10)).await;
    }
    // The long one waits until those before it are confirmed.
    publish(&session, 15..20, 100).await;
    assert_eq!(broker.count(), 10);
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, flushed.refused), (19, 1));
    assert_are(&broker, (0..10).chain(11..20), 0);
    for message in broker.received() {
        assert_eq!(message.number, message.text.parse::<u64>().unwrap() + 1, "numbers are counted on both sides");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_taken_while_one_from_disk_is_held_back_go_behind_those_on_disk() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let builder = broker.session().limits(Limits::new(4000)).send_queue(64 << 10);
    let session = builder.spool(small(&disk).max_bytes(16 << 20)).connect().await.unwrap();
    broker.kill(true);
    publish(&session, 0..5, 1000).await;
    publish(&session, 5..6, 3000).await;
    publish(&session, 6..300, 1000).await;
    broker.set(|settings| (settings.down, settings.largest) = (false, Some(2000)));
    broker.set(|settings| settings.ack_after = Some(3 * SECOND));
    while broker.count() < 5 {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(session.stats().spooled > 200, "{:?}", session.stats());
    let rest = async {
        publish(&session, 300..400, 1000).await;
        session.flush().await.unwrap()
    };
    let flushed = timeout(600 * SECOND, rest).await.expect("nothing waits for ever");
    assert_eq!((flushed.confirmed, flushed.refused), (399, 1));
    assert_are(&broker, (0..5).chain(6..400), 0);
}

#[tokio::test(start_paused = true)]
async fn messages_refused_before_the_program_was_killed_are_told_to_the_next_one() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.ack_after = None);
    let session = broker.session().spool(small(&disk)).connect().await.unwrap();
    publish(&session, 0..100, 50).await;
    sleep(2 * SECOND).await;
    broker.set(|settings| settings.down = true);
    broker.kill(true);
    drop(session);
    // All of them are decided, and the program never heard of it.
    broker.confuse();
    let refused = RefusedRange { first: 90, count: 11, code: Code::NOT_ALLOWED };
    broker.set(|settings| {
        (settings.down, settings.ack_after, settings.refused) = (false, Some(Duration::ZERO), vec![refused]);
    });
    let mut session = broker.session().spool(small(&disk)).connect().await.unwrap();
    let mut events = session.events();
    session.flush().await.unwrap();
    let is_refusal = |event| async move {
        match event {
            SessionEvent::Refused { messages, .. } => Some(messages),
            _ => None,
        }
    };
    assert_eq!(std::pin::pin!(events.by_ref().filter_map(is_refusal)).next().await, Some(11));
    assert!(session.close().await.is_err(), "something was refused");
}
