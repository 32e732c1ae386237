//! Every golden frame of `tests/vectors/`, decoded in one piece and in every fragmentation, and encoded again.

use std::{collections::BTreeMap, fs, path::Path};

use bytes::BytesMut;
use hpfeeds::wire::{
    Codec, DecodeError, Field, Frame, FrameRef, Frames, HEADER_LEN, Header, Limits, NameError, encode_publish,
};
use tokio_util::codec::{Decoder as _, Encoder as _};

/// The six files for the opcodes hold over 100 vectors; fewer means that the reader lost some.
const AT_LEAST: usize = 130;

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Frame(&'static str, BTreeMap<&'static str, Vec<u8>>),
    Incomplete,
    Fails(String),
}

struct Vector {
    name: String,
    limits: Limits,
    bytes: Vec<u8>,
    expected: Vec<Outcome>,
}

#[test]
fn golden_frames_decode_in_one_piece() {
    for vector in vectors() {
        let mut codec = Codec::new(vector.limits);
        let mut buffer = BytesMut::from(&*vector.bytes);
        assert_eq!(decode_all(&mut codec, &mut buffer), vector.expected, "{}", vector.name);
    }
}

#[test]
fn golden_frames_decode_in_pieces_of_every_small_size() {
    for vector in vectors().into_iter().filter(|vector| vector.bytes.len() < 4096) {
        for size in 1..=vector.bytes.len().min(40) {
            let mut codec = Codec::new(vector.limits);
            let mut buffer = BytesMut::new();
            let mut outcomes = Vec::new();
            for piece in vector.bytes.chunks(size) {
                buffer.extend_from_slice(piece);
                if matches!(outcomes.last(), Some(Outcome::Incomplete)) {
                    outcomes.pop();
                }
                outcomes.extend(decode_all(&mut codec, &mut buffer));
                if matches!(outcomes.last(), Some(Outcome::Fails(_))) {
                    break;
                }
            }
            assert!(outcomes == vector.expected, "{} in pieces of {size}: {outcomes:?}", vector.name);
        }
    }
}

#[test]
fn encode_gives_the_golden_bytes() {
    for vector in vectors().into_iter().filter(|vector| !matches!(vector.expected.last(), Some(Outcome::Fails(_)))) {
        let mut codec = Codec::new(vector.limits);
        let mut buffer = BytesMut::from(&*vector.bytes);
        let mut encoded = BytesMut::new();
        while let Ok(Some(frame)) = codec.decode(&mut buffer) {
            codec.encode(frame, &mut encoded).unwrap();
        }
        encoded.extend_from_slice(&buffer);
        assert!(encoded == *vector.bytes, "{}", vector.name);
    }
}

#[test]
fn a_frame_taken_out_of_its_bytes_is_what_the_codec_gives() {
    for vector in vectors() {
        let mut codec = Codec::new(vector.limits);
        let mut buffer = BytesMut::from(&*vector.bytes);
        while let Ok(Some(frame)) = codec.decode(&mut buffer) {
            let mut encoded = BytesMut::new();
            frame.encode(&mut encoded, vector.limits).unwrap();
            let header = Header::parse(&encoded, vector.limits).unwrap().unwrap();
            assert_eq!(frame.opcode(), header.opcode, "{}", vector.name);
            assert!(Frame::from_bytes(&encoded.freeze(), header).unwrap() == frame, "{}", vector.name);
        }
    }
}

#[test]
fn a_header_reserves_no_more_than_it_may() {
    let mut codec = Codec::new(Limits::new(u32::MAX));
    let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 3][..]);
    assert!(codec.decode(&mut buffer).unwrap().is_none());
    assert!(buffer.capacity() <= 128 * 1024, "reserved {}", buffer.capacity());
}

