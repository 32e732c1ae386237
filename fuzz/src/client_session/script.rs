//! What a session has to make of what a broker sends.

use bytes::Bytes;
use hpfeeds::wire::{Channel, Frame, Ident, Nonce};

use crate::model;

/// What the session has to make of what the broker sent.
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
                // What came together with it is still given to the program.
                None if bytes[4] == 3 => (script.fatal, doubt) = (true, true),
                _ => {
                    script.fatal = true;
                    return script;
                }
            }
        }
    }
}
