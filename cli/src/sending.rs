//! The sending half that `publish` and `sendfile` share: messages to every channel, confirmed by
//! the broker at the end.

use std::{
    future::{Future, pending},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use hpfeeds::{Channel, ClientSession, Confirm, Error, Publisher, SessionState, Spool};
use indicatif::ProgressBar;
use tokio::{
    sync::watch,
    time::{error::Elapsed, interval, timeout},
};

use crate::{
    connection::{ConnectionArgs, handshake_timeout},
    delivery::{PatienceArgs, SpoolingArgs},
    exit::{Failure, messages, notice},
    link::Link,
    signals::{Signal, Stop},
};

/// Bytes that may be queued without a spool; the session raises it to one message. Not many: when
/// the user wants an end, they must be sent and confirmed within one deadline.
const QUEUE: usize = 1 << 20;

/// The time that a session with a spool has to end when nothing is to be waited for.
const AT_ONCE: Duration = Duration::from_millis(100);

/// The time after a signal in which messages still find room in a spool that is full.
const LAST_ROOM: Duration = Duration::from_secs(3);

/// How often a progress bar moves.
const TICK: Duration = Duration::from_millis(100);

/// The way in which messages are sent.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// How long the broker may take to answer, to read something, to confirm at the end.
    patience: Duration,
    /// Connects again when the connection is lost, for ever. Otherwise there is one connection: when
    /// it breaks nobody knows what the broker had read by then, and the caller hears of it.
    keep_going: bool,
    /// How much confirmation is wanted.
    confirm: Confirm,
    /// Keeps messages on disk, and is there from the start, whether the broker is or not.
    spool: Option<Spool>,
    /// A spool that is full is the end.
    ends_when_full: bool,
    /// How long messages are still taken after the user wants an end.
    grace: Duration,
}

impl Manner {
    /// As the user wants it; after a signal nothing more is taken.
    pub(crate) fn of(patience: &PatienceArgs, spooling: &SpoolingArgs) -> Self {
        let ends_when_full = spooling.ends_when_full();
        Self { ends_when_full, ..Self::with(patience, spooling.spool()) }
    }

    /// With this spool.
    pub(crate) fn with(patience: &PatienceArgs, spool: Option<Spool>) -> Self {
        Self {
            patience: patience.timeout,
            keep_going: patience.keep_going || spool.is_some(),
            confirm: patience.confirm.wanted(),
            spool,
            ends_when_full: false,
            grace: Duration::ZERO,
        }
    }

    /// Messages that were read by the time of a signal are taken, as long as the patience lasts.
    pub(crate) fn sending_to_the_end(self) -> Self {
        let grace = if self.spool.is_some() { self.patience.min(LAST_ROOM) } else { self.patience };
        Self { grace, ..self }
    }
}

/// A session, and what goes out on it.
pub(crate) struct Outgoing {
    session: ClientSession,
    state: watch::Receiver<SessionState>,
    manner: Manner,
    link: Link,
    /// Channels without which there is nothing to go on for: those that are given for all messages,
    /// if the connection is kept going. Otherwise any channel that is denied ends it.
    given: Vec<Channel>,
    stop: Stop,
    /// Messages that were queued.
    messages: Arc<AtomicU64>,
    /// Messages that were not, as the broker denies their channel.
    denied: u64,
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
    /// The spool is full, and the user wants an end then.
    Full,
    /// The message cannot be read, or not be sent.
    Input(String),
}

impl Outgoing {
    /// Connects. The bar counts bytes of payloads as they leave for the network.
    ///
    /// `given`: the channels of all messages, where each message does not have its own.
    pub(crate) async fn connect(
        connection: &ConnectionArgs,
        given: &[Channel],
        manner: Manner,
        bar: ProgressBar,
        mut stop: Stop,
    ) -> Result<Self, Failure> {
        tracing::debug!(addr = %connection.addr(), "connecting");
        let builder = connection
            .builder()
            .handshake_timeout(handshake_timeout(manner.patience))
            .close_stall_timeout(manner.patience)
            .confirm(manner.confirm);
        let (session, link) = if let Some(spool) = manner.spool.clone() {
            // It takes messages now, whether the broker is there or not.
            let session = builder.spool(spool).start()?;
            let link = tokio::select! {
                link = Link::tell_when_usable(session.events()) => link?,
                signal = stop.requested() => return Err(Failure::silent(signal.exit_code())),
            };
            (session, link)
        } else if manner.keep_going {
            let session = builder.send_queue(QUEUE).start()?;
            let link = tokio::select! {
                link = Link::tell_when_connected(session.events()) => link?,
                signal = stop.requested() => return Err(Failure::silent(signal.exit_code())),
            };
            (session, link)
        } else {
            let session = tokio::select! {
                session = builder.send_queue(QUEUE).max_retries(0).connect() => session?,
                signal = stop.requested() => return Err(Failure::silent(signal.exit_code())),
            };
            let link = Link::listen(session.events());
            (session, link)
        };
        let given = if manner.keep_going { given.to_vec() } else { Vec::new() };
        let progress = Progress::new(session.publisher(), bar);
        let queued = Arc::<AtomicU64>::default();
        let (taken, publisher) = (queued.clone(), session.publisher());
        stop.last_words(move || {
            let stats = publisher.stats();
            // A broker that has confirmed nothing may have read some, or none.
            let left = if stats.confirmed > 0 { stats.queued + stats.unconfirmed } else { taken.load(Relaxed) };
            (left > 0).then(|| format!("the broker has not confirmed {}", messages(left)))
        });
        Ok(Self { state: session.state(), session, manner, link, given, stop, messages: queued, denied: 0, progress })
    }

