//! The sweep of a connection with the extension: once a second it looks for signs of life, gives
//! one, and tells the broker what is taken of its window.

use std::{io, task::Context};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{
    life::{Life, SWEEP, TELL_AFTER},
    state::{Connection, End, Phase},
};
use crate::wire::{
    FrameBatch, Opcode,
    extension::{ClientFrame, Position},
};

impl Connection<'_> {
    fn life(&mut self) -> Option<&mut Life> {
        self.extension.as_mut()?.life.as_mut()
    }

    /// Something was read.
    pub(super) fn heard(&mut self) {
        if let Some(life) = self.life() {
            life.heard();
        }
    }

    /// The most bytes that the receive queue may hold: twice its size and a message, as connections
    /// that break leave there what was in their windows.
    fn most(&self) -> usize {
        let largest = self.shared.config.limits.of(Opcode::Publish) as usize;
        self.shared.inbox.capacity().saturating_mul(2).saturating_add(largest)
    }

    /// The window that HELLO tells: what the receive queue has room for. When earlier connections
    /// have filled it, a quarter of it, and less and less of what it may hold at most; one message
    /// at a time always comes.
    pub(super) fn window(&self) -> u32 {
        let (held, capacity) = (self.shared.inbox.bytes(), self.shared.inbox.capacity());
        let least = capacity.min(self.most().saturating_sub(held)) / 4;
        let window = capacity.saturating_sub(held).max(least).max(1);
        u32::try_from(window).unwrap_or(u32::MAX)
    }

    /// Whether more may be read. With a window always, as an ACK may stand behind messages that
    /// nobody takes; and while HELLO waits for its answer, which stands before any message.
    pub(super) fn may_read(&mut self) -> bool {
        if matches!(self.phase, Phase::Greeting { .. }) {
            return true;
        }
        let room = self.shared.inbox.has_room();
        let Some(life) = self.life() else {
            return room;
        };
        if room || life.has_window() {
            return true;
        }
        life.held();
        false
    }

    /// Whether received messages are kept for the program. While closing, those that nobody reads
    /// are let go; on a connection that always reads, those above the most that may be held are
    /// passed over.
    pub(super) fn keeps(&self, batch: &[u8]) -> bool {
        if self.is_closing() {
            return self.shared.inbox.has_room();
        }
        let keeps = self.extension.is_none() || self.shared.inbox.bytes() < self.most();
        if !keeps {
            self.shared.overflow(FrameBatch::checked(batch).frames().count() as u64);
        }
        keeps
    }

    /// Messages were received, `len` bytes of frames, and are passed over or kept for the program.
    pub(super) fn received(&mut self, len: usize, kept: bool) -> Result<(), End> {
        let largest = u64::from(self.shared.config.limits.of(Opcode::Publish));
        let Some(window) = self.life().and_then(|life| life.window.as_mut()) else {
            return Ok(());
        };
        window.received += len as u64;
        if !kept {
            window.dropped += len as u64;
        }
        // A frame that is larger than the window comes alone.
        if window.received.saturating_sub(window.told) > window.size.max(largest) {
            let what = format!("it sent more than the window of {} bytes that it was given", window.size);
            return Err(self.unexpected(what));
        }
        Ok(())
    }

    /// Tells the broker what is taken, when that is a quarter of the window; `all` for what there is.
    /// Whether it has said something.
    pub(super) fn tell_taken(&mut self, all: bool) -> bool {
        let mut told = false;
        loop {
            let popped = self.shared.inbox.popped();
            let window = self.extension.as_mut().and_then(|extension| extension.life.as_mut()?.window.as_mut());
            let Some(window) = window else {
                return told;
            };
            let (taken, quarter) = (popped.saturating_sub(window.before) + window.dropped, window.size / TELL_AFTER);
            let more = taken.saturating_sub(window.told);
            let tell = more > 0 && (all || more >= quarter);
            if tell {
                window.told = taken;
            }
            // Here the driver is woken for the next quarter.
            let next = window.before + (window.told + quarter.max(1)).saturating_sub(window.dropped);
            self.shared.inbox.tell_at(next);
            told |= tell;
            if tell {
                self.push_frame(ClientFrame::Consumed { bytes: taken, position: Position::NONE, mailbox: "" });
            }
            // So much may have been taken before that was known.
            if self.shared.inbox.popped() < next {
                return told;
            }
        }
    }

    pub(super) fn push_frame(&mut self, frame: ClientFrame<'_>) {
        let mut bytes = BytesMut::new();
        // The names in it are ours.
        if let Err(error) = frame.encode(&mut bytes) {
            debug_assert!(false, "{error}");
        }
        self.reconnect.in_flight.push_control(bytes.freeze());
    }

    /// Looks, once a second, for signs of life; gives one; and tells what is taken.
    pub(super) fn poll_life(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        // After the end of our stream nothing is told any more, and the broker's end is near.
        if matches!(self.phase, Phase::HalfClosed) {
            return Ok(false);
        }
        let waits = self.reconnect.in_flight.unconfirmed.waiting().0 > 0;
        let Some(life) = self.life() else {
            return Ok(false);
        };
        let mut swept = false;
        if life.sweep.as_mut().poll(cx).is_ready() {
            swept = true;
            let dead = life.sweep(waits);
            life.sweep.as_mut().reset(Instant::now() + SWEEP);
            // It has just been set: this is for its waker.
            let _pending = life.sweep.as_mut().poll(cx);
            if let Some(seconds) = dead {
                self.transport.abort();
                let silence = format!("nothing was heard for {seconds} s");
                return Err(self.broken(io::Error::new(io::ErrorKind::TimedOut, silence)));
            }
            // Bytes that wait to be written will be one.
            if life.beat_due() && !self.reconnect.in_flight.has_next(false) {
                self.push_frame(ClientFrame::Heartbeat);
            }
        }
        let committed = self.shared.consumption.take_committed();
        let told = self.tell_taken(swept);
        if swept || committed || told {
            self.tell_processed();
        }
        Ok(swept)
    }
}
