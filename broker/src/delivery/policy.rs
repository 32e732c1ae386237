//! Room in a queue that is full: what the policy for slow subscribers drops.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;
use tracing::warn;

use crate::delivery::{
    outbox::Outbox,
    slow_consumer::{ConsumerState, State},
    tally::Tally,
};

/// What happens to a subscriber that drains less than the floor rate once its outbox has reached the high mark.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowPolicy {
    /// New messages for it are dropped. When it has neither fallen below the low mark nor drained the floor rate again
    /// after [`slow_deadline`](crate::builder::BrokerBuilder::slow_deadline), it gets the ERROR `Backpressure deadline timer expired`
    /// and is disconnected, as the Python broker does.
    #[default]
    Disconnect,
    /// The oldest messages make room for new ones. It is never disconnected for being slow.
    DropOldest,
}

/// Whether there is room for a batch.
pub(super) enum Room {
    Enough,
    /// Not beside what is queued.
    None,
    /// Nothing is queued here, and too much in all together.
    Empty,
}

impl Outbox {
    /// Looks whether there is room for a batch, in the queue and in all together, which it would exceed by `excess`. Of a
    /// subscriber that publishers do not wait for, so much is dropped as the policy allows and the batch needs.
    pub(super) fn make_room(&self, state: &mut State, cost: usize, excess: usize, now: Instant) -> Room {
        let rules = &self.delivery.rules;
        let own = (state.queued + cost).saturating_sub(rules.high_mark);
        // What others have too much is not taken from this one: it gives as much as it gets.
        let needed = own.max(excess.min(cost));
        if state.queued == 0 {
            return if excess > 0 { Room::Empty } else { Room::Enough };
        }
        if needed == 0 {
            return Room::Enough;
        }
        match rules.policy {
            SlowPolicy::Disconnect => {
                if state.deadline.is_none() && state.consumer != ConsumerState::RateLimited {
                    state.deadline = Some(now + rules.deadline);
                    self.session.deadline();
                    // Now it has a deadline to wait for.
                    self.writer.wake();
                    warn!(ident = self.ident().as_str(), peer = %self.peer, queued = state.queued, deadline = ?rules.deadline,
                        "slow subscriber is at its high mark: its messages are dropped");
                }
                Room::None
            }
            SlowPolicy::DropOldest => {
                let before = state.queued;
                if !state.queue.holds(needed) {
                    // Nothing is dropped in vain: for a batch for which there is no room even then.
                    let is_begun = !state.queue.holds(before);
                    let others = self.delivery.buffered.load(Relaxed) > before;
                    if is_begun || (state.consumer == ConsumerState::Slow && others && excess > before) {
                        return Room::None;
                    }
                }
                while before - state.queued < needed
                    && let Some(oldest) = state.queue.pop()
                {
                    self.unqueue(state, oldest.frames.len(), 1);
                    self.drop_messages(state, &Tally::of(oldest.contents()), true, now);
                }
                match before - state.queued >= needed {
                    true => Room::Enough,
                    // It is longer than the queue may be, or than what others have left.
                    false if state.queued == 0 => {
                        if excess > before {
                            Room::Empty
                        } else {
                            Room::Enough
                        }
                    }
                    false => Room::None,
                }
            }
        }
    }
}