#[test]
fn an_end_inside_a_frame_says_how_much_is_missing() {
    for (bytes, missing) in [(&[0u8, 0, 0][..], 2), (&[0, 0, 0, 9, 3, 1][..], 3)] {
        let error = Codec::default().decode_eof(&mut BytesMut::from(bytes)).unwrap_err();
        assert!(matches!(error, DecodeError::Incomplete { missing: m } if m == missing), "{error}");
    }
    assert!(Codec::default().decode_eof(&mut BytesMut::new()).unwrap().is_none());
    // Frames that came whole before it count.
    let mut whole = BytesMut::from(&[0u8, 0, 0, 5, 0][..]);
    assert!(Codec::default().decode_eof(&mut whole).unwrap().is_some());
}

#[test]
fn nothing_is_written_for_a_frame_above_the_limit() {
    let mut codec = Codec::new(Limits::new(64));
    let mut bytes = BytesMut::from(&b"before"[..]);
    let publish =
        |n| Frame::Publish { ident: "i".parse().unwrap(), channel: "c".parse().unwrap(), payload: vec![7; n].into() };
    let error = codec.encode(publish(61), &mut bytes).unwrap_err();
    assert_eq!(error.to_string(), "PUBLISH frame of 70 bytes is too long: the limit is 69 bytes");
    let info = Frame::Info { name: "n".repeat(256), nonce: hpfeeds::wire::Nonce::new([1, 2, 3, 4]) };
    codec.encode(info, &mut bytes).unwrap_err();
    assert_eq!(&bytes[..], b"before");
    codec.encode(publish(60), &mut bytes).unwrap();
    assert_eq!(bytes.len(), 6 + 69);
}

#[test]
fn frames_and_codec_agree_with_parsing_each_alone() {
    for vector in vectors() {
        agree(&vector.bytes, vector.limits, &vector.name);
        if vector.bytes.len() < 4096 {
            // Twice: what is remembered of the first must not change what the second means.
            let twice = vector.bytes.repeat(2);
            agree(&twice, vector.limits, &vector.name);
            for at in 0..twice.len().min(80) {
                for flip in [1, 2, 0x20, 0x80, 0xff] {
                    let mut bytes = twice.clone();
                    bytes[at] ^= flip;
                    agree(&bytes, vector.limits, &vector.name);
                    let last = bytes.len() - 1 - at;
                    bytes[last] ^= flip;
                    agree(&bytes, vector.limits, &vector.name);
                }
            }
        }
    }
}

