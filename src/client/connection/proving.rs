//! The first part of a connection: AUTH, the subscriptions, and the time after which silence means
//! that they are good.

use std::{collections::VecDeque, mem, task::Context};

use tokio::time::{Instant, sleep_until};

use super::state::{Connection, Phase, encode};
use crate::{
    client::{
        driver::{addresses, desired::Confirms, wanted::Wish},
        event::{SessionEvent, SessionState},
        queue::unconfirmed::Keeping,
    },
    wire::{
        Frame, Nonce,
        extension::{Flags, Level},
    },
};

impl Connection<'_> {
    /// AUTH, HELLO where the broker offers the extension, and the subscriptions: all of them, or
    /// those that are known to be good when one must be found that is not.
    pub(super) fn begin(&mut self, nonce: &Nonce) {
        let config = &self.shared.config;
        let (mut now, mut later) = (self.shared.channels(), VecDeque::new());
        now.retain(|channel, wish| self.can(channel, wish));
        if self.reconnect.careful && self.extension.is_none() {
            now.retain(|channel, _| {
                let proven = self.reconnect.proven.contains(channel);
                if !proven {
                    later.push_back(channel.clone());
                }
                proven
            });
            self.reconnect.doubtful.retain(|channel| later.contains(channel));
            later.make_contiguous().sort_by_key(|channel| !self.reconnect.doubtful.contains(channel));
        }
        let auth = Frame::Auth { ident: config.ident.clone(), digest: config.secret.sign(nonce) };
        self.reconnect.in_flight.push_control(encode(self.shared, &[auth]));
        self.say_hello();
        let frames = self.asking(&now);
        self.reconnect.in_flight.push_control(frames);
        self.subscribed = now.iter().map(|(channel, wish)| (channel.clone(), (Instant::now(), wish.clone()))).collect();
        if let Some(extension) = &mut self.extension {
            extension.unanswered.extend(now);
        }
        if let Phase::Proving { replay, .. } = &mut self.phase {
            *replay = later;
        }
    }

    /// A message came: the key is good.
    pub(super) fn proven(&mut self) {
        if let Phase::Proving { replay, .. } = &self.phase {
            if replay.is_empty() {
                self.accept();
            }
        }
    }

    /// The broker let the grace pass: the key, or the last subscription, is good.
    pub(super) fn prove_next(&mut self) {
        let Phase::Proving { grace, replay, last } = &mut self.phase else {
            return;
        };
        let (now, reconnect) = (Instant::now(), &mut *self.reconnect);
        if last.is_empty() {
            reconnect.proven.extend(self.subscribed.keys().cloned());
        } else if reconnect.doubtful.is_empty() {
            reconnect.group = 2 * last.len();
        }
        for channel in last.drain(..) {
            reconnect.suspect.take_if(|suspect| *suspect == channel);
            reconnect.doubtful.remove(&channel);
            reconnect.proven.insert(channel);
        }
        let size = if reconnect.doubtful.is_empty() { reconnect.group } else { reconnect.doubtful.len() / 2 };
        last.extend(replay.drain(..size.max(1).min(replay.len())));
        if last.is_empty() {
            self.accept();
            return;
        }
        let asked = last.clone();
        self.subscribed.extend(asked.iter().map(|channel| (channel.clone(), (now, Wish::Plain))));
        grace.as_mut().reset(now + reconnect.grace(self.shared));
        let frames = self.asking(asked.iter().map(|channel| (channel, &Wish::Plain)));
        self.reconnect.in_flight.push_control(frames);
    }

    /// A broker that confirms nothing: what another one did not acknowledge is sent once more.
    fn accept_plain(&mut self) {
        let keeping = if self.keeps_until_eof() { Keeping::Eof } else { Keeping::Nothing };
        let in_flight = &mut self.reconnect.in_flight;
        in_flight.unconfirmed.keep(Keeping::Nothing);
        let assumed = in_flight.unconfirmed.assume();
        while self.settle() {}
        self.shared.assumed(assumed);
        let in_flight = &mut self.reconnect.in_flight;
        in_flight.unconfirmed.keep(keeping);
        let again = in_flight.unconfirmed.take_back();
        in_flight.put_back(again);
        self.shared.outbox.set_largest(u32::MAX);
        self.reconnect.tell_accepted(None);
        self.shared.set_confirms(if keeping == Keeping::Eof { Confirms::Yes } else { Confirms::No });
        if mem::take(&mut self.reconnect.leaves_out) {
            addresses::leave_out(&self.shared.config.addr);
            self.shared.emit(SessionEvent::ExtensionLeftOut { retry_in: addresses::LEFT_OUT });
        }
    }

    pub(super) fn accept(&mut self) {
        self.phase = Phase::Accepted;
        if self.extension.is_none() {
            self.accept_plain();
        }
        self.reconnect.careful = false;
        self.reconnect.doubtful.clear();
        self.outcome.accepted = Some(Instant::now());
        self.shared.state.send_replace(SessionState::Connected);
        // A connection that only takes the place of one that was ended on purpose is no news.
        if !mem::take(&mut self.reconnect.rotated) {
            let confirms = match self.reconnect.in_flight.unconfirmed.keeping() {
                Keeping::Nothing => "nothing",
                Keeping::Eof => "by its end of stream",
                Keeping::Acks(Level::ROUTED) => "routed",
                Keeping::Acks(Level::STORED) => "stored",
                Keeping::Acks(_) => "replicated",
            };
            tracing::info!(addr = %self.shared.config.addr, broker = ?self.broker, confirms, "connected");
            self.shared.emit(SessionEvent::Connected { broker: self.broker.clone() });
        }
        if let Some(first) = self.first.take() {
            // The caller of `connect` may have gone; then the session is dropped too.
            drop(first.send(Ok(())));
        }
        self.conclude();
    }

    /// Tells those who wait for a channel that the broker delivers it, when it has had the time to
    /// refuse it: for brokers that do not say so themselves.
    pub(super) fn poll_grants(&mut self, cx: &mut Context<'_>) {
        let silent = self.extension.as_ref().is_none_or(|extension| !extension.grants(Flags::REPLIES));
        if !silent || !matches!(self.phase, Phase::Accepted) || self.hold.is_some() {
            return;
        }
        loop {
            let (now, grace) = (Instant::now(), self.reconnect.grace(self.shared));
            let mut next: Option<Instant> = None;
            for channel in self.shared.awaited() {
                match self.subscribed.get(&channel).map(|(sent, _)| *sent + grace) {
                    Some(at) if at <= now => self.shared.granted(&channel),
                    Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                    None => {}
                }
            }
            let Some(next) = next else {
                self.granting = None;
                return;
            };
            let granting = self.granting.get_or_insert_with(|| Box::pin(sleep_until(next)));
            granting.as_mut().reset(next);
            if granting.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }
}
