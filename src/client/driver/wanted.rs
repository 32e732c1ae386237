//! The wishes of a program: which channels it wants and from where on, and who waits for the broker's
//! answer about one.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    mem,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    client::{
        error::{Cause, Error},
        mailbox::SubscribeFrom,
    },
    wire::{Channel, Pattern, extension::Position},
};

/// The channels that are wanted, and what the program wants of the session as a whole.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Each with where it begins, if that matters.
    channels: BTreeMap<Channel, Option<SubscribeFrom>>,
    /// Channels whose wish changed since the driver looked.
    changed: BTreeSet<Channel>,
    /// There is a connection whose driver looks at what changed. Without one, nothing needs to be
    /// remembered.
    connected: bool,
    /// Channels that the broker of this connection has said it delivers.
    granted: BTreeSet<Channel>,
    /// The programs' waits for the broker's answer about a channel.
    waiting: Vec<(Channel, oneshot::Sender<Result<(), Error>>)>,
    pub(super) intent: Intent,
}

/// The intent of the program for the session as a whole.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Stay connected.
    #[default]
    Run,
    /// Send what is queued, have it confirmed, be done by then.
    Close(Instant),
    /// End at once: nobody holds the session any more.
    Abort,
}

/// The wish for a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It is not wanted.
    Nothing,
    /// Its messages, as every broker delivers them.
    Plain,
    /// Its messages from some point on.
    From(SubscribeFrom),
}

impl Wish {
    /// Whether the broker has to be told that a wish it was told before is over, when this one comes in
    /// its place: it delivers a channel from every mailbox at which that was subscribed to.
    pub(crate) fn leaves(&self, before: &Self) -> bool {
        before.mailbox().is_some_and(|mailbox| self.mailbox() != Some(mailbox))
    }

    fn mailbox(&self) -> Option<&str> {
        match self {
            Self::From(from) if from.is_mailbox() => Some(from.name()),
            _ => None,
        }
    }

    fn of(wanted: Option<&Option<SubscribeFrom>>) -> Self {
        match wanted {
            None => Self::Nothing,
            Some(None) => Self::Plain,
            Some(Some(from)) => Self::From(from.clone()),
        }
    }
}

impl Wanted {
    /// Wants a channel, or no longer. Whether that is news.
    pub(super) fn want(&mut self, channel: Channel, wanted: bool) -> bool {
        let changed = if !wanted {
            self.channels.remove(&channel).is_some()
        } else if let Entry::Vacant(place) = self.channels.entry(channel.clone()) {
            place.insert(None);
            true
        } else {
            false
        };
        if !wanted {
            self.granted.remove(&channel);
            let cause = Error::new(Cause::Unsubscribed { channel: channel.clone() });
            self.answer(&channel, &Err(cause));
        }
        if changed {
            self.change(channel);
        }
        changed
    }

    /// Wants a channel from some point on, in place of what was wanted of it before.
    pub(super) fn want_from(&mut self, channel: Channel, from: SubscribeFrom) {
        self.granted.remove(&channel);
        self.channels.insert(channel.clone(), Some(from));
        self.change(channel);
    }

    fn change(&mut self, channel: Channel) {
        if self.connected {
            self.changed.insert(channel);
        }
    }

    /// All wanted channels, for a new connection.
    pub(super) fn channels(&mut self) -> BTreeMap<Channel, Wish> {
        self.connected = true;
        self.changed.clear();
        self.channels.iter().map(|(channel, from)| (channel.clone(), Wish::of(Some(from)))).collect()
    }

    /// Whether a channel is among what is wanted, or below a pattern that is.
    pub(super) fn covers(&self, channel: &str) -> bool {
        self.channels.keys().any(|wanted| Pattern::new(wanted).is_ok_and(|pattern| pattern.matches(channel)))
    }

    /// Whether a mailbox is among what is wanted.
    pub(super) fn has_mailbox(&self) -> bool {
        self.channels.values().flatten().any(SubscribeFrom::is_mailbox)
    }

    /// The connection is over: what changes from now on is part of the next one's channels.
    pub(super) fn disconnected(&mut self) {
        self.connected = false;
        self.changed.clear();
        self.granted.clear();
    }

    /// Channels whose wish changed, each with what is wanted of it now.
    pub(super) fn changes(&mut self) -> Vec<(Channel, Wish)> {
        let changed = mem::take(&mut self.changed);
        let wish = |channel: Channel| {
            let wish = Wish::of(self.channels.get(&channel));
            (channel, wish)
        };
        changed.into_iter().map(wish).collect()
    }

    /// Takes a channel that the broker denied out of what is wanted; says whether it was.
    pub(super) fn unwant(&mut self, channel: &Channel, cause: &Error) -> bool {
        self.changed.remove(channel);
        self.granted.remove(channel);
        let wanted = self.channels.remove(channel).is_some();
        self.answer(channel, &Err(cause.clone()));
        wanted
    }

    /// Whether the wish changed after the broker was asked.
    pub(super) fn is_changed(&self, channel: &Channel) -> bool {
        self.changed.contains(channel)
    }

    /// The broker delivers a channel.
    pub(super) fn grant(&mut self, channel: &Channel) {
        // The answer to what was asked before.
        if self.is_changed(channel) {
            return;
        }
        // From now on the cursor says where it goes on.
        if let Some(Some(from)) = self.channels.get_mut(channel) {
            *from = from.clone().first(Position::NONE);
        }
        self.granted.insert(channel.clone());
        self.answer(channel, &Ok(()));
    }

    /// Waits for the broker's word about a channel that is wanted; the answer may be there already.
    pub(super) fn wait(&mut self, channel: Channel) -> oneshot::Receiver<Result<(), Error>> {
        let (sender, receiver) = oneshot::channel();
        // Futures that were dropped wait for nothing.
        self.waiting.retain(|(_, waiting)| !waiting.is_closed());
        if self.granted.contains(&channel) {
            drop(sender.send(Ok(())));
        } else {
            self.waiting.push((channel, sender));
        }
        receiver
    }

    /// The channels that somebody waits for.
    pub(super) fn waited_for(&self) -> Vec<Channel> {
        self.waiting.iter().map(|(channel, _)| channel.clone()).collect()
    }

    /// Ends all waiting.
    pub(super) fn end(&mut self, refusal: &Error) {
        for (_, waiting) in mem::take(&mut self.waiting) {
            // As below.
            drop(waiting.send(Err(refusal.clone())));
        }
    }

    /// Answers everyone who waits for a channel.
    fn answer(&mut self, channel: &Channel, answer: &Result<(), Error>) {
        let mut at = 0;
        while let Some((waits_for, _)) = self.waiting.get(at) {
            if waits_for == channel {
                // A future that was dropped needs no answer.
                drop(self.waiting.swap_remove(at).1.send(answer.clone()));
            } else {
                at += 1;
            }
        }
    }
}
