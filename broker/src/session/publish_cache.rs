//! Publish cache of a connection: the channels that it may publish to, with their topic and metrics.

use std::{cell::Cell, collections::HashMap, sync::Arc};

use foldhash::quality::RandomState;
use hpfeeds::wire::FrameBatch;

use crate::{metrics::channels::ChannelSeries, routing::router::TopicHandle, session::storing::Lookup};

/// A publish cache holds so many targets, however low the limit on subscriptions is: sensors publish
/// to some channels by turns.
const FEW: usize = 8;

/// A channel that the client may publish to.
pub(crate) struct PublishTarget {
    /// Ident and channel, in bytes as they stand at the start of a PUBLISH body.
    pub(crate) names: Arc<[u8]>,
    pub(crate) topic: TopicHandle,
    pub(crate) series: Arc<ChannelSeries>,
    /// The storage of the channel, as far as it was looked up.
    pub(super) storage: Cell<Lookup>,
}

/// Publish targets by their names. A target that is found needs no check of the key, and neither
/// the router nor the metrics.
///
/// In a box: a connection that has not published takes no memory for targets.
#[derive(Default)]
pub(crate) struct PublishCache(Option<Box<Targets>>);

#[derive(Default)]
struct Targets {
    /// In the order in which the connection first published to them.
    list: Vec<PublishTarget>,
    /// Indices of `list`.
    by_names: HashMap<Arc<[u8]>, usize, RandomState>,
    /// The index behind the target that was found last.
    next: usize,
}

impl PublishCache {
    /// Finds the target of a PUBLISH body.
    pub(crate) fn find(&mut self, body: &[u8]) -> Option<&PublishTarget> {
        let Targets { list, by_names, next } = self.0.as_deref_mut()?;
        // Most clients go through their channels in the same order each time: the names of the next
        // one are compared before any hash is computed.
        let index = match list.get(*next) {
            Some(target) if body.starts_with(&target.names) => *next,
            _ => *by_names.get(FrameBatch::names(body)?)?,
        };
        // Behind the last target comes the first.
        *next = if index + 1 < list.len() { index + 1 } else { 0 };
        list.get(index)
    }

    /// Adds a target that is not in the cache. When there are `max` targets, and at least [`FEW`],
    /// all are forgotten first.
    pub(crate) fn add(&mut self, target: PublishTarget, max: usize) {
        let Targets { list, by_names, next } = self.0.get_or_insert_default().as_mut();
        // A client that goes through still more channels by turns finds none, whichever is forgotten.
        if list.len() >= max.max(FEW) {
            list.clear();
            by_names.clear();
        }
        // The target is looked for next.
        *next = list.len();
        by_names.insert(target.names.clone(), list.len());
        list.push(target);
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

    fn is_found(cache: &mut PublishCache, channel: &str, series: &Arc<ChannelSeries>) -> bool {
        let body = body(channel);
        let found = cache.find(&body);
        if let Some(target) = found {
            assert!(Arc::ptr_eq(&target.series, series) && body.starts_with(&target.names), "{channel}");
        }
        found.is_some()
    }

    #[test]
    fn targets_are_found_until_there_are_too_many() {
        let (router, mut cache) = (Arc::<Router>::default(), PublishCache::default());
        // Each name begins as the shorter ones do.
        let channels: Vec<_> = (1..=MAX + 1).map(|len| ("c".repeat(len), Arc::<ChannelSeries>::default())).collect();
        for (index, (channel, series)) in channels.iter().enumerate() {
            assert!(!is_found(&mut cache, channel, series), "{channel} is not there yet");
            let names = FrameBatch::names(&body(channel)).unwrap().into();
            let topic = router.topic(&channel.parse().unwrap());
            cache.add(PublishTarget { names, topic, series: series.clone(), storage: Cell::default() }, MAX);
            // In order, around the end, and backwards: the guess is right or wrong.
            for (rotated, reversed) in [(0, false), (7, false), (7, true)] {
                let mut channels = channels.clone();
                channels.rotate_left(rotated);
                if reversed {
                    channels.reverse();
                }
                let found = channels.iter().filter(|(channel, series)| is_found(&mut cache, channel, series)).count();
                assert_eq!(found, if index < MAX { index + 1 } else { 1 });
            }
            assert!(is_found(&mut cache, channel, series));
        }
    }

    #[test]
    fn few_targets_are_found_however_low_the_limit_is() {
        let (router, mut cache, series) = (Arc::<Router>::default(), PublishCache::default(), Arc::default());
        let channels: Vec<_> = (0..FEW).map(|n| format!("c{n}")).collect();
        for channel in &channels {
            let names = FrameBatch::names(&body(channel)).unwrap().into();
            let topic = router.topic(&channel.parse().unwrap());
            cache.add(PublishTarget { names, topic, series: Arc::clone(&series), storage: Cell::default() }, 1);
        }
        assert!(channels.iter().rev().all(|channel| is_found(&mut cache, channel, &series)));
    }

    #[test]
    fn body_without_whole_names_has_no_target() {
        let (router, mut cache) = (Arc::<Router>::default(), PublishCache::default());
        assert!(cache.find(&body("c")).is_none());
        let (names, topic) = (body("c")[..4].into(), router.topic(&"c".parse().unwrap()));
        cache.add(PublishTarget { names, topic, series: Arc::default(), storage: Cell::default() }, MAX);
        assert!(cache.find(&body("c")).is_some());
        assert!(cache.find(b"").is_none());
        assert!(cache.find(b"\x01i\x09c").is_none());
    }
}
