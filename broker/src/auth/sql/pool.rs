//! The connection pool of one database: at most four connections, the most recently used first.

use std::{collections::VecDeque, fmt, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::connection::Connection;

/// The most connections that one store opens. A lookup takes a millisecond or less: four make
/// thousands a second, and leave most of what a server allows (100 by default in PostgreSQL) to
/// others.
const CONNECTIONS: usize = 4;

/// How long a connection may be unused: the next lookup closes an older one. Shorter than what
/// firewalls and servers wait before they cut one without a word.
const IDLE: Duration = Duration::from_secs(60);

/// The permits to use a connection, and the connections that are not in use.
#[derive(Debug)]
pub(super) struct ConnectionPool {
    permits: Semaphore,
    /// The one used last is at the end, and is used next. A connection in use is nowhere else: when
    /// its lookup is dropped, it is cut, and no later lookup reads an answer that is not its own.
    idle: Mutex<VecDeque<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("since", &self.since).finish_non_exhaustive()
    }
}

impl ConnectionPool {
    pub(super) fn new() -> Self {
        Self { permits: Semaphore::new(CONNECTIONS), idle: Mutex::default() }
    }

    /// Waits for the permit to use a connection; permits are given in the order of the calls.
    pub(super) async fn permit(&self) -> Result<SemaphorePermit<'_>, sqlx::Error> {
        // The semaphore is never closed.
        self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)
    }

    /// A connection that was used within [`IDLE`]; older ones are closed.
    pub(super) async fn reuse(&self) -> Option<Connection> {
        let mut old = Vec::new();
        let recent = {
            let mut idle = self.idle.lock();
            while let Some(first) = idle.front()
                && first.since.elapsed() > IDLE
            {
                old.extend(idle.pop_front());
            }
            idle.pop_back()
        };
        for Idle { connection, .. } in old {
            // The server may have closed it already.
            let _ = connection.close().await;
        }
        recent.map(|idle| idle.connection)
    }

    /// Keeps a connection whose last answer has been read to its end.
    pub(super) fn keep(&self, connection: Connection) {
        self.idle.lock().push_back(Idle { connection, since: Instant::now() });
    }

    /// Cuts all connections that are not in use: when one is dead, the others likely are.
    pub(super) fn clear(&self) {
        self.idle.lock().clear();
    }
}
