//! The driver's half of the spool in a library without one: nothing of it ever exists.

use std::task::Context;

use super::desired::Shared;
use crate::{
    client::{
        error::{Cause, Error},
        queue::in_flight::InFlight,
    },
    wire::{
        Channel,
        extension::{BrokerHello, Code, Level},
    },
};

/// The connection, as far as it matters to a spool.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Link {
    None,
    Pending,
    Up,
}

/// No spool.
#[derive(Debug)]
pub(crate) enum Spooling {}

impl Spooling {
    pub(crate) fn poll(&mut self, _: &mut Context<'_>, _: &Shared, _: &mut InFlight, _: Link) -> bool {
        match *self {}
    }

    pub(crate) fn is_direct(&self, _: &Shared, _: &InFlight) -> bool {
        match *self {}
    }

    pub(crate) fn waits_for_end(&self) -> bool {
        match *self {}
    }

    pub(crate) fn holds_more(&self) -> bool {
        match *self {}
    }

    pub(crate) fn refused(&self, _: &InFlight, _: u64, _: u64, _: Option<Code>) {
        match *self {}
    }

    pub(crate) fn accepted(&self, _: Option<(&BrokerHello<'_>, Option<Level>)>) {
        match *self {}
    }

    pub(crate) fn denied(&self, _: &Channel) {
        match *self {}
    }

    pub(crate) fn figure(&self, _: &Shared, _: &InFlight) {
        match *self {}
    }

    #[allow(clippy::unused_async, reason = "with a spool it waits for the disk")]
    pub(crate) async fn finish(&mut self, _: &Shared, _: &mut InFlight) -> Left {
        match *self {}
    }
}

/// Nothing that is left behind.
#[derive(Debug)]
pub(crate) enum Left {}

impl Left {
    pub(crate) fn into_cause(self, _: Option<Error>) -> Option<Cause> {
        match self {}
    }
}
