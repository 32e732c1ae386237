//! The world of the tests: a relay's store in a folder, its uplinks, and a parent with a collector.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures::StreamExt as _;
use hpfeeds::{
    ClientSession, Confirm,
    log::RealDisk,
    wire::{Ident, Limits, Pattern, encode_publish, extension::NodeId},
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{AuthStore, Lookup, key::Key},
    broker::Broker,
    builder::BrokerBuilder,
    journal::{
        batch::Draft,
        options::JournalOptions,
        store::{Disks, Store, StoreOptions},
    },
    relay::{
        figures::{Figures, UplinkSnapshot},
        table::Table,
        uplink::{Settings, Uplink},
    },
    util::clock::unix_ms,
};

/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keys that change. Clones are the same ones.
#[derive(Clone, Default)]
pub(super) struct Keys(Arc<Mutex<HashMap<String, Arc<Key>>>>);

impl Keys {
    pub(super) fn insert(&self, key: Key) {
        self.0.lock().insert(key.ident.to_string(), Arc::new(key));
    }
}

impl AuthStore for Keys {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        let key = self.0.lock().get(ident).cloned();
        Box::pin(async { Ok(key) })
    }
}

/// A parent, and everything that its collector has received.
pub(super) struct Parent {
    pub(super) broker: Broker,
    pub(super) keys: Keys,
    collector: ClientSession,
    pub(super) received: Vec<String>,
}

impl Parent {
    pub(super) async fn start(options: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Self {
        let keys = Keys::default();
        keys.insert(Key::new("collector", "c").unwrap().subscribe(["*"]).unwrap());
        for ident in ["one", "two"] {
            keys.insert(Key::new(ident, "s").unwrap().publish(["*"]).unwrap());
        }
        let builder = Broker::builder().listen("127.0.0.1:0").unwrap().auth(keys.clone());
        let broker = options(builder.recheck_keys(Duration::from_millis(50))).start().await.unwrap();
        let collector = ClientSession::builder(broker.local_addr(), "collector", "c").confirm(Confirm::Off);
        let collector = collector.connect().await.unwrap();
        collector.subscribe_confirmed("*").await.unwrap();
        Self { broker, keys, collector, received: Vec::new() }
    }

    /// Waits until so many messages have come in all, and for no more than that.
    pub(super) async fn receive(&mut self, messages: usize) {
        while self.received.len() < messages {
            let next = timeout(PATIENCE, self.collector.next()).await;
            let (ident, channel, payload) = next.expect("a message").expect("a session");
            self.received.push(format!("{ident} {channel} {}", String::from_utf8_lossy(&payload).trim_end()));
        }
    }

    /// Nothing more comes for a while.
    pub(super) async fn rests(&mut self) {
        let next = timeout(Duration::from_millis(300), self.collector.next()).await;
        assert!(next.is_err(), "{next:?}");
    }
}

/// The store of a relay, and how it reaches its parent.
pub(super) struct Relay {
    pub(super) folder: Arc<TempDir>,
    pub(super) store: Store,
    pub(super) table: Table,
    pub(super) settings: Settings,
}

/// An uplink that runs.
pub(super) struct Running {
    pub(super) figures: Figures,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn disk(folder: &Path, name: &str) -> Arc<RealDisk> {
    Arc::new(RealDisk::open(folder.join(name)).unwrap())
}

impl Relay {
    pub(super) fn open(folder: &Arc<TempDir>, parent: &Parent) -> Self {
        let journal = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::default() };
        Self::with(folder, parent, journal)
    }

    pub(super) fn with(folder: &Arc<TempDir>, parent: &Parent, journal: JournalOptions) -> Self {
        let path = folder.path();
        let disks = Disks {
            journal: disk(path, "journal"),
            cursors: disk(path, "cursors"),
            dead: None,
            last: None,
            held: None,
        };
        let options = StoreOptions {
            journal,
            mailboxes: Vec::new(),
            last_values: Vec::<Pattern>::new(),
            has_shares: false,
            expire: None,
        };
        let store = Store::open(disks, options).unwrap();
        let (table, _) = Table::open(disk(path, "relay")).unwrap();
        let address = parent.broker.local_addr();
        let connect = move |ident: &Ident, feed| {
            ClientSession::builder(address, ident, "s").rotation(Duration::from_millis(300)).feed(feed).start()
        };
        let settings = Settings {
            connect: Arc::new(connect),
            node: NodeId::new([1; 16]),
            denied_for: Duration::from_secs(3600),
            again: Duration::from_millis(200),
            largest: 1000,
            path: watch::Sender::new(Vec::new()),
        };
        Self { folder: Arc::clone(folder), store, table, settings }
    }

    pub(super) fn start(&self, ident: &str) -> Running {
        let ident: Ident = ident.parse().unwrap();
        let figures = Figures::new(ident.clone());
        let uplink =
            Uplink::new(ident, self.settings.clone(), &self.store.journal, self.table.clone(), figures.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(uplink.run(stop.clone()));
        Running { figures, stop, task }
    }

    /// A sensor publishes messages in one batch.
    pub(super) fn publish(&self, ident: &str, channels: &[&str], numbers: std::ops::Range<u32>, more: usize) {
        let mut frames = BytesMut::new();
        for number in numbers {
            let channel = channels[number as usize % channels.len()].parse().unwrap();
            let payload = format!("{number}{}", " ".repeat(more));
            let ident = ident.parse().unwrap();
            encode_publish(&mut frames, Limits::new(u32::MAX), &ident, &channel, payload.as_bytes()).unwrap();
        }
        let draft = Draft::new(frames.freeze(), unix_ms(), None).unwrap();
        self.store.journal.append(draft).unwrap();
    }

    /// The process is killed: nothing is closed or stored. The folder that it leaves.
    pub(super) fn kill(self, running: Vec<Running>) -> Arc<TempDir> {
        for running in running {
            running.task.abort();
        }
        self.copy()
    }

    /// An image of the folder as it is.
    pub(super) fn copy(&self) -> Arc<TempDir> {
        let left = tempfile::tempdir().unwrap();
        for name in ["journal", "cursors", "relay"] {
            fs::create_dir(left.path().join(name)).unwrap();
            for file in fs::read_dir(self.folder.path().join(name)).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), left.path().join(name).join(file.file_name())).unwrap();
            }
        }
        Arc::new(left)
    }
}

impl Running {
    pub(super) async fn stop(self) -> UplinkSnapshot {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
        self.figures.snapshot()
    }

    /// Waits until the figures are so.
    #[track_caller]
    pub(super) fn until(&self, is_so: impl Fn(&UplinkSnapshot) -> bool) -> impl Future<Output = UplinkSnapshot> {
        let figures = self.figures.clone();
        let caller = std::panic::Location::caller();
        async move {
            let start = Instant::now();
            loop {
                let snapshot = figures.snapshot();
                if is_so(&snapshot) {
                    return snapshot;
                }
                assert!(start.elapsed() < PATIENCE, "{caller}: {snapshot:#?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// The lines of what a collector receives.
pub(super) fn lines(ident: &str, channels: &[&str], numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    let line = |number: u32| format!("{ident} {} {number}", channels[number as usize % channels.len()]);
    numbers.into_iter().map(line).collect()
}
