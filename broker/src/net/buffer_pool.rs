//! The memory that connections read into.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};

/// How much is read at once: little at first, more while reads fill it. Powers of two.
pub(crate) const MIN_CHUNK: usize = 8 * 1024;
pub(crate) const MAX_CHUNK: usize = 256 * 1024;

/// How much all publishers together hold at most while they wait, beside the message or the smallest read of each.
pub(crate) const MAX_HELD: usize = 128 << 20;

/// The sizes that are kept: each is twice the one before. Messages that are longer are rare, and get what they need.
const LARGEST: usize = MAX_CHUNK;
const SIZES: usize = (LARGEST / MIN_CHUNK).ilog2() as usize + 1;

/// Buffers that nobody uses. Whoever needs one gets the one that was used last: it is most likely still in the processor's
/// cache, and getting memory from the allocator and giving it back costs a good part of what the read does.
#[derive(Debug)]
pub(crate) struct BufferPool {
    /// By size.
    free: Mutex<[Vec<BytesMut>; SIZES]>,
    /// How many publishers wait, and with how much together, of how much. See [`track_waiting`](Self::track_waiting).
    waiting: AtomicUsize,
    held: AtomicUsize,
    max_held: usize,
}

/// Memory of a publisher that waits.
#[derive(Debug)]
pub(crate) struct Held {
    pool: Arc<BufferPool>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.waiting.fetch_sub(1, Relaxed);
        self.pool.held.fetch_sub(self.bytes, Relaxed);
    }
}

/// A buffer that is read from somewhere else, and comes back.
struct Lent {
    bytes: BytesMut,
    allocated: usize,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.put(mem::take(&mut self.bytes), self.allocated);
    }
}

impl BufferPool {
    /// How much is kept of each size at most: with all of them, 12 MiB.
    const MAX: usize = 2 << 20;

    /// For a broker that queues so much for subscribers at most: no more waits to be queued.
    pub(crate) fn new(max_buffered: usize) -> Self {
        let (free, waiting, held) = (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        Self { free, waiting, held, max_held: MAX_HELD.min(max_buffered) }
    }

    /// How much publishers hold that wait.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Says that a publisher waits with so much, if with anything. The more of them there are, the less is read.
    pub(crate) fn track_waiting(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        (bytes > 0).then(|| {
            self.waiting.fetch_add(1, Relaxed);
            self.held.fetch_add(bytes, Relaxed);
            Held { pool: self.clone(), bytes }
        })
    }

    /// The most to be read at once: an equal share, unless others have not yet given back what they took before.
    pub(crate) fn chunk(&self) -> usize {
        let left = self.max_held.saturating_sub(self.held());
        let share = self.max_held / (self.waiting.load(Relaxed) + 1);
        share.min(left).clamp(MIN_CHUNK, MAX_CHUNK)
    }

    /// Whether a buffer for so much has one of the sizes that are kept.
    fn keeps(capacity: usize) -> bool {
        capacity <= LARGEST
    }

    /// How large a buffer for so much is.
    pub(crate) fn size(capacity: usize) -> usize {
        if Self::keeps(capacity) { capacity.next_power_of_two().max(MIN_CHUNK) } else { capacity }
    }

    /// An empty buffer with at least this capacity.
    pub(crate) fn take(&self, capacity: usize) -> BytesMut {
        let size = Self::size(capacity);
        let kept = if Self::keeps(size) { self.lock()[index(size)].pop() } else { None };
        kept.unwrap_or_else(|| BytesMut::with_capacity(size))
    }

    /// Keeps a buffer for later. Some of its bytes may have been passed over, so it does not know its size itself.
    pub(crate) fn put(&self, mut buffer: BytesMut, allocated: usize) {
        buffer.clear();
        if !Self::keeps(allocated) || Self::size(allocated) != allocated || !buffer.try_reclaim(allocated) {
            return;
        }
        let free = &mut self.lock()[index(allocated)];
        if free.len() < Self::MAX / allocated {
            free.push(buffer);
        }
    }

    /// Has a buffer kept for later once nobody reads from it any more.
    pub(crate) fn freeze_pooled(self: &Arc<Self>, bytes: BytesMut, allocated: usize) -> Bytes {
        Bytes::from_owner(Lent { bytes, allocated, pool: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, [Vec<BytesMut>; SIZES]> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a size is.
fn index(size: usize) -> usize {
    (size / MIN_CHUNK).ilog2() as usize
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;

    use super::*;

    #[test]
    fn a_buffer_comes_back_whole_once_nobody_reads_from_it() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for size in [MIN_CHUNK, LARGEST] {
            let mut buffer = pool.take(size);
            let start = buffer.as_ptr();
            buffer.resize(size, 0);
            // Some of it has been acted on.
            buffer.advance(size / 4);
            let lent = pool.freeze_pooled(buffer, size);
            let part = lent.slice(10..);
            drop(lent);
            assert_ne!(pool.take(size).as_ptr(), start);
            drop(part);
            let again = pool.take(size - 1);
            assert_eq!((again.as_ptr(), again.len(), again.capacity()), (start, 0, size));
        }
    }

    #[test]
    fn what_it_keeps_is_bounded_for_each_size() {
        let pool = BufferPool::new(usize::MAX);
        for _ in 0..1000 {
            pool.put(BytesMut::with_capacity(MIN_CHUNK), MIN_CHUNK);
            pool.put(BytesMut::with_capacity(LARGEST), LARGEST);
            pool.put(BytesMut::with_capacity(2 * LARGEST), 2 * LARGEST);
            pool.put(BytesMut::with_capacity(1000), 1000);
        }
        let kept: Vec<usize> = pool.lock().iter().map(|buffers| buffers.iter().map(BytesMut::capacity).sum()).collect();
        assert_eq!(kept, [BufferPool::MAX, 0, 0, 0, 0, BufferPool::MAX]);
    }

    #[test]
    fn the_one_that_was_used_last_is_used_first() {
        let pool = BufferPool::new(usize::MAX);
        let (first, last) = (pool.take(MIN_CHUNK), pool.take(MIN_CHUNK));
        let start = last.as_ptr();
        pool.put(first, MIN_CHUNK);
        pool.put(last, MIN_CHUNK);
        assert_eq!(pool.take(1).as_ptr(), start);
    }

    #[test]
    fn the_more_publishers_wait_the_less_is_read() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        assert_eq!(pool.chunk(), MAX_CHUNK);
        assert_eq!(BufferPool::new(1 << 20).max_held, 1 << 20);
        let (mut waiting, mut held) = (Vec::new(), 0);
        for publishers in 1..=20_000 {
            // Each has filled what it was allowed to read.
            let chunk = pool.chunk();
            waiting.push((chunk, pool.track_waiting(chunk)));
            held += chunk;
            assert!(held <= MAX_HELD + publishers * MIN_CHUNK, "{publishers} hold {held}");
        }
        assert_eq!(pool.chunk(), MIN_CHUNK);
        // As they come again, everybody gets the same.
        waiting.truncate(1000);
        for turn in 0..2 * waiting.len() {
            let publisher = turn % waiting.len();
            waiting[publisher].1 = None;
            let chunk = pool.chunk();
            waiting[publisher] = (chunk, pool.track_waiting(chunk));
        }
        let fair = MAX_HELD / waiting.len();
        assert!(waiting.iter().all(|(chunk, _)| chunk.abs_diff(fair) < fair / 100), "{waiting:?}");
        waiting.clear();
        assert_eq!(pool.chunk(), MAX_CHUNK);
    }
}
