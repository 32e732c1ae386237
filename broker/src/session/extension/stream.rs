//! The stream that a connection publishes: its numbers, and how far they are decided.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hpfeeds::wire::extension::{Position, StreamId, StreamNumbering};
use tokio::time::timeout;

use crate::{context::BrokerContext, journal::store::Store, session::extension::acks::Acks, streams::StreamHold};

/// How long a stream that was given back waits until what the journal has of it is durable: who
/// claims it meanwhile gets it then.
const PATIENCE: Duration = Duration::from_secs(5);

/// Batches that are told apart while they wait for the disk; of more, the newest count as one.
const BATCHES: usize = 1024;

/// A stream that this connection holds.
pub(super) struct Stream {
    pub(super) hold: StreamHold,
    pub(super) numbering: StreamNumbering,
    /// The number of the first message on this connection.
    pub(super) first: u64,
    /// The number that was acknowledged last.
    pub(super) acked: u64,
    pub(super) acks: Acks,
    /// How many messages were counted last that subscribers have no room for yet.
    pub(super) pending: u64,
    /// What is in the journal and not known to be durable: the number of the first message of each
    /// batch, and the position of its last.
    storing: VecDeque<(u64, Position)>,
}

impl Stream {
    pub(super) fn new(hold: StreamHold, numbering: StreamNumbering) -> Self {
        let (first, acked) = (numbering.next(), hold.progress.decided);
        Self { hold, numbering, first, acked, acks: Acks::default(), pending: 0, storing: VecDeque::new() }
    }

    pub(super) fn id(&self) -> StreamId {
        self.hold.id()
    }

    /// Takes over what is decided of the messages that were counted. It begins with the first of
    /// this connection: what the publisher gave up before is decided along with that.
    pub(super) fn settle(&mut self) {
        let routed = self.numbering.next() - 1 - self.pending;
        let decided = self.storing.front().map_or(routed, |(first, _)| routed.min(first - 1));
        if decided >= self.first {
            self.hold.progress.decided = decided;
        }
    }

    /// The messages that were counted last, so many, are in the journal, the last one at a position.
    pub(super) fn stored(&mut self, messages: u32, position: Position) {
        let first = self.numbering.next() - u64::from(messages);
        let is_full = self.storing.len() >= BATCHES;
        match self.storing.back_mut().filter(|_| is_full) {
            Some(back) => back.1 = position,
            None => self.storing.push_back((first, position)),
        }
    }

    /// The position that is waited for next.
    pub(super) fn waits_for(&self) -> Option<Position> {
        self.storing.front().map(|(_, position)| *position)
    }

    /// Whether the journal has something of it that is not known to be durable.
    pub(super) fn is_storing(&self) -> bool {
        !self.storing.is_empty()
    }

    /// Everything up to a position is durable.
    pub(super) fn durable(&mut self, position: Position) {
        while self.storing.front().is_some_and(|(_, last)| *last <= position) {
            self.storing.pop_front();
        }
        self.settle();
    }

    /// Gives the stream back, once what the journal has of it is durable.
    pub(super) fn give_back(mut self, context: &Arc<BrokerContext>) {
        let (Some(store), Some(&(_, last))) = (&context.journal, self.storing.back()) else { return };
        let store: Arc<Store> = store.clone();
        context.tasks.spawn(async move {
            if let Ok(Ok(())) = timeout(PATIENCE, store.journal.durable(last)).await {
                self.durable(last);
            }
        });
    }
}
