//! The channels that one connection publishes to, with what publishing to them takes.

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
    mem,
    sync::Arc,
};

use foldhash::quality::RandomState;
use hpfeeds::wire::FrameBatch;
use indexmap::IndexSet;

use crate::{metrics::channels::ChannelSeries, routing::router::TopicHandle};

/// How many are compared one after the other. More take the time of a hash.
const FEW: usize = 8;

/// A channel that the client may publish to.
pub(crate) struct PublishTarget {
    /// The counted ident and channel as they stand in the frames.
    pub(crate) names: Box<[u8]>,
    pub(crate) topic: TopicHandle,
    pub(crate) series: Arc<ChannelSeries>,
}

/// Those that it has published to lately: of them it asks neither the router nor the metrics.
pub(crate) enum PublishCache {
    Few(Vec<PublishTarget>),
    /// In a box: it is larger than a vector, which is all that most connections need.
    Many(Box<Many>),
}

/// In the order in which the connection came to them.
pub(crate) struct Many {
    cache: IndexSet<PublishTarget, RandomState>,
    /// The one behind that which was found last.
    next: usize,
}

impl Default for PublishCache {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl PublishCache {
    /// The one that the body of a PUBLISH begins with.
    pub(crate) fn find(&mut self, body: &[u8]) -> Option<&PublishTarget> {
        match self {
            Self::Few(few) => few.iter().find(|target| body.starts_with(&target.names)),
            Self::Many(many) => many.find(body),
        }
    }

    /// Adds one that is not there. It is not more than `most`: before that all are forgotten.
    pub(crate) fn add(&mut self, target: PublishTarget, most: usize) {
        match self {
            Self::Few(few) if few.len() < FEW => few.push(target),
            Self::Few(few) => {
                let cache = mem::take(few).into_iter().chain([target]).collect();
                *self = Self::Many(Box::new(Many { cache, next: 0 }));
            }
            Self::Many(many) => {
                // Who goes through still more channels by turns does not find them, whichever is forgotten.
                if many.cache.len() >= most {
                    many.cache.clear();
                }
                many.cache.insert(target);
            }
        }
    }
}

impl Many {
    fn find(&mut self, body: &[u8]) -> Option<&PublishTarget> {
        // Who goes through many channels mostly does so in the same order each time.
        let (index, target) = match self.cache.get_index(self.next) {
            Some(next) if body.starts_with(&next.names) => (self.next, next),
            _ => self.cache.get_full(FrameBatch::names(body)?)?,
        };
        self.next = if index + 1 < self.cache.len() { index + 1 } else { 0 };
        Some(target)
    }
}

impl Borrow<[u8]> for PublishTarget {
    fn borrow(&self) -> &[u8] {
        &self.names
    }
}

impl PartialEq for PublishTarget {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for PublishTarget {}

impl Hash for PublishTarget {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As the slice does that it is looked up by.
        (*self.names).hash(state);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::routing::router::Router;

    const MOST: usize = 20;

    fn body(channel: &str) -> Vec<u8> {
        let len = u8::try_from(channel.len()).unwrap();
        [&[1, b'i', len], channel.as_bytes(), b"payload"].concat()
    }

    #[test]
    fn each_channel_is_found_until_there_are_too_many() {
        let topics = Arc::<Router>::default();
        let mut cache = PublishCache::default();
        // Each begins as those before it do.
        let channels: Vec<_> = (1..=MOST + 1).map(|len| "c".repeat(len)).collect();
        let find = |cache: &mut PublishCache, channel: &str| {
            let found = cache.find(&body(channel)).map(|target| target.names.clone());
            assert!(found.as_deref().is_none_or(|names| *names == body(channel)[..channel.len() + 3]), "{channel}");
            found.is_some()
        };
        for (index, channel) in channels.iter().enumerate() {
            assert!(!find(&mut cache, channel), "{channel} is not there yet");
            let names = FrameBatch::names(&body(channel)).unwrap().into();
            let topic = topics.topic(&channel.parse().unwrap());
            cache.add(PublishTarget { names, topic, series: Arc::default() }, MOST);
            // In order, around the end, and backwards: the guess is right or wrong.
            for (rotated, reversed) in [(0, false), (7, false), (7, true)] {
                let mut channels = channels.clone();
                channels.rotate_left(rotated);
                if reversed {
                    channels.reverse();
                }
                let known = channels.iter().filter(|channel| find(&mut cache, channel)).count();
                assert_eq!(known, if index < MOST { index + 1 } else { 1 });
            }
            assert!(find(&mut cache, channel));
        }
        assert!(cache.find(b"").is_none());
        assert!(cache.find(b"\x01i\x09c").is_none());
    }
}
