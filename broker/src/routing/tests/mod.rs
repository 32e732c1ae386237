use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use hpfeeds::wire::Channel;

use crate::{
    auth::key::Key,
    delivery::outbox::Outbox,
    routing::{
        patterns::covers,
        router::{Router, TopicHandle},
        subscriptions::Subscriptions,
        topic::Subscribers,
    },
};

mod acl;

fn channel(name: &str) -> Channel {
    name.parse().unwrap()
}

fn key(subchans: &[&str]) -> Key {
    Key::new("test", "s").unwrap().subscribe(subchans).unwrap()
}

fn subscriptions(router: &Arc<Router>) -> Subscriptions {
    Subscriptions::new(router.clone(), Outbox::for_test())
}

fn count(topic: &TopicHandle) -> usize {
    topic.subscribers().iter().count()
}

fn len(router: &Router) -> usize {
    router.lock().topics.len()
}

/// How often one of these would get a message on each channel.
fn deliveries(router: &Arc<Router>, mine: &Subscriptions, channels: &[&str]) -> Vec<usize> {
    let count = |name: &&str| {
        let topic = router.topic(&channel(name));
        topic.subscribers().iter().filter(|outbox| Arc::ptr_eq(outbox, mine.outbox())).count()
    };
    channels.iter().map(count).collect()
}

#[test]
fn channel_lives_as_long_as_it_is_used() {
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let publisher = router.topic(&channel("a"));
    let mut subscriber = subscriptions(&router);
    assert_eq!(subscriber.add(channel("a"), &all), Some(1));
    assert_eq!((len(&router), count(&publisher)), (1, 1));
    drop(subscriber);
    assert_eq!((len(&router), count(&publisher)), (1, 0));
    assert!(publisher.subscribers().is_empty());
    drop(publisher);
    assert_eq!(len(&router), 0);
}

#[test]
fn channels_have_the_same_subscribers_or_not() {
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let mut subscribers = [(); 3].map(|()| subscriptions(&router));
    for (subscriber, wanted) in [(0, "x.*"), (1, "a"), (1, "b"), (1, "x.b"), (2, "b")] {
        subscribers[subscriber].add(channel(wanted), &all).unwrap();
    }
    let topics = ["none", "nobody", "x.a", "x.c", "a", "b", "x.b"].map(|name| router.topic(&channel(name)));
    let subscribers = topics.each_ref().map(TopicHandle::subscribers);
    assert_eq!(subscribers.each_ref().map(Subscribers::len), [0, 0, 1, 1, 1, 2, 2]);
    for (one, first) in subscribers.iter().enumerate() {
        for (other, second) in subscribers.iter().enumerate() {
            let same = one / 2 == other / 2 && (one < 4 || one == other);
            assert_eq!(first.are(second), same, "{one} {other}");
        }
    }
}

#[test]
fn earlier_publisher_sees_later_subscribers() {
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let publisher = router.topic(&channel("a.b"));
    let mut each = ["a.b", "a.*", "*", "b", "b.*"].map(|wanted| {
        let mut subscriber = subscriptions(&router);
        subscriber.add(channel(wanted), &all).unwrap();
        Some(subscriber)
    });
    for (index, left) in [2, 1, 0, 0, 0].into_iter().enumerate() {
        each[index] = None;
        assert_eq!(count(&publisher), left);
    }
    assert_eq!((len(&router), router.lock().patterns.len()), (1, 0));
}

#[test]
fn connection_subscribes_once_to_a_channel() {
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let topic = router.topic(&channel("a"));
    let mut mine = subscriptions(&router);
    assert_eq!(mine.add(channel("a"), &all), Some(1));
    assert_eq!(mine.add(channel("a"), &all), Some(0));
    assert_eq!((count(&topic), mine.len()), (1, 1));
    assert_eq!([mine.remove("never", &all), mine.remove("a", &all), mine.remove("a", &all)], [0, 1, 0]);
    assert_eq!((count(&topic), mine.len()), (0, 0));
    mine.add(channel("a"), &all);
    mine.add(channel("b"), &all);
    drop(mine);
    assert_eq!((count(&topic), len(&router)), (0, 1));
}

