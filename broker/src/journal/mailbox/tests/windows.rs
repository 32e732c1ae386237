//! The window of collectors that acknowledge nothing, and the search for a message on which one
//! crashes: scenes in virtual time.

use std::time::Duration;

use hpfeeds::wire::extension::Position;

use crate::journal::mailbox::{
    probe::{Allowance, Probe},
    spec::Redeliver,
    window::{End, Window},
};

const KIB: u64 = 1024;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(number: u64) -> Position {
    Position::new(1, number)
}

/// Hands out and writes one message of a size, at a time.
fn send(window: &mut Window, number: u64, kib: u64, time: u64) {
    window.push(at(number), at(number), 1, 1, kib * KIB);
    window.wrote(kib * KIB, seconds(time));
}

/// The last message that counts as delivered at the end.
fn finish(window: &mut Window, end: End, time: u64) -> u64 {
    let steps = window.finish(end, Redeliver::default(), seconds(time));
    steps.last().map_or(0, |step| step.upto.number)
}

#[test]
fn after_a_fin_what_is_younger_than_30_seconds_comes_again_and_the_newest_256_kib_in_any_case() {
    let filled = || {
        let mut window = Window::default();
        // A hundred KiB each second.
        for second in 1..=60 {
            send(&mut window, second, 100, second);
        }
        window
    };
    assert_eq!(finish(&mut filled(), End::Fin, 60), 30);
    assert_eq!(finish(&mut filled(), End::Fin, 61), 31);
    assert_eq!(finish(&mut filled(), End::Fin, 69), 39, "9 s without a write");
    assert_eq!(finish(&mut filled(), End::Fin, 70), 60, "10 s without a write");
    let mut slow = Window::default();
    for number in 1..=10 {
        send(&mut slow, number, 100, number * 40);
    }
    // At the last write 300 KiB are newer than the seventh.
    assert_eq!(finish(&mut slow, End::Fin, 401), 7);
}

#[test]
fn after_a_fin_with_bytes_that_are_not_written_quiet_proves_nothing() {
    let mut window = Window::default();
    for number in 1..=10 {
        send(&mut window, number, 100, number);
    }
    window.push(at(11), at(11), 1, 1, KIB);
    assert_eq!(finish(&mut window, End::Fin, 1000), 7, "the collector reads no more");
}

#[test]
fn a_fin_after_more_than_8_mib_in_30_seconds_brings_8_mib_again() {
    let mut window = Window::default();
    for number in 1..=200 {
        send(&mut window, number, 100, 1);
    }
    // 8,192 KiB are newer than the 118th, of 20,000.
    assert_eq!(finish(&mut window, End::Fin, 2), 118);
}

#[test]
fn after_any_other_end_the_newest_8_mib_come_again_whatever_their_age() {
    let mut window = Window::default();
    for number in 1..=100 {
        send(&mut window, number, 100, number);
    }
    assert_eq!(window.settle(Redeliver::default()).last().map(|step| step.upto.number), Some(18));
    assert_eq!(finish(&mut window, End::Broken, 10_000), 0, "18 were settled before");
    assert_eq!(window.messages(), 82);
}

#[test]
fn a_smaller_window_of_redelivery_still_has_what_the_kernel_may_hold() {
    let small = Redeliver { time: seconds(1), bytes: 10 };
    let mut window = Window::default();
    for number in 1..=10 {
        send(&mut window, number, 100, 1);
    }
    assert_eq!(window.finish(End::Broken, small, seconds(50)).last().unwrap().upto, at(7));
}

#[test]
fn a_long_window_of_small_messages_stays_small_and_gives_back_no_less() {
    let mut window = Window::default();
    for number in 1..=50_000 {
        window.push(at(number), at(number), 1, 1, 100);
        window.wrote(100, Duration::from_millis(number * 700));
    }
    assert!(format!("{window:?}").matches("Piece").count() <= 4096 + 1);
    assert_eq!(window.messages(), 50_000);
    let delivered = finish(&mut window, End::Fin, 35_001);
    let exact = 50_000 - 256 * KIB / 100;
    assert!(delivered <= exact && delivered + 200 > exact, "{delivered} of {exact}");
}

