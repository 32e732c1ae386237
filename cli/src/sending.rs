//! The sending half that `publish` and `sendfile` share: messages to every channel, confirmed by
//! the broker at the end.

use std::{future::Future, pin::pin, time::Duration};

use bytes::Bytes;
use hpfeeds::{Channel, ClientSession, Error, Publisher, SessionState};
use indicatif::ProgressBar;
use tokio::{
    sync::watch,
    time::{error::Elapsed, interval, timeout},
};

use crate::{
    connection::{ConnectionArgs, handshake_timeout},
    exit::{Failure, messages},
    signals::{Signal, Stop},
};

/// Bytes that may be queued; the session raises it to one message. Not many: when the user wants an
/// end, they must be sent and confirmed within one deadline.
const QUEUE: usize = 1 << 20;

/// How often a progress bar moves.
const TICK: Duration = Duration::from_millis(100);

/// One connection, and what goes out on it. It is not repaired when it breaks: nobody knows what
/// the broker had read by then, so that the caller must hear of it.
pub(crate) struct Outgoing {
    session: ClientSession,
    state: watch::Receiver<SessionState>,
    channels: Vec<Channel>,
    patience: Duration,
    stop: Stop,
    messages: u64,
    progress: Progress,
}

/// Why not everything was queued.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The session is over; closing it tells why.
    Ended,
    /// The session does not take the message.
    Refused(Error),
    /// The broker does not read.
    Stalled,
    /// The user wants it to end.
    Signal(Signal),
    /// The message cannot be read, or not be sent.
    Input(String),
}

impl Outgoing {
    /// Connects. The bar counts bytes of payloads as they leave for the network.
    pub(crate) async fn connect(
        connection: &ConnectionArgs,
        channels: Vec<Channel>,
        patience: Duration,
        bar: ProgressBar,
        mut stop: Stop,
    ) -> Result<Self, Failure> {
        tracing::debug!(addr = %connection.addr(), "connecting");
        let connecting = connection
            .builder()
            .handshake_timeout(handshake_timeout(patience))
            .max_retries(0)
            .close_timeout(Duration::MAX)
            .close_stall_timeout(patience)
            .send_queue(QUEUE)
            .connect();
        let session = tokio::select! {
            session = connecting => session?,
            signal = stop.requested() => return Err(Failure::silent(signal.exit_code())),
        };
        let progress = Progress::new(session.publisher(), bar);
        Ok(Self { state: session.state(), session, channels, patience, stop, messages: 0, progress })
    }

    /// Queues a message to every channel. Waits for room as long as the broker reads something now
    /// and then, however little.
    pub(crate) async fn send(&mut self, payload: &Bytes) -> Result<(), Cut> {
        for channel in &self.channels {
            let queue = self.progress.while_moving(self.patience, self.session.publish(channel, payload.clone()));
            tokio::select! {
                queued = self.progress.during(queue) => match queued {
                    Ok(queued) => queued.map_err(Cut::Refused)?,
                    Err(_elapsed) => return Err(Cut::Stalled),
                },
                signal = self.stop.requested() => return Err(Cut::Signal(signal)),
            }
            self.messages += 1;
            self.progress.queued += payload.len() as u64;
        }
        Ok(())
    }

    /// Waits for something, such as the next input, but not beyond the end of the session or a
    /// signal.
    pub(crate) async fn meanwhile<T>(&mut self, input: impl Future<Output = T>) -> Result<T, Cut> {
        tokio::select! {
            input = input => Ok(input),
            _ = self.state.wait_for(|state| *state == SessionState::Closed) => Err(Cut::Ended),
            signal = self.stop.requested() => Err(Cut::Signal(signal)),
        }
    }

    /// Sends what is queued and waits until the broker has read it. Success means that, for
    /// everything.
    pub(crate) async fn finish(mut self, sent: Result<(), Cut>) -> Result<u64, Failure> {
        if let Err(Cut::Stalled) = sent {
            // It had its time; closing would give it as much again.
            let (patience, left) = (self.patience, self.progress.waiting());
            return Err(Failure::new(format!(
                "the broker has read nothing for {patience:?}, or too little to be seen: gave up with {left} bytes not \
                 sent; a longer --timeout waits for a slower one"
            )));
        }
        let signal = if let Err(Cut::Signal(signal)) = sent { Some(signal) } else { None };
        let closed = match self.close(signal).await {
            Ok(closed) => closed,
            Err(signal) => {
                let left = self.progress.waiting();
                let failure = Failure::with_code(signal.exit_code(), "interrupted");
                return Err(failure.and(format_args!("gave up with {left} bytes not sent, and the rest not confirmed")));
            }
        };
        let n = self.messages;
        let before = format!("the broker has read the {} before that", messages(n));
        match (sent, closed) {
            (Ok(()), Ok(())) => {
                self.progress.bar.set_position(self.progress.queued);
                Ok(n)
            }
            (Err(Cut::Input(why)), Ok(())) => Err(Failure::new(why).and(before)),
            (Err(Cut::Input(why)), Err(error)) => Err(Failure::from(error).and(why)),
            (Err(Cut::Signal(signal)), Ok(())) => {
                Err(Failure::with_code(signal.exit_code(), "interrupted").and(before))
            }
            (Err(Cut::Refused(error)), Ok(())) | (_, Err(error)) => Err(error.into()),
            (Err(Cut::Ended | Cut::Stalled), Ok(())) => Err(Failure::new("the session ended early")),
        }
    }

    /// Closes the session, for as long as the broker reads something. After a signal it has one
    /// deadline for all of it, and the error is the signal when that has passed.
    async fn close(&mut self, signal: Option<Signal>) -> Result<Result<(), Error>, Signal> {
        let mut closing = pin!(self.progress.during(self.session.close()));
        let signal = if let Some(signal) = signal {
            signal
        } else {
            tokio::select! {
                closed = &mut closing => return Ok(closed),
                signal = self.stop.requested() => signal,
            }
        };
        timeout(self.patience, closing).await.map_err(|_elapsed| signal)
    }
}

/// How much of what was queued has left for the network, shown on a bar.
struct Progress {
    queue: Publisher,
    /// The free room of the empty queue.
    capacity: usize,
    /// Bytes of payloads that were queued.
    queued: u64,
    bar: ProgressBar,
}

impl Progress {
    fn new(queue: Publisher, bar: ProgressBar) -> Self {
        Self { capacity: queue.free(), queue, queued: 0, bar }
    }

    /// Bytes in the queue, names and headers included.
    fn waiting(&self) -> usize {
        self.capacity.saturating_sub(self.queue.free())
    }

    /// Waits for something as long as the broker's system acknowledges something now and then.
    async fn while_moving<T>(&self, patience: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut work = pin!(work);
        loop {
            let before = self.queue.bytes_sent();
            match timeout(patience, &mut work).await {
                Err(_elapsed) if self.queue.bytes_sent() > before => {}
                done => return done,
            }
        }
    }

    /// Keeps the bar current while something else happens.
    async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        if self.bar.is_hidden() {
            return work.await;
        }
        let mut work = pin!(work);
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {
                    self.bar.set_position(self.queued.saturating_sub(self.waiting() as u64));
                }
            }
        }
    }
}
