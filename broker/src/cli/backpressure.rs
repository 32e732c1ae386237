//! Arguments about slow subscribers: marks, floor rate, policy.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::{parse_seconds, parse_size};
use crate::{builder::BrokerBuilder, delivery::policy::SlowPolicy};

#[derive(Debug, Args)]
#[command(next_help_heading = "Slow subscribers")]
pub(crate) struct Backpressure {
    /// Publishers wait while a subscriber that keeps up has more than this queued
    ///
    /// TCP then slows them down, and nothing is lost.
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_size)]
    low_mark: usize,

    /// A subscriber that drains less than this in a second is slow
    ///
    /// The rate is measured while more than --low-mark is queued, over three seconds at 64k. No
    /// publisher waits for a slow subscriber.
    #[arg(long, value_name = "SIZE", default_value = "64k", value_parser = parse_size)]
    floor_rate: usize,

    /// The most that is queued for a slow subscriber [default: 50 times --max-message]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    high_mark: Option<usize>,

    /// The policy for a slow subscriber at --high-mark
    ///
    /// disconnect: its new messages are dropped, and it is disconnected after --slow-deadline, as
    /// by the Python broker. drop-oldest: its oldest messages are dropped, and it stays connected.
    #[arg(long, value_name = "POLICY", default_value = "disconnect")]
    slow_policy: Policy,

    /// The time that a slow subscriber has to recover
    ///
    /// A subscriber has recovered when less than --low-mark is queued for it, or it drains
    /// --floor-rate again.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    slow_deadline: Duration,

    /// The most that is queued for all subscribers together
    ///
    /// At this bound the marks of every subscriber count as reached.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    max_buffered: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    Disconnect,
    DropOldest,
}

impl Backpressure {
    pub(crate) fn apply(&self, mut builder: BrokerBuilder) -> BrokerBuilder {
        if let Some(high_mark) = self.high_mark {
            builder = builder.high_mark(high_mark);
        }
        builder
            .low_mark(self.low_mark)
            .floor_rate(self.floor_rate)
            .slow_policy(match self.slow_policy {
                Policy::Disconnect => SlowPolicy::Disconnect,
                Policy::DropOldest => SlowPolicy::DropOldest,
            })
            .slow_deadline(self.slow_deadline)
            .max_buffered(self.max_buffered)
    }
}
