//! The model of a broker: what it has to make of what its peers send, as plainly as it can be said.

use std::collections::BTreeSet;

use hpfeeds::wire::{Frame, FrameRef, HEADER_LEN, Header, Limits, Secret};

use super::{
    IDENTS, MAX, MAX_SUBSCRIPTIONS, Play, TEXTS,
    peer::{State, matches, overlap},
};
use crate::model;

impl Play {
    /// Acts on the bytes of a peer, as the broker has to.
    pub(super) fn hear(&mut self, at: usize, bytes: &[u8]) {
        self.peers[at].begun.extend_from_slice(bytes);
        loop {
            let begun = std::mem::take(&mut self.peers[at].begun);
            let header = match Header::parse(&begun, Limits::new(MAX)) {
                _ if matches!(self.peers[at].state, State::Over) => return,
                Ok(Some(header)) => header,
                Ok(None) => {
                    self.peers[at].begun = begun;
                    return;
                }
                Err(fault) => return self.refuse(at, fault.to_string()),
            };
            let greeted = matches!(self.peers[at].state, State::Greeted);
            match begun[4] {
                2 if greeted => {}
                3..=5 if !greeted => {}
                _ if greeted => return self.refuse(at, "First message was not AUTH".into()),
                2 => return self.refuse(at, "AUTH is only allowed as the first message".into()),
                _ => return self.refuse(at, format!("{} is not allowed from a client", header.opcode)),
            }
            if begun.len() < header.length {
                self.peers[at].begun = begun;
                return;
            }
            let (frame, rest) = begun.split_at(header.length);
            self.peers[at].begun = rest.to_vec();
            match FrameRef::parse(header.opcode, &frame[HEADER_LEN..]) {
                Ok(parsed) => self.act(at, parsed, frame),
                Err(fault) => self.refuse(at, fault.to_string()),
            }
        }
    }

    fn act(&mut self, at: usize, parsed: FrameRef<'_>, frame: &[u8]) {
        match parsed {
            FrameRef::Auth { ident, digest } => {
                let known = IDENTS.into_iter().find(|known| *known == ident);
                let rights = known.and_then(|known| self.keys.lock().expect("one thread")[known]);
                let nonce = self.peers[at].nonce.clone().expect("greeted");
                // With an empty secret nobody can authenticate.
                let proven = |secret: &str| !secret.is_empty() && Secret::from(secret).verify(&nonce, digest);
                match known.zip(rights.filter(|(secret, ..)| proven(secret))) {
                    Some((ident, rights)) => {
                        self.counts.authenticated += 1;
                        self.peers[at].state = State::In { ident, rights, wanted: BTreeSet::new() };
                    }
                    None => {
                        self.counts.auth_failures += 1;
                        self.over(at, Some(format!("Authentication failed for {ident}")));
                    }
                }
            }
            FrameRef::Subscribe { channel, .. } => {
                let peer = &mut self.peers[at];
                let State::In { ident, rights: (_, _, subscribe), wanted } = &mut peer.state else {
                    panic!("who has not authenticated cannot subscribe");
                };
                let Some(text) = TEXTS.into_iter().find(|text| *text == channel) else {
                    // Made up by the fuzzer. Every list that allows it allows all: it may stay, as nobody publishes to it.
                    return self.other_subscription(at, channel);
                };
                if !wanted.contains(text) && !subscribe.iter().any(|entry| overlap(entry, text)) {
                    let text = format!("Authkey not allowed to sub here. ident={ident}, chan={channel}");
                    return self.refuse(at, text);
                }
                wanted.insert(text);
                peer.ever.insert(text);
                if wanted.len() > MAX_SUBSCRIPTIONS {
                    self.refuse(at, format!("Too many subscriptions: the limit is {MAX_SUBSCRIPTIONS}"));
                }
            }
            FrameRef::Unsubscribe { channel, .. } => {
                if let State::In { wanted, .. } = &mut self.peers[at].state {
                    wanted.remove(channel);
                }
            }
            FrameRef::Publish { ident: claimed, channel, .. } => {
                let State::In { ident, rights: (_, publish, _), .. } = self.peers[at].state else {
                    panic!("who has not authenticated cannot publish");
                };
                if ident != claimed {
                    return self.refuse(at, format!("Invalid authkey in message, ident={claimed}"));
                }
                if !publish.iter().any(|entry| matches(entry, channel)) {
                    return self.refuse(at, format!("Authkey not allowed to pub here. ident={ident}, chan={channel}"));
                }
                self.counts.received_messages += 1;
                self.counts.received_bytes += frame.len() as u64;
                let before = self.counts.routed;
                for peer in &mut self.peers {
                    if let State::In { rights: (_, _, subscribe), wanted, .. } = &peer.state
                        && wanted.iter().any(|text| matches(text, channel))
                        && subscribe.iter().any(|entry| matches(entry, channel))
                    {
                        self.counts.routed += 1;
                        peer.expected.extend_from_slice(frame);
                    }
                }
                self.counts.unrouted += u64::from(self.counts.routed == before);
            }
            _ => panic!("other frames have been refused"),
        }
    }

    /// A channel or pattern that is none of ours: what comes of it is not followed.
    fn other_subscription(&mut self, at: usize, channel: &str) {
        let State::In { ident, rights: (_, _, subscribe), .. } = &self.peers[at].state else {
            return;
        };
        if subscribe.iter().any(|entry| overlap(entry, channel)) {
            // It might get more than the model knows of.
            self.strict = false;
            self.peers[at].ever.insert("*");
            return;
        }
        let text = format!("Authkey not allowed to sub here. ident={ident}, chan={channel}");
        self.refuse(at, text);
    }

    /// The broker looks up all keys again.
    pub(super) async fn recheck(&mut self) {
        // Whatever is on its way has been acted on.
        self.settle().await;
        let keys = self.keys.lock().expect("one thread").clone();
        self.broker.recheck_now();
        for at in 0..self.peers.len() {
            let State::In { ident, rights, wanted } = &mut self.peers[at].state else {
                continue;
            };
            let ident = *ident;
            match keys[ident] {
                Some(new) if new.0 == rights.0 => {
                    let changed = (rights.1, rights.2) != (new.1, new.2);
                    *rights = new;
                    let denied = wanted.iter().find(|text| !new.2.iter().any(|entry| overlap(entry, text)));
                    if changed && let Some(text) = denied {
                        let text = format!("Authkey not allowed to sub here. ident={ident}, chan={text}");
                        self.refuse(at, text);
                    }
                }
                _ => {
                    self.counts.revoked += 1;
                    self.over(at, Some(format!("Authentication failed for {ident}")));
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, at: usize, text: String) {
        match self.peers[at].state {
            State::Greeted => self.counts.handshake_failures += 1,
            State::In { .. } => self.counts.refused += 1,
            State::Over => return,
        }
        self.over(at, Some(text));
    }

    pub(super) fn over(&mut self, at: usize, error: Option<String>) {
        let peer = &mut self.peers[at];
        peer.state = State::Over;
        peer.begun.clear();
        peer.last = error.map_or_else(Vec::new, |text| model::encode(&Frame::Error { message: text.into() }));
        peer.loose |= !peer.reading;
    }
}
