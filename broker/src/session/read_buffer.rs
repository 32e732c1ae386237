//! Read buffer of a connection: no memory while idle, a large chunk while a stream flows.

use std::{
    io, mem,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::{
    net::{
        buffer_pool::{BufferPool, MAX_CHUNK},
        socket::ReadHalf,
    },
    session::read_sizer::{MAX_PARKED, ReadSizer},
};

/// Received bytes that have not been processed: at most [`MAX_CHUNK`] more than the longest frame.
pub(crate) struct ReadBuffer {
    pub(crate) bytes: BytesMut,
    /// Length of the whole PUBLISH frames at the start that the ident's rate limit lets pass, in
    /// bytes. 0 before the limit has been asked, which is before each [`passing`](Self::passing),
    /// and when there is none.
    pub(crate) granted: usize,
    sizer: ReadSizer,
    /// Size of the allocation that `bytes` is a part of.
    allocated: usize,
}

impl ReadBuffer {
    pub(crate) fn new(bytes: BytesMut) -> Self {
        Self { granted: 0, sizer: ReadSizer::default(), allocated: bytes.capacity(), bytes }
    }

    /// Reads what there is into the buffer, and returns its length; 0 is the end of the stream.
    /// Memory is taken only when there is something to read: for at most `max` bytes, but at least
    /// the smallest chunk or the rest of a message. Room that the buffer has already is used in any
    /// case.
    pub(crate) fn poll_read(
        &mut self,
        half: &mut ReadHalf<'_>,
        pool: &BufferPool,
        max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // An idle connection takes no memory.
        ready!(half.poll_readable(cx))?;
        // The more memory publishers wait with, the less is read at once.
        let max = ReadSizer::max_chunk(max.min(pool.chunk()));
        let before = self.sizer.chunk;
        // The buffer gets the size of what can be read, so that a batch fills it and need not be
        // copied.
        let available = if self.sizer.asks_system(max) { half.available().unwrap_or(0) } else { 0 };
        if available > 0 {
            self.sizer.expect(self.bytes.len(), available);
        }
        self.make_room(max, pool);
        let room = self.bytes.capacity() - self.bytes.len();
        // A read of long frames ends where one of them does.
        let size = self.sizer.read_size(room, available);
        let n = ready!(half.poll_read_up_to(size, cx, &mut self.bytes))?;
        // The size of this read is the guess for the next.
        self.sizer.learn(n, self.bytes.len() == self.bytes.capacity(), before, max);
        Poll::Ready(Ok(n))
    }

    /// The header of the first frame has not been received whole.
    pub(crate) fn need_header(&mut self) {
        self.sizer.missing = 0;
    }

    /// The first frame, of length `frame`, has not been received whole.
    pub(crate) fn need_frame(&mut self, frame: usize) {
        self.sizer.frame = frame;
        self.sizer.missing = frame.saturating_sub(self.bytes.len());
    }

    /// Length that the first frame lacks, in bytes; 0 when its header has not been received whole.
    pub(crate) fn missing(&self) -> usize {
        self.sizer.missing
    }

    /// The bytes that may be published.
    pub(crate) fn passing(&self) -> &[u8] {
        if self.granted > 0 { self.bytes.get(..self.granted).unwrap_or(&self.bytes) } else { &self.bytes }
    }

    /// Passes over the first `len` bytes.
    pub(crate) fn skip(&mut self, len: usize) {
        self.granted = self.granted.saturating_sub(len);
        self.bytes.advance(len);
    }

    /// Takes the first `len` bytes out with their whole buffer, and returns its size; `None` when
    /// they are to be copied. The rest behind them moves.
    pub(crate) fn take(&mut self, len: usize, pool: &Arc<BufferPool>) -> Option<(Bytes, usize)> {
        if !ReadSizer::is_zero_copy(len, self.allocated) {
            return None;
        }
        self.granted = self.granted.saturating_sub(len);
        let rest = &self.bytes[len..];
        let rest = match self.sizer.size_for_rest(rest.len()) {
            None => rest.into(),
            Some(size) => {
                let mut room = pool.take(size);
                room.extend_from_slice(rest);
                room
            }
        };
        let (mut taken, allocated) = self.swap(rest);
        taken.truncate(len);
        Some((pool.freeze_pooled(taken, allocated), allocated))
    }

    /// Gives the memory back when there is little or nothing in it: the beginning of a frame moves
    /// to a buffer of its size. Other connections read into the same memory then, while it is in
    /// the processor's cache.
    pub(crate) fn release(&mut self, pool: &BufferPool) {
        let len = self.bytes.len();
        if len <= MAX_PARKED {
            if len < self.allocated {
                self.replace(BytesMut::from(&self.bytes[..]), pool);
            }
        } else if self.allocated > MAX_CHUNK && self.sizer.is_oversized(self.allocated, len) {
            self.relocate(pool);
        }
    }

    /// Gives the memory back if it can, and returns how much the connection still holds, in bytes.
    pub(crate) fn release_if_idle(&mut self, pool: &BufferPool) -> usize {
        self.release(pool);
        if self.bytes.len() > MAX_PARKED { self.allocated } else { 0 }
    }

    /// Makes room for a read of at most `max` bytes, unless there is room already. A buffer that is
    /// much larger than it has to be is given back when memory is scarce.
    fn make_room(&mut self, max: usize, pool: &BufferPool) {
        self.sizer.chunk = self.sizer.chunk.min(max);
        let len = self.bytes.len();
        if max == MAX_CHUNK || !self.sizer.is_oversized(self.allocated, len) {
            let least = self.sizer.least_room(len);
            // Or the rest is moved to the front.
            let reclaim = self.allocated >= self.sizer.chunk;
            if self.bytes.capacity() - len >= least || reclaim && self.bytes.try_reclaim(least) {
                return;
            }
        }
        self.relocate(pool);
    }

    /// Moves to a buffer of the right size.
    fn relocate(&mut self, pool: &BufferPool) {
        let mut other = pool.take(self.sizer.buffer_size(self.bytes.len()));
        other.extend_from_slice(&self.bytes);
        self.replace(other, pool);
    }

    fn replace(&mut self, bytes: BytesMut, pool: &BufferPool) {
        let (old, allocated) = self.swap(bytes);
        pool.put(old, allocated);
    }

    /// Goes on with another buffer, none of which has been passed over. Returns the one before, and
    /// its size.
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
    use crate::net::{
        buffer_pool::{MAX_HELD, MIN_CHUNK},
        socket::Socket,
    };

    const MAX_FRAME: usize = 1 << 20;

    fn received(buffer: &mut ReadBuffer, bytes: &[u8]) {
        assert!(buffer.bytes.capacity() - buffer.bytes.len() >= bytes.len(), "a read never grows the buffer");
        buffer.bytes.extend_from_slice(bytes);
    }

    #[test]
    fn claimed_length_reserves_nothing_before_bytes_arrive() {
        let mut buffer = ReadBuffer::new(BytesMut::new());
        buffer.make_room(MAX_CHUNK, &BufferPool::new(usize::MAX));
        received(&mut buffer, &[0; 5]);
        buffer.sizer.missing = 1 << 20;
        buffer.make_room(MAX_CHUNK, &BufferPool::new(usize::MAX));
        assert!(buffer.bytes.capacity() <= 2 * MIN_CHUNK + 5, "{}", buffer.bytes.capacity());
    }

    #[test]
    fn long_frame_fits_without_much_more() {
        const FRAME: usize = 3_000_000;
        let mut buffer = ReadBuffer::new(BytesMut::new());
        while buffer.bytes.len() < FRAME {
            buffer.sizer.missing = if buffer.bytes.is_empty() { 0 } else { FRAME - buffer.bytes.len() };
            buffer.make_room(MAX_CHUNK, &BufferPool::new(usize::MAX));
            let capacity = buffer.bytes.capacity();
            assert!(capacity <= FRAME + MAX_CHUNK, "{capacity}");
            let room = (capacity - buffer.bytes.len()).min(FRAME - buffer.bytes.len());
            received(&mut buffer, &vec![0; room]);
        }
    }

    #[test]
    fn small_batches_are_copied_and_large_ones_are_not() {
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
    async fn batches_read_from_a_stream_need_not_be_copied() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(listener.accept().await.unwrap().0, None).unwrap();
        let (mut read, _write) = socket.split();
        let (pool, mut buffer) = (Arc::new(BufferPool::new(usize::MAX)), ReadBuffer::new(BytesMut::new()));
        // Sends so much, reads until there is nothing more, and takes all of it but a rest. Returns
        // the number of reads.
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
            // After reads of any size.
            for chunk in [2 * MIN_CHUNK, MAX_CHUNK] {
                buffer.sizer.chunk = chunk;
                assert_eq!(receive(&mut buffer, len, rest).await, 1, "{len} {rest}");
            }
        }
        // Nor do messages that come alone have to be read in two parts.
        for len in [10_000, 1 << 14, 20_000] {
            buffer = ReadBuffer::new(BytesMut::new());
            for reads in [2, 1, 1, 1, 1] {
                assert_eq!(receive(&mut buffer, len, 0).await, reads, "{len}");
                buffer.sizer.frame = len;
            }
        }
    }

    #[test]
    fn rest_moves_to_the_front_of_the_allocation() {
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
    fn large_buffer_is_given_back_when_others_need_the_memory() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for rest in [0, 5_000, MAX_CHUNK / 2] {
            let mut buffer = ReadBuffer::new(pool.take(2 * MAX_CHUNK));
            buffer.sizer.chunk = MAX_CHUNK;
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
    fn long_message_stays_where_it_is_when_little_is_read_at_once() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for (start, allocated, most) in
            [(0, 0, MIN_CHUNK), (150 << 10, 2 * MAX_CHUNK, MIN_CHUNK), (150 << 10, 2 * MAX_CHUNK, MAX_CHUNK / 4)]
        {
            let mut buffer = ReadBuffer::new(BytesMut::with_capacity(allocated));
            self::received(&mut buffer, &vec![7; start]);
            buffer.sizer.chunk = MAX_CHUNK;
            let (mut moved, mut last) = (0, (buffer.bytes.as_ptr(), buffer.allocated));
            for received in (start..MAX_FRAME).step_by(1000) {
                buffer.sizer.missing = if received == 0 { 0 } else { MAX_FRAME - received };
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
    fn waiting_connection_is_counted_with_the_buffer_it_keeps() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for (batch, rest, taken, held) in [
            (1_000, 0, None, 0),
            (1_000, 5_000, None, MAX_CHUNK),
            (MAX_CHUNK / 2, 0, Some(MAX_CHUNK), 0),
            (MAX_CHUNK / 2, MAX_PARKED, Some(MAX_CHUNK), 0),
            (MAX_CHUNK / 2, 5_000, Some(MAX_CHUNK), 2 * MIN_CHUNK),
        ] {
            let mut buffer = ReadBuffer::new(BytesMut::with_capacity(MAX_CHUNK));
            buffer.bytes.resize(batch + rest, 0);
            let size = buffer.take(batch, &pool).map(|(_, size)| size);
            assert_eq!(size, taken);
            if taken.is_none() {
                buffer.skip(batch);
            }
            assert_eq!(buffer.release_if_idle(&pool), held, "{batch} {rest}");
        }
    }

    #[test]
    fn buffer_of_a_long_message_is_given_back_behind_it() {
        let (pool, mut buffer) = (BufferPool::new(usize::MAX), ReadBuffer::new(BytesMut::with_capacity(MAX_FRAME)));
        buffer.bytes.resize(MAX_FRAME, 7);
        buffer.skip(MAX_FRAME - 2000);
        buffer.sizer.missing = 8000;
        buffer.release(&pool);
        assert_eq!((&buffer.bytes[..], buffer.allocated), (&[7; 2000][..], 2 * MIN_CHUNK));
        let place = buffer.bytes.as_ptr();
        buffer.release(&pool);
        assert_eq!(buffer.bytes.as_ptr(), place);
    }

    #[test]
    fn idle_buffer_is_given_back() {
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
            // Another connection gets it.
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
