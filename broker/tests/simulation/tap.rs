//! The tap: finds the frames in what passes one end of a connection.

use hpfeeds::wire::{
    DecodeError, FrameRef, HEADER_LEN, Header, Limits, Opcode,
    extension::{BrokerFrame, ClientFrame, ExtensionHeader},
};

use crate::record::MAX_MESSAGE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Broker,
}

/// A frame, as its sender has it.
pub(crate) enum Seen<'a> {
    Base(FrameRef<'a>),
    Client(ClientFrame<'a>),
    Broker(BrokerFrame<'a>),
}

#[derive(Default)]
pub(crate) struct Tap(Vec<u8>);

impl Tap {
    /// Bytes that this side has sent.
    pub(crate) fn pass(&mut self, bytes: &[u8], from: Side, mut each: impl FnMut(&Seen<'_>)) {
        self.0.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = one(&self.0[start..], from, &mut each) {
            start += length;
        }
        self.0.drain(..start);
    }
}

/// The length of the frame at the front, which was seen, unless it is not whole, or none.
fn one(bytes: &[u8], from: Side, each: &mut impl FnMut(&Seen<'_>)) -> Option<usize> {
    match Header::parse(bytes, Limits::new(MAX_MESSAGE)) {
        Ok(header) => {
            let header = header?;
            let frame = bytes.get(..header.length)?;
            if let Ok(frame) = FrameRef::parse(header.opcode, &frame[HEADER_LEN..]) {
                each(&Seen::Base(frame));
            }
            debug_assert!(header.opcode != Opcode::Publish || header.length > HEADER_LEN);
            Some(header.length)
        }
        Err(DecodeError::UnknownOpcode(_)) => {
            let header = ExtensionHeader::parse(bytes).ok()??;
            let body = header.body(bytes)?;
            let seen = match from {
                Side::Client => ClientFrame::parse(header.opcode, body).map(Seen::Client),
                Side::Broker => BrokerFrame::parse(header.opcode, body).map(Seen::Broker),
            };
            if let Ok(seen) = seen {
                each(&seen);
            }
            Some(header.length)
        }
        Err(_) => None,
    }
}
