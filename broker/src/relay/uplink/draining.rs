//! The draining of an uplink: messages that were set aside go up after all, when one of them is
//! accepted.

use hpfeeds::wire::Channel;
use tokio::time::Instant;

use super::Uplink;
use crate::{
    journal::handle::Entry,
    relay::{
        aside::Aside,
        cursor::new_stream,
        drain::Drain,
        figures::Held,
        piece::pieces,
        queue::{CHUNK, Outgoing},
        source::Source,
        table::{ASIDES, prefix},
    },
};
use tracing::{info, warn};

impl Uplink {
    /// A channel is denied: it is tried again after the interval.
    pub(super) fn deny(&mut self, channel: &Channel) -> &mut Aside {
        if !self.asides.contains_key(channel) {
            warn!(ident = %self.ident, %channel, "the parent denies the channel: its messages are kept");
            self.probe_at = self.probe_at.max(Instant::now() + self.settings.again);
        }
        self.is_dirty = true;
        self.asides.entry(channel.clone()).or_insert_with(|| Aside::new(new_stream()))
    }

    /// A message of the channel was accepted: those that were set aside follow.
    pub(super) fn open(&mut self, channel: &Channel) {
        let Some(aside) = self.asides.get_mut(channel) else { return };
        aside.is_broken = true;
        self.kept.remove(channel);
        if self.drain.is_none() {
            self.start(channel.clone(), false);
        }
    }

    fn start(&mut self, channel: Channel, is_probe: bool) {
        let Some(aside) = self.asides.get(&channel) else { return };
        let source = Source::new(&self.journal, aside.start());
        self.drain = Some(Drain { channel, source, is_probe, is_planned: false, end: aside.end(), is_denied: false });
    }

    /// Plans messages that were set aside. `true` while more of them may come.
    pub(super) fn plan_aside(&mut self) -> bool {
        let Some(drain) = self.drain.as_mut().filter(|drain| !drain.is_planned) else { return false };
        let Some(aside) = self.asides.get_mut(&drain.channel) else {
            self.drain = None;
            return false;
        };
        let mut bytes = 0;
        while bytes < CHUNK && !drain.is_planned {
            drain.end = aside.end();
            if drain.source.position() >= drain.end {
                drain.is_planned = true;
                break;
            }
            let Some(entry) = drain.source.take() else { break };
            let batch = match entry {
                Entry::Batch(batch) => batch,
                // They were counted when the cursor came there, or are gone since: see below.
                Entry::Lost(_) => continue,
            };
            let passes = |channel: &str, position| *channel != *drain.channel || !aside.holds(position);
            for mut piece in pieces(&batch, &self.ident, passes) {
                if drain.is_probe && piece.messages > 1 {
                    piece = piece.split(1);
                }
                let first = aside.number + 1;
                aside.number += u64::from(piece.messages);
                bytes += piece.frames.len();
                self.queue.plan(Outgoing { stream: aside.stream, first, piece, aside: Some(drain.channel.clone()) });
                if drain.is_probe {
                    drain.is_planned = true;
                    break;
                }
            }
        }
        if drain.is_planned && !self.queue.has_planned() {
            self.drained();
        }
        self.drain.as_ref().is_some_and(|drain| !drain.is_planned)
    }

    /// Whether it is sending messages of this channel after all.
    pub(super) fn is_draining(&self, channel: &Channel) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.channel == *channel)
    }

    /// Messages of the channel were accepted, or refused for good, up to the newest of them.
    pub(super) fn sent_aside(&mut self, outgoing: &Outgoing, channel: &Channel) {
        let is_denied = self.drain.as_ref().is_some_and(|drain| drain.is_denied);
        if let Some(aside) = self.asides.get_mut(channel).filter(|_| !is_denied) {
            let last = outgoing.piece.position(outgoing.piece.messages - 1);
            aside.sent(last, outgoing.piece.messages.into());
            self.is_dirty = true;
        }
    }

    /// A message of the channel is denied once more: nothing behind it counts as sent.
    pub(super) fn denied_aside(&mut self) {
        if let Some(drain) = &mut self.drain {
            drain.is_denied = true;
        }
    }

    /// Ends the drain when all that it has sent is decided.
    pub(super) fn drained(&mut self) {
        let Some(drain) = self.drain.as_ref().filter(|drain| drain.is_planned) else { return };
        if self.queue.has_aside(&drain.channel) {
            return;
        }
        let (channel, is_denied) = (drain.channel.clone(), drain.is_denied);
        let (is_all, end) = (!drain.is_probe, drain.end);
        self.drain = None;
        // Numbers that were used for messages that are still here never come again.
        (self.is_dirty, self.is_due) = (true, true);
        let Some(aside) = self.asides.get_mut(&channel) else { return };
        if is_denied {
            self.probe_at = Instant::now() + self.settings.again;
            return;
        }
        aside.is_broken = true;
        if aside.ranges.is_empty() || is_all && aside.end() <= end {
            let left = aside.messages;
            info!(ident = %self.ident, %channel, "the messages that were kept for the channel are sent");
            self.figures.change(|figures| figures.lost += left);
            self.forget(&channel);
        } else {
            self.start(channel, false);
        }
    }

    fn forget(&mut self, channel: &Channel) {
        self.asides.remove(channel);
        self.kept.remove(channel);
        self.table.put(ASIDES, &[&prefix(&self.ident)[..], channel.as_bytes()].concat(), None);
        self.is_dirty = true;
    }

    /// Once a second: drops what was denied for too long, and tries a channel again.
    pub(super) fn age(&mut self) {
        if self.broker.is_none() {
            return;
        }
        let mut over = Vec::new();
        for (channel, aside) in &mut self.asides {
            aside.age += super::INTERVAL;
            if aside.age >= self.settings.denied_for {
                over.push((channel.clone(), aside.messages));
            }
        }
        for (channel, messages) in over {
            let after = self.settings.denied_for;
            warn!(ident = %self.ident, %channel, messages, "the channel is denied for {after:?}: messages are dropped");
            self.figures.change(|figures| figures.refused.denied += messages);
            self.forget(&channel);
        }
        if self.drain.is_none() && Instant::now() >= self.probe_at {
            // One after the other.
            let next = self.asides.iter().filter(|(_, aside)| !aside.ranges.is_empty());
            let next = next.max_by_key(|(_, aside)| aside.age).map(|(channel, _)| channel.clone());
            if let Some(channel) = next {
                self.start(channel, true);
            }
        }
    }

    pub(super) fn held(&self) -> Vec<Held> {
        let held = |(channel, aside): (&Channel, &Aside)| Held {
            channel: channel.clone(),
            messages: aside.messages,
            age: aside.age,
        };
        self.asides.iter().map(held).collect()
    }
}
