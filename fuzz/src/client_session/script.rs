//! The model of a session: what it has to make of what a broker sends.

use bytes::Bytes;
use hpfeeds::wire::{Channel, Frame, Ident, Nonce};

use crate::model;

/// The messages that a session has to deliver of what its broker sent, and how that ends.
#[derive(Debug, Default, Clone)]
pub(super) struct Script {
    pub(super) messages: Vec<(Ident, Channel, Bytes)>,
    /// So many of them come whatever happens: nothing before them has given the session a reason to leave.
    pub(super) firm: usize,
    /// There is something after which it must leave.
    pub(super) fatal: bool,
    /// There is an ERROR.
    pub(super) refused: bool,
    pub(super) nonce: Option<Nonce>,
}

impl Script {
    pub(super) fn of(sent: &[u8], max: u32) -> Self {
        let mut script = Self::default();
        let mut rest = sent;
        let mut doubt = false;
        loop {
            if let (Some(_), Some(length)) = (&script.nonce, too_long(rest, max)) {
                match rest.get(length..) {
                    Some(after) => rest = after,
                    None => return script,
                }
                continue;
            }
            let body = match model::whole(rest, max) {
                Ok(Some(body)) => body,
                Ok(None) => return script,
                Err(_) => {
                    script.fatal = true;
                    return script;
                }
            };
            let bytes = &rest[..5 + body.len()];
            rest = &rest[5 + body.len()..];
            let decoded = model::decode(bytes, max).frames.pop();
            match decoded {
                Some(Frame::Info { nonce, .. }) if script.nonce.is_none() => script.nonce = Some(nonce),
                // The greeting is something else.
                _ if script.nonce.is_none() => {
                    script.fatal = true;
                    return script;
                }
                Some(Frame::Publish { ident, channel, payload }) => {
                    script.messages.push((ident, channel, payload));
                    if !doubt {
                        script.firm += 1;
                    }
                }
                Some(Frame::Error { .. }) => (script.refused, doubt) = (true, true),
                // A message that cannot be read is passed over.
                None if bytes[4] == 3 => {}
                _ => {
                    script.fatal = true;
                    return script;
                }
            }
        }
    }
}

/// The length of a PUBLISH that is above the limit and passed over.
fn too_long(bytes: &[u8], max: u32) -> Option<usize> {
    let [a, b, c, d, 3] = *bytes.first_chunk()? else {
        return None;
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    let passed_over = u64::from(length) > model::limit(3, max) && length <= 64 << 20;
    passed_over.then_some(length as usize)
}
