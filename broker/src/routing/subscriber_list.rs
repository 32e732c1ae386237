//! The subscriber list of one channel or pattern, in the order in which the subscribers came.

use std::{slice, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use smallvec::SmallVec;

use crate::delivery::outbox::Outbox;

/// The most outboxes in one chunk, and in a list without chunks.
const CHUNK: usize = 64;

/// A list that publishers read without a lock. A change makes another list, which shares all chunks
/// that are the same: it copies at most three chunks and a pointer to each other one, not the list.
///
/// The caller sees to it that there is one change at a time: the router's lock.
#[derive(Default)]
pub(super) struct SubscriberList(ArcSwap<Outboxes>);

impl SubscriberList {
    pub(super) fn load(&self) -> Guard<Arc<Outboxes>> {
        self.0.load()
    }

    pub(super) fn load_full(&self) -> Arc<Outboxes> {
        self.0.load_full()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    /// Adds an outbox that is not there.
    pub(super) fn push(&self, outbox: &Arc<Outbox>) {
        let longer = self.0.load().with(outbox);
        self.0.store(Arc::new(longer));
    }

    pub(super) fn remove(&self, outbox: &Arc<Outbox>) {
        let shorter = self.0.load().without(outbox);
        if let Some(shorter) = shorter {
            self.0.store(Arc::new(shorter));
        }
    }
}

/// A snapshot of a list: the outboxes in `few`, or those in `many`.
#[derive(Default)]
pub(super) struct Outboxes {
    /// In the snapshot itself for most channels, without another allocation.
    few: SmallVec<[Arc<Outbox>; 2]>,
    many: Option<Box<Chunks>>,
}

/// Two neighbouring chunks together hold more than [`CHUNK`] outboxes, so there are few chunks.
#[derive(Default)]
struct Chunks {
    chunks: Vec<Chunk>,
    len: usize,
}

type Chunk = Arc<Vec<Arc<Outbox>>>;

impl Outboxes {
    pub(super) fn len(&self) -> usize {
        self.many.as_ref().map_or(self.few.len(), |many| many.len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.few().iter().chain(self.many())
    }

    /// All outboxes, unless there are [`many`](Self::many).
    pub(super) fn few(&self) -> &[Arc<Outbox>] {
        &self.few
    }

    pub(super) fn many(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.many.iter().flat_map(|many| many.chunks.iter().flat_map(|chunk| chunk.iter()))
    }

    fn with(&self, outbox: &Arc<Outbox>) -> Self {
        if let Some(many) = &self.many {
            return many.with(outbox).into();
        }
        if self.few.len() < CHUNK {
            let mut few = SmallVec::with_capacity(self.few.len() + 1);
            few.extend(self.few.iter().chain([outbox]).cloned());
            return Self { few, many: None };
        }
        let chunks = vec![Arc::new(self.few.to_vec()), Arc::new(vec![outbox.clone()])];
        Chunks { chunks, len: self.few.len() + 1 }.into()
    }

    /// `None` when the outbox is not there.
    fn without(&self, outbox: &Arc<Outbox>) -> Option<Self> {
        if let Some(many) = &self.many {
            return many.without(outbox).map(Self::from);
        }
        let index = self.few.iter().position(|other| Arc::ptr_eq(other, outbox))?;
        let mut few = SmallVec::with_capacity(self.few.len() - 1);
        few.extend(self.few[..index].iter().chain(&self.few[index + 1..]).cloned());
        Some(Self { few, many: None })
    }
}

impl From<Chunks> for Outboxes {
    fn from(many: Chunks) -> Self {
        // Not at `CHUNK`: a subscriber that comes and goes would change the representation each
        // time.
        if many.len > CHUNK / 2 {
            return Self { few: SmallVec::new(), many: Some(Box::new(many)) };
        }
        let all = many.chunks.iter().flat_map(|chunk| chunk.iter()).cloned();
        Self { few: all.collect(), many: None }
    }
}

impl Chunks {
    fn with(&self, outbox: &Arc<Outbox>) -> Self {
        let mut chunks = Vec::with_capacity(self.chunks.len() + 1);
        chunks.extend_from_slice(&self.chunks);
        match chunks.last_mut() {
            Some(last) if last.len() < CHUNK => *last = chunk(&[last, slice::from_ref(outbox)]),
            _ => chunks.push(Arc::new(vec![outbox.clone()])),
        }
        Self { chunks, len: self.len + 1 }
    }

    fn without(&self, outbox: &Arc<Outbox>) -> Option<Self> {
        // Only addresses are compared, of which many lie side by side.
        let find = |chunk: &Chunk| chunk.iter().position(|other| Arc::ptr_eq(other, outbox));
        let (at, index) = self.chunks.iter().enumerate().find_map(|(at, chunk)| Some((at, find(chunk)?)))?;
        let [before, after] = [&self.chunks[at][..index], &self.chunks[at][index + 1..]];
        let left = before.len() + after.len();
        let fits = |other: &usize| self.chunks.get(*other).is_some_and(|other| left + other.len() <= CHUNK);
        // The rest is merged with the chunk before or behind it, if that has room for it.
        let (range, changed) = if let Some(last) = at.checked_sub(1).filter(fits) {
            (last..at + 1, chunk(&[&self.chunks[last], before, after]))
        } else if let Some(next) = Some(at + 1).filter(fits) {
            (at..next + 1, chunk(&[before, after, &self.chunks[next]]))
        } else {
            (at..at + 1, chunk(&[before, after]))
        };
        let [before, after] = [&self.chunks[..range.start], &self.chunks[range.end..]];
        Some(Self { chunks: [before, &[changed], after].concat(), len: self.len - 1 })
    }
}

/// One chunk of several parts.
fn chunk(parts: &[&[Arc<Outbox>]]) -> Chunk {
    Arc::new(parts.concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    /// Also while it shrinks to nothing, and when it is large and every second one goes.
    #[test]
    fn list_keeps_the_order_of_arrival_when_any_subscriber_goes() {
        let (list, mut expected) = (SubscriberList::default(), Vec::new());
        let mut random = 1_u64;
        let stranger = Outbox::for_test();
        for (steps, adds_of_eight) in [(100, 4), (1500, 7), (1500, 4), (3000, 1), (300, 4), (600, 0)] {
            for _ in 0..steps {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let choice = usize::try_from(random >> 33).unwrap();
                if choice % 8 < adds_of_eight {
                    let outbox = Outbox::for_test();
                    list.push(&outbox);
                    expected.push(outbox);
                } else if !expected.is_empty() {
                    let outbox = expected.remove(choice / 8 % expected.len());
                    list.remove(&outbox);
                    assert_eq!(Arc::strong_count(&outbox), 1, "the list holds on to nothing that has gone");
                }
                list.remove(&stranger);
                let now = list.load();
                assert!(now.iter().map(Arc::as_ptr).eq(expected.iter().map(Arc::as_ptr)));
                assert_eq!((now.len(), now.is_empty()), (expected.len(), expected.is_empty()));
                let chunks: Vec<_> = now.many.iter().flat_map(|many| &many.chunks).map(|chunk| chunk.len()).collect();
                assert!(chunks.iter().all(|len| (1..=CHUNK).contains(len)), "{chunks:?}");
                assert!(chunks.windows(2).all(|two| two[0] + two[1] > CHUNK), "{chunks:?}");
            }
        }
        assert!(list.is_empty() && list.load().many.is_none());
    }
}
