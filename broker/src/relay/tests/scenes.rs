//! Scenes of one relay and its parent: kills, denied channels and keys.

use std::{sync::Arc, time::Duration};

use hpfeeds::wire::extension::{Level, NodeId};

use super::world::{Parent, Relay, lines};
use crate::{
    auth::key::Key,
    journal::options::JournalOptions,
    relay::{
        figures::LinkState,
        table::{CURSORS, STREAMS, prefix},
    },
};

fn folder() -> Arc<tempfile::TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn each_ident_hands_its_own_messages_upwards_once_and_in_order() {
    let mut parent = Parent::start(|parent| parent).await;
    let relay = Relay::open(&folder(), &parent);
    let (one, two) = (relay.start("one"), relay.start("two"));
    for number in 0..50 {
        relay.publish("one", &["a", "b"], number * 10..number * 10 + 10, 100);
        relay.publish("two", &["a"], number..number + 1, 10);
        // This spelling has no uplink.
        relay.publish("One", &["a"], number..number + 1, 10);
    }
    parent.receive(550).await;
    let own = |ident: &str| -> Vec<_> {
        parent.received.iter().filter(|line| line.split(' ').next() == Some(ident)).cloned().collect()
    };
    assert_eq!(own("one"), lines("one", &["a", "b"], 0..500));
    assert_eq!(own("two"), lines("two", &["a"], 0..50));
    let figures = one.until(|figures| figures.delivered == 500).await;
    assert_eq!(figures.state, LinkState::Connected(Some(Level::ROUTED)));
    let (one, two) = (one.stop().await, two.stop().await);
    assert_eq!((one.lost, two.lost, two.delivered), (0, 0, 50));
    parent.rests().await;
}

