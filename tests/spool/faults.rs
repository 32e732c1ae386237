//! Disks that fail, fill up, cannot be read, and stand still.

use std::{
    io,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use hpfeeds::{
    Spool, WhenFull,
    log::{Disk, Entry, File, Guard, LockError, Space},
    spool::{SpoolHandle, SpoolNews, Want},
};
use tokio::time::advance;

use crate::{
    sim_disk::SimDisk,
    support::{at, batch, drain, small, start},
};

const RETRY: Duration = Duration::from_secs(5);

/// How often each kind of news came: failing, recovered.
fn failures(spool: &SpoolHandle) -> (usize, usize) {
    let news = spool.news();
    let count = |is: fn(&SpoolNews) -> bool| news.iter().filter(|news| is(news)).count();
    (count(|news| matches!(news, SpoolNews::Failing(_))), count(|news| matches!(news, SpoolNews::Recovered)))
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_said_once_and_tried_again_every_five_seconds() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    spool.append(batch(1, 1, 10)).unwrap();
    let used: usize = disk.files().values().map(Vec::len).sum();
    disk.faults(|faults| faults.capacity = Some(used as u64 + 100));
    spool.append(batch(1, 11, 10)).unwrap();
    spool.append(batch(1, 21, 10)).unwrap();
    for _ in 0..20 {
        advance(RETRY / 5).await;
        spool.poll();
    }
    assert_eq!(spool.durable(), Some(at(1, 10)), "the rest is in memory");
    assert!(spool.status().failing.is_some());
    assert_eq!(failures(&spool), (1, 0));
    disk.faults(|faults| faults.capacity = None);
    spool.poll();
    assert_eq!(spool.durable(), Some(at(1, 10)), "not before its time");
    advance(RETRY).await;
    spool.poll();
    assert_eq!(spool.durable(), Some(at(1, 30)));
    assert_eq!((failures(&spool), spool.status().failing), ((0, 1), None));
    assert_eq!(drain(&spool), [(1, 1, 30)]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_twice_is_opened_anew_and_no_number_comes_twice() {
    for fault in [[2, 3], [3, 4], [4, 5], [5, 6]] {
        let disk = SimDisk::new(1);
        let spool = start(&small(&disk));
        let syncs = disk.syncs();
        disk.faults(|faults| faults.fail_syncs = fault.map(|number| syncs + number).to_vec());
        for first in [1, 11, 21, 31] {
            spool.append(batch(1, first, 10)).unwrap();
        }
        assert_eq!(failures(&spool).0, 1, "{fault:?}");
        advance(RETRY).await;
        spool.poll();
        assert_eq!(spool.durable(), Some(at(1, 40)), "{fault:?}");
        assert_eq!(failures(&spool), (0, 1), "{fault:?}");
        assert_eq!(drain(&start(&small(&disk.kill()))), [(1, 1, 40)], "{fault:?}");
        assert_eq!(drain(&spool), [(1, 1, 40)], "{fault:?}");
        assert_eq!(spool.status().messages, 0, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_released_while_the_disk_fails_is_not_written_any_more() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    disk.faults(|faults| faults.halt_after = Some(0));
    spool.append(batch(1, 1, 10)).unwrap();
    spool.append(batch(1, 11, 10)).unwrap();
    spool.append(batch(1, 21, 10)).unwrap();
    spool.release(at(1, 20));
    disk.faults(|faults| faults.halt_after = None);
    advance(RETRY).await;
    spool.poll();
    assert_eq!(spool.durable(), Some(at(1, 30)));
    assert_eq!(drain(&spool), [(1, 21, 30)]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_at_the_opening_is_opened_later() {
    let disk = SimDisk::new(1);
    drop(start(&small(&disk)).append(batch(1, 1, 10)));
    let disk = disk.kill();
    disk.faults(|faults| faults.halt_after = Some(0));
    let spool = start(&small(&disk));
    assert!(!spool.is_open());
    spool.append(batch(2, 1, 10)).unwrap();
    spool.read(Want::Any, 0);
    assert_eq!(spool.answer(), None, "nothing is known yet");
    disk.faults(|faults| faults.halt_after = None);
    advance(RETRY).await;
    spool.poll();
    assert!(spool.is_open() && spool.answer().is_some());
    assert_eq!(failures(&spool), (1, 1));
    assert_eq!(drain(&start(&small(&disk.kill()))), [(1, 1, 10), (2, 1, 10)]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_block_costs_the_records_in_it_after_three_tries() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    for first in (1..=600).step_by(20) {
        spool.append(batch(1, first, 20)).unwrap();
    }
    drop(spool);
    disk.faults(|faults| faults.unreadable = vec![9]);
    let spool = start(&small(&disk));
    let mut read = Vec::new();
    for _ in 0..40 {
        spool.read(Want::Any, 0);
        while let Some(hpfeeds::spool::Answer::Chunk(chunk)) = spool.answer() {
            read.extend(crate::support::check(&chunk).unwrap());
            spool.read(Want::Any, 0);
        }
        advance(RETRY).await;
        spool.poll();
    }
    let damaged = spool.status().damaged;
    // Each of the four segments has such a block, and it touches one or two records.
    assert!((80..=160).contains(&damaged), "{damaged}");
    assert_eq!(read.len() as u64 + damaged, 600);
    assert!(read.is_sorted() && read.first() == Some(&1) && read.last() == Some(&600));
    spool.release(at(1, 600));
    advance(RETRY).await;
    spool.poll();
    assert_eq!((spool.status().messages, spool.status().failing), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_spool_whose_end_is_damaged_drains_all_the_same() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk));
    spool.append(batch(1, 1, 10)).unwrap();
    spool.append(batch(1, 11, 10)).unwrap();
    drop(spool);
    let mut files = disk.files();
    let (_, segment) = files.iter_mut().find(|(name, _)| name.contains(".seg")).unwrap();
    // The body of the last record: it begins with a number that no other one holds.
    let at = segment.windows(11).position(|bytes| bytes == b"01 00000020").unwrap();
    segment[at] ^= 1;
    let spool = start(&small(&SimDisk::with(1, files)));
    assert_eq!(drain(&spool), [(1, 1, 10)]);
    assert_eq!((spool.status().damaged, spool.status().messages), (10, 0));
    advance(RETRY).await;
    spool.poll();
    assert!(spool.news().contains(&SpoolNews::Drained));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_of_a_spool_that_drops_takes_the_oldest() {
    let disk = SimDisk::new(1);
    let spool = start(&small(&disk).when_full(WhenFull::DropOldest));
    disk.faults(|faults| faults.capacity = Some(200_000));
    for first in (1..=2000).step_by(50) {
        spool.append(batch(1, first, 50)).unwrap();
        assert_eq!(spool.durable(), Some(at(1, first + 49)));
    }
    let read = drain(&spool);
    let [(1, first, 2000)] = read[..] else { panic!("{read:?}") };
    assert_eq!(spool.status().dropped, first - 1);
}

/// A disk whose syncs wait until they may go on.
#[derive(Debug, Clone)]
struct StallingDisk(SimDisk, Arc<(Mutex<bool>, Condvar)>);

impl StallingDisk {
    fn new(disk: &SimDisk) -> Self {
        Self(disk.clone(), Arc::default())
    }

    fn stall(&self, stalls: bool) {
        *self.1.0.lock().unwrap() = stalls;
        self.1.1.notify_all();
    }

    fn wait(&self) {
        drop(self.1.1.wait_while(self.1.0.lock().unwrap(), |stalls| *stalls).unwrap());
    }
}

#[derive(Debug)]
struct StallingFile(Box<dyn File>, StallingDisk);

impl Disk for StallingDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.wait();
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(StallingFile(self.0.create(name)?, self.clone())))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(StallingFile(self.0.open(name)?, self.clone())))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.0.unlink(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.wait();
        self.0.sync_dir()
    }

    fn lock(&self) -> Result<Guard, LockError> {
        self.0.lock()
    }

    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }

    fn random(&self) -> u64 {
        self.0.random()
    }
}

impl File for StallingFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn sync(&self) -> io::Result<()> {
        self.1.wait();
        self.0.sync()
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        self.0.reserve(length)
    }

    fn trim(&self) -> io::Result<()> {
        self.0.trim()
    }
}

/// Waits until something is so, at most ten seconds.
pub(crate) fn wait_for(what: &str, is: impl Fn() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_disk_that_stands_still_holds_nobody_up() {
    let sim = SimDisk::new(1);
    let disk = StallingDisk::new(&sim);
    let spool = start(&Spool::disk(Arc::new(disk.clone())));
    wait_for("it opens", || spool.is_open());
    spool.append(batch(1, 1, 10)).unwrap();
    wait_for("it syncs", || spool.durable() == Some(at(1, 10)));
    disk.stall(true);
    // 2 MiB of them are taken, and then they come back.
    let mut first = 11;
    while spool.append(batch(1, first, 100)).is_ok() {
        first += 100;
        assert!(first < 100_000, "the queue is bounded");
    }
    spool.release(at(1, 5));
    spool.read(Want::Any, 0);
    assert_eq!((spool.durable(), spool.answer()), (Some(at(1, 10)), None));
    let started = Instant::now();
    spool.close();
    assert!(!spool.is_closed());
    assert!(started.elapsed() < Duration::from_secs(5));
    disk.stall(false);
    wait_for("it ends when the disk answers", || spool.is_closed());
    assert_eq!(spool.durable(), Some(at(1, first - 1)), "with everything that it had taken");
    drop(spool);
    assert_eq!(drain(&start(&small(&sim))), [(1, 6, first - 1)]);
}

#[test]
fn batches_that_wait_for_a_sync_share_the_next_one() {
    let sim = SimDisk::new(1);
    let disk = StallingDisk::new(&sim);
    let spool = start(&Spool::disk(Arc::new(disk.clone())));
    spool.append(batch(1, 1, 1)).unwrap();
    wait_for("the first", || spool.durable() == Some(at(1, 1)));
    disk.stall(true);
    spool.append(batch(1, 2, 1)).unwrap();
    let before = sim.syncs();
    for number in 3..100 {
        spool.append(batch(1, number, 1)).unwrap();
    }
    disk.stall(false);
    wait_for("all of them", || spool.durable() == Some(at(1, 99)));
    assert!(sim.syncs() <= before + 3, "{} syncs", sim.syncs() - before);
}

#[tokio::test]
async fn a_disk_that_stands_still_does_not_stop_a_session() {
    let sim = SimDisk::new(1);
    let disk = StallingDisk::new(&sim);
    let broker = hpfeeds_broker::Broker::dev().await.unwrap();
    let builder = || hpfeeds::ClientSession::builder(broker.local_addr(), "dev", "dev");
    let spool = Spool::disk(Arc::new(disk.clone())).after(Duration::from_millis(10));
    let mut session = builder().spool(spool).connect().await.unwrap();
    let mut collector = builder().connect().await.unwrap();
    collector.subscribe_confirmed("c").await.unwrap();
    disk.stall(true);
    for number in 0..2000 {
        session.publish("c", number.to_string()).await.unwrap();
        if number % 500 == 0 {
            // Something becomes old enough to be written now and then.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let (_, _, payload) = collector.read().await.unwrap();
        assert_eq!(payload, number.to_string());
    }
    session.flush().await.unwrap();
    disk.stall(false);
    session.close().await.unwrap();
}

#[tokio::test]
async fn writing_through_waits_for_a_disk_that_stands_still() {
    let disk = StallingDisk::new(&SimDisk::new(1));
    let broker = hpfeeds_broker::Broker::dev().await.unwrap();
    let addr = broker.local_addr();
    broker.shutdown().await;
    let spool = Spool::disk(Arc::new(disk.clone())).write_through();
    let session = hpfeeds::ClientSession::builder(addr, "dev", "dev").spool(spool).start().unwrap();
    session.publish("c", "1").await.unwrap();
    disk.stall(true);
    let mut second = std::pin::pin!(session.publish("c", "2"));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err(), "it waits");
    disk.stall(false);
    second.await.unwrap();
    assert_eq!(session.stats().spooled, 2);
}