#[test]
fn the_same_letters_cut_elsewhere_are_other_names() {
    let mut bytes = BytesMut::new();
    let long = ("i".repeat(200), "c".repeat(200));
    let names = [("ab", "c"), ("ab", "c"), ("a", "bc"), ("ab", "cd"), ("abc", "d"), (&*long.0, &*long.1), ("é", "ü")];
    for (ident, channel) in names.into_iter().flat_map(|names| [names; 2]) {
        let (ident, channel) = (ident.parse().unwrap(), channel.parse().unwrap());
        encode_publish(&mut bytes, Limits::default(), &ident, &channel, b"abcd").unwrap();
        encode_publish(&mut bytes, Limits::default(), &ident, &channel, b"").unwrap();
    }
    let found: Vec<_> = Frames::new(&bytes, Limits::default())
        .map(|frame| match frame.unwrap() {
            FrameRef::Publish { ident, channel, .. } => (ident, channel),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: Vec<_> = names.into_iter().flat_map(|names| [names; 4]).collect();
    assert_eq!(found, expected);
    agree(&bytes, Limits::default(), "names");
}

#[test]
fn a_repeated_name_does_not_excuse_a_bad_length() {
    let limits = Limits::new(16);
    let good = b"\0\0\0\x0b\x03\x02me\x02ch";
    for length in [0u32, 4, 5, 10, 22] {
        let mut bytes = good.to_vec();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&good[4..]);
        bytes.resize(64, 0);
        let mut frames = Frames::new(&bytes, limits);
        frames.next().unwrap().unwrap();
        frames.next().unwrap().unwrap_err();
        assert!(frames.next().is_none());
        assert_eq!(frames.rest(), &bytes[good.len()..], "{length}");
        agree(&bytes, limits, "length");
    }
}

/// Three ways to read the same bytes: the frames, the error that ends them, and how much is left over.
fn agree(bytes: &[u8], limits: Limits, name: &str) {
    let (mut expected, mut rest) = (Vec::new(), bytes);
    let fault = loop {
        let header = match Header::parse(rest, limits) {
            Ok(Some(header)) if header.length <= rest.len() => header,
            Ok(_) => break None,
            Err(error) => break Some(error.to_string()),
        };
        match FrameRef::parse(header.opcode, &rest[HEADER_LEN..header.length]) {
            Ok(frame) => expected.push(frame),
            Err(error) => break Some(error.to_string()),
        }
        rest = &rest[header.length..];
    };
    let mut frames = Frames::new(bytes, limits);
    let mut found = Vec::new();
    let error = loop {
        match frames.next() {
            Some(Ok(frame)) => found.push(frame),
            Some(Err(error)) => break Some(error.to_string()),
            None => break None,
        }
    };
    assert!(found == expected && error == fault, "{name}: {found:?} {error:?}, not {expected:?} {fault:?}");
    assert_eq!(frames.rest(), rest, "{name}");

    let (mut codec, mut buffer, mut encoded) = (Codec::new(limits), BytesMut::from(bytes), BytesMut::new());
    let error = loop {
        match codec.decode(&mut buffer) {
            Ok(Some(frame)) => frame.encode(&mut encoded, limits).unwrap(),
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    assert_eq!(error, fault, "{name}");
    assert_eq!(encoded, bytes[..bytes.len() - rest.len()], "{name}");
}

fn decode_all(codec: &mut Codec, buffer: &mut BytesMut) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    loop {
        let before = buffer.len();
        match codec.decode(buffer) {
            Ok(Some(frame)) => outcomes.push(described(frame)),
            Ok(None) => {
                assert_eq!(buffer.len(), before, "an incomplete frame must stay in the buffer");
                if !buffer.is_empty() {
                    outcomes.push(Outcome::Incomplete);
                }
                return outcomes;
            }
            Err(error) => {
                outcomes.push(Outcome::Fails(kind(&error)));
                return outcomes;
            }
        }
    }
}

fn described(frame: Frame) -> Outcome {
    let (name, fields): (_, Vec<(_, Vec<u8>)>) = match frame {
        Frame::Error { message } => ("error", vec![("message", message.to_vec())]),
        Frame::Info { name, nonce } => ("info", vec![("name", name.into()), ("nonce", nonce.as_bytes().to_vec())]),
        Frame::Auth { ident, digest } => {
            ("auth", vec![("ident", ident.as_bytes().to_vec()), ("digest", digest.to_vec())])
        }
        Frame::Publish { ident, channel, payload } => (
            "publish",
            vec![
                ("ident", ident.as_bytes().to_vec()),
                ("channel", channel.as_bytes().to_vec()),
                ("payload", payload.to_vec()),
            ],
        ),
        Frame::Subscribe { ident, channel } => {
            ("subscribe", vec![("ident", ident.as_bytes().to_vec()), ("channel", channel.as_bytes().to_vec())])
        }
        Frame::Unsubscribe { ident, channel } => {
            ("unsubscribe", vec![("ident", ident.as_bytes().to_vec()), ("channel", channel.as_bytes().to_vec())])
        }
        other => panic!("a frame that the vectors do not know: {other:?}"),
    };
    Outcome::Frame(name, fields.into_iter().collect())
}

fn kind(error: &DecodeError) -> String {
    let field = |field: Field| match field {
        Field::Ident => "ident",
        Field::Channel => "channel",
        Field::Name => "name",
        Field::Digest => "digest",
        other => panic!("a field that the vectors do not know: {other}"),
    };
    match error {
        DecodeError::TooShort { .. } => "TooShort".to_owned(),
        DecodeError::TooLong { .. } => "TooLong".to_owned(),
        DecodeError::UnknownOpcode(_) => "UnknownOpcode".to_owned(),
        DecodeError::Truncated { field: f, .. } => format!("Truncated field={}", field(*f)),
        DecodeError::Name { field: f, cause: NameError::Empty, .. } => format!("Empty field={}", field(*f)),
        DecodeError::Name { field: f, cause: NameError::TooLong(_), .. } => format!("NameTooLong field={}", field(*f)),
        DecodeError::Name { field: f, cause: NameError::NotUtf8, .. } => format!("NotUtf8 field={}", field(*f)),
        DecodeError::DigestLength { .. } => "DigestLength".to_owned(),
        other => panic!("an error that the vectors do not know: {other}"),
    }
}

// ---- reading the files ----

fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut vectors = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "vec") {
            read(&fs::read_to_string(&path).unwrap(), &mut vectors);
        }
    }
    assert!(vectors.len() >= AT_LEAST, "only {} vectors", vectors.len());
    vectors
}

