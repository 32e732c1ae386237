//! Parents without the extension, which confirm by their end of stream.

use std::{collections::BTreeSet, sync::Arc};

use super::world::{Parent, Relay, lines};
use crate::{auth::key::Key, relay::figures::LinkState};

#[tokio::test]
async fn a_parent_without_the_extension_gets_everything_once_when_all_goes_well() {
    let mut parent = Parent::start(|parent| parent.extensions(false)).await;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    for life in 0..3 {
        let relay = Relay::open(&folder, &parent);
        let one = relay.start("one");
        relay.publish("one", &["a"], life * 100..life * 100 + 100, 500);
        let figures = one.until(|figures| figures.delivered == 100).await;
        assert_eq!((figures.state, figures.lost), (LinkState::Connected(None), 0));
        parent.receive(life as usize * 100 + 100).await;
        one.stop().await;
        assert!(relay.store.close());
    }
    assert_eq!(parent.received, lines("one", &["a"], 0..300));
    parent.rests().await;
}

#[tokio::test]
async fn a_parent_without_the_extension_is_spared_denied_channels_and_long_messages() {
    let mut parent = Parent::start(|parent| parent.extensions(false)).await;
    let key = || Key::new("one", "s").unwrap();
    parent.keys.insert(key().publish(["a"]).unwrap());
    let relay = Relay::open(&Arc::new(tempfile::tempdir().unwrap()), &parent);
    let one = relay.start("one");
    relay.publish("one", &["a"], 0..10, 10);
    relay.publish("one", &["b"], 10..15, 10);
    relay.publish("one", &["a"], 15..16, 2000);
    relay.publish("one", &["a"], 16..20, 10);
    let figures =
        one.until(|figures| figures.delivered >= 14 && figures.held.iter().any(|held| held.messages == 5)).await;
    assert_eq!(figures.refused.too_long, 1);
    parent.keys.insert(key().publish(["a", "b"]).unwrap());
    one.until(|figures| figures.held.is_empty()).await;
    one.stop().await;
    // Messages before a denied one may come twice, as the parent does not confirm them.
    let expected = [lines("one", &["a"], (0..10).chain(16..20)), lines("one", &["b"], 10..15)].concat();
    let expected: BTreeSet<_> = expected.into_iter().collect();
    while parent.received.iter().collect::<BTreeSet<_>>().len() < expected.len() {
        parent.receive(parent.received.len() + 1).await;
    }
    assert_eq!(parent.received.iter().cloned().collect::<BTreeSet<_>>(), expected);
}
