//! The data folder: its lock, its identifier, and options that go with it.

use std::time::Duration;

use hpfeeds::wire::Pattern;
use hpfeeds_broker::{Broker, StartError};

use crate::{
    extension_client::{Scripted, confirming},
    support::{builder, start, within},
};

#[tokio::test]
async fn a_second_broker_does_not_start_on_a_folder_and_names_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let first = start(builder().data_dir(&path)).await;
    let error = builder().data_dir(&path).start().await.unwrap_err();
    let expected =
        format!("the data folder {0} cannot be used: {0} is used by process {1}", path.display(), std::process::id());
    assert_eq!(error.to_string(), expected);
    assert!(matches!(error, StartError::DataDir(_)));
    // One that waits gets it as soon as the first has ended.
    let waiting = tokio::spawn(builder().data_dir(&path).data_dir_wait(Duration::from_secs(20)).start());
    first.shutdown().await;
    within(waiting).await.unwrap().unwrap().shutdown().await;
}

#[tokio::test]
async fn a_broker_is_the_same_node_for_as_long_as_its_folder_exists() {
    let folder = tempfile::tempdir().unwrap();
    let node = async |path: &str| {
        let broker = start(builder().data_dir(folder.path().join(path))).await;
        let (_, answer) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
        broker.shutdown().await;
        answer.node
    };
    let first = node("one").await;
    assert_eq!(node("one").await, first);
    assert_ne!(node("two").await, first);
}

#[tokio::test]
async fn a_broker_that_is_dropped_gives_its_folder_back() {
    let folder = tempfile::tempdir().unwrap();
    drop(start(builder().data_dir(folder.path())).await);
    let next = builder().data_dir(folder.path()).data_dir_wait(Duration::from_secs(20));
    within(next.start()).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn options_of_a_store_need_a_folder_and_make_sense_together() {
    let fault = async |builder: hpfeeds_broker::BrokerBuilder| builder.start().await.unwrap_err().to_string();
    let dev = Broker::dev_builder;
    assert_eq!(fault(dev().mailbox("dev=*").unwrap()).await, "mailboxes need a data folder: name one with --data-dir");
    assert_eq!(
        fault(dev().last_value(Pattern::new("a.*").unwrap())).await,
        "last values need a data folder: name one with --data-dir"
    );
    assert_eq!(
        fault(dev().data_dir("x").mailbox("dev=a").unwrap().mailbox("dev=b").unwrap()).await,
        "the mailbox dev is declared twice: name all of its channels in one place"
    );
    let error = dev().mailbox("dev").unwrap_err();
    assert_eq!(
        error.to_string(),
        "a mailbox is IDENT=PATTERN,… or IDENT/NAME=PATTERN,… or IDENT=auto, and this has no `=`"
    );
}
