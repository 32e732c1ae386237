//! The pace of TLS handshakes: strangers can ask for as many as they like, and each costs the broker a
//! signature.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The time from one handshake to the next: 80 a second take less than a tenth of a core.
const INTERVAL: Duration = Duration::from_micros(12_500);

/// The longest wait for a turn. A connection that would wait for longer is closed, and takes no turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// The turns of all connections.
#[derive(Debug)]
pub(super) struct Handshakes(Mutex<Instant>);

impl Default for Handshakes {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Handshakes {
    /// Takes a turn: when it comes. `None` when too many wait already.
    pub(super) fn turn(&self, now: Instant) -> Option<Instant> {
        let mut next = self.0.lock();
        let turn = (*next).max(now);
        // The turn of a connection that gives way meanwhile is not given to another: it may have signed.
        (turn <= now + PATIENCE).then(|| {
            *next = turn + INTERVAL;
            turn
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_have_a_pace_whatever_strangers_do() {
        let handshakes = Handshakes::default();
        let start = Instant::now();
        let turns: Vec<_> = (0..1000).map_while(|_| handshakes.turn(start)).collect();
        assert_eq!((turns[0], turns[80], turns.len()), (start, start + Duration::from_secs(1), 161));
        assert_eq!(handshakes.turn(start + INTERVAL), Some(start + PATIENCE + INTERVAL));
        // After a pause there is no wait, and nothing has been saved up.
        let later = start + Duration::from_secs(60);
        assert_eq!([(); 3].map(|()| handshakes.turn(later)), [0, 1, 2].map(|n| Some(later + INTERVAL * n)));
    }
}
