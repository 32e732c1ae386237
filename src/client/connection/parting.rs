//! Parting: what a connection does when its broker shuts down.

use std::{task::Context, time::Duration};

use tokio::time::sleep;

use super::state::{Connection, End, Parting, Phase};
use crate::client::{
    driver::{desired::Intent, reconnect::Recent},
    error::Error,
};

/// How long a broker that shuts down may take to read the rest. No more than it gives itself by
/// default.
const PARTING: Duration = Duration::from_secs(10);

impl Connection<'_> {
    /// Ends our stream at the end of a frame. Everything else is for the next connection.
    pub(super) fn part(&mut self, cause: Error) {
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
        Some(if self.shared.intent() == Intent::Run || unsent > 0 { End::Failed(cause) } else { End::Confirmed })
    }

    pub(super) fn poll_parting(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if let Some(parting) = &mut self.parting
            && parting.deadline.as_mut().poll(cx).is_ready()
        {
            return Err(End::Failed(parting.cause.clone()));
        }
        Ok(())
    }
}
