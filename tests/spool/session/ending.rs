//! The end of a session with a spool, and spools that cannot be used.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hpfeeds::{
    Spool,
    log::{Disk, Entry, File, Guard, LockError, Space},
    wire::Ident,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    broker::{Broker, assert_all},
    online::{SECOND, told},
};
use crate::{sim_disk::SimDisk, support::small};

#[tokio::test(start_paused = true)]
async fn closing_writes_the_rest_and_says_how_many() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    let mut session = broker.session().spool(small(&disk)).start().unwrap();
    for number in 0..42 {
        session.publish("c", number.to_string()).await.unwrap();
    }
    let started = Instant::now();
    let error = session.close().await.unwrap_err();
    assert_eq!((error.spooled(), error.unsent()), (42, 0), "{error}");
    assert!(error.to_string().starts_with("42 messages are in the spool, and sent when a session uses it again"));
    assert!(started.elapsed() < Duration::from_secs(7), "{:?}", started.elapsed());
    broker.set(|settings| settings.down = false);
    let mut session = broker.session().spool(small(&disk.crash(3))).connect().await.unwrap();
    session.close().await.unwrap();
    assert_all(&broker, 42);
}

#[tokio::test(start_paused = true)]
async fn closing_without_a_confirmation_writes_what_was_sent() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.ack_after = None);
    let mut session = broker.session().spool(small(&disk).after(60 * SECOND)).connect().await.unwrap();
    session.publish("c", "1").await.unwrap();
    assert_eq!(session.close().await.unwrap_err().spooled(), 1);
}

