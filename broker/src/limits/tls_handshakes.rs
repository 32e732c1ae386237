//! How many TLS handshakes of one address there are at the same time.
//!
//! A handshake costs the broker much and the client next to nothing: whoever sends the same few hundred bytes again and
//! again makes it sign something each time. So a connection waits for its turn before the broker reads anything from it.
//! It keeps its place until it has authenticated; one that does not keeps it for
//! [`auth_failure_delay`](crate::builder::BrokerBuilder::auth_failure_delay) more. That bounds the rate, too: what
//! fails from one address is at most [`MAX`] handshakes in that time.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::source::network;

/// How many there are of one address. A site of a thousand sensors has all of them back within some seconds, as each
/// takes two round trips.
const MAX: usize = 64;

/// The addresses that are shaking hands, or wait for that.
#[derive(Debug, Default)]
pub(crate) struct HandshakeLimiter(Mutex<HashMap<IpAddr, Arc<Semaphore>>>);

/// The right to shake hands; given back when dropped.
#[derive(Debug)]
pub(crate) struct HandshakePermit {
    gate: Arc<HandshakeLimiter>,
    ip: IpAddr,
    /// `None` only while it is dropped.
    places: Option<Arc<Semaphore>>,
    /// `None` while it waits.
    place: Option<OwnedSemaphorePermit>,
}

impl HandshakeLimiter {
    /// Waits for a turn, first come, first served. Nothing remains when it is dropped before it returns.
    pub(crate) async fn turn(self: &Arc<Self>, ip: IpAddr) -> HandshakePermit {
        let ip = network(ip);
        let places = self.lock().entry(ip).or_insert_with(|| Arc::new(Semaphore::new(MAX))).clone();
        // From here on it is forgotten when nobody needs it any more.
        let mut turn = HandshakePermit { gate: self.clone(), ip, places: Some(places.clone()), place: None };
        // It is never closed.
        turn.place = places.acquire_owned().await.ok();
        turn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.place = None;
        let mut addresses = self.gate.lock();
        self.places = None;
        // Whoever wants it takes it while the table is locked.
        if addresses.get(&self.ip).is_some_and(|places| Arc::strong_count(places) == 1) {
            addresses.remove(&self.ip);
            if addresses.capacity() > 1024 && addresses.len() < addresses.capacity() / 8 {
                addresses.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn an_address_has_so_many_turns_and_others_have_theirs() {
        let gate = Arc::new(HandshakeLimiter::default());
        let mut turns = Vec::new();
        for _ in 0..MAX {
            turns.push(gate.turn(ip("1.2.3.4")).await);
        }
        assert!(gate.turn(ip("::ffff:1.2.3.4")).now_or_never().is_none());
        let other = gate.turn(ip("1.2.3.5")).now_or_never().unwrap();
        let mut waiting = Box::pin(gate.turn(ip("1.2.3.4")));
        assert!(futures::poll!(&mut waiting).is_pending());
        turns.pop();
        // Nobody overtakes.
        assert!(gate.turn(ip("1.2.3.4")).now_or_never().is_none());
        turns.push(waiting.now_or_never().unwrap());
        drop((turns, other));
        assert!(gate.lock().is_empty());
    }

    #[tokio::test]
    async fn who_no_longer_waits_leaves_nothing_behind() {
        let gate = Arc::new(HandshakeLimiter::default());
        let turns: Vec<_> = futures::future::join_all((0..MAX).map(|_| gate.turn(ip("1.2.3.4")))).await;
        let mut waiting = Box::pin(gate.turn(ip("1.2.3.4")));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(turns);
        drop(waiting);
        assert!(gate.lock().is_empty());
    }
}
