//! The frames of the extension: golden vectors, cut and flipped everywhere, and round trips.

mod golden;

use bytes::BytesMut;
use hpfeeds::wire::{
    Codec, DecodeError, EncodeError, FrameBatch, Frames, HEADER_LEN, Header, Limits,
    extension::{
        BrokerFrame, BrokerHello, ClientFrame, ClientHello, Code, ExtensionDecodeError, ExtensionHeader,
        ExtensionOpcode, Flags, GapReason, Level, MAX_FRAME, Mode, NodeId, Position, RefusedRange, StreamId,
        StreamPosition,
    },
};
use proptest::{collection::vec, prelude::*, sample::select};
use tokio_util::codec::Decoder as _;

use super::properties::cases;
use golden::{Frame, Outcome, Side, outcome, vector, vectors};

#[test]
fn golden_extension_frames_parse() {
    for vector in vectors() {
        assert_eq!(outcome(vector.from, &vector.bytes), vector.expected, "{}", vector.name);
    }
}

#[test]
fn golden_extension_frames_encode_to_their_bytes() {
    for vector in vectors() {
        if let Ok(Some(frame)) = Frame::read(vector.from, &vector.bytes) {
            let mut bytes = BytesMut::from(&b"before"[..]);
            frame.encode(&mut bytes).unwrap();
            assert_eq!(&bytes[6..], vector.encodes, "{}", vector.name);
            assert_eq!(Frame::read(vector.from, &bytes[6..]).unwrap().as_ref(), Some(&frame), "{}", vector.name);
        }
    }
}

#[test]
fn a_body_cut_anywhere_is_a_fault_but_where_the_vector_says_so() {
    for vector in vectors().into_iter().filter(|vector| matches!(vector.expected, Outcome::Frame(..))) {
        let header = ExtensionHeader::parse(&vector.bytes).unwrap().unwrap();
        let body = header.body(&vector.bytes).unwrap();
        let cuts: Vec<_> =
            (0..body.len()).filter(|len| Frame::parse(vector.from, header.opcode, &body[..*len]).is_ok()).collect();
        assert_eq!(cuts, vector.cuts, "{}", vector.name);
    }
}

#[test]
fn a_frame_of_which_some_is_missing_is_no_fault() {
    for vector in vectors().into_iter().filter(|vector| matches!(vector.expected, Outcome::Frame(..))) {
        for len in 0..vector.bytes.len() {
            assert_eq!(outcome(vector.from, &vector.bytes[..len]), Outcome::Incomplete, "{} of {len}", vector.name);
        }
    }
}

#[test]
fn flipped_bytes_panic_nowhere_and_parse_to_what_encodes() {
    for vector in vectors() {
        for at in 0..vector.bytes.len().min(300) {
            for flip in [1, 2, 0x10, 0x80, 0xff] {
                let mut bytes = vector.bytes.clone();
                bytes[at] ^= flip;
                for from in [Side::Client, Side::Broker] {
                    if let Ok(Some(frame)) = Frame::read(from, &bytes) {
                        assert_eq!(Frame::read(from, &frame.encoded()).unwrap(), Some(frame), "{}", vector.name);
                    }
                }
            }
        }
    }
}

#[test]
fn the_base_protocol_knows_no_opcode_of_the_extension() {
    let limits = Limits::default();
    for byte in 6..=u8::MAX {
        let bytes = [0, 0, 0, 6, byte, 0];
        let unknown = |error: DecodeError| matches!(error, DecodeError::UnknownOpcode(found) if found == byte);
        assert!(unknown(Header::parse(&bytes, limits).unwrap_err()), "{byte}");
        assert!(unknown(Frames::new(&bytes, limits).next().unwrap().unwrap_err()), "{byte}");
        assert!(unknown(Codec::new(limits).decode(&mut BytesMut::from(&bytes[..])).unwrap_err()), "{byte}");
        assert_eq!(FrameBatch::new(&bytes, limits).frames().count(), 0, "{byte}");
        let opcode = ExtensionOpcode::from_byte(byte);
        assert_eq!(opcode.is_some(), (0x80..=0x88).contains(&byte), "{byte}");
        match ExtensionHeader::parse(&bytes) {
            Ok(header) => assert_eq!(header, Some(ExtensionHeader { opcode: opcode.unwrap(), length: 6 })),
            Err(error) => assert!(error == ExtensionDecodeError::UnknownOpcode(byte) && opcode.is_none(), "{byte}"),
        }
    }
}

