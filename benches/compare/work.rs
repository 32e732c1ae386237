//! The workloads that every broker is given.

use std::time::Duration;

/// One kind of work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) load: Load,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// All publishers as fast as possible.
    Throughput(Flow),
    /// One publisher, one subscriber, so many messages of 256 B a second, whether or not the broker
    /// keeps up.
    Latency { rate: u32 },
    /// Clients that connect, authenticate, and then do nothing.
    Connections,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    /// Bytes of payload.
    pub(crate) size: usize,
    /// The most messages that one publisher sends, so that a broker that buffers without bound fits
    /// into memory.
    pub(crate) most: u64,
}

impl Work {
    pub(crate) const ALL: &'static [Self] = &[
        throughput("1-1-32", 1, 1, 32, 40_000_000),
        throughput("1-1-256", 1, 1, 256, 8_000_000),
        throughput("1-1-64k", 1, 1, 65536, 30_000),
        throughput("5-50-1k", 5, 50, 1024, 25_000),
        throughput("1000-1-256", 1000, 1, 256, 5_000),
        Self { name: "latency", load: Load::Latency { rate: 10_000 } },
        Self { name: "connections", load: Load::Connections },
    ];

    /// How often it is measured in a round. The p99 of a second depends on what else the machine
    /// did in that second.
    pub(crate) fn samples(&self) -> usize {
        if matches!(self.load, Load::Latency { .. }) { 9 } else { 1 }
    }

    /// The rows of the table.
    pub(crate) fn rows(&self) -> Vec<String> {
        match self.load {
            Load::Throughput(Flow { publishers, subscribers, size, .. }) => {
                let size = if size >= 1024 { format!("{} KiB", size / 1024) } else { format!("{size} B") };
                vec![format!("{publishers} → {subscribers}, {size}: CPU ns per message")]
            }
            Load::Latency { rate } => {
                ["median", "p99"].map(|what| format!("latency at {rate}/s, 256 B: {what} µs")).into()
            }
            Load::Connections => {
                vec!["connect and authenticate: CPU µs".to_owned(), "idle connection: resident KiB".to_owned()]
            }
        }
    }
}

const fn throughput(name: &'static str, publishers: usize, subscribers: usize, size: usize, most: u64) -> Work {
    Work { name, load: Load::Throughput(Flow { publishers, subscribers, size, most }) }
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// How long publishers send.
    pub(crate) sending: Duration,
    pub(crate) connections: u32,
}

impl Pace {
    pub(crate) fn new(quick: bool) -> Self {
        if quick {
            Self { sending: Duration::from_millis(300), connections: 200 }
        } else {
            Self { sending: Duration::from_millis(1200), connections: 2000 }
        }
    }
}
