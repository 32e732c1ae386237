//! The suite that every key store must pass.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::join_all};
use hpfeeds::wire::Frame;
use hpfeeds_broker::{
    AuthStore, Broker, Changes, Endpoint, Lookup,
    keys::{Change, Entry, Fields, Keys},
};

use crate::{
    databases::Scratch,
    support::{Peer, publish, subscribe, until, within},
};

/// A store that holds [`entries`], and the means to change it.
pub(crate) struct UnderTest {
    pub(crate) store: Arc<dyn AuthStore>,
    pub(crate) keys: Keys,
    /// For what only a hand can do to a database.
    pub(crate) raw: Option<Scratch>,
}

/// Idents that a careless statement or pattern would mix up.
const ODD: [&str; 8] = [
    "o'hara",
    r#"x"; DROP TABLE authkeys; --"#,
    "'; DROP TABLE auth_keys; --",
    r"back\slash\'",
    "%",
    "_",
    "?1 $1 :ident {}",
    "Bücherei-\u{1F41D}",
];

pub(crate) fn entries() -> Vec<Entry> {
    let key = |ident: &str, secret: &str, publish: &[&str], subscribe: &[&str]| Entry {
        ident: ident.to_owned(),
        owner: ident.to_owned(),
        secret: secret.to_owned(),
        publish: publish.iter().map(ToString::to_string).collect(),
        subscribe: subscribe.iter().map(ToString::to_string).collect(),
        ..Entry::default()
    };
    let mut entries = vec![
        key("bob", "hunter2", &["a", "b.*", "kan\u{e4}le"], &["private", "a", "b.*"]),
        key("nothing", "s", &[], &[]),
        key("everything", "pässwörd \u{1F511} '\"\\", &["*"], &["*"]),
    ];
    entries.extend(ODD.map(|ident| key(ident, ident, &["*"], &["*"])));
    entries
}

pub(crate) async fn run(test: UnderTest) {
    reads(test.store.clone()).await;
    keys(&test.keys).await;
    changes(&test).await;
    revokes(&test).await;
    rotates(&test).await;
    if let Some(raw) = &test.raw {
        malformed(&*test.store, &test.keys, raw).await;
        odd(&*test.store, &test.keys, raw).await;
        let broker = broker(test.store.clone()).await;
        Peer::login(broker.local_addr(), "nothing", "").await.expect_error("Authentication failed for nothing").await;
        within(broker.shutdown()).await;
    }
    many(&test).await;
}

pub(crate) async fn reads(store: Arc<dyn AuthStore>) {
    known(store.clone()).await;
    unknown(store.clone()).await;
    concurrent(store).await;
}

/// A store that others have, too, and that counts what it is asked.
struct Shared(Arc<dyn AuthStore>, Arc<AtomicUsize>);

impl AuthStore for Shared {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        self.1.fetch_add(1, Relaxed);
        self.0.lookup(ident)
    }

    fn may_change(&self) -> bool {
        self.0.may_change()
    }

    fn changes(&self) -> Changes {
        self.0.changes()
    }
}

async fn broker(store: Arc<dyn AuthStore>) -> Broker {
    counted(store, Arc::default()).await
}

/// A broker that counts its lookups.
async fn counted(store: Arc<dyn AuthStore>, lookups: Arc<AtomicUsize>) -> Broker {
    let builder = Broker::builder().auth(Shared(store, lookups)).auth_failure_delay(Duration::ZERO);
    let builder = builder.recheck_keys(Duration::from_millis(50));
    builder.endpoint(Endpoint::tcp("127.0.0.1", 0)).start().await.unwrap()
}