#[tokio::test]
async fn a_killed_relay_repeats_nothing_to_a_parent_that_knows_its_streams() {
    let mut parent = Parent::start(|parent| parent).await;
    let mut folder = folder();
    let mut sent = 0;
    for life in 0..6_u32 {
        let relay = Relay::open(&folder, &parent);
        let one = relay.start("one");
        for _ in 0..20 {
            relay.publish("one", &["a"], sent..sent + 10, 500);
            sent += 10;
            if life % 2 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        // Some of it is still on its way.
        parent.receive(sent as usize - 30 * (life as usize % 3)).await;
        relay.store.journal.durable(relay.store.journal.last()).await.unwrap();
        folder = relay.kill(vec![one]);
    }
    let relay = Relay::open(&folder, &parent);
    let one = relay.start("one");
    parent.receive(sent as usize).await;
    assert_eq!(parent.received, lines("one", &["a"], 0..sent));
    let figures = one.stop().await;
    assert_eq!(figures.lost, 0);
    parent.rests().await;
}

#[tokio::test]
async fn a_stopped_relay_goes_on_where_it_was() {
    let mut parent = Parent::start(|parent| parent).await;
    let folder = folder();
    for life in 0..3 {
        let relay = Relay::open(&folder, &parent);
        relay.publish("one", &["a"], life * 10..life * 10 + 10, 10);
        let one = relay.start("one");
        parent.receive(life as usize * 10 + 10).await;
        one.stop().await;
        assert!(relay.store.close());
    }
    assert_eq!(parent.received, lines("one", &["a"], 0..30));
}

#[tokio::test]
async fn messages_of_a_denied_channel_are_kept_and_sent_when_it_is_allowed() {
    let mut parent = Parent::start(|parent| parent).await;
    let key = || Key::new("one", "s").unwrap();
    parent.keys.insert(key().publish(["a"]).unwrap());
    let relay = Relay::open(&folder(), &parent);
    let one = relay.start("one");
    relay.publish("one", &["a", "b"], 0..100, 10);
    relay.publish("one", &["a", "b"], 100..200, 10);
    parent.receive(100).await;
    assert_eq!(parent.received, lines("one", &["a", "b"], (0..200).step_by(2)));
    let kept = one.until(|figures| figures.held.first().is_some_and(|held| held.messages == 100)).await;
    assert_eq!((&*kept.held[0].channel, kept.delivered), ("b", 100));
    // It is tried all the time, and outlives the relay.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    parent.rests().await;
    let folder = relay.kill(vec![one]);
    let relay = Relay::open(&folder, &parent);
    let one = relay.start("one");
    one.until(|figures| figures.held.first().is_some_and(|held| held.messages == 100)).await;
    parent.keys.insert(key().publish(["a", "b"]).unwrap());
    parent.receive(200).await;
    assert_eq!(parent.received[100..], lines("one", &["a", "b"], (1..200).step_by(2)));
    one.until(|figures| figures.held.is_empty()).await;
    relay.publish("one", &["a", "b"], 200..300, 10);
    parent.receive(300).await;
    assert_eq!(parent.received[200..], lines("one", &["a", "b"], 200..300));
    parent.rests().await;
    one.stop().await;
}

#[tokio::test]
async fn a_new_message_that_is_accepted_opens_its_channel_at_once() {
    let mut parent = Parent::start(|parent| parent).await;
    let key = || Key::new("one", "s").unwrap();
    parent.keys.insert(key().publish(["a"]).unwrap());
    let mut relay = Relay::open(&folder(), &parent);
    relay.settings.again = Duration::from_secs(3600);
    let one = relay.start("one");
    relay.publish("one", &["b"], 0..10, 10);
    one.until(|figures| figures.held.first().is_some_and(|held| held.messages == 10)).await;
    parent.keys.insert(key().publish(["a", "b"]).unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    relay.publish("one", &["b"], 10..12, 10);
    parent.receive(12).await;
    assert_eq!(parent.received, lines("one", &["b"], (10..12).chain(0..10)));
    one.until(|figures| figures.held.is_empty()).await;
    one.stop().await;
}

#[tokio::test]
async fn messages_that_are_denied_for_too_long_are_dropped_and_counted() {
    let parent = Parent::start(|parent| parent).await;
    parent.keys.insert(Key::new("one", "s").unwrap());
    let mut relay = Relay::open(&folder(), &parent);
    relay.settings.denied_for = Duration::from_secs(2);
    let one = relay.start("one");
    relay.publish("one", &["a", "b"], 0..10, 10);
    let figures = one.until(|figures| figures.refused.denied == 10).await;
    assert_eq!((figures.delivered, figures.lost), (0, 0));
    one.until(|figures| figures.held.is_empty()).await;
    one.stop().await;
}

#[tokio::test]
async fn a_message_that_is_longer_than_the_parent_takes_is_counted_and_holds_nothing_up() {
    let mut parent = Parent::start(|parent| parent.max_message(5000)).await;
    let relay = Relay::open(&folder(), &parent);
    let one = relay.start("one");
    relay.publish("one", &["a"], 0..5, 10);
    relay.publish("one", &["a"], 5..7, 6000);
    relay.publish("one", &["a"], 7..10, 10);
    parent.receive(8).await;
    assert_eq!(parent.received, lines("one", &["a"], (0..5).chain(7..10)));
    let figures = one.until(|figures| figures.delivered == 8).await;
    assert_eq!(figures.refused.too_long, 2);
    one.stop().await;
}

/// Stores the cursor of a journal's first epoch, all of whose messages are of one ident.
async fn set_cursor(relay: &Relay, number: u64) {
    let row = [1, number, number].map(u64::to_be_bytes).concat();
    relay.table.put(CURSORS, b"one", Some(row.into()));
    relay.table.commit().await.unwrap();
}

#[tokio::test]
async fn a_batch_that_was_decided_in_part_goes_on_behind_that_under_the_same_numbers() {
    let mut parent = Parent::start(|parent| parent).await;
    let relay = Relay::open(&folder(), &parent);
    relay.publish("one", &["a"], 0..100, 10);
    relay.store.journal.durable(relay.store.journal.last()).await.unwrap();
    set_cursor(&relay, 50).await;
    let one = relay.start("one");
    parent.receive(50).await;
    assert_eq!(parent.received, lines("one", &["a"], 50..100));
    one.until(|figures| figures.delivered == 50).await;
    // With the numbers that they had before: what the parent knows is not sent again from earlier on.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let folder = relay.kill(vec![one]);
    let relay = Relay::open(&folder, &parent);
    set_cursor(&relay, 20).await;
    let one = relay.start("one");
    parent.rests().await;
    let figures = one.until(|figures| figures.waiting == 0).await;
    assert_eq!(figures.delivered, 80, "by HELLO alone");
    one.stop().await;
}

#[tokio::test]
async fn messages_that_go_for_room_are_counted_and_the_rest_arrives() {
    let mut parent = Parent::start(|parent| parent).await;
    let folder = folder();
    let small =
        JournalOptions { max_bytes: 4 << 20, segment_bytes: 1 << 20, ring_bytes: 1 << 16, ..JournalOptions::default() };
    let relay = Relay::with(&folder, &parent, small);
    // No uplink hands them on yet, and there is room for a part.
    for number in 0..100 {
        relay.publish("one", &["a"], number..number + 1, 100_000);
        relay.store.journal.durable(relay.store.journal.last()).await.unwrap();
    }
    // The uplink has been there when they came.
    set_cursor(&relay, 0).await;
    let one = relay.start("one");
    let figures = one.until(|figures| figures.lost > 0 && figures.waiting == 0).await;
    assert_eq!(figures.lost + figures.delivered, 100, "{figures:?}");
    assert!((50..100).contains(&figures.lost), "{figures:?}");
    let delivered = usize::try_from(figures.delivered).unwrap();
    parent.receive(delivered).await;
    assert_eq!(parent.received, lines("one", &["a"], u32::try_from(figures.lost).unwrap()..100));
    // Numbers behind the gap are those of nothing else, also after a kill.
    let folder = relay.kill(vec![one]);
    let relay = Relay::open(&folder, &parent);
    let one = relay.start("one");
    relay.publish("one", &["a"], 100..110, 10);
    parent.receive(delivered + 10).await;
    assert_eq!(parent.received[delivered..], lines("one", &["a"], 100..110));
    parent.rests().await;
    one.stop().await;
}

#[tokio::test]
async fn copies_of_a_relay_send_what_they_have_in_common_once_and_nothing_of_theirs_is_taken_for_it() {
    let mut parent = Parent::start(|parent| parent).await;
    let folder = folder();
    let relay = Relay::open(&folder, &parent);
    relay.publish("one", &["a"], 0..50, 100);
    relay.store.journal.durable(relay.store.journal.last()).await.unwrap();
    // The stream of that epoch has its name: some of it is sent.
    let one = relay.start("one");
    parent.receive(50).await;
    one.until(|figures| figures.delivered == 50).await;
    relay.table.commit().await.unwrap();
    let (first, second) = (relay.copy(), relay.kill(vec![one]));
    for (folder, from) in [(first, 50), (second, 60)] {
        let relay = Relay::open(&folder, &parent);
        let one = relay.start("one");
        relay.publish("one", &["a"], from..from + 10, 100);
        parent.receive(from as usize + 10).await;
        relay.kill(vec![one]);
    }
    assert_eq!(parent.received, lines("one", &["a"], 0..70));
    parent.rests().await;
}

#[tokio::test]
async fn a_rejected_key_holds_its_messages() {
    let mut parent = Parent::start(|parent| parent.auth_failure_delay(Duration::ZERO)).await;
    parent.keys.insert(Key::new("one", "other").unwrap().publish(["*"]).unwrap());
    let relay = Relay::open(&folder(), &parent);
    let one = relay.start("one");
    relay.publish("one", &["a"], 0..10, 10);
    let figures = one.until(|figures| figures.state == LinkState::Rejected).await;
    assert!(figures.fault.is_some_and(|fault| fault.contains("Authentication failed for one")));
    parent.keys.insert(Key::new("one", "s").unwrap().publish(["*"]).unwrap());
    parent.receive(10).await;
    one.until(|figures| figures.state == LinkState::Connected(Some(Level::ROUTED))).await;
    one.stop().await;
}

#[tokio::test]
async fn a_parent_that_leads_back_here_gets_nothing() {
    let mut parent = Parent::start(|parent| parent).await;
    let mut relay = Relay::open(&folder(), &parent);
    relay.settings.node = parent.broker.node();
    let one = relay.start("one");
    relay.publish("one", &["a"], 0..10, 10);
    one.until(|figures| figures.state == LinkState::Loop).await;
    parent.rests().await;
    one.stop().await;
    relay.settings.node = NodeId::new([1; 16]);
    let one = relay.start("one");
    parent.receive(10).await;
    one.stop().await;
}

#[tokio::test]
async fn a_stream_that_the_parent_knows_from_elsewhere_gives_way_to_a_new_one() {
    let mut parent = Parent::start(|parent| parent).await;
    let (first, second) = (Relay::open(&folder(), &parent), Relay::open(&folder(), &parent));
    // Both have one name for what they send, as when a table was copied.
    let row = [&prefix(&"one".parse().unwrap())[..], &1_u64.to_be_bytes()].concat();
    for relay in [&first, &second] {
        relay.table.put(STREAMS, &row, Some(vec![9; 16].into()));
        relay.table.commit().await.unwrap();
    }
    let one = first.start("one");
    first.publish("one", &["a"], 0..100, 10);
    parent.receive(100).await;
    one.until(|figures| figures.delivered == 100).await;
    one.stop().await;
    let one = second.start("one");
    second.publish("one", &["a"], 100..110, 10);
    parent.receive(110).await;
    assert_eq!(parent.received, lines("one", &["a"], 0..110), "nothing is taken for what the other one has sent");
    let figures = one.until(|figures| figures.delivered == 10).await;
    assert_eq!(figures.lost, 0);
    one.stop().await;
    let name = second.table.rows(STREAMS, &row).into_iter().map(|(_, name)| name.to_vec()).collect::<Vec<_>>();
    assert!(name.len() == 1 && name[0] != [9; 16], "{name:?}");
    parent.rests().await;
}

#[tokio::test]
async fn messages_above_the_share_at_the_parent_are_counted_and_not_sent_again() {
    let stored = tempfile::tempdir().unwrap();
    // The mailbox has no collector.
    let storing = |parent: crate::builder::BrokerBuilder| {
        parent.data_dir(stored.path()).mailbox("other=*").unwrap().journal_max_bytes(8 << 20)
    };
    let mut parent = Parent::start(storing).await;
    let relay = Relay::open(&folder(), &parent);
    // An account that is alone has no share.
    let two = relay.start("two");
    relay.publish("two", &["a"], 0..1, 10);
    two.until(|figures| figures.delivered == 1).await;
    let one = relay.start("one");
    for number in 0..80 {
        relay.publish("one", &["a"], number..number + 1, 100_000);
    }
    let figures = one.until(|figures| figures.delivered + figures.refused.share == 80).await;
    assert!((40..80).contains(&figures.delivered), "half of 8 MiB is for anybody: {figures:?}");
    assert_eq!((figures.lost, figures.refused.other, figures.refused.denied), (0, 0, 0));
    // All of them have come live, once.
    parent.receive(81).await;
    parent.received.sort_by_key(|line| line.split(' ').map(|word| word.parse().unwrap_or(0_u32)).sum::<u32>());
    let (one_alone, two_alone): (Vec<_>, Vec<_>) =
        parent.received.iter().cloned().partition(|line| line.starts_with("one"));
    assert_eq!((one_alone, two_alone), (lines("one", &["a"], 0..80), lines("two", &["a"], 0..1)));
    parent.rests().await;
    one.stop().await;
    two.stop().await;
}
