//! Parting: what a connection does when its broker shuts down, or can confirm messages in no other
//! way than by the end of its stream.

use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::sleep;

use super::state::{Connection, End, Parting, Phase};
use crate::client::{
    driver::{addresses, desired::Confirms, reconnect::Recent, wanted::Intent},
    error::{Cause, Error},
    queue::unconfirmed::Keeping,
};

/// How long a broker that shuts down may take to read the rest. No more than it gives itself by
/// default.
const PARTING: Duration = Duration::from_secs(10);

impl Connection<'_> {
    /// Ends our stream at the end of a frame. Everything else is for the next connection.
    pub(super) fn part(&mut self, cause: Option<Error>) {
        let written = self.reconnect.in_flight.part();
        self.wrote(written);
        self.parting = Some(Parting { cause, deadline: Box::pin(sleep(PARTING)) });
        self.phase = Phase::Closing;
    }

    /// The broker has ended its stream after ours: what was written is read, unless it has
    /// complained meanwhile. If there is more to send, or the session is to go on, another
    /// connection follows.
    pub(super) fn parted(&mut self) -> Option<End> {
        let Parting { cause, .. } = self.parting.take()?;
        if self.recent_complaint().is_some() {
            return None;
        }
        let rest = self.reconnect.in_flight.rewind();
        self.shared.outbox.release(rest.room);
        self.outcome.written = Recent::default();
        let unsent = self.shared.outbox.unsent().0 + self.reconnect.in_flight.unsent().0;
        Some(match cause {
            _ if self.shared.intent() != Intent::Run && unsent == 0 && !self.reconnect.holds_more() => End::Confirmed,
            Some(cause) => End::Failed(cause),
            None => End::Rotated,
        })
    }

    pub(super) fn poll_parting(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if let Some(parting) = &mut self.parting {
            if parting.deadline.as_mut().poll(cx).is_ready() {
                let addr = self.shared.config.addr.clone();
                let cause = parting.cause.clone();
                return Err(End::Failed(cause.unwrap_or_else(|| Error::new(Cause::NoEnd { addr, after: PARTING }))));
            }
        }
        Ok(())
    }

    /// Whether messages are kept on a connection without acknowledgements until the broker's end of
    /// stream confirms them: for a session that only publishes, where the broker has not shown that
    /// it does not end its stream.
    pub(super) fn keeps_until_eof(&self) -> bool {
        let config = &self.shared.config;
        config.rotation.is_some() && self.subscribed.is_empty() && addresses::may_rotate(&config.addr)
    }

    /// Ends the connection when something has been unconfirmed for long, or fills half of the queue;
    /// the broker's end of stream will confirm it.
    pub(super) fn poll_rotation(&mut self, cx: &mut Context<'_>) {
        let in_flight = &self.reconnect.in_flight;
        let (true, Some(after)) = (in_flight.unconfirmed.keeping() == Keeping::Eof, self.shared.config.rotation) else {
            return;
        };
        let (messages, bytes) = in_flight.unconfirmed.waiting();
        if !self.subscribed.is_empty() {
            // It wants to receive now: what is written is done with, as for every such session.
            while self.settle() {}
            let unconfirmed = &mut self.reconnect.in_flight.unconfirmed;
            unconfirmed.keep(Keeping::Nothing);
            unconfirmed.ack_written();
            self.outcome.written.push(messages, bytes);
            self.shared.set_confirms(Confirms::No);
            return;
        }
        if messages == 0 || !matches!(self.phase, Phase::Accepted) || self.hold.is_some() {
            return;
        }
        let timer: &mut Pin<Box<_>> = self.rotation.get_or_insert_with(|| Box::pin(sleep(after)));
        let due = timer.as_mut().poll(cx).is_ready();
        let waits = self.reconnect.waits_for_end() && self.reconnect.in_flight.unsent().0 == 0;
        if due || waits || bytes >= self.shared.outbox.capacity() / 2 {
            tracing::debug!(addr = %self.shared.config.addr, messages, "rotating");
            self.outcome.rotating = true;
            self.part(None);
        }
    }
}