#[test]
fn nothing_is_written_for_a_name_that_is_not_legal() {
    let long = "x".repeat(256);
    let position = Position::NONE;
    let range = RefusedRange { first: 1, count: 1, code: Code::BAD_NAME };
    for (frame, expected) in [
        (
            Frame::Client(ClientFrame::Consumed { bytes: 0, position, mailbox: &long }),
            "mailbox in CONSUMED frame is 256",
        ),
        (
            Frame::Client(ClientFrame::SubscribeFrom { mode: Mode::LIVE, position, mailbox: "", channel: "" }),
            "channel in SUBSCRIBE_FROM frame is empty",
        ),
        (
            Frame::Client(ClientFrame::SubscribeFrom { mode: Mode::LIVE, position, mailbox: &long, channel: "c" }),
            "mailbox in SUBSCRIBE_FROM frame is 256",
        ),
        (Frame::Broker(BrokerFrame::Refused { range, channel: "", text: "t" }), "channel in REFUSED frame is empty"),
        (
            Frame::Broker(BrokerFrame::SubAck { code: Code::DONE, channel: &long, text: "" }),
            "channel in SUBACK frame is 256",
        ),
        (
            Frame::Broker(BrokerFrame::Origin { position, count: 1, source: None, mailbox: &long }),
            "mailbox in ORIGIN frame is 256",
        ),
        (
            Frame::Broker(BrokerFrame::Gap { messages: 1, reason: GapReason::DAMAGE, mailbox: &long, text: "" }),
            "mailbox in GAP frame is 256",
        ),
    ] {
        let mut bytes = BytesMut::from(&b"before"[..]);
        let error = frame.encode(&mut bytes).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(&bytes[..], b"before");
    }
}