/// Through a broker: who gets in, and what they may do.
pub(crate) async fn known(store: Arc<dyn AuthStore>) {
    let broker = broker(store).await;
    let addr = broker.local_addr();
    let mut bob = Peer::login(addr, "bob", "hunter2").await;
    for channel in ["a", "b.x"] {
        bob.send(subscribe("bob", channel)).await;
        bob.send(publish("bob", channel, "hello")).await;
        assert_eq!(bob.next().await, Some(publish("bob", channel, "hello")));
    }
    bob.send(publish("bob", "kan\u{e4}le", "hello")).await;
    bob.send(publish("bob", "b", "hello")).await;
    bob.expect_error("Authkey not allowed to pub here. ident=bob, chan=b").await;
    let mut bob = Peer::login(addr, "bob", "hunter2").await;
    bob.send(subscribe("bob", "kan\u{e4}le")).await;
    bob.expect_error("Authkey not allowed to sub here. ident=bob, chan=kan\u{e4}le").await;
    Peer::login(addr, "bob", "hunter3").await.expect_error("Authentication failed for bob").await;
    for frame in [publish("nothing", "a", "x"), subscribe("nothing", "a")] {
        let mut nothing = Peer::login(addr, "nothing", "s").await;
        nothing.send(frame).await;
        assert!(matches!(nothing.next().await, Some(Frame::Error { .. })));
    }
    for entry in entries().into_iter().skip(2) {
        Peer::login(addr, &entry.ident, &entry.secret).await.settle().await;
    }
    within(broker.shutdown()).await;
}

async fn unknown(store: Arc<dyn AuthStore>) {
    let long = "x".repeat(255);
    for ident in ["nobody", "BOB", "Bob", "bob ", " bob", "b\u{f3}b", "bo", "bob'", "bob\0", "\0", "b%", "b_b", &long] {
        assert!(store.lookup(ident).await.unwrap().is_none(), "{ident:?} is somebody");
    }
    let broker = broker(store).await;
    let peer = Peer::login(broker.local_addr(), "nobody", "hunter2").await;
    peer.expect_error("Authentication failed for nobody").await;
}

pub(crate) async fn concurrent(store: Arc<dyn AuthStore>) {
    let idents: Vec<_> = entries().into_iter().map(|entry| entry.ident).chain(["nobody".to_owned()]).collect();
    let lookups = (0..300).map(|n| {
        let (store, ident) = (store.clone(), idents[n % idents.len()].clone());
        async move { (store.lookup(&ident).await.unwrap().is_some(), ident) }
    });
    for (found, ident) in within(join_all(lookups)).await {
        assert_eq!(found, ident != "nobody", "{ident:?}");
    }
}

/// Keys are read back as they were written.
async fn keys(keys: &Keys) {
    let mut expected = entries();
    expected.sort_by(|a, b| a.ident.cmp(&b.ident));
    assert_eq!(keys.all().await.unwrap(), expected);
    for entry in expected {
        assert_eq!(keys.get(&entry.ident).await.unwrap(), Some(entry));
    }
    assert_eq!(keys.get("BOB").await.unwrap(), None);
}

