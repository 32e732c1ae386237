//! The handshake limiter: how many TLS handshakes of one source there are at the same time.
//!
//! A handshake costs the broker much and the client next to nothing: a client that sends the same
//! few hundred bytes again and again makes the broker sign something each time. So a connection
//! waits for a permit before the broker reads anything from it. It keeps the permit until it has
//! authenticated; one that does not keeps it for
//! [`auth_failure_delay`](crate::builder::BrokerBuilder::auth_failure_delay) more. That bounds the
//! rate, too: at most [`MAX`] handshakes of one source fail in that time.

use std::{net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::source::{HeldBySource, Source};

/// The most handshakes of one source at the same time. A site of a thousand sensors has all of them
/// back within some seconds, as each takes two round trips.
const MAX: usize = 64;

/// The semaphore of each source that shakes hands, or waits for that.
#[derive(Debug, Default)]
pub(crate) struct HandshakeLimiter(Mutex<HeldBySource<Arc<Semaphore>>>);

/// The right to shake hands; given back when dropped.
#[derive(Debug)]
pub(crate) struct HandshakePermit {
    limiter: Arc<HandshakeLimiter>,
    source: Source,
    /// `None` only while it is dropped.
    semaphore: Option<Arc<Semaphore>>,
    /// `None` while it is waited for.
    permit: Option<OwnedSemaphorePermit>,
}

impl HandshakeLimiter {
    /// Waits for a permit, first come, first served. Nothing remains when the future is dropped
    /// before it returns.
    pub(crate) async fn acquire(self: &Arc<Self>, ip: IpAddr) -> HandshakePermit {
        let source = Source::from(ip);
        let semaphore = self.0.lock().hold(source, || Arc::new(Semaphore::new(MAX))).clone();
        // From here on, dropping the permit forgets a source that is not needed any more.
        let mut permit =
            HandshakePermit { limiter: self.clone(), source, semaphore: Some(semaphore.clone()), permit: None };
        // It is never closed.
        permit.permit = semaphore.acquire_owned().await.ok();
        permit
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.permit = None;
        let mut sources = self.limiter.0.lock();
        self.semaphore = None;
        // Others clone the semaphore while the table is locked: 1 is the table itself.
        sources.release(self.source, |semaphore| Arc::strong_count(semaphore) == 1);
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
    async fn addresses_have_a_bounded_number_of_permits_each() {
        let limiter = Arc::new(HandshakeLimiter::default());
        let mut permits = Vec::new();
        for _ in 0..MAX {
            permits.push(limiter.acquire(ip("1.2.3.4")).await);
        }
        assert!(limiter.acquire(ip("::ffff:1.2.3.4")).now_or_never().is_none());
        let other = limiter.acquire(ip("1.2.3.5")).now_or_never().unwrap();
        let mut waiting = Box::pin(limiter.acquire(ip("1.2.3.4")));
        assert!(futures::poll!(&mut waiting).is_pending());
        permits.pop();
        // The one that waits comes first.
        assert!(limiter.acquire(ip("1.2.3.4")).now_or_never().is_none());
        permits.push(waiting.now_or_never().unwrap());
        drop((permits, other));
        assert_eq!(limiter.0.lock().len(), 0);
    }

    #[tokio::test]
    async fn abandoned_wait_leaves_nothing_behind() {
        let limiter = Arc::new(HandshakeLimiter::default());
        let permits: Vec<_> = futures::future::join_all((0..MAX).map(|_| limiter.acquire(ip("1.2.3.4")))).await;
        let mut waiting = Box::pin(limiter.acquire(ip("1.2.3.4")));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(permits);
        drop(waiting);
        assert_eq!(limiter.0.lock().len(), 0);
    }
}
