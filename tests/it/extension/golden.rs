//! The reader of golden extension frames (`tests/vectors/extension/`), and frames in its words.

use std::{collections::BTreeMap, fs, path::Path};

use bytes::BytesMut;
use hpfeeds::wire::{
    EncodeError, Field, NameError,
    extension::{BrokerFrame, ClientFrame, ExtensionDecodeError, ExtensionHeader, ExtensionOpcode, FieldFault},
};

use crate::vectors::{Tokens, logical_lines};

/// Fewer mean that the reader lost some.
const AT_LEAST: usize = 75;

pub(super) type Fields = BTreeMap<String, Value>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Word(String),
    Bytes(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Frame(String, Fields),
    Incomplete,
    Fails(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Broker,
}

pub(super) struct Vector {
    pub(super) name: String,
    pub(super) from: Side,
    pub(super) bytes: Vec<u8>,
    pub(super) expected: Outcome,
    /// The bytes that the frame encodes to.
    pub(super) encodes: Vec<u8>,
    /// The lengths to which the body can be cut and still be one.
    pub(super) cuts: Vec<usize>,
}

/// A frame of either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Client(ClientFrame<'a>),
    Broker(BrokerFrame<'a>),
}

impl<'a> Frame<'a> {
    pub(super) fn parse(from: Side, opcode: ExtensionOpcode, body: &'a [u8]) -> Result<Self, ExtensionDecodeError> {
        match from {
            Side::Client => ClientFrame::parse(opcode, body).map(Self::Client),
            Side::Broker => BrokerFrame::parse(opcode, body).map(Self::Broker),
        }
    }

    /// The frame at the start of some bytes; `None` when some of it is missing.
    pub(super) fn read(from: Side, bytes: &'a [u8]) -> Result<Option<Self>, ExtensionDecodeError> {
        let Some(header) = ExtensionHeader::parse(bytes)? else { return Ok(None) };
        header.body(bytes).map(|body| Self::parse(from, header.opcode, body)).transpose()
    }

    pub(super) fn encode(&self, dst: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Client(frame) => frame.encode(dst),
            Self::Broker(frame) => frame.encode(dst),
        }
    }

    pub(super) fn encoded(&self) -> BytesMut {
        let mut bytes = BytesMut::new();
        self.encode(&mut bytes).unwrap();
        bytes
    }
}

pub(super) fn outcome(from: Side, bytes: &[u8]) -> Outcome {
    match Frame::read(from, bytes) {
        Ok(Some(frame)) => described(&frame),
        Ok(None) => Outcome::Incomplete,
        Err(error) => Outcome::Fails(kind(&error)),
    }
}

