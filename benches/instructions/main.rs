//! Runs one operation of the codec, of a session or of a broker so many times: `instructions OPERATION COUNT`. See
//! `scripts/instructions`.

#![allow(clippy::unwrap_used, reason = "a measurement that fails must stop")]

#[cfg(feature = "broker")]
mod broker;
#[cfg(feature = "session")]
mod pipe;
#[cfg(feature = "session")]
mod session;

use std::{env, hint::black_box};

use bytes::{Bytes, BytesMut};
use hpfeeds::wire::{Channel, Codec, Frame, FrameRef, Frames, HEADER_LEN, Header, Ident, Limits, encode_publish};
use tokio_util::codec::{Decoder as _, Encoder as _};

/// Prepared whatever the count, so that the preparation cancels out between two counts.
const FRAMES: usize = 4096;

static PAYLOAD: [u8; 256] = [0xa5; 256];

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let [operation, count] = &args[..] else {
        panic!("usage: instructions OPERATION COUNT");
    };
    let count = count.parse().unwrap();
    assert!(count <= FRAMES, "at most {FRAMES}");
    match operation.as_str() {
        "decode-256" => decode(&["cowrie.sessions"], count),
        "decode-256-two-channels" => decode(&["cowrie.sessions", "dionaea.capture"], count),
        "frames-256" => frames(count),
        "parse-256" => parse(count),
        "encode-256" => encode(count),
        #[cfg(feature = "broker")]
        other if other.starts_with("broker-") => broker::run(&other["broker-".len()..], count, &PAYLOAD),
        #[cfg(feature = "session")]
        other if other.starts_with("session-") => session::run(&other["session-".len()..], count, &PAYLOAD),
        other => panic!("no operation {other:?}"),
    }
}

/// `Codec::decode`: frames that own what they hold.
fn decode(channels: &[&str], count: usize) {
    let mut src = input(channels);
    let mut codec = Codec::default();
    for _ in 0..count {
        assert!(matches!(black_box(&codec.decode(&mut src)), Ok(Some(Frame::Publish { .. }))));
    }
}

/// `Frames`: the same, of names that are those of the frame before.
fn frames(count: usize) {
    let input = input(&["cowrie.sessions"]);
    let mut frames = Frames::new(&input, Limits::default());
    for _ in 0..count {
        assert!(matches!(black_box(&frames.next()), Some(Ok(FrameRef::Publish { .. }))));
    }
}

/// `Header::parse` and `FrameRef::parse`: frames that borrow what they hold.
fn parse(count: usize) {
    let input = input(&["cowrie.sessions"]);
    let mut rest = &input[..];
    for _ in 0..count {
        let header = Header::parse(rest, Limits::default()).unwrap().unwrap();
        black_box(FrameRef::parse(header.opcode, &rest[HEADER_LEN..header.length]).unwrap());
        rest = &rest[header.length..];
    }
}

/// `Codec::encode` into a buffer that has room.
fn encode(count: usize) {
    let ident = Ident::new("sensor-17").unwrap();
    let channel = Channel::new("cowrie.sessions").unwrap();
    let frame = Frame::Publish { ident, channel, payload: Bytes::from_static(&PAYLOAD) };
    let mut codec = Codec::default();
    let mut dst = BytesMut::with_capacity(1024);
    for _ in 0..count {
        dst.clear();
        codec.encode(black_box(&frame), &mut dst).unwrap();
        black_box(&dst);
    }
}

fn input(channels: &[&str]) -> BytesMut {
    let ident = Ident::new("sensor-17").unwrap();
    let channels: Vec<_> = channels.iter().map(|channel| Channel::new(channel).unwrap()).collect();
    let mut input = BytesMut::new();
    for n in 0..FRAMES {
        encode_publish(&mut input, Limits::default(), &ident, &channels[n % channels.len()], &PAYLOAD).unwrap();
    }
    input
}
