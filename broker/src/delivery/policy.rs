//! The policy for slow consumers, and the marks and rates at which it is applied.

use std::time::Duration;

/// The policy for a subscriber that drains less than the floor rate, once its outbox has reached
/// the high mark.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowPolicy {
    /// New messages for the subscriber are dropped. When it has neither fallen below the low mark
    /// nor drained the floor rate again after
    /// [`slow_deadline`](crate::builder::BrokerBuilder::slow_deadline), it gets the ERROR
    /// `Backpressure deadline timer expired` and is disconnected, as the Python broker does.
    #[default]
    Disconnect,
    /// The oldest messages make room for new ones. The subscriber is never disconnected for being
    /// slow.
    DropOldest,
}

/// Marks, rates and policy of every outbox. See [`BrokerBuilder`](crate::builder::BrokerBuilder).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Publishers wait while more is queued for a subscriber that keeps up, in bytes.
    pub(crate) low_mark: usize,
    /// The policy is applied when more would be queued, in bytes.
    pub(crate) high_mark: usize,
    /// A consumer that drains less is slow, in bytes a second.
    pub(crate) floor_rate: usize,
    /// The time over which the rate of a subscriber is measured.
    pub(crate) window: Duration,
    pub(crate) policy: SlowPolicy,
    /// The time from the high mark to the disconnection of a slow subscriber.
    pub(crate) deadline: Duration,
    /// The bound of all queues together, in bytes with overhead.
    pub(crate) max_buffered: usize,
    /// The bound of what may be queued beyond `max_buffered`, in bytes: see
    /// [`reserve`](super::reserve).
    pub(crate) reserve: usize,
}

impl Rules {
    /// How often a waiting publisher looks whether it has to wait on. Also how long publishers wait
    /// in vain for a subscriber that is proven to read, when no more of the allowance is left.
    pub(super) fn slice(&self) -> Duration {
        (self.window / 4).max(Duration::from_nanos(1))
    }

    /// For how long a subscriber has to drain the floor rate to prove that it reads. In the first
    /// window, the system fills its socket buffers at any rate.
    pub(super) fn proof(&self) -> Duration {
        2 * self.window
    }
}