#[test]
fn overlapping_subscriptions_deliver_once_and_stay_while_covered() {
    const CHANNELS: [&str; 6] = ["a", "a.", "a.b", "a.b.c", "x", "a.*"];
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let mut mine = subscriptions(&router);
    let steps: [(bool, &str, [usize; 6]); 11] = [
        (true, "a.b", [0, 0, 1, 0, 0, 0]),
        (true, "a.*", [0, 0, 1, 1, 0, 1]),
        (true, "a.b.*", [0, 0, 1, 1, 0, 1]),
        (true, "*", [1; 6]),
        (true, "x", [1; 6]),
        (false, "a.*", [1; 6]),
        (false, "*", [0, 0, 1, 1, 1, 0]),
        (false, "a.b", [0, 0, 0, 1, 1, 0]),
        (false, "*", [0, 0, 0, 1, 1, 0]),
        (false, "a.b.*", [0, 0, 0, 0, 1, 0]),
        (false, "x", [0; 6]),
    ];
    for (add, text, expected) in steps {
        if add {
            mine.add(channel(text), &all).unwrap();
        } else {
            mine.remove(text, &all);
        }
        assert_eq!(deliveries(&router, &mine, &CHANNELS), expected, "{add} {text}");
    }
    assert_eq!((mine.len(), len(&router), router.lock().patterns.len()), (0, 0, 0));
}

#[test]
fn pattern_brings_what_the_key_allows() {
    const CHANNELS: [&str; 5] = ["a.b", "a.c", "a.b.c", "x.y", "z"];
    let router = Arc::new(Router::default());
    let mut mine = subscriptions(&router);
    assert_eq!(mine.add(channel("b.*"), &key(&["a.*", "b"])), None);
    assert_eq!(mine.len(), 0);
    mine.add(channel("*"), &key(&["a.b", "x.*"])).unwrap();
    mine.add(channel("a.*"), &key(&["a.b", "x.*"])).unwrap();
    assert_eq!(deliveries(&router, &mine, &CHANNELS), [1, 0, 0, 1, 0]);
    assert_eq!(mine.rekey(&key(&["a.b.*", "a.c", "z"])), Ok(5));
    assert_eq!(deliveries(&router, &mine, &CHANNELS), [0, 1, 1, 0, 1]);
    assert_eq!(mine.rekey(&key(&["*"])), Ok(4));
    assert_eq!(deliveries(&router, &mine, &CHANNELS), [1; 5]);
    assert_eq!(mine.rekey(&key(&["x"])), Err(channel("a.*")));
    // Until the connection ends, which it does now, nothing changes.
    assert_eq!(deliveries(&router, &mine, &CHANNELS), [1; 5]);
}

/// A client that unsubscribes again and again has to yield to others.
#[test]
fn subscriptions_looked_at_to_unsubscribe_are_work_too() {
    let router = Arc::new(Router::default());
    let mut mine = subscriptions(&router);
    let all = key(&["*"]);
    for number in 0..100 {
        mine.add(channel(&format!("x.{number}")), &all).unwrap();
    }
    assert_eq!(mine.add(channel("x.*"), &all), Some(101));
    assert_eq!(mine.add(channel("*"), &all), Some(2));
    // Two lists change, but each of the others could have been one.
    assert_eq!(mine.remove("*", &all), 101 + 2);
}

