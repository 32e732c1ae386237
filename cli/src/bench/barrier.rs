//! The barrier before a measurement: markers are published until every subscriber has received one.

use std::{
    io::{ErrorKind, Write as _},
    net::TcpStream,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use super::{
    batch::{Layout, MARKER},
    load::Event,
    target::{Target, why},
};
use crate::exit::Failure;

/// How often a marker is published. Brokers may take their time to put a subscription in force.
const PERIOD: Duration = Duration::from_millis(50);

/// Publishes markers until so many subscribers have received one.
pub(super) fn all_subscribed(
    target: &Target,
    layout: &Layout,
    events: &Receiver<Event>,
    mut missing: u32,
) -> Result<(), Failure> {
    let mut stream = target.connect()?;
    let marker = layout.frame(MARKER, 0);
    let deadline = Instant::now() + target.patience;
    loop {
        stream.write_all(&marker).map_err(|cause| why(&stream, &cause))?;
        let next = Instant::now() + PERIOD;
        loop {
            match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Event::Subscribed) if missing == 1 => return Ok(()),
                Ok(Event::Subscribed) => missing -= 1,
                Ok(Event::Failed(failure)) => return Err(failure),
                Ok(_) | Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::new("a thread of bench has ended")),
            }
        }
        objection(&stream)?;
        if Instant::now() >= deadline {
            let waited = target.patience;
            return Err(Failure::new(format!("{missing} subscribers have received nothing after {waited:?}")));
        }
    }
}

/// Whether the broker has sent something to, or closed, a connection that has nothing to receive.
pub(super) fn objection(stream: &TcpStream) -> Result<(), Failure> {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    match peeked {
        Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
            stream.set_nonblocking(false).map_err(|cause| why(stream, &cause))
        }
        Ok(_) => Err(why(stream, &ErrorKind::UnexpectedEof.into())),
        Err(cause) => Err(why(stream, &cause)),
    }
}
