//! One peer: what it did, what it has to get, and what it got.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt as _;
use hpfeeds::wire::{Frame, Nonce};
use tokio::io::{AsyncReadExt as _, DuplexStream};

use super::{MAX, Published, Rights};
use crate::model;

pub(super) struct Peer {
    /// Until it has dropped it.
    pub(super) io: Option<DuplexStream>,
    pub(super) finished: bool,
    pub(super) reading: bool,
    pub(super) nonce: Option<Nonce>,
    pub(super) got: Vec<u8>,
    pub(super) eof: bool,
    pub(super) state: State,
    /// The bytes that it has sent of a frame that is not whole.
    pub(super) begun: Vec<u8>,
    /// The bytes that it will send before anything else.
    pub(super) unsent: Vec<u8>,
    /// The bytes that it has to get after the greeting: messages, and at the end an ERROR.
    pub(super) expected: Vec<u8>,
    pub(super) last: Vec<u8>,
    /// It ended while it did not read: then what is queued may be lost.
    pub(super) loose: bool,
    /// The channels that it has ever been allowed to receive and asked for.
    pub(super) ever: BTreeSet<&'static str>,
}

pub(super) enum State {
    Greeted,
    In { ident: &'static str, rights: Rights, wanted: BTreeSet<&'static str> },
    Over,
}

impl Peer {
    pub(super) fn read(&mut self) -> bool {
        let mut progress = false;
        let mut buf = [0; 4096];
        while let Some(io) = &mut self.io
            && !self.eof
            && let Some(Ok(n)) = io.read(&mut buf).now_or_never()
        {
            self.got.extend_from_slice(&buf[..n]);
            self.eof = n == 0;
            progress = true;
        }
        progress
    }

    /// It got the first messages that it had to get, maybe not all, and then maybe the ERROR, maybe not all of it.
    pub(super) fn check_cut(&self) {
        let messages = model::decode(&self.expected, MAX);
        let fits = [0].into_iter().chain(messages.ends).any(|end| {
            let all = [&self.expected[..end], &self.last].concat();
            all.starts_with(&self.got)
        });
        assert!(fits || self.expected.starts_with(&self.got), "{:?}", self.got.escape_ascii().to_string());
    }

    /// Whatever was lost: what it got was published like that, to something it may have, and in order.
    pub(super) fn check_loosely(&self, published: &Published) {
        let decoded = model::decode(&self.got, MAX);
        assert_eq!(decoded.fault, None);
        let mut latest = BTreeMap::new();
        for (index, frame) in decoded.frames.iter().enumerate() {
            match frame {
                Frame::Publish { channel, payload, .. } if payload.len() >= 4 && payload != "claimed" => {
                    let number = u32::from_be_bytes(*payload.first_chunk().expect("four bytes"));
                    // Others were made up by the fuzzer.
                    if let Some((_, from)) = published.get(&number).filter(|(bytes, _)| *bytes == model::encode(frame))
                    {
                        let before = latest.insert(*from, number);
                        assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
                    }
                    assert!(self.ever.iter().any(|text| matches(text, channel)), "nobody asked for {channel}");
                }
                Frame::Publish { .. } => {}
                Frame::Error { .. } => assert_eq!(index + 1, decoded.frames.len(), "an ERROR is the last word"),
                other => panic!("a broker sent {other:?}"),
            }
        }
    }
}

/// Whether a text stands for a channel: the documentation of `Pattern`, word for word.
pub(super) fn matches(text: &str, channel: &str) -> bool {
    text == channel
        || text == "*"
        || text.strip_suffix(".*").is_some_and(|prefix| {
            channel.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| !rest.is_empty())
        })
}

/// Whether two texts have channels in common.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    matches(a, b) || matches(b, a)
}
