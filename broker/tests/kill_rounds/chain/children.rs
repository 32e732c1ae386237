//! The sensor and the collector of the chain, as processes of their own.

use std::{
    env,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    time::Duration,
};

use fastrand::Rng;
use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{Backoff, ClientSession, SubscribeFrom};

use crate::{
    event::{CHANNEL, COLLECTOR, IDENT, Line, Moment, SECRET, number},
    sensor::{orders_to_drain, say, wait_for_each},
};

/// Orders of a sensor: address, first number, seed.
pub(super) const SENSOR_ORDERS: &str = "HPFEEDS_KILL_CHAIN_SENSOR";
/// Orders of a collector: address, file.
pub(super) const COLLECTOR_ORDERS: &str = "HPFEEDS_KILL_CHAIN_COLLECTOR";

/// The bytes that the broker sends the collector beyond what that has taken.
pub(super) const WINDOW: usize = 256 << 10;
/// So many messages are written at once, at most.
pub(super) const BATCH: usize = 32;

/// Runs as a part of the chain, if these are the orders.
pub(crate) fn is_part() -> bool {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Ok(orders) = env::var(SENSOR_ORDERS) {
        runtime().block_on(publish(&orders));
        return true;
    }
    let Ok(orders) = env::var(COLLECTOR_ORDERS) else { return false };
    runtime().block_on(collect(&orders));
    true
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(20), Duration::from_millis(100))
}

async fn publish(orders: &str) {
    let words: Vec<_> = orders.split(' ').collect();
    let [addr, first, seed] = words[..] else { panic!("three words") };
    let session = ClientSession::builder(addr, IDENT, SECRET).backoff(backoff()).start().unwrap();
    let draining = orders_to_drain();
    let mut rng = Rng::with_seed(seed.parse().unwrap());
    wait_for_each(&session.publisher(), &draining, first.parse().unwrap(), &mut rng, |_| CHANNEL).await;
    say(&Line::Drained);
}

/// Writes first, then says that it has processed.
async fn collect(orders: &str) {
    let (addr, path) = orders.split_once(' ').expect("two words");
    orders_to_drain();
    let mut file = open(Path::new(path));
    let builder = ClientSession::builder(addr, COLLECTOR, SECRET).backoff(backoff());
    let mut session = builder.manual_commit(true).receive_queue(WINDOW).start().unwrap();
    session.subscribe_from(CHANNEL, SubscribeFrom::mailbox("")).await.expect("it may subscribe");
    while let Some(mut message) = session.next().await {
        let mut text = String::new();
        for place in 1..=BATCH {
            let position = session.origin().expect("it comes from the mailbox").position;
            let (number, at) = (number(&message.2), Moment::now().0);
            writeln!(text, "{number} {} {} {at}", position.epoch, position.number).unwrap();
            // What is taken is committed below, so it is written before.
            if place == BATCH {
                break;
            }
            match session.next().now_or_never() {
                Some(Some(next)) => message = next,
                _ => break,
            }
        }
        file.write_all(text.as_bytes()).expect("the disk works");
        session.commit();
    }
}

/// For appending; a line that a kill has cut goes, as it was not processed.
fn open(path: &Path) -> File {
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).unwrap();
    let text = std::fs::read(path).unwrap();
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    file.set_len(whole as u64).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file
}