/// All steps of some length, against the plain definition of what is delivered.
#[test]
fn subscriptions_are_what_their_definition_says() {
    const TEXTS: [&str; 6] = ["*", "a.*", "a.b.*", "a.b", "a.b.c", "a"];
    const KEYS: [&[&str]; 4] = [&["*"], &["a.b.*", "a"], &["a.*"], &["a.b", "a.*", "a.b.c"]];
    const CHANNELS: [&str; 6] = ["a", "a.b", "a.c", "a.b.c", "a.*", "c"];
    let router = Arc::new(Router::default());
    let mut random = 1_u64;
    for _ in 0..300 {
        let mut key = key(KEYS[0]);
        let mut mine = subscriptions(&router);
        let mut wanted = HashSet::new();
        for _ in 0..30 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let step = usize::try_from(random >> 33).unwrap();
            let text = TEXTS[step / 8 % TEXTS.len()];
            match step % 8 {
                0..4 if mine.add(channel(text), &key).is_some() => _ = wanted.insert(text),
                4..7 => {
                    mine.remove(text, &key);
                    wanted.remove(text);
                }
                7 => {
                    let other = self::key(KEYS[step / 8 % KEYS.len()]);
                    if mine.rekey(&other).is_ok() {
                        key = other;
                    }
                }
                _ => {}
            }
            let expected = CHANNELS.map(|channel| {
                usize::from(wanted.iter().any(|wanted| covers(wanted, channel)) && key.may_subscribe(channel))
            });
            assert_eq!(deliveries(&router, &mine, &CHANNELS), expected, "{wanted:?} {:?}", key.subchans);
        }
    }
    assert_eq!((len(&router), router.lock().patterns.len()), (0, 0));
}

#[test]
fn channels_by_the_hundred_thousand_come_and_go() {
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let mut mine = subscriptions(&router);
    for n in 0..100_000 {
        mine.add(channel(&format!("channel-{n}")), &all);
    }
    assert_eq!(len(&router), 100_000);
    // A pattern of another connection costs the same as without them.
    let mut other = subscriptions(&router);
    assert_eq!((other.add(channel("*"), &all), other.remove("*", &all)), (Some(1), 1));
    drop(mine);
    assert_eq!(len(&router), 0);
    assert!(router.lock().topics.capacity() <= 2048);
}

#[test]
fn patterns_by_the_thousand_need_no_list_for_each_channel() {
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let subscribers: Vec<_> = (0..1000)
        .map(|n| {
            let mut subscriber = subscriptions(&router);
            subscriber.add(channel(if n % 2 == 0 { "c.*" } else { "*" }), &all).unwrap();
            subscriber
        })
        .collect();
    let publishers: Vec<_> = (0..10_000).map(|n| router.topic(&channel(&format!("c.{n}")))).collect();
    assert!(publishers.iter().all(|handle| handle.topic.matching.load().lists.len() == 2));
    assert_eq!(count(&publishers[0]), 1000);
    drop(publishers);
    assert_eq!((len(&router), router.lock().patterns.len()), (0, 2));
    drop(subscribers);
    assert_eq!(router.lock().patterns.len(), 0);
}

#[test]
fn name_of_dots_is_resolved_too() {
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let dots = ".".repeat(255);
    let mut mine = subscriptions(&router);
    for n in 1..255 {
        mine.add(channel(&format!("{}*", ".".repeat(n))), &all).unwrap();
        assert_eq!(deliveries(&router, &mine, &[&dots]), [1]);
    }
    mine.remove(".*", &all);
    assert_eq!(deliveries(&router, &mine, &[&dots, "."]), [1, 0]);
}

