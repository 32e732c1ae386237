//! Publish cache of a connection: the channels that it may publish to, with their topic and
//! metrics.

use std::{collections::HashMap, sync::Arc};

use foldhash::quality::RandomState;
use hpfeeds::wire::FrameBatch;

use crate::{metrics::channels::ChannelSeries, routing::router::TopicHandle};

/// A channel that the client may publish to.
pub(crate) struct PublishTarget {
    pub(crate) topic: TopicHandle,
    pub(crate) series: Arc<ChannelSeries>,
}

/// Publish targets by the ident and channel of a PUBLISH body, in bytes as they stand there. A
/// target that is found needs no check of the key, and neither the router nor the metrics.
#[derive(Default)]
pub(crate) struct PublishCache {
    targets: HashMap<Box<[u8]>, PublishTarget, RandomState>,
}

impl PublishCache {
    /// The target of a PUBLISH body, and the length of the names at its start.
    pub(crate) fn find(&self, body: &[u8]) -> Option<(&PublishTarget, usize)> {
        let names = FrameBatch::names(body)?;
        Some((self.targets.get(names)?, names.len()))
    }

    /// Adds the target of a PUBLISH body. When there are `max` targets, all are forgotten first.
    pub(crate) fn add(&mut self, body: &[u8], target: PublishTarget, max: usize) {
        // A client that goes through still more channels by turns finds none, whichever is
        // forgotten.
        if self.targets.len() >= max {
            self.targets.clear();
        }
        self.targets.insert(FrameBatch::names(body).unwrap_or(body).into(), target);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::routing::router::Router;

    const MAX: usize = 20;

    fn body(channel: &str) -> Vec<u8> {
        let len = u8::try_from(channel.len()).unwrap();
        [&[1, b'i', len], channel.as_bytes(), b"payload"].concat()
    }

    #[test]
    fn targets_are_found_until_there_are_too_many() {
        let (router, mut cache) = (Arc::<Router>::default(), PublishCache::default());
        // Each name begins as the shorter ones do.
        let channels: Vec<_> = (1..=MAX + 1).map(|len| ("c".repeat(len), Arc::<ChannelSeries>::default())).collect();
        let is_found = |cache: &PublishCache, channel: &str, series| {
            let body = body(channel);
            let found = cache.find(&body);
            if let Some((target, names)) = found {
                assert!(Arc::ptr_eq(&target.series, series) && names == channel.len() + 3, "{channel}");
            }
            found.is_some()
        };
        for (index, (channel, series)) in channels.iter().enumerate() {
            assert!(!is_found(&cache, channel, series), "{channel} is not there yet");
            let topic = router.topic(&channel.parse().unwrap());
            cache.add(&body(channel), PublishTarget { topic, series: series.clone() }, MAX);
            let found = channels.iter().filter(|(channel, series)| is_found(&cache, channel, series)).count();
            assert_eq!(found, if index < MAX { index + 1 } else { 1 });
            assert!(is_found(&cache, channel, series));
        }
    }

    #[test]
    fn body_without_whole_names_has_no_target() {
        let cache = PublishCache::default();
        assert!(cache.find(b"").is_none());
        assert!(cache.find(b"\x01i\x09c").is_none());
    }
}
