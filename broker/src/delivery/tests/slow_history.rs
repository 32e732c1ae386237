//! How long subscribers that do not read hold publishers up, all connections of one ident and
//! address together.

use super::*;
use crate::metrics::session::SessionMetrics;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// For how long slow subscribers are remembered.
const KEEP: Duration = Duration::from_secs(600);

/// A subscriber that was slow when its connection ended, and is back.
fn suspect(rules: Rules) -> Fixture {
    let mut f = fixture(rules);
    f.make_slow();
    let _ = f.enqueue(0);
    f.back()
}

impl Fixture {
    /// The connection breaks, and the same client connects again.
    fn back(self) -> Self {
        self.outbox.close(None);
        let now = self.now.max(Instant::now());
        Self { now, ..self.beside() }
    }

    /// Another connection of the same client.
    fn beside(&self) -> Self {
        let outbox = Outbox::new(SessionMetrics::for_test("sub"), ([127, 0, 0, 1], 9).into(), self.delivery.clone());
        Self { outbox, delivery: self.delivery.clone(), taken: VecDeque::new(), now: self.now }
    }

    /// A window in which publishers always have more and the subscriber takes so many batches,
    /// evenly.
    fn window(&mut self, batches: u32) {
        for _ in 0..batches {
            let _ = self.fill();
            self.write();
            self.pass(WINDOW / batches);
        }
        self.pass(WINDOW / 10);
        let _ = self.fill();
    }

    fn write_to_the_low_mark(&mut self) {
        while self.outbox.lock().queued > RULES.low_mark {
            self.write();
        }
    }

    /// Publishers have more for this time, and it takes nothing: for how long they wait. The clock
    /// that stands still goes on with it.
    async fn stop(&mut self, time: Duration) -> Duration {
        self.now = Instant::now();
        let (start, end) = (self.now, self.now + time);
        while let EnqueueOutcome::Wait(until) = self.fill() {
            tokio::time::advance(until.min(end) - self.now).await;
            self.now = Instant::now();
            if self.now == end {
                break;
            }
        }
        let waited = self.now - start;
        tokio::time::advance(end - self.now).await;
        self.now = end;
        waited
    }

    fn used(&self) -> Duration {
        self.delivery.slow_history.used(self.outbox.ident(), self.outbox.peer().ip(), self.now)
    }
}

