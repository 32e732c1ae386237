//! The state that outlives a connection: what one leaves to the next, and what the driver learns of
//! its end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    task::Context,
    time::Duration,
};

use tokio::time::Instant;

use super::desired::Shared;
use super::spooling::{Link, Spooling};
use crate::{
    client::{
        error::Error,
        event::SessionEvent,
        queue::{in_flight::InFlight, send::MAX_QUARANTINED},
    },
    wire::{
        Channel,
        extension::{BrokerHello, Code, Level},
    },
};

/// The state that one connection leaves to the next.
#[derive(Default)]
pub(crate) struct ReconnectState {
    /// Messages that are being written.
    pub(crate) in_flight: InFlight,
    /// Messages on disk, and what goes there.
    pub(crate) spooling: Option<Spooling>,
    /// A broker refused a subscription without naming it: ask for a few at a time.
    pub(crate) careful: bool,
    /// One of these was refused: half of them are asked for, and so on.
    pub(crate) doubtful: BTreeSet<Channel>,
    /// How many to ask for at once when none is known to be among them that is refused: twice as
    /// many each time.
    pub(crate) group: usize,
    /// Subscriptions that the broker had time to refuse and did not.
    pub(crate) proven: BTreeSet<Channel>,
    /// How long the broker takes to refuse a subscription, as far as it has shown.
    late: Duration,
    /// The subscription after which the broker closed without a word, once.
    pub(crate) suspect: Option<Channel>,
    /// Subscriptions that were taken out since a connection lasted. A program that asks for one
    /// again at once, each time that it is denied, does not have the broker dialled in a loop.
    pub(crate) taken_out: BTreeSet<Channel>,
    /// The broker refused a subscription or a message, and did not say which.
    pub(crate) unexplained: Option<String>,
    /// How often in a row the broker has ended a connection cleanly and without a word instead of
    /// answering HELLO.
    pub(crate) silent: u32,
    /// HELLO is left out on this connection, to see whether it is what the broker cannot bear.
    pub(crate) leaves_out: bool,
    /// The last connection was ended to have messages confirmed, and they were.
    pub(crate) rotated: bool,
    /// The first refused message; `close` reports it.
    pub(crate) denial: Option<Error>,
    /// Channels to which messages were refused, and which are still to be taken out of the queue;
    /// at most [`MAX_QUARANTINED`].
    denied: BTreeMap<Channel, Error>,
    /// When the queue was searched for such.
    searched: Option<Instant>,
}

/// The queue is searched for messages to denied channels no more often than this, for all of these
/// channels at once: a broker that denies one after the other, made-up ones too, would have the
/// driver do nothing else.
const SEARCH_AGAIN: Duration = Duration::from_millis(250);

/// A subscription that is refused later than this after it was asked for is a right that has been
/// taken away.
const LATEST: Duration = Duration::from_secs(5);

impl ReconnectState {
    /// Does for the spool, or for a queue that is full, what can be done now. True when HELLO must be said again.
    pub(crate) fn keep(&mut self, cx: &mut Context<'_>, shared: &Shared, link: Link) -> bool {
        self.make_room(shared);
        let Self { spooling: Some(spooling), in_flight, .. } = self else { return false };
        spooling.poll(cx, shared, in_flight, link)
    }

    /// Whether what is in the outbox comes next, and may be written.
    pub(crate) fn is_direct(&self, shared: &Shared) -> bool {
        self.spooling.as_ref().is_none_or(|spooling| spooling.is_direct(shared, &self.in_flight))
    }

    /// Whether nothing more is sent until everything that was is confirmed.
    pub(crate) fn waits_for_end(&self) -> bool {
        self.spooling.as_ref().is_some_and(Spooling::waits_for_end)
    }

    /// Whether there is more to send than what stands in outbox and `in_flight`.
    pub(crate) fn holds_more(&self) -> bool {
        self.spooling.as_ref().is_some_and(Spooling::holds_more)
    }

    /// Tells the feed, if there is one, of messages that were refused; `None`: they are too long.
    pub(crate) fn tell_refused(&self, first: u64, count: u64, code: Option<Code>) {
        if let Some(spooling) = &self.spooling {
            spooling.refused(&self.in_flight, first, count, code);
        }
    }