/// The lines of a file, without comments; those that are indented continue the one above them.
pub(super) fn logical_lines(text: &str) -> Vec<String> {
    let mut logical: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match logical.last_mut() {
            Some(last) if line.starts_with(' ') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => logical.push(line.to_owned()),
        }
    }
    logical
}

fn read(text: &str, vectors: &mut Vec<Vector>) {
    for line in logical_lines(text) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (bytes, expected) = (Vec::new(), Vec::new());
            vectors.push(Vector { name: name.to_owned(), limits: Limits::default(), bytes, expected });
            continue;
        }
        let vector = vectors.last_mut().expect("a name comes first");
        match line.split_once(':').expect("every line has a key") {
            ("max", value) => vector.limits = Limits::new(value.trim().parse().unwrap()),
            ("bytes", value) => vector.bytes = Tokens(value).bytes(),
            ("expect", value) => vector.expected.push(expectation(value.trim())),
            (key, _) => panic!("unknown key {key} in {}", vector.name),
        }
    }
}

fn expectation(text: &str) -> Outcome {
    let (name, mut rest) = text.split_once(' ').unwrap_or((text, ""));
    let name = match name {
        "incomplete" => return Outcome::Incomplete,
        "fails" => return Outcome::Fails(rest.to_owned()),
        name => {
            ["error", "info", "auth", "publish", "subscribe", "unsubscribe"].into_iter().find(|n| *n == name).unwrap()
        }
    };
    let mut fields = BTreeMap::new();
    while let Some((field, value)) = rest.split_once('=') {
        let known = ["message", "name", "nonce", "ident", "digest", "channel", "payload"];
        let field = known.into_iter().find(|known| *known == field.trim()).unwrap_or_else(|| panic!("{field}"));
        let mut tokens = Tokens(value);
        fields.insert(field, if value.starts_with('(') { tokens.group() } else { tokens.string() });
        rest = tokens.0;
    }
    Outcome::Frame(name, fields)
}

/// `00 ff 70*60 "text" |`, read from the front.
pub(super) struct Tokens<'a>(pub(super) &'a str);

impl Tokens<'_> {
    pub(super) fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            self.0 = self.0.trim_start_matches([' ', '|']);
            if self.0.is_empty() || self.0.starts_with(')') {
                return bytes;
            }
            if self.0.starts_with('"') {
                bytes.extend(self.string());
                continue;
            }
            let end = self.0.find([' ', ')']).unwrap_or(self.0.len());
            let (token, rest) = self.0.split_at(end);
            let (byte, times) = token.split_once('*').unwrap_or((token, "1"));
            let byte = u8::from_str_radix(byte, 16).unwrap();
            bytes.extend(std::iter::repeat_n(byte, times.parse().unwrap()));
            self.0 = rest;
        }
    }

    pub(super) fn group(&mut self) -> Vec<u8> {
        self.0 = self.0.strip_prefix('(').unwrap();
        let bytes = self.bytes();
        self.0 = self.0.strip_prefix(')').unwrap();
        bytes
    }

    pub(super) fn string(&mut self) -> Vec<u8> {
        let mut text = String::new();
        let mut chars = self.0.strip_prefix('"').unwrap().chars();
        loop {
            match chars.next().unwrap() {
                '"' => break,
                '\\' => text.push(match chars.next().unwrap() {
                    'n' => '\n',
                    other => other,
                }),
                other => text.push(other),
            }
        }
        self.0 = chars.as_str();
        text.into_bytes()
    }
}