/// The next lookup sees a change.
async fn changes(test: &UnderTest) {
    let UnderTest { store, keys, .. } = test;
    let entry = |ident: &str, secret: &str| Entry {
        ident: ident.to_owned(),
        owner: ident.to_owned(),
        secret: secret.to_owned(),
        publish: vec!["c".to_owned()],
        ..Entry::default()
    };
    let seen = async |ident: &str| {
        store.reload().await.unwrap();
        store.lookup(ident).await.unwrap().is_some()
    };
    assert!(!seen("new").await);
    keys.apply(&[Change::Add(entry("new", "one"))]).await.unwrap();
    assert!(seen("new").await);
    // Idents that some databases take for the same are others.
    keys.apply(&[Change::Add(entry("NEW", "other"))]).await.unwrap();
    let fields = Fields { secret: Some("two".to_owned()), publish: Some(vec![]), ..Fields::default() };
    keys.apply(&[Change::Set { ident: "new".to_owned(), fields }]).await.unwrap();
    let changed = Entry { secret: "two".to_owned(), publish: vec![], ..entry("new", "") };
    assert_eq!(keys.get("new").await.unwrap(), Some(changed));
    assert_eq!(keys.get("NEW").await.unwrap(), Some(entry("NEW", "other")));
    // All or nothing, in the order given.
    let refused = [
        vec![Change::Add(entry("second", "s")), Change::Add(entry("new", "s"))],
        vec![Change::Add(entry("second", "s")), Change::Add(entry("second", "s"))],
        vec![Change::Remove("new".to_owned()), Change::Remove("new".to_owned())],
        vec![Change::Remove("new".to_owned()), Change::Set { ident: "new".to_owned(), fields: Fields::default() }],
        vec![Change::Remove("new".to_owned()), Change::Remove("nobody".to_owned())],
    ];
    for changes in refused {
        let error = keys.apply(&changes).await.unwrap_err().to_string();
        assert!(error.contains("has a key already") || error.contains("has no key"), "{error}");
        assert!(!seen("second").await && seen("new").await, "{error}");
    }
    keys.apply(&[Change::Remove("new".to_owned()), Change::Add(entry("new", "three"))]).await.unwrap();
    keys.apply(&[Change::Put(entry("new", "four")), Change::Put(entry("second", "s"))]).await.unwrap();
    assert_eq!(keys.get("new").await.unwrap(), Some(entry("new", "four")));
    keys.apply(&["new", "NEW", "second"].map(|ident| Change::Remove(ident.to_owned()))).await.unwrap();
    assert!(!seen("new").await && !seen("NEW").await && !seen("second").await && seen("bob").await);
    // Writers do not lose each other's changes.
    let idents: Vec<_> = (0..8).map(|n| format!("writer-{n}")).collect();
    let writes = idents.iter().map(async |ident| keys.apply(&[Change::Add(entry(ident, "s"))]).await);
    for written in within(join_all(writes)).await {
        written.unwrap();
    }
    for ident in &idents {
        assert!(seen(ident).await, "{ident} is lost");
    }
    keys.apply(&idents.into_iter().map(Change::Remove).collect::<Vec<_>>()).await.unwrap();
}

/// A change reaches those who are connected.
async fn revokes(test: &UnderTest) {
    let entry = Entry { publish: vec!["c".to_owned()], ..entries().remove(1) };
    let entry = Entry { ident: "live".to_owned(), owner: "live".to_owned(), ..entry };
    test.keys.apply(&[Change::Add(entry)]).await.unwrap();
    test.store.reload().await.unwrap();
    let broker = broker(test.store.clone()).await;
    let mut writer = Peer::login(broker.local_addr(), "live", "s").await;
    writer.send(publish("live", "c", "x")).await;
    until(|| broker.stats().received_messages > 0).await;
    let fields = Fields { publish: Some(vec!["d".to_owned()]), ..Fields::default() };
    test.keys.apply(&[Change::Set { ident: "live".to_owned(), fields }]).await.unwrap();
    test.store.reload().await.unwrap();
    // Each try is a message that is allowed until it no longer is.
    let denied = within(async {
        loop {
            writer.send(publish("live", "c", "x")).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            if let Some(frame) = writer.next().now_or_never() {
                return frame;
            }
        }
    });
    let Some(Frame::Error { message }) = denied.await else { panic!("no ERROR") };
    assert_eq!(message, "Authkey not allowed to pub here. ident=live, chan=c");
    let idle = Peer::login(broker.local_addr(), "live", "s").await;
    until(|| broker.stats().authenticated >= 2).await;
    test.keys.apply(&[Change::Remove("live".to_owned())]).await.unwrap();
    test.store.reload().await.unwrap();
    idle.expect_error("Authentication failed for live").await;
}

/// Waits for the end of a connection whose key no longer lets it in.
async fn ends(peer: Peer, ident: &str) {
    within(peer.expect_error(&format!("Authentication failed for {ident}"))).await;
}