    /// Tells the feed of the broker that has accepted the key.
    pub(crate) fn tell_accepted(&self, hello: Option<(&BrokerHello<'_>, Option<Level>)>) {
        if let Some(spooling) = &self.spooling {
            spooling.accepted(hello);
        }
    }

    /// Brings the figures of the session up to date.
    pub(crate) fn figure(&self, shared: &Shared) {
        match &self.spooling {
            Some(spooling) => spooling.figure(shared, &self.in_flight),
            None => shared.set_figures(&self.in_flight),
        }
    }

    /// A subscription was refused so long after it was asked for, when it was taken for good.
    pub(crate) fn refused_late(&mut self, age: Duration) {
        if age <= LATEST {
            self.late = self.late.max(age);
        }
    }

    /// How long a subscription is in doubt: the grace, or twice what the broker was seen to need.
    pub(crate) fn grace(&self, shared: &Shared) -> Duration {
        shared.config.auth_grace.max(2 * self.late)
    }

    /// Remembers a channel whose messages must leave the queue. With more than can be remembered,
    /// the broker has made most of them up, and the event of this one is told at once.
    pub(crate) fn deny(&mut self, shared: &Shared, channel: Channel, cause: Error) {
        if self.denied.len() < MAX_QUARANTINED || self.denied.contains_key(&channel) {
            self.denied.insert(channel, cause);
        } else {
            shared.emit(SessionEvent::PublishDenied { channel: Some(channel), discarded: 0, cause });
        }
    }

    /// When the queue may be searched, if there is something to search for.
    pub(crate) fn search_at(&self) -> Option<Instant> {
        let now = Instant::now();
        (!self.denied.is_empty()).then(|| self.searched.map_or(now, |searched| now.max(searched + SEARCH_AGAIN)))
    }

    /// Takes messages to denied channels out of the queue, and tells how many there were.
    pub(crate) fn discard(&mut self, shared: &Shared) {
        if self.denied.is_empty() {
            return;
        }
        self.searched = Some(Instant::now());
        let mut counted = Counted::new(mem::take(&mut self.denied));
        shared.outbox.retain(|channel, _| counted.refusal(channel));
        for (channel, (cause, discarded)) in counted.0 {
            shared.count_discarded(discarded);
            shared.emit(SessionEvent::PublishDenied { channel: Some(channel), discarded, cause });
        }
    }

    /// Takes messages to channels that the broker refuses out of what was about to be written;
    /// between connections.
    pub(crate) fn discard_written(&mut self, shared: &Shared) {
        self.discard(shared);
        let quarantined = shared.outbox.quarantined(Instant::now());
        if quarantined.is_empty() {
            return;
        }
        let mut counted = Counted::new(quarantined.into_iter().collect());
        let removed = self.in_flight.retain(|channel, _| counted.refusal(channel));
        shared.outbox.release(removed.room);
        for (channel, (cause, discarded)) in counted.0.into_iter().filter(|(_, (_, discarded))| *discarded > 0) {
            shared.count_discarded(discarded);
            shared.emit(SessionEvent::PublishDenied { channel: Some(channel), discarded, cause });
        }
    }
}

/// Denied channels, each with how many of its messages were found.
struct Counted(BTreeMap<Channel, (Error, u64)>);

impl Counted {
    fn new(denied: BTreeMap<Channel, Error>) -> Self {
        Self(denied.into_iter().map(|(channel, cause)| (channel, (cause, 0))).collect())
    }

    fn refusal(&mut self, channel: &str) -> Option<Error> {
        let (cause, discarded) = self.0.get_mut(channel)?;
        *discarded += 1;
        Some(cause.clone())
    }
}

/// The outcome of one connection: how far it got, and what may have been lost with it.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "facts about one connection that do not depend on each other")]
pub(crate) struct ConnectionOutcome {
    /// When the broker accepted the key.
    pub(crate) accepted: Option<Instant>,
    /// The cause of its failure is out of the way: a denied channel was quarantined.
    pub(crate) repaired: bool,
    /// There are fewer subscriptions, or fewer in doubt, than before: this can be repeated only so
    /// often.
    pub(crate) narrowed: bool,
    /// Messages written whole.
    pub(crate) written: Recent,
    /// A message was written, perhaps in part.
    pub(crate) published: bool,
    /// The broker ended its stream, cleanly and without a word, instead of answering HELLO.
    pub(crate) silent: bool,
    /// The session ended its stream to have messages confirmed.
    pub(crate) rotating: bool,
}

impl ConnectionOutcome {
    /// Whether the key was accepted at least `long` ago. Deliveries do not count: a broker that
    /// drops us after the first message is not to be dialled in a loop.
    pub(crate) fn healthy(&self, long: Duration) -> bool {
        self.accepted.is_some_and(|accepted| accepted.elapsed() >= long)
    }
}

/// Bytes that can be written and not read: more than the buffers of both systems hold (on Linux 4
/// MiB and, since 6.16, 32 MiB at most unless told otherwise) with a proxy between them.
const ON_THE_WAY: usize = 40 << 20;

/// Messages are counted by so many bytes.
const PORTION: usize = 64 * 1024;

/// Counts the newest messages that were written: those that can still be on their way. All before
/// them has been read, or there would have been no room for the newest.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Messages and bytes, oldest first.
    portions: VecDeque<(u64, usize)>,
    bytes: usize,
    messages: u64,
}

impl Recent {
    pub(crate) fn push(&mut self, messages: u64, bytes: usize) {
        if messages == 0 {
            return;
        }
        self.bytes += bytes;
        self.messages += messages;
        match self.portions.back_mut() {
            Some(last) if last.1 + bytes <= PORTION => *last = (last.0 + messages, last.1 + bytes),
            _ => self.portions.push_back((messages, bytes)),
        }
        while let Some((messages, bytes)) = self.portions.front() {
            if self.bytes - bytes < ON_THE_WAY {
                break;
            }
            self.bytes -= bytes;
            self.messages -= messages;
            self.portions.pop_front();
        }
    }

    /// How many there are.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_written_long_ago_are_not_on_their_way() {
        for length in [20, 1000, 100_000, 1 << 20] {
            let (mut recent, most) = (Recent::default(), ON_THE_WAY / length);
            for n in 0..3 * most {
                recent.push(1, length);
                let messages = usize::try_from(recent.messages()).unwrap_or_default();
                // No fewer than fit, and at most a portion more.
                assert!(messages >= (n + 1).min(most), "{messages} of {n}");
                assert!(messages * length < ON_THE_WAY + length.max(PORTION), "{messages} of {n}");
            }
            assert!(recent.portions.len() <= 2 * ON_THE_WAY / PORTION + 2);
        }
        // One that is longer than all that.
        let mut recent = Recent::default();
        recent.push(1, 2 * ON_THE_WAY);
        recent.push(1, 2 * ON_THE_WAY);
        assert_eq!(recent.messages(), 1);
    }
}
