//! A session that is online: what touches the disk, and what does not.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{Events, SessionEvent};
use tokio::time::{Instant, sleep};

use super::broker::{Broker, assert_all};
use crate::{sim_disk::SimDisk, support::small};

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// The events that have come, by their names.
pub(super) fn told(events: &mut Events) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        let name = match event {
            SessionEvent::Spooling { .. } => "spooling",
            SessionEvent::Drained { .. } => "drained",
            SessionEvent::SpoolFailing { .. } => "failing",
            SessionEvent::SpoolRecovered => "recovered",
            SessionEvent::SpoolDamaged { .. } => "damaged",
            SessionEvent::SpoolFull { .. } => "full",
            _ => continue,
        };
        names.push(name.to_owned());
    }
    names
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_online_writes_not_one_byte_in_ten_minutes() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let mut session = broker.session().spool(small(&disk)).connect().await.unwrap();
    let mut events = session.events();
    let before = disk.operations();
    for number in 0..6000 {
        session.publish("c", format!("{number} {}", "x".repeat(200))).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(broker.count(), 6000);
    assert_eq!(disk.operations(), before);
    session.close().await.unwrap();
    assert_eq!(disk.operations(), before, "nor at the end");
    assert_eq!(told(&mut events), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_faster_than_the_network_does_not_wear_the_disk() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let session = broker.session().spool(small(&disk)).connect().await.unwrap();
    let before = disk.operations();
    for number in 0..50_000 {
        session.publish("c", format!("{number} {}", "x".repeat(300))).await.unwrap();
    }
    session.flush().await.unwrap();
    assert_eq!((broker.count(), disk.operations()), (50_000, before));
}

#[tokio::test(start_paused = true)]
async fn late_acknowledgements_cost_a_copy_on_disk_that_they_release() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.ack_after = Some(Duration::from_millis(2500)));
    let session = broker.session().spool(small(&disk)).connect().await.unwrap();
    let mut events = session.events();
    for number in 0..200 {
        session.publish("c", number.to_string()).await.unwrap();
        sleep(Duration::from_millis(50)).await;
    }
    assert!(session.stats().spooled > 0, "{:?}", session.stats());
    session.flush().await.unwrap();
    sleep(3 * SECOND).await;
    assert_all(&broker, 200);
    assert_eq!(session.stats().spooled, 0);
    let told = told(&mut events);
    assert!(told.first().is_some_and(|first| first == "spooling"), "{told:?}");
    assert!(told.last().is_some_and(|last| last == "drained"), "{told:?}");
    let names: Vec<_> = disk.files().into_keys().collect();
    assert_eq!(names, ["cursor", "spool"]);
}

#[tokio::test(start_paused = true)]
async fn messages_go_to_disk_after_the_time_that_was_set_and_not_before() {
    for after in [SECOND, 7 * SECOND] {
        let (broker, disk) = (Broker::new(), SimDisk::new(1));
        let session = broker.session().spool(small(&disk).after(after)).connect().await.unwrap();
        broker.kill(true);
        sleep(SECOND).await;
        let before = disk.operations();
        let started = Instant::now();
        session.publish("c", "one").await.unwrap();
        sleep(after.mul_f64(0.98)).await;
        assert_eq!(disk.operations(), before);
        sleep(after.mul_f64(0.04)).await;
        assert!(disk.operations() > before, "{:?}", started.elapsed());
        let syncs = disk.syncs();
        // One sync serves all that have become so old meanwhile.
        for number in 0..100 {
            session.publish("c", number.to_string()).await.unwrap();
            sleep(after / 50).await;
        }
        assert!(disk.syncs() <= syncs + 3, "{} syncs", disk.syncs() - syncs);
        drop(session);
    }
}