#[tokio::test(start_paused = true)]
async fn closing_with_a_disk_that_fails_says_what_is_lost() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    let mut session = broker.session().spool(small(&disk)).start().unwrap();
    session.publish("c", "1").await.unwrap();
    sleep(2 * SECOND).await;
    disk.faults(|faults| faults.halt_after = Some(0));
    session.publish("c", "2").await.unwrap();
    let error = session.close().await.unwrap_err();
    assert_eq!((error.unsent(), error.spooled()), (1, 0), "{error}");
    assert!(error.is_spool(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_can_never_be_used_ends_the_session_at_once() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let first = broker.session().spool(small(&disk)).connect().await.unwrap();
    let error = broker.session().spool(small(&disk)).connect().await.unwrap_err();
    assert_eq!(error.to_string(), "the spool the simulated disk is used by process 1");
    assert!(error.is_spool());
    let mut second = broker.session().spool(small(&disk)).start().unwrap();
    assert!(second.close().await.unwrap_err().is_spool());
    drop(first);
    let ident = Ident::new("another").unwrap();
    sleep(SECOND).await;
    let builder = hpfeeds::ClientSession::builder(("broker.test", 1), ident, "secret").connector(broker);
    let error = builder.spool(small(&disk)).connect().await.unwrap_err();
    assert!(error.to_string().contains("belongs to ident \"sensor-17\""), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_is_said_once_and_the_session_goes_on_in_memory() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let session = broker.session().spool(small(&disk)).connect().await.unwrap();
    let mut events = session.events();
    disk.faults(|faults| faults.halt_after = Some(0));
    broker.kill(true);
    for number in 0..100 {
        session.publish("c", number.to_string()).await.unwrap();
        sleep(SECOND).await;
    }
    assert_eq!(told(&mut events), ["failing"]);
    broker.set(|settings| settings.down = false);
    session.flush().await.unwrap();
    assert_all(&broker, 100);
    disk.faults(|faults| faults.halt_after = None);
    sleep(6 * SECOND).await;
    assert_eq!(told(&mut events), ["recovered"]);
}

#[tokio::test(start_paused = true)]
async fn a_required_spool_makes_publishing_fail_while_its_disk_does() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    let session = broker.session().spool(small(&disk).required(true)).connect().await.unwrap();
    disk.faults(|faults| faults.halt_after = Some(0));
    broker.kill(true);
    session.publish("c", "0").await.unwrap();
    sleep(2 * SECOND).await;
    assert!(session.publish("c", "1").await.unwrap_err().is_spool());
    assert!(session.try_publish("c", "1").unwrap_err().cause().unwrap().is_spool());
    disk.faults(|faults| faults.halt_after = None);
    sleep(6 * SECOND).await;
    session.publish("c", "2").await.unwrap();
    broker.set(|settings| settings.down = false);
    session.flush().await.unwrap();
    assert_eq!(broker.unique(), (vec!["0".to_owned(), "2".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn writing_through_makes_publish_wait_for_the_disk_and_writes_once() {
    let (broker, disk) = (Broker::new(), SimDisk::new(1));
    broker.set(|settings| settings.down = true);
    let session = broker.session().spool(small(&disk).write_through()).start().unwrap();
    for number in 0..50 {
        session.publish("c", number.to_string()).await.unwrap();
        // Whatever happens now.
        let image = disk.crash(number);
        let session = broker.session().spool(small(&image)).start().unwrap();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(session.stats().spooled, number + 1);
    }
    let length = |disk: &SimDisk| disk.files().values().map(Vec::len).sum::<usize>();
    let before = length(&disk);
    sleep(10 * SECOND).await;
    assert_eq!(length(&disk), before, "nothing is written twice");
    broker.set(|settings| settings.down = false);
    session.flush().await.unwrap();
    assert_eq!(broker.count(), 50);
}

/// A disk whose operations panic from a moment on.
#[derive(Debug, Clone)]
struct Faulty(SimDisk, Arc<AtomicBool>);

impl Faulty {
    fn disk(&self) -> &SimDisk {
        assert!(!self.1.load(Relaxed), "a fault of the spool's thread, made by this test");
        &self.0
    }
}

impl Disk for Faulty {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.disk().list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.disk().create(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.disk().open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk().rename(from, to)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.disk().unlink(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk().sync_dir()
    }

    fn lock(&self) -> Result<Guard, LockError> {
        self.disk().lock()
    }

    fn space(&self) -> io::Result<Space> {
        self.disk().space()
    }

    fn random(&self) -> u64 {
        self.disk().random()
    }
}

#[tokio::test]
async fn a_spool_whose_thread_panics_is_said_and_nobody_waits_for_it() {
    for required in [false, true] {
        let (broker, faults) = (Broker::new(), Arc::new(AtomicBool::new(false)));
        let disk = Faulty(SimDisk::new(1), faults.clone());
        let spool = Spool::disk(Arc::new(disk.clone())).write_through().required(required);
        let mut session = broker.session().spool(spool.clone()).connect().await.unwrap();
        broker.set(|settings| settings.ack_after = None);
        let mut events = session.events();
        faults.store(true, Relaxed);
        let published = timeout(60 * SECOND, session.publish("c", "0")).await.expect("it does not wait");
        assert_eq!(published.is_err(), required, "{published:?}");
        assert_eq!(told(&mut events), ["failing"]);
        let next = timeout(60 * SECOND, session.publish("c", "1")).await.expect("nor does the next");
        assert_eq!(next.map_err(|error| error.is_spool()), if required { Err(true) } else { Ok(()) });
        broker.set(|settings| settings.ack_after = Some(Duration::ZERO));
        broker.kill(false);
        session.flush().await.unwrap();
        // The folder is free again.
        faults.store(false, Relaxed);
        let mut other = broker.session().spool(spool.clone()).connect().await.unwrap();
        other.close().await.unwrap();
        drop(session.close().await);
        assert_all(&broker, if required { 1 } else { 2 });
        // So it is at the opening.
        faults.store(true, Relaxed);
        let error = broker.session().spool(spool).connect().await.unwrap_err();
        assert!(error.to_string().contains("has ended by a panic"), "{error}");
    }
}

#[tokio::test]
async fn a_spool_in_a_folder_works_on_its_own_thread() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::new();
    broker.set(|settings| settings.down = true);
    let spool = || Spool::dir(folder.path().join("spool")).after(Duration::from_millis(50));
    let mut session = broker.session().close_timeout(Duration::from_millis(300)).spool(spool()).start().unwrap();
    for number in 0..1000 {
        session.publish("c", number.to_string()).await.unwrap();
    }
    assert_eq!(session.close().await.unwrap_err().spooled(), 1000);
    broker.set(|settings| settings.down = false);
    let mut session = broker.session().spool(spool()).connect().await.unwrap();
    for number in 1000..1100 {
        session.publish("c", number.to_string()).await.unwrap();
    }
    session.close().await.unwrap();
    assert_all(&broker, 1100);
}