/// A secret is replaced while the sensor still has the old one; and a key is disabled for a while.
async fn rotates(test: &UnderTest) {
    let UnderTest { store, keys, raw } = test;
    let set = async |fields: Fields| {
        keys.apply(&[Change::Set { ident: "turn".to_owned(), fields }]).await.unwrap();
        store.reload().await.unwrap();
    };
    let secret = |secret: &str, grace: u64| Fields {
        secret: Some(secret.to_owned()),
        grace: Some(Duration::from_secs(grace)),
        ..Fields::default()
    };
    let (ident, publish) = ("turn".to_owned(), vec!["private".to_owned()]);
    let subscribe = publish.clone();
    let entry = Entry { owner: ident.clone(), ident, secret: "one".to_owned(), publish, subscribe, ..Entry::default() };
    keys.apply(&[Change::Add(entry)]).await.unwrap();
    store.reload().await.unwrap();
    let lookups = Arc::new(AtomicUsize::new(0));
    let broker = counted(store.clone(), lookups.clone()).await;
    let addr = broker.local_addr();
    let mut old = Peer::login(addr, "turn", "one").await;
    old.settle().await;
    set(secret("two", 3600)).await;
    let mut new = Peer::login(addr, "turn", "two").await;
    new.settle().await;
    Peer::login(addr, "turn", "one").await.settle().await;
    ends(Peer::login(addr, "turn", "three").await, "turn").await;
    // Two rounds, each with one lookup: the second begins when the first has ended.
    for _ in 0..2 {
        let before = lookups.load(Relaxed);
        broker.recheck_now();
        until(|| lookups.load(Relaxed) > before).await;
    }
    old.settle().await;
    set(Fields { grace: Some(Duration::ZERO), ..Fields::default() }).await;
    ends(old, "turn").await;
    // Its time is over two seconds later, without anybody doing anything.
    set(secret("three", 2)).await;
    new.settle().await;
    ends(new, "turn").await;
    ends(Peer::login(addr, "turn", "two").await, "turn").await;
    let mut live = Peer::login(addr, "turn", "three").await;
    live.settle().await;
    set(Fields { disabled: Some(true), ..Fields::default() }).await;
    ends(live, "turn").await;
    ends(Peer::login(addr, "turn", "three").await, "turn").await;
    set(Fields { disabled: Some(false), ..Fields::default() }).await;
    Peer::login(addr, "turn", "three").await.settle().await;
    if let Some(raw) = raw {
        // Changed by hand: no old secret counts beside that.
        set(secret("four", 3600)).await;
        let [table, ident, ..] = raw.columns();
        raw.raw(&format!("UPDATE {table} SET secret = 'five' WHERE {ident} = 'turn'")).await;
        Peer::login(addr, "turn", "five").await.settle().await;
        ends(Peer::login(addr, "turn", "three").await, "turn").await;
        // A table that cannot be read keeps nobody out.
        raw.raw("ALTER TABLE hpfeeds_secrets RENAME COLUMN beside TO other").await;
        Peer::login(addr, "turn", "five").await.settle().await;
        raw.raw("ALTER TABLE hpfeeds_secrets RENAME COLUMN other TO beside").await;
    }
    keys.apply(&[Change::Remove("turn".to_owned())]).await.unwrap();
    store.reload().await.unwrap();
    within(broker.shutdown()).await;
}

