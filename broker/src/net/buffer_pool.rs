//! The buffer pool: the memory that connections read into.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// The bytes of one read: [`MIN_CHUNK`] at first, up to [`MAX_CHUNK`] while reads fill it. Powers
/// of two.
pub(crate) const MIN_CHUNK: usize = 8 * 1024;
pub(crate) const MAX_CHUNK: usize = 256 * 1024;

/// The most bytes that all waiting publishers hold together, beside one message or the smallest
/// read of each.
pub(crate) const MAX_HELD: usize = 128 << 20;

/// The sizes of pooled buffers: each is twice the one before. Longer messages are rare, and get a
/// buffer of their own.
const LARGEST: usize = MAX_CHUNK;
const SIZES: usize = (LARGEST / MIN_CHUNK).ilog2() as usize + 1;

/// Free buffers, the one that was used last on top: it is most likely still in the processor's
/// cache. Memory from the allocator instead costs a good part of what the read itself does.
#[derive(Debug)]
pub(crate) struct BufferPool {
    /// One stack for each size.
    free: Mutex<[Vec<BytesMut>; SIZES]>,
    /// The number of publishers that wait, see [`track_waiting`](Self::track_waiting).
    waiting: AtomicUsize,
    /// The bytes that they hold together.
    held: AtomicUsize,
    /// The bytes that they may hold together.
    max_held: usize,
}

/// The bytes that one waiting publisher holds; counted until dropped.
#[derive(Debug)]
pub(crate) struct WaitingBytes {
    pool: Arc<BufferPool>,
    bytes: usize,
}

impl Drop for WaitingBytes {
    fn drop(&mut self) {
        self.pool.waiting.fetch_sub(1, Relaxed);
        self.pool.held.fetch_sub(self.bytes, Relaxed);
    }
}

/// A frozen buffer: returns to the pool when its last reader has gone.
struct PooledBytes {
    bytes: BytesMut,
    allocated: usize,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for PooledBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledBytes {
    fn drop(&mut self) {
        self.pool.put(mem::take(&mut self.bytes), self.allocated);
    }
}

impl BufferPool {
    /// The most bytes that are kept of each size: 12 MiB for all of them.
    const MAX: usize = 2 << 20;

    /// The pool of a broker that queues at most `max_buffered` bytes for subscribers: no more than
    /// that waits to be queued.
    pub(crate) fn new(max_buffered: usize) -> Self {
        let (free, waiting, held) = (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        Self { free, waiting, held, max_held: MAX_HELD.min(max_buffered) }
    }

    /// The bytes that waiting publishers hold.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Counts a publisher that waits with so many bytes, unless it is none. The more of them there
    /// are, the less is read.
    pub(crate) fn track_waiting(self: &Arc<Self>, bytes: usize) -> Option<WaitingBytes> {
        (bytes > 0).then(|| {
            self.waiting.fetch_add(1, Relaxed);
            self.held.fetch_add(bytes, Relaxed);
            WaitingBytes { pool: self.clone(), bytes }
        })
    }

    /// The most bytes to be read at once: an equal share for each publisher, less while others
    /// still hold more than theirs.
    pub(crate) fn chunk(&self) -> usize {
        let left = self.max_held.saturating_sub(self.held());
        let share = self.max_held / (self.waiting.load(Relaxed) + 1);
        share.min(left).clamp(MIN_CHUNK, MAX_CHUNK)
    }

    /// Whether buffers of this capacity are pooled.
    fn keeps(capacity: usize) -> bool {
        capacity <= LARGEST
    }

    /// The size of a buffer that has at least this capacity.
    pub(crate) fn size(capacity: usize) -> usize {
        if Self::keeps(capacity) { capacity.next_power_of_two().max(MIN_CHUNK) } else { capacity }
    }

    /// An empty buffer with at least this capacity.
    pub(crate) fn take(&self, capacity: usize) -> BytesMut {
        let size = Self::size(capacity);
        let kept = if Self::keeps(size) { self.free.lock()[index(size)].pop() } else { None };
        kept.unwrap_or_else(|| BytesMut::with_capacity(size))
    }

    /// Returns a buffer of `allocated` bytes to the pool. The buffer may be advanced, so that it
    /// does not know its size itself.
    pub(crate) fn put(&self, mut buffer: BytesMut, allocated: usize) {
        buffer.clear();
        if !Self::keeps(allocated) || Self::size(allocated) != allocated || !buffer.try_reclaim(allocated) {
            return;
        }
        let free = &mut self.free.lock()[index(allocated)];
        if free.len() < Self::MAX / allocated {
            free.push(buffer);
        }
    }

    /// Freezes a buffer: it returns to the pool when the last reader of the bytes has gone.
    pub(crate) fn freeze_pooled(self: &Arc<Self>, bytes: BytesMut, allocated: usize) -> Bytes {
        Bytes::from_owner(PooledBytes { bytes, allocated, pool: self.clone() })
    }
}

/// The index of the stack for a size.
fn index(size: usize) -> usize {
    (size / MIN_CHUNK).ilog2() as usize
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;

    use super::*;

    #[test]
    fn frozen_buffer_comes_back_whole_after_its_last_reader() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for size in [MIN_CHUNK, LARGEST] {
            let mut buffer = pool.take(size);
            let start = buffer.as_ptr();
            buffer.resize(size, 0);
            // A part of it has been processed.
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
    fn free_buffers_are_bounded_for_each_size() {
        let pool = BufferPool::new(usize::MAX);
        for _ in 0..1000 {
            pool.put(BytesMut::with_capacity(MIN_CHUNK), MIN_CHUNK);
            pool.put(BytesMut::with_capacity(LARGEST), LARGEST);
            pool.put(BytesMut::with_capacity(2 * LARGEST), 2 * LARGEST);
            pool.put(BytesMut::with_capacity(1000), 1000);
        }
        let kept: Vec<usize> =
            pool.free.lock().iter().map(|buffers| buffers.iter().map(BytesMut::capacity).sum()).collect();
        assert_eq!(kept, [BufferPool::MAX, 0, 0, 0, 0, BufferPool::MAX]);
    }

    #[test]
    fn buffer_that_was_used_last_is_used_first() {
        let pool = BufferPool::new(usize::MAX);
        let (first, last) = (pool.take(MIN_CHUNK), pool.take(MIN_CHUNK));
        let start = last.as_ptr();
        pool.put(first, MIN_CHUNK);
        pool.put(last, MIN_CHUNK);
        assert_eq!(pool.take(1).as_ptr(), start);
    }

    #[test]
    fn more_waiting_publishers_read_less_each() {
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
        // As they come again, each gets the same share.
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