/// Not a measurement of time: how many outboxes are held once more than before, while a publisher
/// still has the list as it was.
#[test]
fn subscription_copies_as_little_with_thousands_there_as_with_a_hundred() {
    for (text, there) in [("crowded", 100), ("crowded", 5_000), ("crowded", 20_000), ("*", 5_000)] {
        let (router, all) = (Arc::new(Router::default()), key(&["*"]));
        let topic = router.topic(&channel("crowded"));
        let subscribe = || {
            let mut mine = subscriptions(&router);
            mine.add(channel(text), &all).unwrap();
            mine
        };
        let mut crowd: Vec<_> = (0..there).map(|_| subscribe()).collect();
        let mut copied = |change: &mut dyn FnMut(&mut Vec<Subscriptions>)| {
            let outboxes: Vec<_> = crowd.iter().map(|mine| mine.outbox().clone()).collect();
            let before = topic.subscribers();
            let held: Vec<_> = outboxes.iter().map(Arc::strong_count).collect();
            change(&mut crowd);
            let now = outboxes.iter().zip(held).filter(|(outbox, held)| Arc::strong_count(outbox) > *held).count();
            drop(before);
            now
        };
        let most = 128;
        for n in [0, 1, 2] {
            let added = copied(&mut |crowd| crowd.push(subscribe()));
            let removed = copied(&mut |crowd| drop(crowd.remove(crowd.len() * n / 3)));
            assert!(added <= most && removed <= most, "{added} {removed} of {there} that subscribe to {text}");
        }
        assert_eq!(count(&topic), there);
    }
}

#[test]
fn subscribers_are_known_until_a_list_changes() {
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let topics = ["a", "b", "c"].map(|name| router.topic(&channel(name)));
    // Whether "b", and whether "c", is known to have the subscribers of "a".
    let known = || {
        let [first, others @ ..] = &topics;
        let subscribers = first.subscribers();
        let known = others.each_ref().map(|other| other.is_known_to_have(&subscribers));
        for (other, known) in others.iter().zip(known) {
            assert!(!known || other.subscribers().are(&subscribers));
        }
        known
    };
    let look = || topics.iter().for_each(|topic| drop(topic.subscribers()));
    let mut all_of_them = [(); 4].map(|()| subscriptions(&router));
    let [one, two, three, pattern] = &mut all_of_them;
    assert_eq!(known(), [false, false], "no list has been read");
    look();
    assert_eq!(known(), [true, true], "there are no subscribers");
    one.add(channel("a"), &all);
    one.add(channel("b"), &all);
    assert_eq!(known(), [false, false]);
    look();
    assert_eq!(known(), [true, false]);
    two.add(channel("b"), &all);
    two.add(channel("a"), &all);
    look();
    assert_eq!(known(), [true, false], "both have two");
    one.remove("a", &all);
    one.add(channel("a"), &all);
    look();
    assert_eq!(known(), [false, false], "the same two in another order");
    one.remove("b", &all);
    one.add(channel("b"), &all);
    for name in ["a", "b"] {
        three.add(channel(name), &all);
    }
    look();
    assert_eq!(known(), [false, false], "three are told apart by their list");
    assert!(topics[0].is_known_to_have(&topics[0].subscribers()));
    three.remove("a", &all);
    three.remove("b", &all);
    for name in ["a", "b"] {
        two.remove(name, &all);
    }
    pattern.add(channel("*"), &all);
    look();
    assert_eq!(known(), [true, false], "one by name and one by pattern");
    let subscribers = topics[2].subscribers();
    assert!(topics[2].is_known_to_have(&subscribers));
    pattern.add(channel("elsewhere"), &all);
    assert!(topics[2].is_known_to_have(&subscribers), "covered by its pattern: no list has changed");
    three.add(channel("elsewhere"), &all);
    assert!(!topics[2].is_known_to_have(&subscribers));
    look();
    assert!(topics[2].is_known_to_have(&subscribers), "they are as they were before");
    two.add(channel("a"), &all);
    look();
    assert!(!topics[0].is_known_to_have(&topics[0].subscribers()), "three in two lists");
    one.remove("a", &all);
    one.remove("b", &all);
    for more in [one, two, three] {
        more.add(channel("*"), &all);
    }
    look();
    assert_eq!(known(), [true, true], "four of one pattern");
}

