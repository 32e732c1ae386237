//! Slow-consumer detection: for how long publishers wait, and when a subscriber has recovered.

use std::time::Duration;

use super::*;

#[test]
fn publishers_wait_for_a_subscriber_that_drains_the_floor_rate() {
    let mut f = fixture(RULES);
    for _ in 0..10 {
        assert!(matches!(f.fill(), EnqueueOutcome::Wait(_)));
        // 4,872 bytes in 3 seconds are more than 1,000 in one, measured when somebody waits.
        f.write();
        f.pass(WINDOW);
        assert_ne!(f.enqueue(0), EnqueueOutcome::Refused);
    }
    assert_eq!(f.stats().dropped, 0);
    assert!(f.buffered() <= RULES.low_mark + COST);
}

#[test]
fn publishers_do_not_wait_for_a_subscriber_below_the_floor_rate() {
    let mut f = fixture(RULES);
    f.make_slow();
    for _ in 4..=10 {
        assert_eq!(f.enqueue(0), EnqueueOutcome::Queued { more: false });
    }
    assert_eq!(f.buffered(), RULES.high_mark);
    assert_eq!(f.enqueue(0), EnqueueOutcome::Refused);
    assert_eq!((f.stats().dropped, f.stats().delivered), (2, 20));
    // It is slow until it is at the low mark again.
    for _ in 0..7 {
        f.write();
        assert_eq!(f.outbox.lock().consumer(), ConsumerState::Slow);
    }
    f.write();
    assert_eq!(f.outbox.lock().consumer(), ConsumerState::KeepingUp);
    // Publishers have waited for it long enough.
    assert_eq!(f.fill(), EnqueueOutcome::Refused);
}

#[test]
fn publishers_wait_again_for_a_slow_subscriber_that_drains_the_floor_rate_again() {
    let mut f = fixture(RULES);
    f.make_slow();
    let _ = f.fill();
    assert!(f.outbox.lock().deadline().is_some());
    // 20 batches in a window are far above the floor. It never gets to the low mark, as publishers
    // always have more.
    let mut before = None;
    for round in 1..=100 {
        for _ in 0..20 {
            f.write();
            f.pass(WINDOW / 20);
            let _ = f.fill();
        }
        // The first window is what the system may take for one that does not read.
        if round == 1 {
            continue;
        }
        let now = f.stats().dropped;
        assert_eq!(*before.get_or_insert(now), now);
        let state = f.outbox.lock();
        assert_eq!((state.consumer(), state.deadline()), (ConsumerState::KeepingUp, None));
    }
    // And it is slow again when it stops: sooner, as publishers have waited for it in vain before.
    f.pass(RULES.slice());
    let _ = f.fill();
    assert_eq!(f.outbox.lock().consumer(), ConsumerState::Slow);
}

#[test]
fn a_slow_subscriber_recovers_without_publishers_as_well() {
    let mut f = fixture(RULES);
    f.make_slow();
    let _ = f.fill();
    for _ in 0..2 {
        assert_eq!(f.outbox.lock().consumer(), ConsumerState::Slow);
        f.pass(WINDOW);
        f.write();
    }
    assert_eq!(f.outbox.lock().consumer(), ConsumerState::KeepingUp);
    assert_eq!(f.outbox.lock().deadline(), None);
    assert!(f.buffered() > RULES.low_mark);
}

#[test]
fn a_slow_subscriber_below_the_floor_rate_stays_slow() {
    let mut f = fixture(RULES);
    f.make_slow();
    let _ = f.fill();
    let deadline = f.outbox.lock().deadline();
    for _ in 0..4 {
        f.pass(5 * WINDOW);
        f.write();
        assert_eq!(f.outbox.lock().consumer(), ConsumerState::Slow);
        let _ = f.fill();
    }
    assert!(deadline.is_some());
    assert_eq!(f.outbox.lock().deadline(), deadline);
}

#[test]
fn a_window_without_waiting_publishers_judges_no_subscriber() {
    let mut f = fixture(RULES);
    assert!(matches!(f.fill(), EnqueueOutcome::Wait(_)));
    f.write();
    f.pass(100 * WINDOW);
    assert_eq!(f.fill(), EnqueueOutcome::Wait(f.now + RULES.slice()));
    // An empty queue starts afresh, too.
    for _ in 0..3 {
        f.write();
    }
    f.pass(WINDOW);
    assert_eq!(f.fill(), EnqueueOutcome::Wait(f.now + RULES.slice()));
}

#[test]
fn at_the_high_mark_a_deadline_starts_and_recovery_ends_it() {
    let mut f = fixture(RULES);
    f.make_slow();
    let _ = f.fill();
    let deadline = f.now + RULES.deadline;
    assert_eq!(f.outbox.lock().deadline(), Some(deadline));
    // It is not put off.
    f.pass(WINDOW);
    assert_eq!(f.enqueue(0), EnqueueOutcome::Refused);
    assert_eq!(f.outbox.lock().deadline(), Some(deadline));
    for _ in 0..8 {
        f.write();
    }
    assert_eq!(f.outbox.lock().deadline(), None);
    assert!(matches!(f.enqueue(0), EnqueueOutcome::Queued { .. }));
}

#[test]
fn a_rate_limited_subscriber_is_not_waited_for_and_has_no_deadline() {
    let mut f = fixture(RULES);
    f.make_slow();
    while f.enqueue(0) != EnqueueOutcome::Refused {}
    assert!(f.outbox.lock().deadline().is_some());
    f.outbox.pause_for_rate_limit();
    f.pass(RULES.deadline);
    // At its high mark it loses messages, but is not slow.
    assert_eq!((f.enqueue(0), f.outbox.lock().deadline()), (EnqueueOutcome::Refused, None));
    f.write();
    assert_eq!(f.enqueue(0), EnqueueOutcome::Queued { more: true });
    // When the writer waits for it again, it is measured from then on, and what it was before is
    // long ago.
    f.pass(Duration::from_secs(600));
    f.outbox.resume();
    assert_eq!(f.enqueue(0), EnqueueOutcome::Wait(f.now + RULES.slice()));
    f.pass(WINDOW);
    assert_eq!(f.enqueue(0), EnqueueOutcome::Refused);
    assert!(f.outbox.lock().deadline().is_some());
}
