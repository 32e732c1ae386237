//! Those that were slow before.

use super::*;

/// Somebody who was slow when its connection ended, and is back.
fn suspect(rules: Rules) -> Fixture {
    let mut f = fixture(rules);
    f.make_slow();
    let _ = f.offer(0);
    f.back()
}

impl Fixture {
    /// The connection breaks, and the same client connects again.
    fn back(self) -> Self {
        self.outbox.close(None);
        let outbox = Outbox::new(Session::for_test("sub"), ([127, 0, 0, 1], 9).into(), self.depot.clone());
        Self { outbox, depot: self.depot, taken: VecDeque::new(), now: Instant::now() }
    }

    fn is_on_probation(&self) -> bool {
        self.outbox.lock().trial.is_some()
    }

    /// A window in which publishers always have more and the subscriber takes so many runs, evenly.
    fn window(&mut self, runs: u32) {
        for _ in 0..runs {
            let _ = self.fill();
            self.write();
            self.pass(WINDOW / runs);
        }
        self.pass(WINDOW / 10);
        let _ = self.fill();
    }
}

#[test]
fn nobody_waits_for_one_that_was_slow_before() {
    let f = suspect(RULES);
    assert_eq!(f.fill(), Offer::Refused);
    assert_eq!(f.outbox.lock().queued, RULES.high_mark);
    assert!(f.outbox.lock().deadline.is_some());
    // Others are waited for, also those of one network.
    let other = Outbox::new(Session::for_test("other"), ([127, 0, 0, 1], 2).into(), f.depot.clone());
    while let Offer::Queued { .. } = other.offer(&mut run(0), || f.now) {}
    assert!(matches!(other.offer(&mut run(0), || f.now), Offer::Wait(_)));
}

#[test]
fn nobody_waits_for_those_that_one_that_is_slow_opens_beside_it() {
    let mut f = fixture(RULES);
    f.now = Instant::now();
    assert!(matches!(f.fill(), Offer::Wait(_)));
    let beside =
        |f: &Fixture| Outbox::new(Session::for_test("sub"), f.outbox.peer(), f.depot.clone()).lock().trial.is_some();
    assert!(!beside(&f));
    f.pass(WINDOW);
    let _ = f.offer(0);
    assert!(beside(&f));
}

#[test]
fn what_the_system_takes_at_once_does_not_count() {
    for pause in [WINDOW, 5 * WINDOW] {
        let mut f = suspect(RULES);
        for _ in 0..100 {
            let _ = f.fill();
            f.write();
        }
        // It does not read: the system takes nothing more.
        for _ in 0..5 {
            assert_eq!(f.fill(), Offer::Refused);
            f.pass(pause);
        }
        assert!(f.is_on_probation());
    }
}

#[test]
fn one_that_reads_on_is_waited_for_again() {
    let mut f = suspect(RULES);
    f.window(20);
    assert!(f.is_on_probation());
    f.window(20);
    assert!(!f.is_on_probation());
    assert_eq!(f.outbox.lock().pace, Pace::Healthy);
    assert_eq!(f.outbox.lock().deadline, None);
    let before = f.stats().dropped;
    while f.outbox.lock().queued > RULES.low_mark {
        f.write();
    }
    assert!(matches!(f.fill(), Offer::Wait(_)));
    assert_eq!(f.stats().dropped, before);
}

#[test]
fn one_that_reads_less_than_the_floor_rate_stays_on_probation() {
    // 4,872 bytes each.
    let mut f = suspect(Rules { floor_rate: 10_000, ..RULES });
    for _ in 0..10 {
        f.window(2);
    }
    assert!(f.is_on_probation());
}

#[test]
fn who_has_taken_more_than_the_system_holds_has_read() {
    let mut f = suspect(RULES);
    for _ in 0..=SYSTEM / (COST - OVERHEAD) {
        assert!(f.is_on_probation());
        // Always at the low mark at most.
        let _ = f.offer(0);
        f.write();
    }
    assert!(!f.is_on_probation());
    assert!(matches!(f.fill(), Offer::Wait(_)));
}

#[test]
fn a_minute_at_the_low_mark_at_most_is_enough() {
    let mut f = suspect(RULES);
    f.pass(CALM / 2);
    for _ in 0..3 {
        let _ = f.offer(0);
    }
    // More than that is queued, and then no longer.
    assert_eq!(f.offer(0), Offer::Queued { more: false });
    f.write();
    f.write();
    f.pass(CALM * 3 / 4);
    let _ = f.offer(0);
    assert_eq!(f.offer(0), Offer::Queued { more: false });
    assert!(f.is_on_probation());
    f.write();
    f.write();
    f.pass(CALM);
    assert!(matches!(f.fill(), Offer::Wait(_)));
    assert!(!f.is_on_probation());
}

#[tokio::test(start_paused = true)]
async fn who_has_much_queued_at_the_end_begins_again() {
    const NEARLY_OVER: Duration = Duration::from_secs(9 * 60);
    for queued in [3, 2] {
        let f = suspect(RULES);
        tokio::time::advance(NEARLY_OVER).await;
        for _ in 0..queued {
            let _ = f.offer(0);
        }
        let f = f.back();
        assert!(f.is_on_probation());
        tokio::time::advance(NEARLY_OVER).await;
        assert_eq!(f.back().is_on_probation(), queued == 3);
    }
}

#[test]
fn being_held_back_is_no_proof() {
    let mut f = suspect(RULES);
    f.outbox.hold();
    let _ = f.fill();
    f.pass(WINDOW);
    f.outbox.let_go();
    assert_eq!(f.outbox.lock().pace, Pace::Slow);
    assert_eq!(f.fill(), Offer::Refused);
    f.write();
    assert!(f.is_on_probation());
}

#[test]
fn one_that_was_disconnected_for_it_is_remembered() {
    let mut f = fixture(RULES);
    f.make_slow();
    assert_eq!(f.fill(), Offer::Refused);
    f.outbox.expire(&mut VecDeque::new(), 0, f.now);
    assert!(f.back().is_on_probation());
    // Who only had much to read when it went is not.
    let f = fixture(RULES);
    assert!(matches!(f.fill(), Offer::Wait(_)));
    assert!(!f.back().is_on_probation());
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_before_it_is_found_slow_is_remembered() {
    // The floor rate, how long publishers wait each time, how much it takes meanwhile, how much is left for it; and whether
    // nobody waits for it any more after the third time.
    let third = WINDOW / 3 + Duration::from_millis(1);
    for (floor_rate, waited, taken, rest, remembered) in [
        (1000, third, 0, 3, true),
        (1000, WINDOW / 4, 0, 3, false),
        // It takes 14,572 bytes a second.
        (14_500, third, 1, 3, false),
        (14_700, third, 1, 3, true),
        (1000, third, 0, 2, false),
        // Nobody can have waited so long.
        (1000, 2 * WINDOW, 0, 3, false),
    ] {
        let mut f = fixture(Rules { floor_rate, ..RULES });
        for _ in 0..3 {
            assert!(!f.is_on_probation());
            f.now = Instant::now();
            assert!(matches!(f.fill(), Offer::Wait(_)));
            for _ in 0..taken {
                f.write();
                let _ = f.fill();
            }
            tokio::time::advance(waited).await;
            while f.outbox.lock().queued > rest * COST {
                f.outbox.lock().queue.pop().unwrap();
                f.outbox.lock().queued -= COST;
            }
            f = f.back();
        }
        assert_eq!(f.is_on_probation(), remembered, "{floor_rate} {waited:?} {taken} {rest}");
    }
}
