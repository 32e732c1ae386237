//! The read buffer of a connection: nothing while idle, large while a stream flows.

use std::{
    io, mem,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::socket::ReadHalf;

/// How much is read at once: little at first, more while reads fill it.
const MIN_CHUNK: usize = 8 * 1024;
const MAX_CHUNK: usize = 256 * 1024;

/// How much all publishers together hold at most while they wait, beside the message or the smallest read of each.
const MAX_HELD: usize = 128 << 20;

/// How much of a frame that has not arrived whole is moved to let go of a buffer.
const MAX_PARKED: usize = 1024;

/// A run is copied when it is shorter than this, or less than half of the buffer: what
/// is queued never keeps more than twice its own memory.
const MIN_ZERO_COPY: usize = 8 * 1024;
const ZERO_COPY_SHARE: usize = 2;

/// Received bytes that have not been acted on. At most a chunk larger than the longest frame.
pub(crate) struct ReadBuffer {
    pub(crate) bytes: BytesMut,
    /// How many bytes the frame at the start still lacks, when its header is there.
    pub(crate) missing: usize,
    /// How much of this its limit on what it publishes lets pass: whole PUBLISH frames. 0 before it has been asked, which
    /// it is before each [`passing`](Self::passing), and when there is no limit.
    pub(crate) granted: usize,
    chunk: usize,
    /// The size of the whole allocation that `bytes` is a part of, and with it every run that was taken out of it.
    allocated: usize,
}

impl ReadBuffer {
    pub(crate) fn new(bytes: BytesMut) -> Self {
        Self { missing: 0, granted: 0, chunk: MIN_CHUNK, allocated: bytes.capacity(), bytes }
    }

    /// Appends what is there to read; 0 is the end. Room is made only when there is something, and not for much more than
    /// `most`.
    pub(crate) fn poll_read(
        &mut self,
        half: &mut ReadHalf<'_>,
        pool: &BufferPool,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(half.poll_readable(cx))?;
        self.shrink(most.min(pool.chunk()).max(MIN_CHUNK), pool);
        self.make_room(pool);
        let n = ready!(half.poll_read(cx, &mut self.bytes))?;
        if self.bytes.len() == self.bytes.capacity() {
            self.chunk = (self.chunk * 4).min(MAX_CHUNK);
        } else if n < self.chunk / 4 {
            self.chunk = (self.chunk / 2).max(MIN_CHUNK);
        }
        Poll::Ready(Ok(n))
    }

    /// What may be published.
    pub(crate) fn passing(&self) -> &[u8] {
        if self.granted > 0 { self.bytes.get(..self.granted).unwrap_or(&self.bytes) } else { &self.bytes }
    }

    /// Passes over the first bytes.
    pub(crate) fn skip(&mut self, len: usize) {
        self.granted = self.granted.saturating_sub(len);
        self.bytes.advance(len);
    }

    /// Takes the first bytes out, if they may hold on to the whole buffer.
    pub(crate) fn take(&mut self, len: usize) -> Option<Bytes> {
        if len < MIN_ZERO_COPY || len * ZERO_COPY_SHARE < self.allocated {
            return None;
        }
        self.granted = self.granted.saturating_sub(len);
        Some(self.bytes.split_to(len).freeze())
    }

    /// Gives the memory back when there is little or nothing in it: the beginning of a frame moves to a place of its size.
    /// Others will read into the same memory, which is in the processor's cache then.
    pub(crate) fn release(&mut self, pool: &BufferPool) {
        let len = self.bytes.len();
        if len <= MAX_PARKED && len < self.allocated {
            let rest = BytesMut::from(&self.bytes[..]);
            self.replace(rest, len, pool);
        }
    }

    /// Waits: gives the memory back if it can, and says how much is held. Something may be `queued` that was taken out
    /// without being copied.
    pub(crate) fn park(&mut self, queued: bool, pool: &BufferPool) -> usize {
        let held = if queued || self.bytes.len() > MAX_PARKED { self.allocated } else { 0 };
        self.release(pool);
        held
    }

    /// From now on less is read at once, and a buffer that is much larger than that is given back.
    fn shrink(&mut self, most: usize, pool: &BufferPool) {
        self.chunk = self.chunk.min(most);
        let len = self.bytes.len();
        if most < MAX_CHUNK && self.allocated > 2 * (len + most) {
            let rest = BytesMut::from(&self.bytes[..]);
            self.replace(rest, len, pool);
        }
    }

    /// What a header claims is believed only as far as the bytes that came: for a long frame the buffer doubles.
    fn make_room(&mut self, pool: &BufferPool) {
        let len = self.bytes.len();
        let enough = self.missing.min(self.chunk).max(self.chunk / 2);
        if self.bytes.capacity() - len >= enough {
            return;
        }
        // Moves what is left to the front, when nobody holds a slice of this allocation any more.
        if self.allocated >= self.chunk && self.bytes.try_reclaim(enough) {
            return;
        }
        let room = self.missing.clamp(self.chunk, self.chunk.max(len));
        // Not from the pool when that may be too large for what there is.
        let (mut larger, allocated) =
            if self.chunk == MAX_CHUNK { pool.take(len + room) } else { BufferPool::make(len + room) };
        larger.extend_from_slice(&self.bytes);
        self.replace(larger, allocated, pool);
    }

    fn replace(&mut self, bytes: BytesMut, allocated: usize, pool: &BufferPool) {
        let old = mem::replace(&mut self.bytes, bytes);
        pool.put(old, mem::replace(&mut self.allocated, allocated));
    }
}

/// Large buffers that were used lately. Getting memory from the system and giving it back for each read of a stream
/// costs more than the read.
#[derive(Debug)]
pub(crate) struct BufferPool {
    /// Each is the end of an allocation, of this size, of which slices may still be queued somewhere.
    ends: Mutex<Vec<(BytesMut, usize)>>,
    /// How many publishers wait, and with how much together, of how much. See [`hold`](Self::hold).
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

impl BufferPool {
    /// How many are kept: at most 8 MiB.
    const MAX: usize = 16;
    const SIZES: RangeInclusive<usize> = MAX_CHUNK..=2 * MAX_CHUNK;

    /// For a broker that queues so much for subscribers at most: no more waits to be queued.
    pub(crate) fn new(max_buffered: usize) -> Self {
        let (ends, waiting, held) = (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        Self { ends, waiting, held, max_held: MAX_HELD.min(max_buffered) }
    }

    /// How much publishers hold that wait.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Says that a publisher waits with so much, if with anything. The more of them there are, the less is read.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        (bytes > 0).then(|| {
            self.waiting.fetch_add(1, Relaxed);
            self.held.fetch_add(bytes, Relaxed);
            Held { pool: self.clone(), bytes }
        })
    }

    /// The most to be read at once: an equal share, unless others have not yet given back what they took before.
    fn chunk(&self) -> usize {
        let left = self.max_held.saturating_sub(self.held());
        let share = self.max_held / (self.waiting.load(Relaxed) + 1);
        share.min(left).clamp(MIN_CHUNK, MAX_CHUNK)
    }

    /// An empty buffer with at least this capacity, and the size of its whole allocation: a buffer that was used before
    /// may not know it.
    fn take(&self, capacity: usize) -> (BytesMut, usize) {
        if Self::SIZES.contains(&capacity) {
            let mut ends = self.lock();
            // The one that was used last is most likely still in the cache.
            if let Some(index) = ends.iter_mut().rposition(|(end, _)| end.try_reclaim(capacity)) {
                return ends.remove(index);
            }
        }
        Self::make(capacity)
    }

    fn make(capacity: usize) -> (BytesMut, usize) {
        let fresh = BytesMut::with_capacity(capacity);
        let allocated = fresh.capacity();
        (fresh, allocated)
    }

    /// Keeps what is left of a buffer for later.
    fn put(&self, mut end: BytesMut, allocated: usize) {
        if Self::SIZES.contains(&allocated) {
            end.clear();
            let mut ends = self.lock();
            if ends.len() == Self::MAX {
                ends.remove(0);
            }
            ends.push((end, allocated));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(BytesMut, usize)>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const MAX_FRAME: usize = 1 << 20;

    fn received(buffer: &mut ReadBuffer, bytes: &[u8]) {
        assert!(buffer.bytes.capacity() - buffer.bytes.len() >= bytes.len(), "a read never grows the buffer");
        buffer.bytes.extend_from_slice(bytes);
    }

    #[test]
    fn a_claimed_length_reserves_nothing_before_bytes_arrive() {
        let mut buffer = ReadBuffer::new(BytesMut::new());
        buffer.make_room(&BufferPool::new(usize::MAX));
        received(&mut buffer, &[0; 5]);
        buffer.missing = 1 << 20;
        buffer.make_room(&BufferPool::new(usize::MAX));
        assert!(buffer.bytes.capacity() <= 2 * MIN_CHUNK + 5, "{}", buffer.bytes.capacity());
    }

    #[test]
    fn a_long_frame_fits_without_much_more() {
        const FRAME: usize = 3_000_000;
        let mut buffer = ReadBuffer::new(BytesMut::new());
        while buffer.bytes.len() < FRAME {
            buffer.missing = if buffer.bytes.is_empty() { 0 } else { FRAME - buffer.bytes.len() };
            buffer.make_room(&BufferPool::new(usize::MAX));
            let capacity = buffer.bytes.capacity();
            assert!(capacity <= FRAME + MAX_CHUNK, "{capacity}");
            let room = (capacity - buffer.bytes.len()).min(FRAME - buffer.bytes.len());
            received(&mut buffer, &vec![0; room]);
        }
    }

    #[test]
    fn small_runs_are_copied_and_large_ones_are_not() {
        let mut buffer = ReadBuffer::new(BytesMut::with_capacity(MAX_CHUNK));
        buffer.bytes.resize(MAX_CHUNK, 0);
        let inside = buffer.bytes.as_ptr_range();
        let large = buffer.take(MAX_CHUNK / 2).unwrap();
        assert!(inside.contains(&large.as_ptr()));
        assert_eq!(buffer.take(MAX_CHUNK / 8), None);
        assert_eq!(buffer.bytes.len(), MAX_CHUNK / 2);
    }

    #[test]
    fn the_allocation_is_reused_once_nobody_holds_it() {
        let mut buffer = ReadBuffer::new(BytesMut::with_capacity(MIN_CHUNK));
        buffer.bytes.resize(MIN_CHUNK, 0);
        let start = buffer.bytes.as_ptr();
        assert_eq!(buffer.take(MIN_CHUNK - 1), None);
        buffer.skip(MIN_CHUNK - 1);
        buffer.make_room(&BufferPool::new(usize::MAX));
        assert_eq!((buffer.bytes.as_ptr(), buffer.bytes.len()), (start, 1));
    }

    #[test]
    fn large_buffers_come_back_once_nobody_holds_a_slice() {
        let pool = BufferPool::new(usize::MAX);
        let mut buffer = ReadBuffer::new(pool.take(MAX_CHUNK).0);
        buffer.bytes.resize(MAX_CHUNK, 0);
        let start = buffer.bytes.as_ptr();
        let held = buffer.take(MAX_CHUNK).unwrap();
        buffer.release(&pool);
        assert_ne!(pool.take(MAX_CHUNK).0.as_ptr(), start);
        drop(held);
        let again = pool.take(MAX_CHUNK).0;
        assert_eq!((again.as_ptr(), again.len()), (start, 0));
        for _ in 0..2 * BufferPool::MAX {
            pool.put(BytesMut::with_capacity(MAX_CHUNK), MAX_CHUNK);
        }
        pool.put(BytesMut::with_capacity(MIN_CHUNK), MIN_CHUNK);
        assert_eq!(pool.lock().len(), BufferPool::MAX);
    }

    #[test]
    fn what_is_taken_keeps_at_most_twice_its_memory_also_from_a_buffer_that_was_used_before() {
        const LARGE: usize = 2 * MAX_CHUNK;
        let pool = BufferPool::new(usize::MAX);
        let mut end = BytesMut::with_capacity(LARGE);
        end.resize(LARGE, 0);
        // Its end is all that is known of it.
        drop(end.split_to(LARGE - 10));
        pool.put(end, LARGE);
        let mut buffer = ReadBuffer::new(BytesMut::new());
        buffer.chunk = MAX_CHUNK;
        buffer.make_room(&pool);
        assert_eq!(buffer.allocated, LARGE);
        let room = buffer.bytes.capacity();
        buffer.bytes.resize(room, 0);
        assert_eq!(buffer.take(LARGE / 2 - 1), None);
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
            waiting.push((chunk, pool.hold(chunk)));
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
            waiting[publisher] = (chunk, pool.hold(chunk));
        }
        let fair = MAX_HELD / waiting.len();
        assert!(waiting.iter().all(|(chunk, _)| chunk.abs_diff(fair) < fair / 100), "{waiting:?}");
        waiting.clear();
        assert_eq!(pool.chunk(), MAX_CHUNK);
    }

    #[test]
    fn a_large_buffer_is_given_back_when_others_need_the_memory() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for rest in [0, 5_000, MAX_CHUNK / 2] {
            let mut buffer = ReadBuffer::new(pool.take(2 * MAX_CHUNK).0);
            buffer.chunk = MAX_CHUNK;
            buffer.bytes.resize(rest, 7);
            let room = |buffer: &mut ReadBuffer| {
                buffer.shrink(pool.chunk(), &pool);
                buffer.make_room(&pool);
                assert!(buffer.bytes.iter().eq([7].iter().cycle().take(rest)), "{rest}");
                buffer.bytes.capacity() - rest
            };
            assert_eq!(room(&mut buffer), 2 * MAX_CHUNK - rest);
            let others = pool.hold(MAX_HELD);
            assert!(room(&mut buffer) <= 2 * MIN_CHUNK + rest, "{rest}");
            drop(others);
        }
    }

    #[test]
    fn a_long_message_stays_where_it_is_when_little_is_read_at_once() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        pool.put(BytesMut::with_capacity(2 * MAX_CHUNK), 2 * MAX_CHUNK);
        let mut buffer = ReadBuffer::new(BytesMut::new());
        let (mut moves, mut place) = (0, buffer.bytes.as_ptr());
        for received in (0..MAX_FRAME).step_by(1000) {
            buffer.missing = if received == 0 { 0 } else { MAX_FRAME - received };
            buffer.shrink(MIN_CHUNK, &pool);
            buffer.make_room(&pool);
            moves += usize::from(buffer.bytes.as_ptr() != place);
            self::received(&mut buffer, &[7; 1000]);
            place = buffer.bytes.as_ptr();
        }
        // When it grows, and not with each read.
        assert!(moves < 30, "{moves}");
    }

    #[test]
    fn what_waits_is_counted_once_and_as_what_it_keeps() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for (run, rest, copied, held) in [
            (1_000, 0, true, 0),
            (1_000, 5_000, true, MAX_CHUNK),
            (MAX_CHUNK / 2, 0, false, MAX_CHUNK),
            (MAX_CHUNK / 2, 5_000, false, MAX_CHUNK),
        ] {
            let mut buffer = ReadBuffer::new(BytesMut::with_capacity(MAX_CHUNK));
            buffer.bytes.resize(run + rest, 0);
            let taken = buffer.take(run);
            assert_eq!(taken.is_none(), copied);
            if copied {
                buffer.skip(run);
            }
            assert_eq!(buffer.park(!copied, &pool), held, "{run} {rest}");
        }
    }

    #[test]
    fn an_idle_buffer_is_given_back() {
        let pool = BufferPool::new(usize::MAX);
        for (part, parked) in
            [(&b"part"[..], true), (&[], true), (&[7; MAX_PARKED], true), (&[7; MAX_PARKED + 1], false)]
        {
            let mut buffer = ReadBuffer::new(pool.take(MAX_CHUNK).0);
            buffer.bytes.extend_from_slice(part);
            let held = pool.lock().len();
            for _ in 0..2 {
                buffer.release(&pool);
                assert_eq!(buffer.bytes, part);
                assert_eq!(
                    (pool.lock().len(), buffer.allocated),
                    if parked { (held + 1, part.len()) } else { (held, MAX_CHUNK) }
                );
            }
            // And the rest of the frame can come.
            buffer.make_room(&pool);
            received(&mut buffer, &[1; 100]);
            assert_eq!(buffer.bytes, [part, &[1; 100]].concat());
        }
    }
}
