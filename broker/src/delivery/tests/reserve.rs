//! All outboxes together keep to their bound, and those that read get their messages all the same.

use std::{
    collections::VecDeque,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;

use super::*;
use crate::{delivery::state::Room, metrics::session::SessionMetrics};

/// Room for two batches, and for two more in the reserve.
const TIGHT: Rules = Rules { max_buffered: 2 * COST, reserve: 2 * COST, ..RULES };

/// Another subscriber of the same broker, of an ident and address of its own.
fn another(f: &Fixture, number: u8) -> Fixture {
    let ident = format!("other{number}");
    let outbox = Outbox::new(SessionMetrics::for_test(&ident), ([127, 0, 1, number], 1).into(), f.delivery.clone());
    Fixture { outbox, delivery: f.delivery.clone(), taken: VecDeque::new(), now: f.now }
}

/// As many as there is room for, each with one batch that it does not read.
fn stuck(f: &Fixture) -> Vec<Fixture> {
    let all: Vec<_> = (0..4).map(|number| another(f, number)).collect();
    for (n, one) in all.iter().enumerate() {
        assert_eq!(one.enqueue(0), EnqueueOutcome::Queued { more: n < 2 }, "{n}");
    }
    assert_eq!(f.buffered(), 4 * COST);
    all
}

#[test]
fn many_stuck_subscribers_with_one_batch_each_keep_to_the_bound() {
    let f = fixture(TIGHT);
    let _stuck = stuck(&f);
    for number in 10..200 {
        assert!(matches!(another(&f, number).enqueue(1), EnqueueOutcome::Wait(until) if until > f.now));
    }
    assert_eq!((f.buffered(), f.stats().dropped), (4 * COST, 0));
}

#[test]
fn a_stuck_loan_is_called_in_after_a_window_and_a_healthy_subscriber_gets_its_batch() {
    let mut f = fixture(TIGHT);
    let mut stuck = stuck(&f);
    f.pass(WINDOW / 2);
    assert!(matches!(f.enqueue(1), EnqueueOutcome::Wait(_)));
    assert!(stuck.iter().all(|one| !one.outbox.is_called_in()), "a window is not over");
    f.pass(WINDOW / 2);
    assert!(matches!(f.enqueue(1), EnqueueOutcome::Wait(_)));
    // Subscribers within the bound owe nothing.
    assert_eq!(stuck.iter().map(|one| one.outbox.is_called_in()).collect::<Vec<_>>(), [false, false, true, true]);
    let waker = noop_waker();
    let deadline = |one: &Fixture| one.outbox.poll_deadline(&mut Context::from_waker(&waker), &mut None);
    assert!(deadline(&stuck[1]).is_pending() && deadline(&stuck[2]).is_ready());
    for one in &mut stuck[2..] {
        one.outbox.expire(&mut one.taken, 0, f.now);
        one.clear();
    }
    assert_eq!(f.enqueue(1), EnqueueOutcome::Queued { more: false });
    assert_eq!((f.buffered(), f.stats().dropped), (3 * COST, 4));
    // Publishers do not wait for other connections of its ident and address, also if these were
    // open before: a batch that has no room in half of the reserve is dropped.
    let open = another(&f, 2);
    open.outbox.lock().pressure().detector.state = ConsumerState::KeepingUp;
    assert_eq!(open.enqueue(1), EnqueueOutcome::Refused);
    assert_eq!(f.stats().dropped, 6);
    assert_eq!(f.write(), 1);
    assert_eq!(open.enqueue(1), EnqueueOutcome::Queued { more: false });
    assert_eq!(open.outbox.lend(&mut open.outbox.lock(), COST, f.now), Room::Exhausted);
}

#[test]
fn a_loan_that_is_paid_back_can_be_taken_again() {
    let mut f = fixture(TIGHT);
    let mut stuck = stuck(&f);
    stuck.truncate(2);
    for number in 0..100 {
        assert_eq!(f.enqueue(number), EnqueueOutcome::Queued { more: false });
        assert!(f.outbox.lock().loan().is_some());
        f.pass(2 * WINDOW);
        assert_eq!(f.write(), number);
        assert!(f.outbox.lock().loan().is_none());
    }
    // It is on the list once, whatever it has had; the others have gone.
    assert_eq!(f.delivery.borrowers.len(), 1);
    f.delivery.call_in(f.now);
    assert_eq!(f.delivery.borrowers.len(), 0);
}

#[test]
fn a_subscriber_that_drains_its_loan_at_the_floor_rate_keeps_it() {
    let mut f = fixture(TIGHT);
    let mut slow = stuck(&f).pop().unwrap();
    let _stuck = stuck_within_bound(&f);
    assert_eq!(slow.take(), Poll::Ready(true));
    for _ in 0..3 {
        slow.outbox.sent(1000, 0, || f.now);
        f.pass(WINDOW);
        f.delivery.call_in(f.now);
        assert!(!slow.outbox.is_called_in());
    }
    f.pass(WINDOW);
    f.delivery.call_in(f.now);
    assert!(slow.outbox.is_called_in());
}

/// Two subscribers that fill what all together may have.
fn stuck_within_bound(f: &Fixture) -> Vec<Fixture> {
    (20..22)
        .map(|number| {
            let one = another(f, number);
            let _ = one.enqueue(0);
            one
        })
        .collect()
}

#[test]
fn a_batch_longer_than_all_together_may_have_goes_alone() {
    let f = fixture(Rules { max_buffered: 0, reserve: 0, ..RULES });
    assert_eq!(f.enqueue(0), EnqueueOutcome::Queued { more: false });
    assert!(matches!(another(&f, 1).enqueue(0), EnqueueOutcome::Wait(_)));
    assert_eq!(f.buffered(), COST);
}

#[test]
fn a_slow_subscriber_gets_no_loan() {
    let f = fixture(TIGHT);
    let _stuck = stuck_within_bound(&f);
    let slow = another(&f, 9);
    slow.outbox.lock().pressure().detector.state = ConsumerState::Slow;
    assert_eq!(slow.outbox.lend(&mut slow.outbox.lock(), COST, f.now), Room::None);
}

#[test]
fn drop_oldest_drops_no_more_than_the_new_batch_needs() {
    let mut f = fixture(Rules { max_buffered: 8 * COST, policy: SlowPolicy::DropOldest, ..RULES });
    for number in 1..=5 {
        let _ = f.enqueue(number);
    }
    f.pass(WINDOW);
    // Others take what is left, and much more.
    f.delivery.buffered.fetch_add(6 * COST, Relaxed);
    let left = |f: &Fixture| f.outbox.lock().queue.iter().map(|batch| *batch.last().unwrap()).collect::<Vec<_>>();
    let before = left(&f);
    assert!(before.len() >= 3, "{before:?}");
    assert_eq!(f.enqueue(9), EnqueueOutcome::Queued { more: false });
    // As many as before: the oldest has gone, and the new one is there.
    assert_eq!(left(&f), [&before[1..], &[9]].concat());
    assert_eq!(f.stats().dropped, 2);
}

#[test]
fn a_borrower_that_has_gone_is_forgotten_although_the_reserve_is_never_used_up() {
    let f = fixture(TIGHT);
    let _stuck = stuck_within_bound(&f);
    let stays = another(&f, 0);
    assert_eq!(stays.enqueue(0), EnqueueOutcome::Queued { more: false });
    for number in 1..200 {
        let mut one = another(&f, number);
        assert_eq!(one.enqueue(1), EnqueueOutcome::Queued { more: false });
        one.write();
        drop(one);
        assert!(f.delivery.borrowers.len() <= 4, "{number}: {}", f.delivery.borrowers.len());
    }
}

#[test]
fn loans_are_looked_at_once_in_a_while_however_many_publishers_find_no_room() {
    let mut f = fixture(Rules { max_buffered: 0, reserve: 100 * COST, ..RULES });
    let all: Vec<_> = (0..100).map(|number| another(&f, number)).collect();
    for one in &all {
        assert_eq!(one.enqueue(0), EnqueueOutcome::Queued { more: false });
    }
    f.pass(WINDOW);
    let called_in = || all.iter().filter(|one| one.outbox.is_called_in()).count();
    for looks in 1..=3 {
        for _ in 0..100 {
            assert!(matches!(f.enqueue(1), EnqueueOutcome::Wait(_)));
        }
        assert_eq!(called_in(), 32 * looks);
        f.pass(Duration::from_millis(1));
    }
}

/// Its connection may take as long as a write may, or ends in time and comes again.
#[tokio::test(start_paused = true)]
async fn a_subscriber_that_leaves_with_a_loan_has_held_others_up() {
    let mut f = fixture(TIGHT);
    let _stuck = stuck_within_bound(&f);
    let used = |f: &Fixture| f.delivery.slow_history.used(f.outbox.ident(), f.outbox.peer().ip(), f.now);
    for part in 1..=2 {
        let one = another(&f, 1);
        assert_eq!(one.enqueue(1), EnqueueOutcome::Queued { more: false });
        one.outbox.close(None);
        f.pass(WINDOW / 2);
        tokio::time::advance(WINDOW / 2).await;
        one.outbox.abandon(&mut VecDeque::new(), 0);
        one.clear();
        one.outbox.abandon(&mut VecDeque::new(), 0);
        assert_eq!((used(&another(&f, 1)), f.buffered()), (part * WINDOW / 2, 2 * COST));
    }
    let closed = another(&f, 2);
    assert_eq!(closed.enqueue(1), EnqueueOutcome::Queued { more: false });
    closed.outbox.close(None);
    f.delivery.call_in(f.now);
    assert!(!closed.outbox.is_called_in());
    f.delivery.call_in(f.now + WINDOW);
    assert!(closed.outbox.is_called_in(), "its end is not waited for, either");
    closed.outbox.expire(&mut VecDeque::new(), 0, f.now);
    assert!(!closed.outbox.is_called_in(), "once is enough");
    assert_eq!(used(&closed), WINDOW);
}

#[test]
fn a_loan_that_was_dropped_is_not_called_in() {
    let mut f = fixture(Rules { policy: SlowPolicy::DropOldest, ..TIGHT });
    let mut stuck = stuck(&f);
    stuck.pop();
    f.outbox.pause_for_rate_limit();
    assert_eq!(f.enqueue(1), EnqueueOutcome::Queued { more: true });
    // One that is longer than what is dropped for it, and than what is left of the reserve.
    let long = Bytes::from([batch(2), batch(2), batch(2)].map(|batch| batch.to_vec()).concat());
    let offer = f.outbox.enqueue(&mut FrameBatch::new(long, 6, 0), || f.now);
    assert!(matches!(offer, EnqueueOutcome::Wait(_)));
    f.outbox.resume();
    f.pass(WINDOW);
    f.delivery.call_in(f.now);
    assert_eq!((f.buffered(), f.outbox.is_called_in(), stuck[2].outbox.is_called_in()), (3 * COST, false, true));
}

#[test]
fn drop_oldest_drops_nothing_for_a_batch_that_has_no_room_all_the_same() {
    // With others that fill the memory; and with most of the queue on its way already.
    for is_begun in [false, true] {
        let mut f = fixture(Rules { max_buffered: 4 * COST, policy: SlowPolicy::DropOldest, ..RULES });
        let taken = if is_begun { 3 } else { 0 };
        for number in 1..=taken {
            let _ = f.enqueue(number);
        }
        assert_eq!(f.take().is_ready(), is_begun);
        f.outbox.lock().pressure().detector.state = ConsumerState::Slow;
        assert!(matches!(f.enqueue(7), EnqueueOutcome::Queued { .. }));
        f.delivery.buffered.fetch_add((3 - usize::from(taken)) * COST, Relaxed);
        let long = Bytes::from([batch(2), batch(2)].map(|batch| batch.to_vec()).concat());
        assert_eq!(f.outbox.enqueue(&mut FrameBatch::new(long, 4, 0), || f.now), EnqueueOutcome::Refused);
        assert_eq!(f.stats().dropped, 4, "the new ones");
        // One that is not longer than what there is takes its place.
        assert_eq!(f.enqueue(8), EnqueueOutcome::Queued { more: false });
        assert_eq!(f.stats().dropped, 6);
        assert_eq!(f.outbox.lock().queue.iter().map(|batch| *batch.last().unwrap()).collect::<Vec<_>>(), [8]);
    }
}
