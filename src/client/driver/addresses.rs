//! The table of brokers' addresses: what this process has learnt about the extension at each.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::client::connect::addr::BrokerAddr;

/// How long HELLO is left out at an address where only that helped.
pub(crate) const LEFT_OUT: Duration = Duration::from_secs(600);

/// How long connections to an address are not ended to have messages confirmed, where that failed
/// so often in a row.
pub(crate) const NO_ROTATION: Duration = Duration::from_secs(3600);
const UNCLEAN_ROTATIONS: u32 = 2;

/// Addresses that are remembered; the one that was learnt about longest ago goes first.
const MAX_ADDRESSES: usize = 256;

static ADDRESSES: Mutex<Vec<Address>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Address {
    addr: BrokerAddr,
    /// The broker has answered HELLO: whatever ends its connections, HELLO does not.
    answered: bool,
    /// Until when HELLO is left out.
    left_out: Option<Instant>,
    /// How often in a row the broker did not end its stream, cleanly, after ours.
    unclean: u32,
    /// Until when that is not tried again.
    no_rotation: Option<Instant>,
}

/// The broker has answered HELLO.
pub(crate) fn answered(addr: &BrokerAddr) {
    learn(addr, |address| (address.answered, address.left_out) = (true, None));
}

/// Whether the broker at this address has ever answered HELLO.
pub(crate) fn has_answered(addr: &BrokerAddr) -> bool {
    ADDRESSES.lock().iter().any(|known| known.addr == *addr && known.answered)
}

/// A connection without HELLO was good, where two with it were not.
pub(crate) fn leave_out(addr: &BrokerAddr) {
    let until = Instant::now() + LEFT_OUT;
    learn(addr, |address| address.left_out = Some(until));
}

/// Whether HELLO is left out at this address for now.
pub(crate) fn is_left_out(addr: &BrokerAddr) -> bool {
    let addresses = ADDRESSES.lock();
    let known = addresses.iter().find(|known| known.addr == *addr);
    known.and_then(|known| known.left_out).is_some_and(|until| Instant::now() < until)
}

/// A connection was ended to have messages confirmed: whether the broker ended its stream, cleanly,
/// after ours. True when that is not tried again for [`NO_ROTATION`].
pub(crate) fn rotated(addr: &BrokerAddr, clean: bool) -> bool {
    let mut off = false;
    learn(addr, |address| {
        address.unclean = if clean { 0 } else { address.unclean + 1 };
        off = address.unclean >= UNCLEAN_ROTATIONS;
        if off {
            (address.unclean, address.no_rotation) = (0, Some(Instant::now() + NO_ROTATION));
        }
    });
    off
}

/// Whether connections to this address may be ended to have messages confirmed.
pub(crate) fn may_rotate(addr: &BrokerAddr) -> bool {
    let addresses = ADDRESSES.lock();
    let known = addresses.iter().find(|known| known.addr == *addr);
    known.and_then(|known| known.no_rotation).is_none_or(|until| until <= Instant::now())
}

fn learn(addr: &BrokerAddr, change: impl FnOnce(&mut Address)) {
    let mut addresses = ADDRESSES.lock();
    let at = addresses.iter().position(|known| known.addr == *addr);
    let mut address = match at {
        Some(at) => addresses.remove(at),
        None => Address { addr: addr.clone(), answered: false, left_out: None, unclean: 0, no_rotation: None },
    };
    change(&mut address);
    if addresses.len() >= MAX_ADDRESSES {
        addresses.remove(0);
    }
    addresses.push(address);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_remembered_have_a_bound() {
        let addr = |port: u16| BrokerAddr::from(("bounded.test", port));
        for port in 1..1000 {
            leave_out(&addr(port));
        }
        assert!(!is_left_out(&addr(1)) && is_left_out(&addr(999)));
        assert!(ADDRESSES.lock().len() <= MAX_ADDRESSES);
        // One that has answered is asked again.
        answered(&addr(999));
        assert!(has_answered(&addr(999)) && !is_left_out(&addr(999)));
    }
}