fn described(frame: &Frame<'_>) -> Outcome {
    let word = |value: u64| Value::Word(value.to_string());
    let bytes = |value: &[u8]| Value::Bytes(value.to_vec());
    let text = |value: &str| Value::Bytes(value.as_bytes().to_vec());
    let byte = |value: u8| word(value.into());
    let (name, fields) = match frame {
        Frame::Client(ClientFrame::Hello(hello)) => {
            let mut fields = vec![
                ("version", byte(hello.version)),
                ("flags", byte(hello.flags.bits())),
                ("heartbeat", word(hello.heartbeat.into())),
                ("stream", bytes(hello.stream.as_bytes())),
                ("next", word(hello.next)),
                ("software", text(hello.software)),
            ];
            fields.extend(hello.window.map(|window| ("window", word(window.into()))));
            ("hello", fields)
        }
        Frame::Broker(BrokerFrame::Hello(hello)) => {
            let mut fields = vec![
                ("version", byte(hello.version)),
                ("flags", byte(hello.flags.bits())),
                ("heartbeat", word(hello.heartbeat.into())),
                ("node", bytes(hello.node.as_bytes())),
                ("decided", word(hello.decided)),
                ("level", byte(hello.level.0)),
                ("software", text(hello.software)),
            ];
            fields.extend(hello.largest_message.map(|largest| ("largest", word(largest.into()))));
            let path: Vec<u8> = hello.path.iter().flat_map(|node| *node.as_bytes()).collect();
            fields.extend((!path.is_empty()).then(|| ("path", bytes(&path))));
            let ranges = hello.refused.iter().map(|range| format!("{}:{}:{}", range.first, range.count, range.code.0));
            let ranges = ranges.collect::<Vec<_>>().join(",");
            fields.extend((!ranges.is_empty()).then_some(("refused", Value::Word(ranges))));
            ("hello", fields)
        }
        Frame::Client(ClientFrame::Heartbeat) | Frame::Broker(BrokerFrame::Heartbeat) => ("heartbeat", vec![]),
        Frame::Client(ClientFrame::Consumed { bytes, position, mailbox }) => (
            "consumed",
            vec![
                ("bytes", word(*bytes)),
                ("epoch", word(position.epoch)),
                ("number", word(position.number)),
                ("mailbox", text(mailbox)),
            ],
        ),
        Frame::Client(ClientFrame::SubscribeFrom { mode, position, mailbox, channel }) => (
            "subscribe-from",
            vec![
                ("mode", byte(mode.0)),
                ("epoch", word(position.epoch)),
                ("number", word(position.number)),
                ("mailbox", text(mailbox)),
                ("channel", text(channel)),
            ],
        ),
        Frame::Broker(BrokerFrame::Ack { number }) => ("ack", vec![("number", word(*number))]),
        Frame::Broker(BrokerFrame::Refused { range, channel, text: message }) => (
            "refused",
            vec![
                ("first", word(range.first)),
                ("count", word(range.count.into())),
                ("code", byte(range.code.0)),
                ("channel", text(channel)),
                ("text", text(message)),
            ],
        ),
        Frame::Broker(BrokerFrame::SubAck { code, channel, text: message }) => {
            ("suback", vec![("code", byte(code.0)), ("channel", text(channel)), ("text", text(message))])
        }
        Frame::Broker(BrokerFrame::Origin { position, count, source, mailbox }) => {
            let mut fields = vec![
                ("epoch", word(position.epoch)),
                ("number", word(position.number)),
                ("count", word((*count).into())),
                ("mailbox", text(mailbox)),
            ];
            if let Some(source) = source {
                fields.extend([("stream", bytes(source.stream.as_bytes())), ("of", word(source.number))]);
            }
            ("origin", fields)
        }
        Frame::Broker(BrokerFrame::Gap { messages, reason, mailbox, text: message }) => (
            "gap",
            vec![
                ("messages", word(*messages)),
                ("reason", byte(reason.0)),
                ("mailbox", text(mailbox)),
                ("text", text(message)),
            ],
        ),
        other => panic!("a frame that the vectors do not know: {other:?}"),
    };
    Outcome::Frame(name.to_owned(), fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn kind(error: &ExtensionDecodeError) -> String {
    let with = |kind: &str, field: &Field| format!("{kind} field={}", field.to_string().replace(' ', "-"));
    match error {
        ExtensionDecodeError::TooShort { .. } => "TooShort".to_owned(),
        ExtensionDecodeError::UnknownOpcode(_) => "UnknownOpcode".to_owned(),
        ExtensionDecodeError::TooLong { .. } => "TooLong".to_owned(),
        ExtensionDecodeError::Direction(_) => "Direction".to_owned(),
        ExtensionDecodeError::Field { field, cause, .. } => match cause {
            FieldFault::Truncated => with("Truncated", field),
            FieldFault::Length(_) => with("Length", field),
            FieldFault::Name(NameError::Empty) => with("Empty", field),
            FieldFault::Name(NameError::TooLong(_)) => with("NameTooLong", field),
            FieldFault::Name(NameError::NotUtf8) => with("NotUtf8", field),
            other => panic!("a fault that the vectors do not know: {other}"),
        },
        other => panic!("an error that the vectors do not know: {other}"),
    }
}

pub(super) fn vector(name: &str) -> Vector {
    vectors().into_iter().find(|vector| vector.name == name).unwrap()
}

pub(super) fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/extension");
    let mut vectors: Vec<Vector> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        for line in logical_lines(&fs::read_to_string(entry.unwrap().path()).unwrap()) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                let (from, bytes, expected) = (Side::Client, Vec::new(), Outcome::Incomplete);
                let name = name.to_owned();
                vectors.push(Vector { name, from, bytes, expected, encodes: Vec::new(), cuts: Vec::new() });
                continue;
            }
            let vector = vectors.last_mut().expect("a name comes first");
            match line.split_once(':').expect("every line has a key") {
                ("from", " client") => vector.from = Side::Client,
                ("from", " broker") => vector.from = Side::Broker,
                ("bytes", value) => {
                    vector.bytes = Tokens(value).bytes();
                    vector.encodes.clone_from(&vector.bytes);
                }
                ("encodes", value) => vector.encodes = Tokens(value).bytes(),
                ("expect", value) => vector.expected = expectation(value.trim()),
                ("cut", value) => {
                    vector.cuts = value
                        .split_whitespace()
                        .flat_map(|cut| {
                            let number = |text: &str| text.parse::<usize>().unwrap();
                            cut.split_once("..")
                                .map_or_else(|| number(cut)..number(cut) + 1, |(a, b)| number(a)..number(b))
                        })
                        .collect();
                }
                (key, _) => panic!("unknown line {key} in {}", vector.name),
            }
        }
    }
    assert!(vectors.len() >= AT_LEAST, "only {} vectors", vectors.len());
    vectors
}

fn expectation(text: &str) -> Outcome {
    let (name, mut rest) = text.split_once(' ').unwrap_or((text, ""));
    match name {
        "incomplete" => return Outcome::Incomplete,
        "fails" => return Outcome::Fails(rest.to_owned()),
        _ => {}
    }
    let mut fields = Fields::new();
    while let Some((field, value)) = rest.split_once('=') {
        let mut tokens = Tokens(value);
        let value = match value.chars().next() {
            Some('(') => Value::Bytes(tokens.group()),
            Some('"') => Value::Bytes(tokens.string()),
            _ => {
                let (word, after) = value.split_once(' ').unwrap_or((value, ""));
                tokens.0 = after;
                Value::Word(word.to_owned())
            }
        };
        fields.insert(field.trim().to_owned(), value);
        rest = tokens.0;
    }
    Outcome::Frame(name.to_owned(), fields)
}
