//! Publishing: the PUBLISH frames of one client, from the read buffer to their routes.

use std::cell::Cell;

use hpfeeds::wire::{Channel, FrameBatch, FrameRef, HEADER_LEN, Opcode};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::{
    incidents::IncidentKind,
    metrics::{category::Category, sizes::Sizes},
    net::endpoint::Mode,
    routing::patterns::prefixes,
    session::{
        fanout::{Fanout, PendingFanout},
        publish_cache::PublishTarget,
        reader::{SessionReader, owned},
        route::Route,
        storing::{Storage, Storing},
        suspension::Suspension,
    },
};

/// The route of a batch through a session. A function would borrow all of that.
macro_rules! route {
    ($session:ident) => {
        Route {
            context: &$session.context,
            buffer: &mut $session.buffer,
            budget: &mut $session.budget,
            extension: &mut $session.extension,
            storing: &mut $session.storing,
            session: $session.subscriptions.outbox().session(),
        }
    };
}

/// Why messages are not published.
enum Denial {
    /// The text of the ERROR that ends the connection.
    Fatal(String),
    /// The messages on this channel are refused, for the reason in the text, and the connection
    /// goes on.
    Refused(Channel, String),
}

impl SessionReader {
    /// Reserves the next messages at the rate limit of the ident. Returns the wait until they may
    /// pass.
    pub(super) fn reserve(&mut self) -> Option<Suspension> {
        let limiter = self.membership.quota().publish.as_ref()?;
        let (messages, bytes) = limiter.rate().portion();
        let portion = FrameBatch::new(&self.buffer.bytes, self.context.config.limits).portion(messages, bytes);
        self.buffer.granted = portion.len;
        let now = Instant::now();
        let until = limiter.reserve(portion.messages.into(), portion.len as u64, now);
        (until > now).then(|| Suspension { until_stopped: true, ..Suspension::new(sleep_until(until)) })
    }

    /// Publishes the PUBLISH frames at the start of the buffer, of which the first is whole. When a
    /// subscriber has no room yet, returns the wait for it.
    pub(super) fn publish(&mut self) -> Result<Option<Suspension>, String> {
        let limits = self.context.config.limits;
        let mut fanout = Fanout::default();
        while !self.budget.is_exceeded() {
            // The fanout stands at the start of the buffer; the next message is the one behind it.
            let position = fanout.extent().len;
            let passing = FrameBatch::new(self.buffer.passing(), limits);
            let Some((first, body)) = passing.publish_at(position) else {
                debug_assert!(position > 0, "what passes is whole frames, and the first is there");
                break;
            };
            // The channel is checked and looked up once, and then found in the cache.
            let Some(PublishTarget { names, topic, series, storage }) = self.cache.find(body) else {
                // The fanout goes first: an error must not take it along.
                if position > 0 {
                    break;
                }
                let (target, prefixes) = match self.target(body) {
                    Ok(found) => found,
                    Err(Denial::Fatal(text)) => return Err(text),
                    Err(Denial::Refused(channel, text)) => return self.refuse(&channel, text).map(|()| None),
                };
                self.budget.charge_lookup(prefixes);
                self.cache.add(target, self.context.config.max_subscriptions);
                self.begin_storing();
                continue;
            };
            let storage = match &self.storing {
                Some(storing) => storing.storage(topic.channel(), storage),
                None => Storage::default(),
            };
            // Channels with the same subscribers go to them together; otherwise the fanout is
            // queued, and another begins.
            if fanout.is_known_to_take(topic, storage) {
                self.budget.charge_comparison(fanout.subscribers());
            } else {
                let subscribers = topic.subscribers();
                if position > 0 {
                    self.budget.charge_comparison(subscribers.len());
                }
                if !fanout.takes(topic, &subscribers, storage)
                    && let Some(pending) = route!(self).take(&mut fanout)?
                {
                    return Ok(Some(self.wait(pending)));
                }
                if storage.journal
                    && fanout.extent().len == 0
                    && let Some(storing) = &mut self.storing
                {
                    let confirms = self.extension.as_ref().is_some_and(|extension| extension.confirms());
                    if let Some(wait) = storing.pace(self.buffer.passing().len(), confirms) {
                        return Ok(Some(Suspension { until_stopped: true, ..Suspension::new(wait) }));
                    }
                }
                fanout.begin(topic, subscribers, storage);
            }
            // All messages on the same channel that follow are one step, whatever their number.
            let position = fanout.extent().len;
            let overhead = HEADER_LEN + names.len();
            let mut sizes = Sizes::new(overhead);
            let rest = self.buffer.passing().get(position..).unwrap_or_default();
            let batch =
                FrameBatch::new(rest, limits).same_names(first, names.len(), |length, count| sizes.add(length, count));
            let payload = batch.len - batch.messages as usize * overhead;
            series.published(&sizes, payload);
            if fanout.is_unrouted() {
                series.unrouted(batch.messages);
            }
            fanout.add(batch, payload);
        }
        Ok(route!(self).take(&mut fanout)?.map(|pending| self.wait(pending)))
    }