    /// Queues a message to each of the channels. Waits for room: as long as the broker reads
    /// something now and then, however little, or without end when the connection is kept going.
    ///
    /// A connection that is kept going has messages left out on channels that the broker denies;
    /// when those are all that there are, the error says so.
    pub(crate) async fn send(&mut self, channels: &[Channel], payload: &Bytes) -> Result<(), Cut> {
        for channel in channels {
            self.check()?;
            match self.send_one(channel, payload).await {
                Err(Cut::Refused(error)) if self.manner.keep_going && error.is_denied() => self.denied += 1,
                sent => sent?,
            }
        }
        Ok(())
    }

    /// Whether there is something to go on for.
    fn check(&self) -> Result<(), Cut> {
        if self.manner.ends_when_full && self.link.is_full() {
            return Err(Cut::Full);
        }
        match self.link.denial(&self.given) {
            // A message of a line may have another channel.
            Some(_) if self.manner.keep_going && self.given.is_empty() => Ok(()),
            Some(cause) => Err(Cut::Refused(cause)),
            None => Ok(()),
        }
    }

    async fn send_one(&mut self, channel: &Channel, payload: &Bytes) -> Result<(), Cut> {
        let queue = self.session.publish(channel, payload.clone());
        let keep_going = self.manner.keep_going;
        let queue = async {
            if keep_going { Ok(queue.await) } else { self.progress.while_moving(self.manner.patience, queue).await }
        };
        let queued = tokio::select! {
            queued = self.progress.during(queue) => queued,
            () = self.link.full(), if self.manner.ends_when_full => return Err(Cut::Full),
            signal = self.stop.requested_for(self.manner.grace) => return Err(Cut::Signal(signal)),
        };
        match queued {
            Ok(queued) => queued.map_err(Cut::Refused)?,
            Err(_elapsed) => return Err(Cut::Stalled),
        }
        self.messages.fetch_add(1, Relaxed);
        self.progress.queued += payload.len() as u64;
        Ok(())
    }

    /// Waits for something, such as the next input, but not beyond the end of the session or a
    /// signal. Cancel safe if the something is.
    pub(crate) async fn meanwhile<T>(&mut self, input: impl Future<Output = T>) -> Result<T, Cut> {
        let any = self.manner.keep_going && self.given.is_empty();
        tokio::select! {
            input = input => Ok(input),
            cause = self.link.denied(&self.given), if !any => Err(Cut::Refused(cause)),
            _ = self.state.wait_for(|state| *state == SessionState::Closed) => Err(Cut::Ended),
            signal = self.stop.requested() => Err(Cut::Signal(signal)),
        }
    }

    /// Waits for something after a signal, until the grace is over.
    pub(crate) async fn finally<T>(&mut self, input: impl Future<Output = T>) -> Result<T, Cut> {
        tokio::select! {
            input = input => Ok(input),
            _ = self.state.wait_for(|state| *state == SessionState::Closed) => Err(Cut::Ended),
            signal = self.stop.requested_for(self.manner.grace) => Err(Cut::Signal(signal)),
        }
    }

    /// Waits until nothing is on disk any more, as long as the broker reads something now and then.
    pub(crate) async fn drain(&mut self) -> Result<(), Cut> {
        let drained = self.progress.while_moving(self.manner.patience, self.link.drained());
        tokio::select! {
            drained = drained => drained.map_err(|_elapsed| Cut::Stalled),
            _ = self.state.wait_for(|state| *state == SessionState::Closed) => Err(Cut::Ended),
            signal = self.stop.requested() => Err(Cut::Signal(signal)),
        }
    }

