//! The sending half of a connection: what is queued goes to the socket, and what that means for the
//! figures.

use std::{
    io,
    task::{Context, Poll},
};

use super::state::{Connection, Phase};
use crate::client::queue::{in_flight::Written, unconfirmed::Keeping};

impl Connection<'_> {
    pub(super) fn send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if matches!(self.phase, Phase::HalfClosed) {
            return Ok(false);
        }
        let held = matches!(self.phase, Phase::Greeting { .. } | Phase::Proving { .. }) || self.hold.is_some();
        let mut sent = false;
        while self.reconnect.in_flight.has_next(held) || (!held && self.parting.is_none() && self.take_queued()) {
            match self.transport.poll_write(cx, &mut self.reconnect.in_flight, held) {
                Poll::Ready(written) => {
                    self.wrote(written?);
                    self.needs_flush = true;
                    sent = true;
                }
                Poll::Pending => return Ok(sent),
            }
        }
        if self.needs_flush {
            match self.transport.poll_flush(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => return Ok(sent),
            }
            self.needs_flush = false;
        }
        if matches!(self.phase, Phase::Closing) && !held {
            if let Poll::Ready(shut) = self.transport.poll_shutdown(cx) {
                shut?;
                self.phase = Phase::HalfClosed;
                sent = true;
            }
        }
        Ok(sent)
    }

    pub(super) fn wrote(&mut self, written: Written) {
        self.shared.outbox.release(written.room);
        if self.reconnect.in_flight.unconfirmed.keeping() == Keeping::Nothing {
            self.outcome.written.push(written.messages, written.published_bytes);
        }
        self.outcome.published |= written.published;
        if written.bytes > 0 {
            if let Some(life) = self.extension.as_mut().and_then(|extension| extension.life.as_mut()) {
                life.wrote();
            }
        }
        self.watch.wrote(written.bytes);
    }

    /// Takes messages that are queued. Subscriptions from before they were queued go out
    /// before them.
    fn take_queued(&mut self) -> bool {
        // Behind a message that this broker does not take, or behind what is on disk.
        if self.reconnect.in_flight.holds() || !self.reconnect.is_direct(self.shared) {
            return false;
        }
        let taken = self.shared.outbox.take(&mut self.reconnect.in_flight);
        if taken {
            self.follow_changes();
        }
        taken
    }
}