/// A row that a hand has spoilt is an error that names the place; it harms nobody else, and is mended.
async fn malformed(store: &dyn AuthStore, keys: &Keys, raw: &Scratch) {
    let [table, ident, publish, subscribe] = raw.columns();
    keys.apply(&["'a,b'", "'{\"a\": 1}'", "'7'"].map(spoilt)).await.unwrap();
    for column in [publish, subscribe] {
        for (list, expected) in [
            ("'a,b'", "is not JSON: expected value at line 1 column 1"),
            ("'{\"a\": 1}'", "must be a list of strings, not an object"),
            ("'7'", "must be a list of strings, not a number"),
        ] {
            let name = spoilt_ident(list);
            let quoted = name.replace('\'', "''");
            raw.raw(&format!("UPDATE {table} SET {column} = {list} WHERE {ident} = '{quoted}'")).await;
            let error = store.lookup(&name).await.unwrap_err().to_string();
            assert!(error.contains(&format!("table {table}: ident {name:?}: {column:?} {expected}")), "{error}");
            assert!(!error.contains("hunter2") && !error.contains('\n'), "{error}");
            assert!(store.lookup("bob").await.unwrap().is_some());
            assert!(keys.all().await.unwrap_err().to_string().contains(expected));
            let listing = keys.listing().await.unwrap();
            assert!(listing.faults.len() == 1 && listing.faults[0].to_string().contains(expected), "{listing:?}");
            assert!(listing.entries.iter().any(|entry| entry.ident == "bob"), "{listing:?}");
            let list = Some(vec!["mended".to_owned()]);
            let fields = Fields { publish: list.clone(), subscribe: list, ..Fields::default() };
            keys.apply(&[Change::Set { ident: name.clone(), fields }]).await.unwrap();
            assert!(store.lookup(&name).await.unwrap().is_some());
        }
    }
}

/// Odd lists that work with the Python broker: a list with other things in it, and one string.
async fn odd(store: &dyn AuthStore, keys: &Keys, raw: &Scratch) {
    let [table, ident, publish, _] = raw.columns();
    for (list, channels) in [
        (r#"["a", 1, null]"#, &["a"][..]),
        (r#""a""#, &["a"]),
        (r#""a, b.*""#, &["a", "b.*"]),
        (r#""[\"a\", \"b.*\"]""#, &["a", "b.*"]),
    ] {
        // MySQL takes a backslash in a literal for an escape.
        let literal = if raw.auth.contains("mysql") { list.replace('\\', r"\\") } else { list.to_owned() };
        raw.raw(&format!("UPDATE {table} SET {publish} = '{literal}' WHERE {ident} = 'nothing'")).await;
        assert!(store.lookup("nothing").await.unwrap().is_some(), "{list}");
        assert_eq!(keys.get("nothing").await.unwrap().unwrap().publish, channels, "{list}");
    }
    // Empty, it lets nobody in, not everybody.
    raw.raw(&format!("UPDATE {table} SET {publish} = '[]', secret = '' WHERE {ident} = 'nothing'")).await;
    let listing = keys.listing().await.unwrap();
    assert!(listing.remarks[0].contains("user \"nothing\": the secret is empty"), "{listing:?}");
}

fn spoilt_ident(list: &str) -> String {
    format!("spoilt {list}")
}

fn spoilt(list: &str) -> Change {
    let (ident, secret) = (spoilt_ident(list), "hunter2".to_owned());
    Change::Add(Entry { owner: ident.clone(), ident, secret, ..Entry::default() })
}

/// Ten thousand keys.
async fn many(test: &UnderTest) {
    let ident = |n: usize| format!("sensor-{n:05}");
    let changes = (0..10_000).map(|n| {
        let (ident, channel) = (ident(n), format!("channel-{n}"));
        Change::Add(Entry {
            owner: ident.clone(),
            ident,
            secret: n.to_string(),
            publish: vec![channel],
            ..Entry::default()
        })
    });
    test.keys.apply(&changes.collect::<Vec<_>>()).await.unwrap();
    let all = test.keys.all().await.unwrap();
    let found: HashSet<_> = all.iter().map(|entry| entry.ident.clone()).collect();
    assert!((0..10_000).all(|n| found.contains(&ident(n))));
    assert!(all.is_sorted_by(|a, b| a.ident < b.ident));
    test.store.reload().await.unwrap();
    for n in [0, 1, 5_000, 9_999] {
        assert!(test.store.lookup(&ident(n)).await.unwrap().is_some());
    }
    assert!(test.store.lookup(&ident(10_000)).await.unwrap().is_none());
}