    /// Sends what is queued and waits until the broker has read it. Success means that, for
    /// everything; it is the number of messages.
    pub(crate) async fn finish(mut self, sent: Result<(), Cut>) -> Result<u64, Failure> {
        let patience = self.manner.patience;
        if let Err(Cut::Stalled) = sent
            && self.manner.spool.is_none()
        {
            // It had its time; closing would give it as much again.
            let left = self.left();
            return Err(Failure::new(format!(
                "the broker has read nothing for {patience:?}, or too little to be seen: gave up with {left}; a longer \
                 --timeout waits for a slower one"
            )));
        }
        let closed = match self.close().await {
            Closed::By(closed) => closed,
            Closed::Interrupted(signal) => {
                let failure = Failure::with_code(signal.exit_code(), "interrupted");
                return Err(failure.and(format_args!("gave up with {}", self.left())));
            }
            Closed::Away => {
                let left = self.left();
                let failure = format!("the broker has been away for {patience:?}: gave up with {left}");
                return Err(self.with_losses(Failure::new(failure), 0));
            }
        };
        let stats = self.session.stats();
        let (confirmed, refused, resent, lost) = (stats.confirmed, stats.refused, stats.resent, stats.lost);
        tracing::debug!(confirmed, refused, resent, may_be_lost = lost, "closed");
        let n = self.messages.load(Relaxed);
        let before = format!("the broker has read the {} before that", messages(n));
        let told = closed.as_ref().err().map_or(0, Error::unconfirmed);
        let done = match (sent, closed) {
            (Ok(()), Ok(())) => {
                self.progress.bar.set_position(self.progress.queued);
                Ok(n)
            }
            (Err(Cut::Input(why)), Ok(())) => Err(Failure::new(why).and(before)),
            (Err(Cut::Input(why)), Err(error)) => Err(Failure::from(error).and(why)),
            (Err(Cut::Signal(signal)), Ok(())) => {
                Err(Failure::with_code(signal.exit_code(), "interrupted").and(before))
            }
            (Err(Cut::Signal(signal)), Err(error)) if error.spooled() > 0 => {
                Err(Failure::with_code(signal.exit_code(), "interrupted").and(error))
            }
            (Err(Cut::Full), Ok(())) => Err(Failure::new("the spool is full").and(before)),
            (Err(Cut::Full), Err(error)) => Err(Failure::new("the spool is full").and(error)),
            (Err(Cut::Refused(error)), Ok(())) | (_, Err(error)) => Err(error.into()),
            (Err(Cut::Ended | Cut::Stalled), Ok(())) => Err(Failure::new("the session ended early")),
        };
        match done {
            Ok(sent) => self.losses(told).map_or(Ok(sent), |losses| Err(Failure::new(losses))),
            Err(failure) => Err(self.with_losses(failure, told)),
        }
    }

    /// Closes the session, for as long as the broker reads something; after a signal, and while the
    /// broker is away, for as long as the patience lasts.
    async fn close(&mut self) -> Closed {
        let Manner { patience, keep_going, .. } = self.manner;
        let mut state = self.state.clone();
        let has_spool = self.manner.spool.is_some();
        let is_away = !matches!(*state.borrow(), SessionState::Connected | SessionState::Closed);
        if keep_going && is_away && self.progress.waiting() > 0 && !(has_spool && self.stop.is_requested()) {
            notice(format_args!("waiting up to {patience:?} for the broker with {}", self.left()));
        }
        // With a spool, the session gives up by itself, and writes the rest to disk. After a signal
        // it does not wait for a broker that is away: that may take days.
        let limit = match has_spool {
            true if is_away && self.stop.is_requested() => AT_ONCE,
            true => patience,
            false => Duration::MAX,
        };
        tokio::select! {
            closed = self.progress.during(self.session.close_within(limit)) => Closed::By(closed),
            signal = self.stop.requested_for(patience), if !has_spool => Closed::Interrupted(signal),
            () = away(&mut state, patience), if keep_going && !has_spool => Closed::Away,
        }
    }

    /// The messages that are not sent, or not confirmed.
    fn left(&self) -> String {
        let stats = self.session.stats();
        match (stats.queued, stats.unconfirmed) {
            (queued, 0) => format!("{} not sent", messages(queued)),
            (0, unconfirmed) => format!("{} not confirmed", messages(unconfirmed)),
            (queued, unconfirmed) => format!("{} not sent, {unconfirmed} not confirmed", messages(queued)),
        }
    }

    /// The messages that were lost, or may have been, while the connection was kept going, beyond
    /// those that were `told` already.
    fn losses(&self, told: u64) -> Option<String> {
        let stats = self.session.stats();
        let mut losses = Vec::new();
        if stats.lost > told && self.manner.keep_going {
            losses.push(format!("{} in all may be lost with connections that broke", messages(stats.lost)));
        }
        let refused = self.denied + stats.refused;
        if refused > 0 {
            losses.push(format!("{} refused", messages(refused)));
        }
        (!losses.is_empty()).then(|| losses.join("; "))
    }

    fn with_losses(&self, failure: Failure, told: u64) -> Failure {
        match self.losses(told) {
            Some(losses) => failure.and(losses),
            None => failure,
        }
    }
}

/// How the closing of a session ended.
enum Closed {
    By(Result<(), Error>),
    Interrupted(Signal),
    /// The broker has not come back.
    Away,
}

/// Waits until there has been no connection for so long.
async fn away(state: &mut watch::Receiver<SessionState>, patience: Duration) {
    loop {
        // A session that is over has no other side any more, and its closing says how it ended.
        if state.wait_for(|state| *state != SessionState::Connected).await.is_err() {
            return pending().await;
        }
        let back = state.wait_for(|state| matches!(state, SessionState::Connected | SessionState::Closed));
        if timeout(patience, back).await.is_err() {
            return;
        }
        if *state.borrow() == SessionState::Closed {
            return pending().await;
        }
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
