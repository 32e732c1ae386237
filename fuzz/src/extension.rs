//! Any opcode and body of the extension is a fault, or a frame that encodes to what parses to the same; the base
//! protocol knows none of them.
//!
//! Input: the opcode, and the body.

use bytes::BytesMut;
use hpfeeds::wire::{
    DecodeError, EncodeError, Field, Header, Limits,
    extension::{BrokerFrame, ClientFrame, ExtensionDecodeError, ExtensionHeader, ExtensionOpcode, MAX_FRAME},
};

use crate::{alloc::measured, input::Input};

/// Bytes that may be allocated beside four times those that came.
const SPARE: usize = 1024;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (byte, body) = (input.byte(), input.rest());
    let length = u32::try_from(5 + body.len()).expect("an input of less than 4 GiB");
    let whole = [&length.to_be_bytes()[..], &[byte], body].concat();
    header(&whole);
    let Some(opcode) = ExtensionOpcode::from_byte(byte) else {
        assert!(!(0x80..=0x88).contains(&byte));
        return;
    };
    let (client, most) = measured(|| ClientFrame::parse(opcode, body));
    assert_eq!(most, 0, "a client's frame allocates nothing");
    let (broker, most) = measured(|| BrokerFrame::parse(opcode, body));
    assert!(most <= 4 * body.len() + SPARE, "{most} bytes were allocated for {}", body.len());
    match (&client, &broker) {
        (Ok(_), Ok(_)) => assert!(matches!(byte, 0x80 | 0x84), "only HELLO and HEARTBEAT go both ways"),
        (Err(ExtensionDecodeError::Direction(_)), Err(ExtensionDecodeError::Direction(_))) => {
            panic!("each frame goes some way")
        }
        _ => {}
    }
    match client {
        Ok(frame) => {
            let encoded = encoded(body, |dst| frame.encode(dst));
            assert_eq!(ClientFrame::parse(opcode, &encoded[5..]).expect("what was encoded"), frame);
            assert_eq!(frame.opcode(), opcode);
        }
        Err(fault) => named(opcode, &fault),
    }
    match broker {
        Ok(frame) => {
            let encoded = encoded(body, |dst| frame.encode(dst));
            assert_eq!(BrokerFrame::parse(opcode, &encoded[5..]).expect("what was encoded"), frame);
            assert_eq!(frame.opcode(), opcode);
        }
        Err(fault) => named(opcode, &fault),
    }
}

/// Both doors, at the header of a whole frame.
fn header(whole: &[u8]) {
    let (byte, fits) = (whole[4], whole.len() <= MAX_FRAME as usize);
    let base = Header::parse(whole, Limits::default());
    assert_eq!(matches!(base, Err(DecodeError::UnknownOpcode(found)) if found == byte), byte > 5);
    match (ExtensionHeader::parse(whole), ExtensionOpcode::from_byte(byte)) {
        (Ok(Some(header)), Some(opcode)) => {
            assert!(fits && header == ExtensionHeader { opcode, length: whole.len() });
            assert_eq!(header.body(whole), Some(&whole[5..]));
            assert_eq!(header.body(&whole[..whole.len() - 1]), None);
        }
        (Err(ExtensionDecodeError::TooLong { opcode: found, .. }), Some(opcode)) => assert!(!fits && found == opcode),
        (Err(ExtensionDecodeError::UnknownOpcode(found)), None) => assert_eq!(found, byte),
        other => panic!("{other:?}"),
    }
    assert!(matches!(ExtensionHeader::parse(&whole[..4]), Ok(None)));
}

/// The bytes of a frame that was parsed: never more than it came in, as only what is ignored is left out.
fn encoded(body: &[u8], encode: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>) -> BytesMut {
    let mut encoded = BytesMut::new();
    encode(&mut encoded).expect("what was parsed is within the limits");
    assert!(encoded.len() <= 5 + body.len());
    header(&encoded);
    encoded
}

/// A fault is one of the frame that was read.
fn named(opcode: ExtensionOpcode, fault: &ExtensionDecodeError) {
    match *fault {
        ExtensionDecodeError::Direction(found) | ExtensionDecodeError::TooLong { opcode: found, .. } => {
            assert_eq!(found, opcode);
        }
        ExtensionDecodeError::Field { opcode: found, field, .. } => {
            assert_eq!(found, opcode);
            assert!(!matches!(field, Field::Ident | Field::Name | Field::Digest));
        }
        ref other => panic!("{other} in a body"),
    }
}
