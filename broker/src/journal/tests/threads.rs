//! The journal's own thread, on a real disk, with several that publish.

use std::{collections::BTreeMap, sync::Arc};

use hpfeeds::{log::RealDisk, wire::extension::Position};

use super::{
    super::{
        handle::{AppendError, JournalThread},
        options::JournalOptions,
        state::Health,
    },
    support::{draft, messages, read},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_several_threads_publish_is_durable_when_it_is_said_to_be_and_in_the_order_of_each() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || Arc::new(RealDisk::open(folder.path().join("journal")).unwrap());
    let options = JournalOptions { queue_bytes: 40_000, ring_bytes: 40_000, ..JournalOptions::default() };
    let (thread, journal, _) = JournalThread::start(disk(), options.clone(), |_| ()).unwrap();
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
    let (thread, journal, report) = JournalThread::start(disk(), options, |_| ()).unwrap();
    assert_eq!(report.bad, Vec::<String>::new());
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (_, text) in messages(&read(&journal, Position::NONE), Position::NONE) {
        found.entry(text / 1000).or_default().push(text % 1000);
    }
    assert_eq!(found.len(), 4);
    assert!(found.values().all(|numbers| numbers.iter().copied().eq(0..500)));
    drop(thread);
}
