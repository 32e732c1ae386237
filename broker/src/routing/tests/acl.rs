//! Access to channels: a connection gets what it wants as far as its key allows, and nothing twice.

use std::{collections::BTreeSet, sync::Arc};

use hpfeeds::wire::{Channel, Pattern};
use proptest::{prelude::*, sample::select};

use crate::{
    auth::key::Key,
    delivery::outbox::Outbox,
    routing::{
        patterns::{SubscriptionSet, allowed, covers, inside},
        router::{Router, TopicHandle},
        subscriptions::Subscriptions,
        topic::Subscribers,
    },
    util::property::cases,
};

/// The letters of names that show all that patterns can: nothing else has a meaning.
const LETTERS: [char; 3] = ['a', '.', '*'];

/// A channel or pattern of a few of these.
fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&LETTERS[..]), 1..6).prop_map(String::from_iter)
}

/// Every name of up to so many of these letters, and so every channel that texts of fewer can tell
/// apart.
fn names(longest: usize) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut start = 0;
    for _ in 0..longest {
        let end = names.len();
        for at in start..end {
            names.extend(LETTERS.iter().map(|letter| format!("{}{letter}", names[at])).collect::<Vec<_>>());
        }
        start = end;
    }
    names.split_off(1)
}

/// Whether a text stands for a channel, in the words of [`Pattern`](hpfeeds::wire::Pattern)'s
/// documentation.
fn stands_for(text: &str, channel: &str) -> bool {
    let below = |prefix: &str| channel.starts_with(prefix) && channel != prefix;
    text == "*"
        || text == channel
        || text.strip_suffix('*').is_some_and(|prefix| prefix.ends_with('.') && below(prefix))
}

fn channel(text: &str) -> Channel {
    text.parse().unwrap()
}

fn key(subscribe: &[String]) -> Key {
    Key::new("i", "s").unwrap().subscribe(subscribe).unwrap()
}

fn any(texts: &[String], channel: &str) -> bool {
    texts.iter().any(|text| stands_for(text, channel))
}

fn texts(most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 0..most)
}

#[derive(Debug, Clone)]
enum Step {
    Add(String),
    Remove(String),
    Rekey(Vec<String>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => text().prop_map(Step::Add),
        3 => text().prop_map(Step::Remove),
        1 => texts(5).prop_map(Step::Rekey),
    ]
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn pattern_matches_what_its_documentation_says(text in text()) {
        let pattern = Pattern::new(&text).unwrap();
        for name in names(6) {
            prop_assert_eq!(pattern.matches(&name), stands_for(&text, &name), "{} on {}", text, name);
        }
    }

    #[test]
    fn one_text_covers_another_if_it_has_all_of_its_channels(wider in text(), narrow in text()) {
        let mut all = names(6).into_iter().filter(|name| stands_for(&narrow, name));
        prop_assert_eq!(covers(&wider, &narrow), all.all(|name| stands_for(&wider, &name)));
        let mut both = names(6).into_iter().filter(|name| stands_for(&narrow, name) && stands_for(&wider, name));
        prop_assert_eq!(covers(&wider, &narrow) || covers(&narrow, &wider), both.next().is_some());
    }

    #[test]
    fn set_covers_each_channel_of_its_texts_once(texts in texts(8), removed in text()) {
        let mut cover: SubscriptionSet = texts.iter().map(|text| channel(text)).collect();
        for name in names(5) {
            let times = cover.iter().filter(|text| stands_for(text, &name)).count();
            prop_assert_eq!(times, usize::from(any(&texts, &name)), "{} of {:?}", name, cover);
        }
        let expected: Vec<_> = cover.iter().filter(|text| covers(&removed, text)).cloned().collect();
        prop_assert_eq!(cover.inside(&removed), expected);
        cover.remove(&removed);
        prop_assert!(cover.iter().all(|text| *text != *removed));
    }

    #[test]
    fn texts_inside_a_text_are_those_that_it_covers(texts in texts(8), wider in text()) {
        let map = texts.iter().map(|text| (channel(text), ())).collect();
        let found: BTreeSet<_> = inside(&map, &wider).cloned().collect();
        let expected: BTreeSet<_> = texts.iter().filter(|text| covers(&wider, text)).map(|text| channel(text)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn key_allows_the_intersection(wanted in text(), list in texts(5)) {
        let parts: Vec<_> = allowed(&key(&list), &channel(&wanted)).iter().map(ToString::to_string).collect();
        for name in names(5) {
            let expected = stands_for(&wanted, &name) && any(&list, &name);
            prop_assert_eq!(any(&parts, &name), expected, "{} of {:?}", name, parts);
        }
    }

    #[test]
    fn subscriber_gets_what_it_wants_and_may_once(list in texts(5), steps in prop::collection::vec(step(), 1..20)) {
        let router = Arc::new(Router::default());
        let outbox = Outbox::for_test();
        let mut subscriptions = Subscriptions::new(router.clone(), outbox.clone());
        let (mut list, mut wanted) = (list, BTreeSet::new());
        // Another subscriber, which may have everything and wants some of it.
        let mut second = Subscriptions::new(router.clone(), Outbox::for_test());
        let (everything, mut found) = (key(&["*".to_owned()]), Vec::<Subscribers>::new());
        // Some have been published to before, and their patterns looked up.
        let handles: Vec<_> = names(3).iter().step_by(2).map(|name| router.topic(&channel(name))).collect();
        for step in steps {
            match step {
                Step::Add(text) => {
                    let denied = !wanted.contains(&text) && names(6).iter().all(|name| !stands_for(&text, name) || !any(&list, name));
                    let added = subscriptions.add(channel(&text), &key(&list));
                    prop_assert_eq!(added.is_none(), denied, "{}", text);
                    if text.len() % 2 == 0 {
                        second.add(channel(&text), &everything);
                    }
                    if !denied {
                        wanted.insert(text);
                    }
                }
                Step::Remove(text) => {
                    subscriptions.remove(&text, &key(&list));
                    second.remove(&text, &everything);
                    wanted.remove(&text);
                }
                Step::Rekey(new) => {
                    list = new;
                    let denied = wanted.iter().find(|text| names(6).iter().all(|name| !stands_for(text, name) || !any(&list, name)));
                    let rekeyed = subscriptions.rekey(&key(&list));
                    prop_assert_eq!(rekeyed.err().map(|text| text.to_string()), denied.cloned());
                    if denied.is_some() {
                        // Its connection ends.
                        break;
                    }
                }
            }
            prop_assert_eq!(subscriptions.len(), wanted.len());
            // The subscribers found after the step before, and those found now.
            for again in [true, false] {
                for subscribers in &found {
                    for topic in handles.iter().filter(|topic| topic.is_known_to_have(subscribers)) {
                        prop_assert!(topic.subscribers().are(subscribers));
                    }
                }
                if again {
                    found = handles.iter().map(TopicHandle::subscribers).collect();
                }
            }
            for name in names(4) {
                let topic = router.topic(&channel(&name));
                let times = topic.subscribers().iter().filter(|other| Arc::ptr_eq(other, &outbox)).count();
                let wants = wanted.iter().any(|text| stands_for(text, &name));
                prop_assert_eq!(times, usize::from(wants && any(&list, &name)), "{} of {:?} and {:?}", name, wanted, list);
            }
        }
        drop((subscriptions, second, found));
        prop_assert!(handles.iter().all(|topic| topic.subscribers().is_empty()));
        drop(handles);
        prop_assert!(format!("{router:?}").contains("topics: 0"), "{:?}", router);
    }
}
