//! The rates of the whole broker over the last seconds.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use crate::metrics::counters::Counters;

/// The samples that are kept, one a second.
const SAMPLES: usize = 6;

/// The rates of a broker, over five seconds while it has connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Rates {
    /// Published messages a second.
    pub messages: f64,
    /// Their bytes a second.
    pub received_bytes: f64,
    /// Bytes a second that were written to clients.
    pub sent_bytes: f64,
}

/// Samples of the counters that rates are made of.
#[derive(Debug, Default)]
pub(crate) struct RateSamples(Mutex<VecDeque<(Instant, [u64; 3])>>);

impl RateSamples {
    /// Takes a sample.
    pub(crate) fn sample(&self, counters: &Counters) {
        let mut samples = self.0.lock();
        samples.push_back((Instant::now(), numbers(counters)));
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// The rates from the oldest sample until now.
    pub(crate) fn rates(&self, counters: &Counters) -> Rates {
        let Some((since, old)) = self.0.lock().front().copied() else {
            return Rates::default();
        };
        let seconds = since.elapsed().max(Duration::from_secs(1)).as_secs_f64();
        let new = numbers(counters);
        #[allow(clippy::cast_precision_loss, reason = "a rate needs no 16 digits")]
        let [messages, received_bytes, sent_bytes] =
            std::array::from_fn(|n| new[n].saturating_sub(old[n]) as f64 / seconds);
        Rates { messages, received_bytes, sent_bytes }
    }
}

fn numbers(counters: &Counters) -> [u64; 3] {
    [counters.received_messages.get(), counters.received_bytes.get(), counters.sent_bytes.get()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rates_are_those_of_the_last_seconds() {
        let (counters, samples) = (Counters::default(), RateSamples::default());
        assert_eq!(samples.rates(&counters), Rates::default());
        for _ in 0..10 {
            samples.sample(&counters);
            counters.received_messages.add(7);
            counters.received_bytes.add(700);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(samples.rates(&counters), Rates { messages: 7.0, received_bytes: 700.0, sent_bytes: 0.0 });
        tokio::time::advance(Duration::from_secs(36)).await;
        assert_eq!(samples.rates(&counters).messages.to_bits(), 1.0f64.to_bits(), "42 in as many seconds");
    }
}