#[test]
fn publishers_do_not_wait_for_a_reconnecting_slow_subscriber() {
    let f = suspect(RULES);
    assert_eq!(f.fill(), EnqueueOutcome::Refused);
    assert_eq!(f.outbox.lock().queued, RULES.high_mark);
    assert!(f.outbox.lock().deadline().is_some());
    // Others are waited for, also those of one network.
    let other = Outbox::new(SessionMetrics::for_test("other"), ([127, 0, 0, 1], 2).into(), f.delivery.clone());
    while let EnqueueOutcome::Queued { .. } = other.enqueue(&mut batch(0), || f.now) {}
    assert!(matches!(other.enqueue(&mut batch(0), || f.now), EnqueueOutcome::Wait(_)));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_reads_much_and_stops_again_and_again_holds_publishers_up_once() {
    let mut f = fixture(RULES);
    let start = f.now;
    let mut waited = Duration::ZERO;
    for _ in 0..30 {
        // Much more than the system takes for one that does not read.
        for _ in 0..=(20 << 20) / (COST - OVERHEAD) {
            let _ = f.enqueue(0);
            f.write();
        }
        waited += f.stop(WINDOW * 11 / 10).await;
        f = f.back();
    }
    assert_eq!(waited, WINDOW);
    // Ten minutes later it may do so again.
    tokio::time::advance(KEEP).await;
    assert_eq!(f.stop(2 * WINDOW).await, WINDOW);
    assert!(f.now < start + KEEP + 40 * WINDOW);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_stops_and_reads_on_without_reconnecting_holds_publishers_up_once() {
    let mut f = fixture(RULES);
    let mut waited = Duration::ZERO;
    for _ in 0..30 {
        waited += f.stop(WINDOW * 11 / 10).await;
        while f.outbox.lock().queued > 0 {
            f.write();
        }
    }
    assert_eq!(waited, WINDOW);
}

#[tokio::test(start_paused = true)]
async fn connections_that_were_open_before_hold_publishers_up_for_a_window_and_a_half_together() {
    // One after the other: until it has been found slow, or it leaves before that.
    for time in [WINDOW * 11 / 10, WINDOW * 9 / 10] {
        let first = fixture(RULES);
        let mut all = [first.beside(), first.beside(), first.beside(), first.beside(), first];
        let mut waited = Duration::ZERO;
        for f in &mut all {
            waited += f.stop(time).await;
            if time < WINDOW {
                f.outbox.close(None);
            }
        }
        // Connections that have done nothing yet get half a window together.
        assert_eq!(waited, WINDOW * 3 / 2, "{time:?}");
    }
}

#[test]
fn connections_that_stop_nearly_at_the_same_time_hold_publishers_up_together_once() {
    let mut f = fixture(RULES);
    let mut second = f.beside();
    let start = f.now;
    assert!(matches!(f.fill(), EnqueueOutcome::Wait(_)));
    second.pass(WINDOW * 9 / 10);
    let EnqueueOutcome::Wait(mut until) = second.fill() else { panic!("no wait") };
    f.pass(WINDOW);
    assert!(matches!(f.enqueue(0), EnqueueOutcome::Queued { .. }));
    while let EnqueueOutcome::Wait(later) = {
        second.now = until;
        second.fill()
    } {
        until = later;
    }
    assert!(second.now <= start + WINDOW + RULES.slice(), "{:?}", second.now - start);
    // Time that both have held somebody up counts once.
    assert_eq!(second.used(), second.now - start);
}

#[tokio::test(start_paused = true)]
async fn a_proven_subscriber_that_stops_is_found_slow_at_once_and_then_not_waited_for() {
    let mut f = fixture(RULES);
    let mut waited = f.stop(2 * WINDOW).await;
    assert_eq!(waited, WINDOW);
    for n in 1..=20 {
        for _ in 0..3 {
            for _ in 0..20 {
                let _ = f.fill();
                f.write();
                tokio::time::advance(WINDOW / 20).await;
                f.now = Instant::now();
            }
        }
        while f.outbox.lock().queued > 0 {
            f.write();
        }
        let more = f.stop(2 * WINDOW).await;
        assert_eq!(more, if n <= 2 { RULES.slice() } else { Duration::ZERO }, "{n}");
        waited += more;
    }
    assert_eq!(waited, WINDOW * 3 / 2);
}

#[tokio::test(start_paused = true)]
async fn a_healthy_consumer_with_bursts_is_waited_for_beside_one_that_does_not_read() {
    let mut healthy = fixture(RULES);
    let mut stuck = healthy.beside();
    // It has as many as publishers have in a burst, 20 batches in a window, and then nothing for a
    // while.
    let burst = async |healthy: &mut Fixture, windows: u32| {
        let mut waits = 0;
        for _ in 0..20 * windows {
            match healthy.fill() {
                EnqueueOutcome::Wait(_) => waits += 1,
                other => assert_eq!(other, EnqueueOutcome::Refused),
            }
            healthy.write();
            tokio::time::advance(WINDOW / 20).await;
            healthy.now = Instant::now();
        }
        while healthy.outbox.lock().queued > 0 {
            healthy.write();
        }
        tokio::time::advance(5 * WINDOW).await;
        healthy.now = Instant::now();
        waits
    };
    for _ in 0..4 {
        assert_eq!(burst(&mut healthy, 1).await, 20);
    }
    assert_eq!((healthy.used(), healthy.outbox.dropped()), (Duration::ZERO, 0));
    assert_eq!(stuck.stop(2 * WINDOW).await, WINDOW);
    stuck.outbox.close(None);
    // It has used up what there is for both.
    assert_eq!(healthy.used(), WINDOW);
    for _ in 0..4 {
        assert_eq!(burst(&mut healthy, 3).await, 60);
    }
    assert_eq!((healthy.used(), healthy.outbox.dropped()), (WINDOW, 0));
    // A new one has to show first that it reads: what it is sent meanwhile is queued.
    let mut new = healthy.beside();
    new.now = Instant::now();
    assert_eq!(new.fill(), EnqueueOutcome::Refused);
    assert_eq!(burst(&mut new, 2).await, 0);
    assert_eq!(burst(&mut new, 1).await, 20);
}

#[test]
fn bytes_in_socket_buffers_are_no_proof() {
    for pause in [WINDOW, 5 * WINDOW] {
        let mut f = suspect(RULES);
        for _ in 0..100 {
            let _ = f.fill();
            f.write();
        }
        // It does not read: the system takes nothing more.
        for _ in 0..5 {
            assert_eq!(f.fill(), EnqueueOutcome::Refused);
            f.pass(pause);
        }
    }
}

#[test]
fn publishers_wait_again_for_a_subscriber_that_reads_on() {
    let mut f = suspect(RULES);
    f.window(20);
    assert_eq!(f.outbox.lock().consumer(), ConsumerState::Slow);
    f.window(20);
    assert_eq!(f.outbox.lock().consumer(), ConsumerState::KeepingUp);
    assert_eq!(f.outbox.lock().deadline(), None);
    let before = f.stats().dropped;
    f.write_to_the_low_mark();
    assert!(matches!(f.fill(), EnqueueOutcome::Wait(_)));
    assert_eq!(f.stats().dropped, before);
}

#[test]
fn publishers_do_not_wait_for_a_subscriber_that_reads_less_than_the_floor_rate() {
    // 4,872 bytes each.
    let mut f = suspect(Rules { floor_rate: 10_000, ..RULES });
    for _ in 0..10 {
        f.window(2);
    }
    assert_eq!(f.outbox.lock().consumer(), ConsumerState::Slow);
}

#[test]
fn a_subscriber_that_reads_on_gets_more_time_at_its_high_mark() {
    let mut f = suspect(RULES);
    assert_eq!(f.fill(), EnqueueOutcome::Refused);
    let before = f.outbox.lock().deadline().unwrap();
    f.window(20);
    assert!(f.outbox.lock().deadline().unwrap() > before);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_does_not_read_to_the_end_begins_again() {
    const NEARLY_OVER: Duration = Duration::from_secs(9 * 60);
    for queued in [4, 2] {
        let f = suspect(RULES);
        tokio::time::advance(NEARLY_OVER).await;
        for _ in 0..queued {
            let _ = f.enqueue(0);
        }
        let f = f.back();
        assert_eq!(f.used(), WINDOW);
        tokio::time::advance(NEARLY_OVER).await;
        let used = if queued == 4 { WINDOW } else { Duration::ZERO };
        assert_eq!(f.back().used(), used, "{queued}");
    }
}

#[test]
fn a_rate_limit_is_no_proof() {
    let mut f = suspect(RULES);
    f.outbox.pause_for_rate_limit();
    let _ = f.fill();
    f.pass(WINDOW);
    f.outbox.resume();
    assert_eq!(f.fill(), EnqueueOutcome::Refused);
    assert_eq!(f.outbox.lock().consumer(), ConsumerState::Slow);
}

#[test]
fn a_subscriber_disconnected_for_being_slow_is_remembered() {
    let mut f = fixture(RULES);
    f.make_slow();
    assert_eq!(f.fill(), EnqueueOutcome::Refused);
    f.outbox.expire(&mut VecDeque::new(), 0, f.now);
    assert_eq!(f.back().fill(), EnqueueOutcome::Refused);
    // A subscriber that only had much to read when it went is not.
    let f = fixture(RULES);
    assert!(matches!(f.fill(), EnqueueOutcome::Wait(_)));
    assert!(matches!(f.back().fill(), EnqueueOutcome::Wait(_)));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_leaves_before_it_is_found_slow_is_charged() {
    let third = WINDOW / 3 + Duration::from_millis(1);
    // The floor rate, how long publishers wait each time, how much it takes meanwhile; and what
    // that costs.
    for (floor_rate, waited, taken, cost) in [
        (1000, third, 0, third),
        // It takes 14,572 bytes a second.
        (14_500, third, 1, Duration::ZERO),
        (14_700, third, 1, third),
        // Down to the low mark.
        (1000, 5 * third / 2, 1, Duration::ZERO),
        (14_700, 5 * third / 2, 1, 5 * third / 2),
        // No publisher can have waited so long.
        (1000, 2 * WINDOW, 0, Duration::ZERO),
    ] {
        let mut f = fixture(Rules { floor_rate, ..RULES });
        f.now = Instant::now();
        assert!(matches!(f.fill(), EnqueueOutcome::Wait(_)));
        for _ in 0..taken {
            f.write();
        }
        tokio::time::advance(waited).await;
        f = f.back();
        assert_eq!(f.used(), cost, "{floor_rate} {waited:?} {taken}");
    }
}

#[test]
fn an_empty_queue_that_took_too_long_is_charged() {
    let mut f = fixture(Rules { low_mark: 0, ..RULES });
    assert!(matches!(f.fill(), EnqueueOutcome::Wait(_)));
    f.pass(WINDOW * 9 / 10);
    f.write();
    assert_eq!(f.used(), Duration::ZERO);
    let mut f = fixture(Rules { low_mark: 0, floor_rate: 10_000, ..RULES });
    assert!(matches!(f.fill(), EnqueueOutcome::Wait(_)));
    f.pass(WINDOW * 9 / 10);
    f.write();
    assert_eq!(f.used(), WINDOW * 9 / 10);
}
