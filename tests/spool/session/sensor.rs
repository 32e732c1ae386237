//! A sensor as on a Raspberry Pi: a day of ten events a second, with an outage of twelve hours.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep};

use super::broker::Broker;
use crate::{sim_disk::SimDisk, support::small};

const HOUR: u32 = 3600 * 10;

#[tokio::test(start_paused = true)]
async fn a_sensor_outlives_an_outage_of_twelve_hours_in_bounded_memory_and_disk() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let spool = small(&disk).max_bytes(256 << 20);
    let session = broker.session().send_queue(1 << 20).spool(spool).connect().await.unwrap();
    // Ten in each second.
    let mut tick = interval(Duration::from_secs(1));
    let mut back = None;
    let online = disk.operations();
    for number in 0..24 * HOUR {
        if number % 10 == 0 {
            tick.tick().await;
        }
        session.publish("c", format!("{number} {}", "x".repeat(180))).await.unwrap();
        if number == 4 * HOUR {
            assert_eq!(disk.operations(), online, "four hours online cost no write");
            broker.kill(true);
        }
        if number == 16 * HOUR {
            let stats = session.stats();
            assert!(stats.queued * 200 < 1 << 20, "{stats:?}");
            assert!(stats.spooled > u64::from(11 * HOUR), "{stats:?}");
            let size: usize = disk.files().values().map(Vec::len).sum();
            assert!(size < 120 << 20, "{size}");
            broker.set(|settings| settings.down = false);
            back = Some(Instant::now());
        }
    }
    session.flush().await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let received = broker.received();
    assert_eq!(received.len(), 24 * HOUR as usize);
    assert!(received.iter().zip(0_u32..).all(|(message, number)| message.text == number.to_string()), "in order");
    // The backlog is gone when messages arrive as they are published again.
    let (back, published) = (back.unwrap(), received[0].at);
    let is_live = |(number, message): &(u32, &super::broker::Received)| {
        *number > 16 * HOUR && message.at - published < Duration::from_secs(u64::from(*number) / 10 + 1)
    };
    let (_, first) = (0..).zip(&received).find(is_live).unwrap();
    let took = first.at - back;
    assert!(took < Duration::from_secs(60), "{took:?}");
    let names: Vec<_> = disk.files().into_keys().collect();
    assert_eq!(names, ["cursor", "spool"]);
}