/// Threads make and forget channels while others change their subscriptions, such that each is
/// always subscribed to one channel, through one text or another.
#[test]
fn threads_see_each_subscriber_exactly_once() {
    const STEPS: usize = 20_000;
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let done = AtomicBool::new(false);
    let mut subscribers: Vec<_> = (0..3).map(|_| subscriptions(&router)).collect();
    let outboxes: Vec<_> = subscribers.iter().map(|mine| mine.outbox().clone()).collect();
    for mine in &mut subscribers {
        mine.add(channel("a.*"), &all);
    }
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..3)
            .map(|n| {
                let (router, done, outboxes) = (&router, &done, &outboxes);
                scope.spawn(move || {
                    let kept = router.topic(&channel("a.b"));
                    while !done.load(Relaxed) {
                        let new = router.topic(&channel(&format!("a.{n}")));
                        assert_eq!(count(&new), 3, "a new channel");
                        let now: Vec<_> = kept.subscribers().iter().map(Arc::as_ptr).collect();
                        assert_eq!(now.len(), 3);
                        assert!(outboxes.iter().all(|outbox| now.contains(&Arc::as_ptr(outbox))));
                    }
                })
            })
            .collect();
        let changing: Vec<_> = subscribers
            .iter_mut()
            .map(|mine| {
                let all = &all;
                scope.spawn(move || {
                    for step in 0..STEPS {
                        match step % 5 {
                            0 => _ = mine.add(channel("*"), all),
                            1 => _ = mine.remove("a.*", all),
                            2 => _ = mine.add(channel("a.b"), all),
                            3 => _ = mine.add(channel("a.*"), all),
                            _ => _ = mine.remove("*", all),
                        }
                    }
                    // All of them want this at the end, whatever they wanted before.
                    mine.add(channel("a.*"), all);
                    mine.remove("*", all);
                })
            })
            .collect();
        for thread in changing {
            thread.join().unwrap();
        }
        done.store(true, Relaxed);
        for thread in publishers {
            thread.join().unwrap();
        }
    });
    for mine in &subscribers {
        assert_eq!(deliveries(&router, mine, &["a.b", "a.c", "b"]), [1, 1, 0]);
    }
    drop(subscribers);
    let state = router.lock();
    assert!(state.topics.is_empty() && state.patterns.is_empty());
}

/// At the end, every outbox is in the lists of its subscriptions and in no other.
#[test]
fn threads_that_come_and_go_leave_the_lists_as_they_should_be() {
    const TEXTS: [&str; 5] = ["*", "a.*", "a.b.*", "a.b", "a.b.c"];
    const CHANNELS: [&str; 4] = ["a.b", "a.b.c", "a.x", "y"];
    let (router, all) = (Arc::new(Router::default()), key(&["*"]));
    let kept: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4_usize)
            .map(|seed| {
                let (router, all) = (&router, &all);
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for step in 0..2_000 {
                        let mut mine = subscriptions(router);
                        let wanted = TEXTS[(step + seed) % TEXTS.len()];
                        mine.add(channel(wanted), all).unwrap();
                        let topic = router.topic(&channel(CHANNELS[(step * 7 + seed) % CHANNELS.len()]));
                        let seen = topic.subscribers().iter().filter(|one| Arc::ptr_eq(one, mine.outbox())).count();
                        assert_eq!(seen, usize::from(covers(wanted, &topic.topic.channel)));
                        if step % 100 == 0 {
                            kept.push((wanted, mine));
                        }
                    }
                    kept
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for name in CHANNELS {
        let topic = router.topic(&channel(name));
        assert_eq!(count(&topic), kept.iter().filter(|(wanted, _)| covers(wanted, name)).count(), "{name}");
    }
    for (wanted, mine) in &kept {
        let expected = CHANNELS.map(|name| usize::from(covers(wanted, name)));
        assert_eq!(deliveries(&router, mine, &CHANNELS), expected);
    }
    drop(kept);
    let state = router.lock();
    assert!(state.topics.is_empty() && state.patterns.is_empty());
}
