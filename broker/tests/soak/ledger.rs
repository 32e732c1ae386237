//! The ledger: messages as clients know them, and as the broker counts them.
//!
//! A message is published once and goes to everybody who is subscribed. A publisher whose end of stream the broker has
//! answered knows that all it sent was taken; the witness, who is subscribed to everything all the time, knows what was
//! taken of the others. A subscriber that was there before the first message of a channel, and until its publisher was
//! done, was to get all of them: each was delivered, or dropped as it was slow, or discarded as its connection ended.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use hpfeeds::wire::Frame;

use crate::{scrape::Exposed, support::publish};

/// The counters of the exporter since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    pub(crate) received: u64,
    forwarded: u64,
    withdrawn: u64,
    dropped: u64,
    discarded: u64,
    pub(crate) accepted: u64,
    pub(crate) memory: u64,
    pub(crate) descriptors: u64,
    pub(crate) tasks: u64,
    /// Names and labels of all series.
    pub(crate) series: Vec<String>,
}

impl Counted {
    /// Also compares what it says in two ways.
    pub(crate) fn read(exposed: &Exposed) -> Self {
        let sum = |name: &str| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are counts")]
            exposed.sum(name).map_or(0, |value| value as u64)
        };
        let total = |name: &str| sum(&format!("hpfeeds_broker_{name}_total"));
        let counted = Self {
            received: total("received_messages"),
            forwarded: total("forwarded_messages"),
            withdrawn: total("withdrawn_messages"),
            dropped: total("dropped_messages"),
            discarded: total("discarded_messages"),
            accepted: total("connection_made"),
            memory: sum("process_resident_memory_bytes"),
            descriptors: sum("process_open_fds"),
            tasks: sum("hpfeeds_broker_tasks"),
            series: exposed.samples.iter().map(|sample| format!("{}{:?}", sample.name, sample.labels)).collect(),
        };
        if sum("hpfeeds_broker_client_connections") == 1 {
            // All but the witness have gone: nothing changes while it is read.
            assert_eq!(counted.received, total("receive_publish_count"), "published by ident and channel");
            assert_eq!(total("sent_bytes"), total("connection_send_buffer_drain"), "sent by ident");
            let ended = total("connection_lost");
            assert_eq!(counted.accepted, ended + 1, "connections made and lost");
            let (ready, failed) = (total("connection_ready"), total("handshake_failures"));
            assert_eq!(counted.accepted, ready + failed, "connections made, and what became of them");
        }
        counted
    }
}

/// At least and at most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bounds(pub(crate) u64, pub(crate) u64);

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    next: AtomicU64,
    /// The counts of each run of messages.
    runs: Mutex<HashMap<u64, Bounds>>,
    /// Deliveries that were due to subscribers.
    due: Mutex<Bounds>,
    /// Deliveries that subscribers have got.
    got: AtomicU64,
}

impl Ledger {
    /// A run of messages, and its number.
    pub(crate) fn open(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// So many were published.
    pub(crate) fn published(&self, run: u64, least: u64, most: u64) {
        self.runs.lock().unwrap().insert(run, Bounds(least, most));
    }

    /// A subscriber was to get so many, and has got so many.
    pub(crate) fn due(&self, least: u64, most: u64, got: u64) {
        assert!(got <= most, "{got} of {most}");
        let mut due = self.due.lock().unwrap();
        due.0 += least;
        due.1 += most;
        self.got.fetch_add(got, Relaxed);
    }

    /// At the end of a round: `heard` is what the witness has heard of each run.
    pub(crate) fn settle(&self, now: &Counted, before: &Counted, heard: &HashMap<u64, u64>) -> Round {
        let runs = std::mem::take(&mut *self.runs.lock().unwrap());
        for (run, Bounds(least, most)) in &runs {
            let heard = heard.get(run).copied().unwrap_or(0);
            assert!((*least..=*most).contains(&heard), "of run {run}, {least} to {most} were published, {heard} heard");
        }
        assert!(heard.keys().all(|run| runs.contains_key(run)), "nobody has published that");
        let since = |value: fn(&Counted) -> u64| value(now) - value(before);
        let received = since(|counted| counted.received);
        assert_eq!(received, heard.values().sum::<u64>(), "what the broker counts, and the witness");
        // The witness was to get all.
        let due = std::mem::take(&mut *self.due.lock().unwrap());
        let due = Bounds(due.0 + received, due.1 + received);
        let got = self.got.swap(0, Relaxed) + received;
        let round = Round {
            published: received,
            delivered: since(|counted| counted.forwarded) - since(|counted| counted.withdrawn),
            dropped: since(|counted| counted.dropped),
            discarded: since(|counted| counted.discarded),
            due,
            got,
            connections: since(|counted| counted.accepted),
        };
        let accounted = round.delivered + round.dropped + round.discarded;
        assert!((due.0..=due.1).contains(&accounted), "{due:?} were due, {accounted} are accounted for: {round:?}");
        assert!(round.got <= round.delivered, "more has arrived than was delivered: {round:?}");
        round
    }
}

/// The counts of one round.
#[derive(Debug)]
pub(crate) struct Round {
    published: u64,
    delivered: u64,
    dropped: u64,
    discarded: u64,
    due: Bounds,
    got: u64,
    connections: u64,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, delivered, dropped, discarded, connections, .. } = self;
        write!(
            f,
            "{connections:5} connections, {published:6} published: {delivered} delivered + {dropped} dropped + "
        )?;
        match self.due {
            Bounds(least, most) if least == most => write!(f, "{discarded} discarded = {least}"),
            Bounds(least, most) => write!(f, "{discarded} discarded, of {least} to {most}"),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Totals {
    rounds: usize,
    exact: usize,
    published: u64,
    delivered: u64,
    dropped: u64,
    discarded: u64,
    got: u64,
    connections: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, round: &Round) {
        self.rounds += 1;
        self.exact += usize::from(round.due.0 == round.due.1);
        self.published += round.published;
        self.delivered += round.delivered;
        self.dropped += round.dropped;
        self.discarded += round.discarded;
        self.got += round.got;
        self.connections += round.connections;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, exact, published, delivered, dropped, discarded, got, connections } = self;
        write!(f, "{rounds} rounds ({exact} exact), {connections} connections, {published} published, ")?;
        write!(f, "{delivered} delivered ({got} seen by clients), {dropped} dropped, {discarded} discarded")
    }
}

/// A message of a run.
pub(crate) fn message(ident: &str, channel: &str, run: u64, number: u64, len: usize) -> Frame {
    publish(ident, channel, payload(run, number, len))
}

pub(crate) fn payload(run: u64, number: u64, len: usize) -> Bytes {
    let mut payload = [run.to_be_bytes(), number.to_be_bytes()].concat();
    payload.resize(len.max(16), b'x');
    payload.into()
}

/// The run and number of a message.
pub(crate) fn parse(payload: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().unwrap());
    (word(0), word(8))
}
