//! The first part of a connection: AUTH, the subscriptions, and the time after which silence means
//! that they are good.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::state::{Connection, Phase, encode, subscribe};
use crate::{
    client::event::{SessionEvent, SessionState},
    wire::{Frame, Nonce},
};

impl Connection<'_> {
    /// AUTH, and the subscriptions: all of them, or those that are known to be good when one must
    /// be found that is not.
    pub(super) fn begin(&mut self, nonce: &Nonce) {
        let config = &self.shared.config;
        let (mut now, mut later) = (self.shared.channels(), VecDeque::new());
        if self.reconnect.careful {
            now.retain(|channel| {
                let proven = self.reconnect.proven.contains(channel);
                if !proven {
                    later.push_back(channel.clone());
                }
                proven
            });
            self.reconnect.doubtful.retain(|channel| later.contains(channel));
            later.make_contiguous().sort_by_key(|channel| !self.reconnect.doubtful.contains(channel));
        }
        let mut frames = vec![Frame::Auth { ident: config.ident.clone(), digest: config.secret.sign(nonce) }];
        frames.extend(now.iter().map(|channel| subscribe(self.shared, channel)));
        self.subscribed = now.into_iter().map(|channel| (channel, Instant::now())).collect();
        self.reconnect.in_flight.push_control(encode(self.shared, &frames));
        if let Phase::Proving { replay, .. } = &mut self.phase {
            *replay = later;
        }
    }

    /// A message came: the key is good.
    pub(super) fn proven(&mut self) {
        if let Phase::Proving { replay, .. } = &self.phase
            && replay.is_empty()
        {
            self.accept();
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
        let frames: Vec<_> = last.iter().map(|channel| subscribe(self.shared, channel)).collect();
        self.subscribed.extend(last.iter().map(|channel| (channel.clone(), now)));
        grace.as_mut().reset(now + reconnect.grace(self.shared));
        reconnect.in_flight.push_control(encode(self.shared, &frames));
    }

    pub(super) fn accept(&mut self) {
        self.phase = Phase::Accepted;
        self.reconnect.careful = false;
        self.reconnect.doubtful.clear();
        self.outcome.accepted = Some(Instant::now());
        tracing::info!(addr = %self.shared.config.addr, broker = ?self.broker, "connected");
        self.shared.state.send_replace(SessionState::Connected);
        self.shared.emit(SessionEvent::Connected { broker: self.broker.clone() });
        if let Some(first) = self.first.take() {
            // The caller of `connect` may have gone; then the session is dropped too.
            drop(first.send(Ok(())));
        }
        self.conclude();
    }
}
