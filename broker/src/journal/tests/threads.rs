//! The journal's own thread, on a real disk, with several that publish.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use hpfeeds::{
    log::{RealDisk, verify},
    wire::{Channel, Pattern, extension::Position},
};
use tokio::time::Instant;

use super::{
    super::{
        attachment::Attachment,
        data_dir::DataDir,
        handle::{AppendError, JournalThread},
        mailbox::{claims::Claim, losses::Reason, window::End},
        options::JournalOptions,
        state::Health,
        store::{Disks, Store, StoreOptions},
    },
    support::{draft, messages, parse, read},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_several_threads_publish_is_durable_when_it_is_said_to_be_and_in_the_order_of_each() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || Arc::new(RealDisk::open(folder.path().join("journal")).unwrap());
    let options = JournalOptions { queue_bytes: 40_000, ring_bytes: 40_000, ..JournalOptions::default() };
    let (thread, journal, _) = JournalThread::start(disk(), options.clone(), None, |_| ()).unwrap();
    let publish = |publisher: u64, journal: super::super::handle::Journal| async move {
        for number in 0..500 {
            let draft = draft(&[("a", publisher * 1000 + number)], 300);
            let position = loop {
                match journal.append(draft.clone()) {
                    Ok(position) => break position,
                    Err(AppendError::QueueFull) => journal.room(400).await,
                    Err(error) => panic!("{error}"),
                }
            };
            if number % 50 == 49 {
                journal.durable(position).await.unwrap();
                assert!(journal.durable_position() >= position);
            }
        }
    };
    let tasks: Vec<_> = (0..4).map(|publisher| tokio::spawn(publish(publisher, journal.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(tokio::task::spawn_blocking(move || thread.close()).await.unwrap());
    assert_eq!((journal.health(), journal.durable_position()), (Health::Closed, Position::new(1, 2000)));
    let (thread, journal, report) = JournalThread::start(disk(), options, None, |_| ()).unwrap();
    assert_eq!(report.bad, Vec::<String>::new());
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (_, text) in messages(&read(&journal, Position::NONE), Position::NONE) {
        found.entry(text / 1000).or_default().push(text % 1000);
    }
    assert_eq!(found.len(), 4);
    assert!(found.values().all(|numbers| numbers.iter().copied().eq(0..500)));
    drop(thread);
}

fn store(dir: &DataDir) -> Store {
    let disks = Disks {
        journal: dir.journal().unwrap(),
        cursors: dir.cursors().unwrap(),
        dead: Some(dir.dead_letters().unwrap()),
        last: Some(dir.last_values().unwrap()),
        held: None,
    };
    let options = StoreOptions {
        journal: JournalOptions { ring_bytes: 100_000, ..JournalOptions::default() },
        mailboxes: vec!["c=a.*:skip-after=3".parse().unwrap(), "d=*".parse().unwrap()],
        last_values: vec![Pattern::new("a.last").unwrap()],
        has_shares: true,
        expire: None,
    };
    Store::open(disks, options).unwrap()
}

async fn close(store: Store) {
    assert!(tokio::task::spawn_blocking(move || store.close()).await.unwrap());
}

/// Reads until a number comes, and acknowledges each time.
async fn collect(mut attachment: Attachment, last: u64) -> Vec<u64> {
    let mut got = Vec::new();
    while got.last() != Some(&last) {
        let mail = attachment.next(50_000, &|_| true).await;
        for delivery in &mail.deliveries {
            got.extend(parse(&delivery.frames).iter().map(|(_, number)| *number));
        }
        if let Some(delivery) = mail.deliveries.last() {
            assert!(attachment.consumed(Position::new(delivery.first.epoch, delivery.last())));
        }
    }
    attachment.end(End::Fin);
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_collectors_follow_a_publisher_through_a_restart_and_each_gets_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let dir = DataDir::open(&folder.path().join("data"), Duration::ZERO, true).unwrap();
    let start = Instant::now();
    let attach = |store: &Store, name: &str, id| {
        let claim = Claim { id, address: IpAddr::V4(Ipv4Addr::LOCALHOST), acknowledges: true };
        let name = name.parse().unwrap();
        let attachment = Attachment::new(&store.mailboxes, &store.journal, &name, claim, start).unwrap();
        attachment.subscribe(&Channel::new("*").unwrap(), |_| false).unwrap();
        attachment
    };
    let mut expected = [Vec::new(), Vec::new()];
    for round in 0..2_u64 {
        let store = store(&dir);
        // The first half stands in the file when the collectors come.
        for number in round * 1000..(round + 1) * 1000 {
            let channel = if number % 3 == 0 { "b" } else { "a.last" };
            let draft = draft(&[(channel, number)], 500);
            assert!(store.shares.admits("sensor", &draft));
            store.last_values.publish(&draft);
            let position = store.journal.append(draft.clone()).unwrap();
            store.shares.appended("sensor", &draft, position);
            if number % 100 == 99 {
                store.journal.durable(position).await.unwrap();
            }
            if number % 3 != 0 {
                expected[0].push(number);
            }
            expected[1].push(number);
        }
        let one = tokio::spawn(collect(attach(&store, "c", 1), *expected[0].last().unwrap()));
        let two = tokio::spawn(collect(attach(&store, "d", 2), *expected[1].last().unwrap()));
        assert_eq!((one.await.unwrap(), two.await.unwrap()), (expected[0].clone(), expected[1].clone()));
        expected = [Vec::new(), Vec::new()];
        let values = store.last_values.matching("a.*", &|_| true);
        assert_eq!(parse(&values[0])[0].1 / 1000, round);
        assert!(store.mailboxes.list().iter().all(|mailbox| mailbox.lowest == store.journal.last()));
        close(store).await;
    }
    let store = store(&dir);
    assert_eq!(parse(&store.last_values.matching("a.*", &|_| true)[0])[0].1, 1999);
    assert_eq!(store.opened.scanned, 1, "the segment that was appended to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_passed_over_stands_among_the_dead_letters() {
    let folder = tempfile::tempdir().unwrap();
    let dir = DataDir::open(&folder.path().join("data"), Duration::ZERO, true).unwrap();
    let store = store(&dir);
    // The clock of the mailbox runs ahead, so that nothing waits.
    let mut start = Instant::now();
    for number in 0..3 {
        store.journal.append(draft(&[("a.x", number)], 0)).unwrap();
    }
    let name = "c".parse().unwrap();
    for id in 1..30 {
        let claim = Claim { id, address: IpAddr::V4(Ipv4Addr::LOCALHOST), acknowledges: true };
        let mut attachment = Attachment::new(&store.mailboxes, &store.journal, &name, claim, start).unwrap();
        attachment.subscribe(&Channel::new("a.x").unwrap(), |_| false).unwrap();
        let mut got = Vec::new();
        while got.last().is_none_or(|last| *last < 2) {
            let mail = attachment.next(1000, &|_| true).await;
            for delivery in &mail.deliveries {
                got.extend(parse(&delivery.frames).iter().map(|(_, number)| *number));
            }
            if got.contains(&1) {
                break;
            }
            // Messages before the bad one are acknowledged.
            if let Some(delivery) = mail.deliveries.last() {
                attachment.consumed(Position::new(1, delivery.last()));
            }
        }
        attachment.end(End::Broken);
        if got == [2] || got == [0, 2] {
            break;
        }
        start -= Duration::from_secs(70);
    }
    let counts = &store.mailboxes.list()[0].counts;
    assert_eq!(counts.losses.of(Reason::Skipped), 1);
    close(store).await;
    let dead = verify(&*dir.dead_letters().unwrap()).unwrap();
    assert_eq!((dead.messages, dead.lost), (1, 0));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_store_hands_everything_out_that_was_durable_after_each_of_several_kills() {
    let folder = tempfile::tempdir().unwrap();
    let path = |round: u64| folder.path().join(round.to_string());
    for round in 0..4_u64 {
        let dir = DataDir::open(&path(round), Duration::ZERO, true).unwrap();
        let store = store(&dir);
        let attachment = store.attach(&"d".parse().unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST), true).unwrap();
        attachment.subscribe(&Channel::new("*").unwrap(), |_| false).unwrap();
        for number in round * 10..round * 10 + 10 {
            let position = store.journal.append(draft(&[("x", number)], 50)).unwrap();
            store.journal.durable(position).await.unwrap();
        }
        // The image of a process that is killed now.
        copy(&path(round), &path(round + 1));
        let got = tokio::time::timeout(Duration::from_secs(20), collect(attachment, round * 10 + 9)).await.unwrap();
        assert_eq!(got, (0..round * 10 + 10).collect::<Vec<_>>(), "in life {round}");
    }
}
