//! The read buffer of a connection: nothing while idle, large while a stream flows.

use std::{
    io, mem,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::net::{
    buffer_pool::{BufferPool, MAX_CHUNK, MIN_CHUNK},
    socket::ReadHalf,
};

/// How much of a frame that has not arrived whole is moved to let go of a buffer.
const MAX_PARKED: usize = 1024;

/// A run is copied when it is shorter than this, or less than half of the buffer: what
/// is queued never keeps more than twice its own memory.
const MIN_ZERO_COPY: usize = 8 * 1024;
const ZERO_COPY_SHARE: usize = 2;

/// What is behind a run is moved twice when it is less than this part of a read, so that the size of the next buffer need
/// not be guessed.
const SMALL_SHARE: usize = 8;

/// From this length on, reads end where a frame does if it is as long as the one before.
const LONG: usize = 16 * 1024;

/// Received bytes that have not been acted on. At most a chunk larger than the longest frame.
pub(crate) struct ReadBuffer {
    pub(crate) bytes: BytesMut,
    /// How many bytes the frame at the start still lacks, when its header is there.
    pub(crate) missing: usize,
    /// How long the last frame was of which only a part had come.
    pub(crate) frame: usize,
    /// How much of this its limit on what it publishes lets pass: whole PUBLISH frames. 0 before it has been asked, which
    /// it is before each [`passing`](Self::passing), and when there is no limit.
    pub(crate) granted: usize,
    chunk: usize,
    /// The size of the whole allocation that `bytes` is a part of.
    allocated: usize,
}

impl ReadBuffer {
    pub(crate) fn new(bytes: BytesMut) -> Self {
        Self { missing: 0, frame: 0, granted: 0, chunk: MIN_CHUNK, allocated: bytes.capacity(), bytes }
    }

    /// Appends what is there to read; 0 is the end. Room is made only when there is something, and not for more than `most`,
    /// or the smallest chunk, or the rest of a message; room that is there already is used.
    pub(crate) fn poll_read(
        &mut self,
        half: &mut ReadHalf<'_>,
        pool: &BufferPool,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(half.poll_readable(cx))?;
        // Rounded up, all buffers would take more together than they may.
        let most = 1 << most.min(pool.chunk()).clamp(MIN_CHUNK, MAX_CHUNK).ilog2();
        let before = self.chunk;
        // Asking the system would cost who reads little more than it gives.
        let available = if before.min(most) > MIN_CHUNK { half.available().unwrap_or(0) } else { 0 };
        if available > 0 {
            self.size_next_read(available);
        }
        self.make_room(most, pool);
        let n = ready!(half.poll_read_up_to(self.read_size(available), cx, &mut self.bytes))?;
        self.chunk = if self.bytes.len() == self.bytes.capacity() {
            (self.chunk * 4).min(most)
        } else {
            // One small read does not make it small.
            n.next_power_of_two().max(before / 2).clamp(MIN_CHUNK, most)
        };
        Poll::Ready(Ok(n))
    }

    /// How much to read into the room that there is: when there is more, no part of a long frame that would have to move
    /// then, if it is as long as the one before. Never nothing.
    fn read_size(&self, available: usize) -> usize {
        let room = self.bytes.capacity() - self.bytes.len();
        let whole = match room.checked_sub(self.missing) {
            Some(more) if self.frame >= LONG => self.missing + more / self.frame * self.frame,
            _ => 0,
        };
        // All that is there is read with room to spare, which says that there is no more.
        if (1..available).contains(&whole) { whole } else { room }
    }

    /// So much can be read: with what is there, more than half of the buffer, so that it need not be copied.
    fn size_next_read(&mut self, available: usize) {
        let len = self.bytes.len();
        let whole = if len <= available { len + available } else { available };
        self.chunk = whole.clamp(MIN_CHUNK, MAX_CHUNK).next_power_of_two();
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

    /// Takes the first bytes out with the whole buffer, if they may hold on to that, and says how large it is. What is
    /// behind them moves.
    pub(crate) fn take(&mut self, len: usize, pool: &Arc<BufferPool>) -> Option<(Bytes, usize)> {
        if len < MIN_ZERO_COPY || len * ZERO_COPY_SHARE < self.allocated {
            return None;
        }
        self.granted = self.granted.saturating_sub(len);
        let rest = &self.bytes[len..];
        let rest = if rest.len() < self.chunk / SMALL_SHARE {
            rest.into()
        } else {
            let mut room = pool.take((rest.len() + self.chunk / 2).max(self.chunk));
            room.extend_from_slice(rest);
            room
        };
        let (mut taken, allocated) = self.swap(rest);
        taken.truncate(len);
        Some((pool.freeze_pooled(taken, allocated), allocated))
    }

    /// Gives the memory back when there is little or nothing in it: the beginning of a frame moves to a place of its size.
    /// Others will read into the same memory, which is in the processor's cache then.
    pub(crate) fn release(&mut self, pool: &BufferPool) {
        let len = self.bytes.len();
        if len <= MAX_PARKED {
            if len < self.allocated {
                self.replace(BytesMut::from(&self.bytes[..]), pool);
            }
        } else if self.allocated > MAX_CHUNK && self.allocated >= 2 * self.size() {
            self.relocate(pool);
        }
    }

    /// Waits: gives the memory back if it can, and says how much is held.
    pub(crate) fn release_if_idle(&mut self, pool: &BufferPool) -> usize {
        self.release(pool);
        if self.bytes.len() > MAX_PARKED { self.allocated } else { 0 }
    }

    /// Makes room for a read, of no more than `most`, or as much as is there already. A buffer that is much larger than it
    /// has to be is given back when memory is scarce.
    fn make_room(&mut self, most: usize, pool: &BufferPool) {
        self.chunk = self.chunk.min(most);
        let too_large = most < MAX_CHUNK && self.allocated >= 2 * self.size();
        if !too_large {
            let enough = self.least_room();
            // Or moves what is left to the front.
            let reclaim = self.allocated >= self.chunk;
            if self.bytes.capacity() - self.bytes.len() >= enough || reclaim && self.bytes.try_reclaim(enough) {
                return;
            }
        }
        self.relocate(pool);
    }

    /// With less room than this a read is not worth it: what is there moves. No more of it moves than is read then.
    fn least_room(&self) -> usize {
        let much = if self.bytes.len() < self.chunk / 2 { self.chunk / 2 } else { 1 };
        self.missing.min(self.chunk).max(much)
    }

    /// How large a buffer has to be for what is there and the next read. What a header claims is believed only as far as
    /// the bytes that came: for a long frame the buffer grows with what is in it.
    fn size(&self) -> usize {
        let len = self.bytes.len();
        let room = self.missing.clamp(self.least_room(), self.chunk.max(len));
        BufferPool::size((len + room).max(self.chunk))
    }

    /// Moves to a buffer of the right size.
    fn relocate(&mut self, pool: &BufferPool) {
        let mut other = pool.take(self.size());
        other.extend_from_slice(&self.bytes);
        self.replace(other, pool);
    }

    fn replace(&mut self, bytes: BytesMut, pool: &BufferPool) {
        let (old, allocated) = self.swap(bytes);
        pool.put(old, allocated);
    }

    /// Goes on with another buffer, of which nothing has been passed over. Returns the one before, and its size.
    fn swap(&mut self, bytes: BytesMut) -> (BytesMut, usize) {
        let allocated = mem::replace(&mut self.allocated, bytes.capacity());
        (mem::replace(&mut self.bytes, bytes), allocated)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::time::Duration;

    use futures::future::poll_fn;
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::net::{buffer_pool::MAX_HELD, socket::Socket};

    const MAX_FRAME: usize = 1 << 20;

    fn received(buffer: &mut ReadBuffer, bytes: &[u8]) {
        assert!(buffer.bytes.capacity() - buffer.bytes.len() >= bytes.len(), "a read never grows the buffer");
        buffer.bytes.extend_from_slice(bytes);
    }

    #[test]
    fn a_claimed_length_reserves_nothing_before_bytes_arrive() {
        let mut buffer = ReadBuffer::new(BytesMut::new());
        buffer.make_room(MAX_CHUNK, &BufferPool::new(usize::MAX));
        received(&mut buffer, &[0; 5]);
        buffer.missing = 1 << 20;
        buffer.make_room(MAX_CHUNK, &BufferPool::new(usize::MAX));
        assert!(buffer.bytes.capacity() <= 2 * MIN_CHUNK + 5, "{}", buffer.bytes.capacity());
    }

    #[test]
    fn a_long_frame_fits_without_much_more() {
        const FRAME: usize = 3_000_000;
        let mut buffer = ReadBuffer::new(BytesMut::new());
        while buffer.bytes.len() < FRAME {
            buffer.missing = if buffer.bytes.is_empty() { 0 } else { FRAME - buffer.bytes.len() };
            buffer.make_room(MAX_CHUNK, &BufferPool::new(usize::MAX));
            let capacity = buffer.bytes.capacity();
            assert!(capacity <= FRAME + MAX_CHUNK, "{capacity}");
            let room = (capacity - buffer.bytes.len()).min(FRAME - buffer.bytes.len());
            received(&mut buffer, &vec![0; room]);
        }
    }

    #[test]
    fn small_runs_are_copied_and_large_ones_are_not() {
        let mut buffer = ReadBuffer::new(BytesMut::with_capacity(MAX_CHUNK));
        buffer.bytes.resize(MAX_CHUNK / 2, 1);
        buffer.bytes.resize(MAX_CHUNK, 2);
        let start = buffer.bytes.as_ptr();
        let pool = Arc::new(BufferPool::new(usize::MAX));
        assert_eq!(buffer.take(MAX_CHUNK / 2 - 1, &pool), None);
        let (large, size) = buffer.take(MAX_CHUNK / 2, &pool).unwrap();
        assert_eq!((large.as_ptr(), size), (start, MAX_CHUNK));
        assert_eq!((large.len(), buffer.bytes.len()), (MAX_CHUNK / 2, MAX_CHUNK / 2));
        assert!(large.iter().all(|byte| *byte == 1) && buffer.bytes.iter().all(|byte| *byte == 2));
        assert_eq!(buffer.take(MIN_CHUNK, &pool), None);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_is_read_of_a_stream_need_not_be_copied() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(listener.accept().await.unwrap().0, None).unwrap();
        let (mut read, _write) = socket.split();
        let (pool, mut buffer) = (Arc::new(BufferPool::new(usize::MAX)), ReadBuffer::new(BytesMut::new()));
        // Sends so much, reads until there is nothing more, and takes all of it but a rest. Returns the number of reads.
        let mut receive = async |buffer: &mut ReadBuffer, len, rest| {
            let whole = buffer.bytes.len() + len;
            client.write_all(&vec![7; len]).await.unwrap();
            let arrived = async {
                while read.available().unwrap() < len {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(60), arrived).await.unwrap();
            poll_fn(|cx| read.poll_readable(cx)).await.unwrap();
            let mut reads = 0;
            while let Poll::Ready(n) =
                poll_fn(|cx| Poll::Ready(buffer.poll_read(&mut read, &pool, usize::MAX, cx))).await
            {
                assert!(n.unwrap() > 0);
                reads += 1;
                if buffer.bytes.len() == whole {
                    assert!(buffer.take(whole - rest, &pool).is_some(), "{len} {rest}");
                }
            }
            assert_eq!(buffer.bytes.len(), rest);
            buffer.release(&pool);
            reads
        };
        for (len, rest) in
            [(MIN_CHUNK + 1, 0), (16_531, 0), (20_000, 500), (20_000, 3_000), (40_000, 5_000), (40_000, 0)]
        {
            // Whatever has been read before.
            for chunk in [2 * MIN_CHUNK, MAX_CHUNK] {
                buffer.chunk = chunk;
                assert_eq!(receive(&mut buffer, len, rest).await, 1, "{len} {rest}");
            }
        }
        // Nor do messages that come alone have to be read in two parts.
        for len in [10_000, 1 << 14, 20_000] {
            buffer = ReadBuffer::new(BytesMut::new());
            for reads in [2, 1, 1, 1, 1] {
                assert_eq!(receive(&mut buffer, len, 0).await, reads, "{len}");
                buffer.frame = len;
            }
        }
    }

    #[test]
    fn a_read_ends_where_a_long_frame_does() {
        const FRAME: usize = 20_000;
        let mut buffer = ReadBuffer::new(BytesMut::with_capacity(1 << 16));
        for (frame, len, missing, limit) in [
            (FRAME, 0, 0, 3 * FRAME),
            (FRAME, 5_000, FRAME - 5_000, 3 * FRAME - 5_000),
            (FRAME, FRAME - 1, 1, 1 + 2 * FRAME),
            // There is not room for another, or not even for the rest.
            (1 << 17, 60_000, 5_000, 5_000),
            (1 << 17, 60_000, 71_072, (1 << 16) - 60_000),
            (1 << 17, 0, 0, 1 << 16),
            // Short ones.
            (LONG - 1, 5_000, LONG - 5_001, (1 << 16) - 5_000),
            (0, 0, 0, 1 << 16),
        ] {
            (buffer.frame, buffer.missing) = (frame, missing);
            buffer.bytes.resize(len, 0);
            assert_eq!(buffer.read_size(1 << 20), limit, "{frame} {len} {missing}");
            // With room to spare, when there is no more than that.
            assert_eq!(buffer.read_size(limit), (1 << 16) - len);
        }
    }

    #[test]
    fn what_is_left_moves_to_the_front_of_the_allocation() {
        let mut buffer = ReadBuffer::new(BytesMut::with_capacity(MIN_CHUNK));
        buffer.bytes.resize(MIN_CHUNK, 0);
        let start = buffer.bytes.as_ptr();
        let pool = Arc::new(BufferPool::new(usize::MAX));
        assert_eq!(buffer.take(MIN_CHUNK - 1, &pool), None);
        buffer.skip(MIN_CHUNK - 1);
        buffer.make_room(MAX_CHUNK, &pool);
        assert_eq!((buffer.bytes.as_ptr(), buffer.bytes.len()), (start, 1));
    }

    #[test]
    fn a_large_buffer_is_given_back_when_others_need_the_memory() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for rest in [0, 5_000, MAX_CHUNK / 2] {
            let mut buffer = ReadBuffer::new(pool.take(2 * MAX_CHUNK));
            buffer.chunk = MAX_CHUNK;
            buffer.bytes.resize(rest, 7);
            let room = |buffer: &mut ReadBuffer| {
                buffer.make_room(pool.chunk(), &pool);
                assert!(buffer.bytes.iter().eq([7].iter().cycle().take(rest)), "{rest}");
                buffer.bytes.capacity() - rest
            };
            assert_eq!(room(&mut buffer), 2 * MAX_CHUNK - rest);
            let others = pool.track_waiting(MAX_HELD);
            assert!(room(&mut buffer) <= 2 * MIN_CHUNK + rest, "{rest}");
            drop(others);
        }
    }

    #[test]
    fn a_long_message_stays_where_it_is_when_little_is_read_at_once() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for (start, allocated, most) in
            [(0, 0, MIN_CHUNK), (150 << 10, 2 * MAX_CHUNK, MIN_CHUNK), (150 << 10, 2 * MAX_CHUNK, MAX_CHUNK / 4)]
        {
            let mut buffer = ReadBuffer::new(BytesMut::with_capacity(allocated));
            self::received(&mut buffer, &vec![7; start]);
            buffer.chunk = MAX_CHUNK;
            let (mut moved, mut last) = (0, (buffer.bytes.as_ptr(), buffer.allocated));
            for received in (start..MAX_FRAME).step_by(1000) {
                buffer.missing = if received == 0 { 0 } else { MAX_FRAME - received };
                buffer.make_room(most, &pool);
                let place = (buffer.bytes.as_ptr(), buffer.allocated);
                if mem::replace(&mut last, place) != place {
                    moved += received;
                }
                self::received(&mut buffer, &vec![7; (MAX_FRAME - received).min(1000)]);
            }
            // When it grows, and not with each read.
            assert!(moved < 2 * MAX_FRAME, "{start}: {moved}");
        }
    }

    #[test]
    fn a_buffer_that_is_waited_with_is_counted_as_what_it_keeps() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for (run, rest, taken, held) in [
            (1_000, 0, None, 0),
            (1_000, 5_000, None, MAX_CHUNK),
            (MAX_CHUNK / 2, 0, Some(MAX_CHUNK), 0),
            (MAX_CHUNK / 2, MAX_PARKED, Some(MAX_CHUNK), 0),
            (MAX_CHUNK / 2, 5_000, Some(MAX_CHUNK), 2 * MIN_CHUNK),
        ] {
            let mut buffer = ReadBuffer::new(BytesMut::with_capacity(MAX_CHUNK));
            buffer.bytes.resize(run + rest, 0);
            let size = buffer.take(run, &pool).map(|(_, size)| size);
            assert_eq!(size, taken);
            if taken.is_none() {
                buffer.skip(run);
            }
            assert_eq!(buffer.release_if_idle(&pool), held, "{run} {rest}");
        }
    }

    #[test]
    fn what_a_long_message_leaves_behind_is_given_back() {
        let (pool, mut buffer) = (BufferPool::new(usize::MAX), ReadBuffer::new(BytesMut::with_capacity(MAX_FRAME)));
        buffer.bytes.resize(MAX_FRAME, 7);
        buffer.skip(MAX_FRAME - 2000);
        buffer.missing = 8000;
        buffer.release(&pool);
        assert_eq!((&buffer.bytes[..], buffer.allocated), (&[7; 2000][..], 2 * MIN_CHUNK));
        let place = buffer.bytes.as_ptr();
        buffer.release(&pool);
        assert_eq!(buffer.bytes.as_ptr(), place);
    }

    #[test]
    fn an_idle_buffer_is_given_back() {
        let pool = BufferPool::new(usize::MAX);
        for (part, parked) in
            [(&b"part"[..], true), (&[], true), (&[7; MAX_PARKED], true), (&[7; MAX_PARKED + 1], false)]
        {
            let mut buffer = ReadBuffer::new(pool.take(MAX_CHUNK));
            buffer.bytes.extend_from_slice(part);
            let place = buffer.bytes.as_ptr();
            for _ in 0..2 {
                buffer.release(&pool);
                assert_eq!(buffer.bytes, part);
                assert_eq!(buffer.allocated, if parked { part.len() } else { MAX_CHUNK });
            }
            // Somebody else gets it.
            let another = pool.take(MAX_CHUNK);
            assert_eq!(another.as_ptr() == place, parked);
            pool.put(another, MAX_CHUNK);
            // And the rest of the frame can come.
            buffer.make_room(MAX_CHUNK, &pool);
            received(&mut buffer, &[1; 100]);
            assert_eq!(buffer.bytes, [part, &[1; 100]].concat());
        }
    }
}
