//! The cost of the extension `hpx/1` to a session, as a ratio: the same work, by turns, with a broker
//! that does not offer it.

use hpfeeds::Confirm;
use tokio::runtime::Runtime;

use crate::{Check, How, MESSAGES, Publishing, Spread, is_once, peer::Handshake, publish, receive};

/// The rows, each with its bound.
const ROWS: [(&str, Side, &str); 5] = [
    ("extended: next()", Side::Receive, "at most 1.02"),
    ("extended: publish(), nothing confirmed", Side::Publish(Confirm::Off, Publishing::Plain), "at most 1.02"),
    ("extended: publish(), confirmed", Side::Publish(Confirm::IfOffered, Publishing::Plain), "at most 1.30"),
    ("extended: 1,000 publish_confirmed()", Side::Publish(Confirm::IfOffered, Publishing::Receipts(1_000)), ""),
    ("extended: 10,000 publish_confirmed()", Side::Publish(Confirm::IfOffered, Publishing::Receipts(10_000)), ""),
];

#[derive(Clone, Copy)]
enum Side {
    Receive,
    Publish(Confirm, Publishing),
}

impl Side {
    fn measure(self, runtime: &Runtime) -> f64 {
        match self {
            Self::Receive => runtime.block_on(receive(1, How::Next, Check::Order, Handshake::Extended)),
            Self::Publish(confirm, how) => runtime.block_on(publish(Handshake::Extended, confirm, how)),
        }
    }

    fn measure_without(self, runtime: &Runtime) -> f64 {
        match self {
            Self::Receive => runtime.block_on(receive(1, How::Next, Check::Order, Handshake::Plain)),
            Self::Publish(..) => runtime.block_on(publish(Handshake::Plain, Confirm::IfOffered, Publishing::Plain)),
        }
    }
}

/// Measures the rows whose names are wanted, and prints them.
pub(crate) fn run(runtime: &Runtime, is_wanted: impl Fn(&str) -> bool, rounds: usize) {
    let rows: Vec<_> = ROWS.iter().filter(|(name, ..)| is_wanted(name)).collect();
    if is_once() {
        for (name, side, _) in rows {
            side.measure(runtime);
            println!("{name}: {MESSAGES} messages");
        }
        return;
    }
    let mut times = vec![(Vec::new(), Vec::new(), Vec::new()); rows.len()];
    for round in 0..rounds {
        for ((_, side, _), (without, with, ratio)) in rows.iter().zip(&mut times) {
            // Each is the first in every second round.
            let (one, other) = if round % 2 == 0 {
                let one = side.measure_without(runtime);
                (one, side.measure(runtime))
            } else {
                let other = side.measure(runtime);
                (side.measure_without(runtime), other)
            };
            without.push(one);
            with.push(other);
            ratio.push(other / one);
        }
    }
    if !rows.is_empty() {
        println!("\n{:<38} {:>22} {:>22} {:>22}", "", "without the extension", "with it", "ratio");
    }
    for ((name, _, bound), (without, with, ratio)) in rows.iter().zip(times) {
        let ([without, with], ratio) = ([without, with].map(Spread::of), Spread::of(ratio));
        println!("{name:<38} {without:>22} {with:>22} {ratio:>22.2}  {bound}");
    }
}