    /// Has what the client publishes stored from now on, as far as it is to be.
    #[cold]
    fn begin_storing(&mut self) {
        if let (None, Some(store)) = (&self.storing, &self.context.journal) {
            let is_relay = self.context.config.storage.is_relay;
            let stores_all = is_relay || self.extension.as_ref().is_some_and(|extension| extension.stores_all());
            let account = self.membership.quota().name().clone();
            self.storing = Some(Box::new(Storing::new(store.clone(), account, stores_all)));
        }
    }

    /// The wait until all subscribers have a batch.
    fn wait(&self, pending: PendingFanout) -> Suspension {
        let (kept, messages) = (pending.holds(), pending.len());
        Suspension { kept, messages, ..Suspension::new(pending.deliver(self.context.metrics.stall())) }
    }

    /// Checks whether the client may publish this PUBLISH body, and looks the channel up. Also
    /// returns how many of its beginnings may be a pattern's.
    fn target(&self, body: &[u8]) -> Result<(PublishTarget, usize), Denial> {
        let (ident, channel) = match FrameRef::parse(Opcode::Publish, body) {
            Ok(FrameRef::Publish { ident, channel, .. }) => (ident, channel),
            Ok(_) => unreachable!("the opcode is PUBLISH"),
            Err(cause) => return Err(Denial::Fatal(cause.to_string())),
        };
        let (session, peer) = (self.outbox().session(), self.outbox().peer());
        let own = self.membership.ident();
        if *own != ident {
            session.error(Category::IdentMismatchPub);
            info!(ident = own.as_str(), %peer, channel, claimed = ident, "denied: publish in another's name");
            let text = format!("Invalid authkey in message, ident={ident}");
            self.context.incidents.add(IncidentKind::OthersName, Some(own), peer.ip(), Some(channel), &text);
            return Err(Denial::Fatal(text));
        }
        let owned = owned(channel, Opcode::Publish).map_err(Denial::Fatal)?;
        // The endpoint refuses with the words for a key: clients know them, and it is as much
        // "here" as the broker.
        if self.mode == Mode::Subscribe || !self.membership.key().may_publish(channel) {
            let text = format!("Authkey not allowed to pub here. ident={ident}, chan={channel}");
            if self.replies() {
                return Err(Denial::Refused(owned, text));
            }
            session.error(Category::NoPubPermission);
            info!(ident, %peer, channel, "denied: publish");
            self.context.incidents.add(IncidentKind::DeniedPublish, Some(own), peer.ip(), Some(channel), &text);
            return Err(Denial::Fatal(text));
        }
        let prefixes = prefixes(channel).count();
        let names = FrameBatch::names(body).unwrap_or(body).into();
        let topic = self.context.router.topic(&owned);
        let series = session.channel(&owned);
        Ok((PublishTarget { names, topic, series, storage: Cell::default() }, prefixes))
    }
}
