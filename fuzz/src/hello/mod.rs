//! The extension on live connections: HELLO, and whatever follows it, from clients that do anything to a broker, and from a
//! broker that does anything to a session.
//!
//! Input: which of the two, options, and then what happens, a byte each and what that needs. Time is virtual.

use bytes::BytesMut;
use hpfeeds::wire::extension::{BrokerFrame, ClientFrame, Flags, StreamId};

use crate::input::Input;

mod broker;
mod client;

const OPERATIONS: usize = 150;
const CHANNELS: [&str; 4] = ["a", "b", "a.b", "\u{e9}"];

/// Numbers at all ends.
const NUMBERS: [u64; 8] = [0, 1, 2, 5, 100, u64::MAX - 1, u64::MAX, 1 << 32];

pub fn run(bytes: &[u8]) {
    fastrand::seed(bytes.len() as u64);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let mut input = Input(bytes);
    let side = input.byte() % 2;
    runtime
        .expect("a runtime")
        .block_on(async { if side == 0 { broker::play(input).await } else { client::play(input).await } });
}

/// One of few streams, or none.
fn stream(input: &mut Input<'_>) -> StreamId {
    StreamId::new([input.byte() % 4; 16])
}

/// Most often what our client asks for, and a broker grants.
fn flags(input: &mut Input<'_>) -> Flags {
    match input.byte() {
        byte @ 0..=127 => Flags::from_bits(15 ^ (byte & byte >> 3 & 15)),
        _ => Flags::from_bits(input.byte()),
    }
}

fn of_client(frame: &ClientFrame<'_>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).expect("these names are legal");
    bytes.to_vec()
}

fn of_broker(frame: &BrokerFrame<'_>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).expect("these names are legal");
    bytes.to_vec()
}