#[test]
fn what_is_acknowledged_leaves_the_window_in_the_order_in_which_it_was_handed_out() {
    let mut window = Window::default();
    window.push(at(500), at(509), 1, 10, 100);
    assert!(window.pass(at(600), 1));
    // A text that was attached later, and is behind.
    window.push(at(505), at(506), 2, 2, 20);
    let consumed = |window: &mut Window, number| {
        let steps = window.consumed(at(number));
        steps.map(|steps| steps.iter().map(|step| (step.upto.number, step.generation)).collect::<Vec<_>>())
    };
    assert_eq!(consumed(&mut window, 499), None);
    assert_eq!(consumed(&mut window, 505), Some(vec![(505, 1)]), "the first of the two");
    assert_eq!(consumed(&mut window, 501), None, "again");
    assert_eq!(consumed(&mut window, 509), Some(vec![(600, 1)]), "and what nobody wanted behind it");
    assert_eq!(consumed(&mut window, 509), None);
    assert_eq!(consumed(&mut window, 506), Some(vec![(506, 2)]));
    assert!(window.is_empty());
}

/// Serves a collector that crashes as soon as it has the message with the number `poison`, out of
/// `all`; returns how often until it is found.
fn search(poison: u64, all: u64) -> (u32, u64) {
    let (mut probe, mut now, mut crashes, mut handed) = (Probe::default(), seconds(0), 0, 0);
    while probe.suspect().is_none() {
        probe.begin();
        let mut next = 1;
        let is_crashed = loop {
            match probe.allowance(now) {
                Allowance::Until(time) => now = time,
                Allowance::All if next > all => break false,
                Allowance::Some(..) if next > all => now += seconds(5),
                allowance => {
                    let most = match allowance {
                        Allowance::Some(most, good) => most + good.number.saturating_sub(next - 1),
                        _ => 7,
                    };
                    let last = (next + most - 1).min(all);
                    probe.sent(at(next), at(last), now);
                    handed += last - next + 1;
                    next = last + 1;
                    if last >= poison {
                        break true;
                    }
                }
            }
        };
        assert!(is_crashed, "everything was handed out");
        probe.end(now + Duration::from_millis(1));
        crashes += 1;
        assert!(crashes < 60 && handed < 100 * all, "{crashes} crashes, {handed} messages");
    }
    assert_eq!(probe.suspect(), Some(at(poison)));
    (crashes, handed)
}

#[test]
fn the_message_on_which_a_collector_crashes_is_found_by_halves() {
    for all in [1, 2, 3, 10, 100, 1000] {
        for poison in [1, 2, 3, all / 3, all / 2, all - 1, all] {
            if (1..=all).contains(&poison) {
                let (crashes, _) = search(poison, all);
                assert!(crashes <= 14, "{crashes} crashes for {poison} of {all}");
            }
        }
    }
}

#[test]
fn sending_again_waits_for_a_second_and_then_twice_as_long_up_to_a_minute() {
    let (mut probe, mut now, mut waits) = (Probe::default(), seconds(0), Vec::new());
    for _ in 0..9 {
        probe.begin();
        if let Allowance::Until(time) = probe.allowance(now) {
            waits.push(time.saturating_sub(now).as_secs());
            now = time;
        }
        probe.sent(at(1), at(1), now);
        probe.end(now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!((probe.failures(), probe.crashes(), probe.suspect()), (9, 7, Some(at(1))));
    probe.begin();
    probe.progress();
    probe.end(now);
    assert_eq!((probe.failures(), probe.suspect()), (0, None), "it has come further");
}

#[test]
fn a_collector_that_lives_for_a_minute_or_gets_nothing_has_not_crashed() {
    let mut probe = Probe::default();
    for _ in 0..5 {
        probe.begin();
        probe.sent(at(1), at(9), seconds(0));
        probe.end(seconds(60));
        probe.begin();
        probe.end(seconds(0));
    }
    assert_eq!((probe.failures(), probe.allowance(seconds(0))), (0, Allowance::All));
}

#[test]
fn a_collector_that_is_well_again_gets_everything_at_once() {
    let mut probe = Probe::default();
    let mut now = seconds(0);
    for _ in 0..3 {
        probe.begin();
        probe.sent(at(1), at(100), now);
        probe.end(now);
        now += seconds(100);
    }
    probe.begin();
    assert_eq!(probe.allowance(now), Allowance::Some(50, Position::NONE));
    probe.sent(at(1), at(50), now);
    assert_eq!(probe.allowance(now), Allowance::Until(now + seconds(5)));
    now += seconds(5);
    assert_eq!(probe.allowance(now), Allowance::Some(50, at(50)));
    probe.sent(at(51), at(100), now);
    now += seconds(5);
    assert_eq!((probe.allowance(now), probe.failures()), (Allowance::All, 0));
}