#[test]
fn lists_of_hello_fit_up_to_the_limit_of_a_frame() {
    let range = |first| RefusedRange { first, count: u32::MAX, code: Code::FULL };
    let longest = "s".repeat(300);
    let full = BrokerHello {
        software: &longest,
        largest_message: Some(u32::MAX),
        path: vec![NodeId::new([7; 16]); 8],
        refused: (0..64).map(range).collect(),
        ..BrokerHello::default()
    };
    let bytes = Frame::Broker(BrokerFrame::Hello(full)).encoded();
    assert_eq!(bytes.len(), 5 + 30 + 255 + 7 + 3 + 8 * 16 + 3 + 64 * 13);
    // 312 ranges are the most: 5 + 30 + 3 + 312 × 13 = 4094.
    for (ranges, fits) in [(312, true), (313, false), (10_000, false)] {
        let hello = BrokerHello { refused: (0..ranges).map(range).collect(), ..BrokerHello::default() };
        let mut bytes = BytesMut::new();
        match BrokerFrame::Hello(hello).encode(&mut bytes) {
            Ok(()) => assert_eq!((fits, bytes.len()), (true, 4094)),
            Err(EncodeError::ExtensionTooLong { opcode: ExtensionOpcode::Hello, length }) => {
                assert_eq!((fits, length), (false, 38 + usize::try_from(ranges).unwrap() * 13));
                assert!(bytes.is_empty());
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_body_above_the_limit_is_a_fault_without_its_header_too() {
    let body = [0; 4092];
    for opcode in (0x80..=0x88).filter_map(ExtensionOpcode::from_byte) {
        for from in [Side::Client, Side::Broker] {
            let fault = Frame::parse(from, opcode, &body).unwrap_err();
            assert!(
                matches!(fault, ExtensionDecodeError::TooLong { opcode: found, length: 4097 } if found == opcode),
                "{fault}"
            );
            let shorter = Frame::parse(from, opcode, &body[..4091]);
            assert!(!matches!(shorter, Err(ExtensionDecodeError::TooLong { .. })), "{shorter:?}");
        }
    }
}

#[test]
fn faults_name_the_frame_and_the_field() {
    for (from, bytes, expected) in [
        (Side::Client, &b"\0\0\0\x05\x85"[..], "bytes in CONSUMED frame is cut short"),
        (Side::Client, b"\0\0\0\x05\x81", "ACK frame came from the side that never sends it"),
        (Side::Broker, b"\0\0\x10\x01\x81", "ACK frame of 4097 bytes is too long: the limit is 4096 bytes"),
        (Side::Client, b"\0\0\0\x05\x84", "reserved byte in HEARTBEAT frame is cut short"),
        (Side::Broker, b"\0\0\0\x07\x83\0\0", "channel in SUBACK frame is empty"),
    ] {
        assert_eq!(Frame::read(from, bytes).unwrap_err().to_string(), expected);
    }
    let error = Frame::read(Side::Client, &vector("hello-client-window-of-3").bytes).unwrap_err();
    assert_eq!(error.to_string(), "window in HELLO frame has a wrong length of 3 bytes");
}

#[test]
fn the_window_of_hello_is_1_mib_unless_it_says_another() {
    for (flags, window, expected) in [
        (Flags::WINDOW, None, Some(1 << 20)),
        (Flags::WINDOW | Flags::CONFIRM, Some(5), Some(5)),
        (Flags::CONFIRM, Some(5), None),
        (Flags::default(), None, None),
    ] {
        assert_eq!(ClientHello { flags, window, ..ClientHello::default() }.window(), expected);
    }
}

/// Text of some length around the limits, with characters of 1 to 4 bytes.
fn text(most: usize) -> impl Strategy<Value = String> {
    let char = || prop_oneof![3 => select(&['a', 'é', '蜂', '🐝'][..]), 1 => any::<char>()];
    prop_oneof![
        3 => vec(char(), 0..8).prop_map(String::from_iter),
        1 => (char(), 0..=most).prop_map(|(char, times)| String::from_iter(vec![char; times])),
    ]
}

/// The longest beginning of a text with at most so many bytes.
fn beginning(text: &str, most: usize) -> &str {
    let end = text.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(|end| *end <= most).last();
    &text[..end.unwrap_or(0)]
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn encoded_extension_frames_parse_to_the_same(
        kind in 0..11usize,
        (number, epoch, of) in any::<(u64, u64, u64)>(),
        (count, heartbeat, byte, ids) in any::<(u32, u16, u8, [[u8; 16]; 3])>(),
        (short, long) in (text(100), text(5000)),
        (some, ranges) in (proptest::option::of(any::<u32>()), vec(any::<(u64, u32, u8)>(), 0..5)),
    ) {
        let mailbox = beginning(&short, 255);
        let channel = if mailbox.is_empty() { "c" } else { mailbox };
        let position = Position { epoch, number };
        let range = |(first, count, code)| RefusedRange { first, count, code: Code(code) };
        let frame = |text| match kind {
            0 => Frame::Client(ClientFrame::Hello(ClientHello {
                version: byte,
                flags: Flags::from_bits(byte & 63),
                heartbeat,
                stream: StreamId::new(ids[0]),
                next: number,
                software: text,
                window: some,
            })),
            1 => Frame::Broker(BrokerFrame::Hello(BrokerHello {
                version: byte,
                flags: Flags::from_bits(byte),
                heartbeat,
                node: NodeId::new(ids[0]),
                decided: number,
                level: Level(byte),
                software: text,
                largest_message: some,
                path: ids[..usize::from(byte % 4)].iter().copied().map(NodeId::new).collect(),
                refused: ranges.iter().copied().map(range).collect(),
            })),
            2 => Frame::Client(ClientFrame::Heartbeat),
            3 => Frame::Broker(BrokerFrame::Heartbeat),
            4 => Frame::Client(ClientFrame::Consumed { bytes: of, position, mailbox }),
            5 => Frame::Client(ClientFrame::SubscribeFrom { mode: Mode(byte), position, mailbox, channel }),
            6 => Frame::Broker(BrokerFrame::Ack { number }),
            7 => Frame::Broker(BrokerFrame::Refused { range: range((number, count, byte)), channel, text }),
            8 => Frame::Broker(BrokerFrame::SubAck { code: Code(byte), channel, text }),
            9 => {
                let source = (of > u64::MAX / 2).then_some(StreamPosition { stream: StreamId::new(ids[0]), number: of });
                Frame::Broker(BrokerFrame::Origin { position, count, source, mailbox })
            }
            _ => Frame::Broker(BrokerFrame::Gap { messages: of, reason: GapReason(byte), mailbox, text }),
        };
        // A text is cut to what fits: a length of one byte, or the rest of the frame.
        let room = match kind {
            0 | 1 => 255,
            7 => 4096 - HEADER_LEN - 14 - channel.len(),
            8 => 4096 - HEADER_LEN - 2 - channel.len(),
            _ => 4096 - HEADER_LEN - 10 - mailbox.len(),
        };
        let (frame, expected) = (frame(&*long), frame(beginning(&long, room)));
        let bytes = frame.encoded();
        prop_assert!(bytes.len() <= MAX_FRAME as usize);
        prop_assert_eq!(&bytes[..4], &u32::try_from(bytes.len()).unwrap().to_be_bytes());
        let from = if matches!(frame, Frame::Client(_)) { Side::Client } else { Side::Broker };
        prop_assert_eq!(Frame::read(from, &bytes).unwrap(), Some(expected.clone()));
        prop_assert_eq!(expected.encoded(), bytes);
    }

    #[test]
    fn any_body_is_a_fault_or_parses_to_what_encodes_to_the_same(
        opcode in 0x80..=0x88u8,
        start in vec(prop_oneof![any::<u8>(), 0..5u8], 0..60),
        rest in vec(any::<u8>(), 0..200),
    ) {
        let body = [start, rest].concat();
        for from in [Side::Client, Side::Broker] {
            let opcode = ExtensionOpcode::from_byte(opcode).unwrap();
            if let Ok(frame) = Frame::parse(from, opcode, &body) {
                let bytes = frame.encoded();
                prop_assert!(bytes.len() <= HEADER_LEN + body.len());
                prop_assert_eq!(Frame::read(from, &bytes).unwrap(), Some(frame));
            }
        }
    }
}
