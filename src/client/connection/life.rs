//! The signs of life and the window of a connection with the extension, as numbers.

use std::{pin::Pin, time::Duration};

use tokio::time::{Sleep, sleep};

use crate::wire::extension::Flags;

/// How often the session wants to hear something, in seconds.
pub(super) const HEARTBEAT: u16 = 10;

/// Time between two sweeps. One that comes late counts once: time in which the driver did not run
/// says nothing about the broker.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

/// So many sweeps in a row that find no byte are the death of the broker.
pub(super) const DEATH: u32 = 30;

/// So many sweeps in a row that find no byte, while something waits for its confirmation, are the
/// death of a broker that confirms and sends no heartbeats. It is longer than a broker waits for a
/// slow subscriber before it acknowledges.
pub(super) const UNCONFIRMED_DEATH: u32 = 120;

/// The part of the window after which the broker is told that it is taken.
pub(super) const TELL_AFTER: u64 = 4;

/// Counts sweeps without a sign of life, in both directions, and what was taken of the window.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "what was seen since the last sweep")]
pub(super) struct Life {
    pub(super) sweep: Pin<Box<Sleep>>,
    /// The broker sends something at least every [`HEARTBEAT`].
    beats: bool,
    /// It confirms messages.
    confirms: bool,
    /// In how many seconds at the latest the broker wants to hear something; 0 for never.
    interval: u16,
    /// Since the last sweep: something was read; something could have been read and was not;
    /// something was written.
    heard: bool,
    held: bool,
    wrote: bool,
    /// Sweeps in a row that heard nothing.
    silent: u32,
    /// The longest time, in seconds, that the last write may be ago.
    quiet: u32,
    pub(super) window: Option<Window>,
}

/// The window of one connection, in bytes of PUBLISH frames.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) size: u64,
    /// Received on this connection.
    pub(super) received: u64,
    /// Bytes that the receive queue had taken in before this connection.
    pub(super) before: u64,
    /// Received and not put into the queue: nobody will take it.
    pub(super) dropped: u64,
    /// Bytes that the broker was told of as taken.
    pub(super) told: u64,
}

impl Life {
    /// For what the broker has granted, if that takes a sweep.
    pub(super) fn new(granted: Flags, interval: u16, window: u32, before: u64) -> Option<Self> {
        let (beats, confirms) = (granted.contains(Flags::HEARTBEAT), granted.contains(Flags::CONFIRM));
        let window = granted.contains(Flags::WINDOW).then(|| Window {
            size: window.into(),
            received: 0,
            before,
            dropped: 0,
            told: 0,
        });
        (beats || confirms || window.is_some()).then(|| Self {
            sweep: Box::pin(sleep(SWEEP)),
            beats,
            confirms,
            interval: if beats { interval } else { 0 },
            heard: false,
            held: false,
            wrote: false,
            silent: 0,
            quiet: 0,
            window,
        })
    }

    /// Something was read.
    pub(super) fn heard(&mut self) {
        self.heard = true;
    }

    /// Something was written.
    pub(super) fn wrote(&mut self) {
        self.wrote = true;
    }

    /// Nothing is read just now, as the program takes nothing.
    pub(super) fn held(&mut self) {
        self.held = true;
    }

    /// Whether the broker sends no more than the window.
    pub(super) fn has_window(&self) -> bool {
        self.window.is_some()
    }

    /// The sweep; something may wait for its confirmation. For how many seconds nothing was heard,
    /// when the broker must be taken for dead.
    pub(super) fn sweep(&mut self, waits: bool) -> Option<u32> {
        let (heard, held) = (std::mem::take(&mut self.heard), std::mem::take(&mut self.held));
        // Without heartbeats it need not say anything unless it is to confirm something.
        if heard || !self.beats && !waits {
            self.silent = 0;
        } else if !held {
            self.silent += 1;
        }
        // A write since the last sweep may be as old as that.
        self.quiet = if std::mem::take(&mut self.wrote) { 1 } else { self.quiet + 1 };
        let death = if self.beats { Some(DEATH) } else { self.confirms.then_some(UNCONFIRMED_DEATH) };
        death.filter(|death| self.silent >= *death)
    }

    /// Whether the broker would wait too long if nothing were sent before the next sweep.
    pub(super) fn beat_due(&self) -> bool {
        self.interval > 0 && self.quiet + 1 >= u32::from(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn death_is_thirty_sweeps_that_could_have_heard_something() {
        let mut life = Life::new(Flags::HEARTBEAT, 5, 0, 0).expect("it is granted");
        for round in 0..3 {
            for sweep in 1..DEATH {
                assert_eq!(life.sweep(true), None, "sweep {sweep} of round {round}");
            }
            // Not reading, it cannot know.
            life.held();
            assert_eq!(life.sweep(true), None);
            if round < 2 {
                life.heard();
                assert_eq!(life.sweep(true), None);
            }
        }
        assert_eq!(life.sweep(false), Some(30));
        assert!(Life::new(Flags::REPLIES, 5, 0, 0).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn without_heartbeats_death_is_two_minutes_in_which_something_waits_for_its_confirmation() {
        let mut life = Life::new(Flags::CONFIRM, 0, 0, 0).expect("it is granted");
        for _ in 0..10 {
            for _ in 1..UNCONFIRMED_DEATH {
                assert_eq!(life.sweep(true), None);
            }
            assert_eq!(life.sweep(false), None, "everything is confirmed");
        }
        for _ in 1..UNCONFIRMED_DEATH {
            assert_eq!(life.sweep(true), None);
        }
        assert_eq!(life.sweep(true), Some(120));
        let mut window = Life::new(Flags::WINDOW, 0, 1000, 0).expect("it is granted");
        assert!((0..1000).all(|_| window.sweep(true).is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_is_due_before_the_broker_misses_it() {
        for interval in [1, 2, 5, 30] {
            let mut life = Life::new(Flags::HEARTBEAT, interval, 0, 0).expect("it is granted");
            let mut quiet = 0;
            while !life.beat_due() {
                quiet += 1;
                life.sweep(false);
            }
            assert_eq!(quiet, u32::from(interval) - 1);
            life.wrote();
            life.sweep(false);
            assert_eq!(life.beat_due(), interval <= 2);
        }
        let mut never = Life::new(Flags::HEARTBEAT, 0, 0, 0).expect("it is granted");
        for _ in 0..1000 {
            never.sweep(false);
            assert!(!never.beat_due());
        }
    }
}
