//! Read sizer: how much the next read takes and how large its buffer is, from lengths alone.

use crate::net::buffer_pool::{BufferPool, MAX_CHUNK, MIN_CHUNK};

/// Length up to which the start of an incomplete frame is copied to a buffer of its own size, in
/// bytes, so that the buffer it stands in is released.
pub(super) const MAX_PARKED: usize = 1024;

/// A batch is copied when it is shorter than this, in bytes, or fills less than this part of its
/// buffer: a queued batch keeps at most twice its own memory.
const MIN_ZERO_COPY: usize = 8 * 1024;
const ZERO_COPY_SHARE: usize = 2;

/// The rest behind a batch is copied to a buffer of its own size, and later to that of the next
/// read, when it is shorter than this part of a read: the size of the next read need not be guessed
/// then.
const SMALL_SHARE: usize = 8;

/// Length in bytes from which on a read ends where a frame does, so that no part of one is copied
/// to the next buffer.
const LONG_FRAME: usize = 16 * 1024;

/// Sizes of the next read and its buffer. All lengths are in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadSizer {
    /// Expected length of the next read: `MIN_CHUNK` to `MAX_CHUNK`, a power of two.
    pub(super) chunk: usize,
    /// Length that the first frame in the buffer still lacks; 0 when its header has not been
    /// received whole.
    pub(super) missing: usize,
    /// Length of the last frame that was received in parts.
    pub(super) frame: usize,
}

impl Default for ReadSizer {
    fn default() -> Self {
        Self { chunk: MIN_CHUNK, missing: 0, frame: 0 }
    }
}

impl ReadSizer {
    /// The longest read that may be, from what is allowed. Rounded down: with their sizes rounded
    /// up, all buffers together would exceed what they may take.
    pub(super) fn max_chunk(allowed: usize) -> usize {
        1 << allowed.clamp(MIN_CHUNK, MAX_CHUNK).ilog2()
    }

    /// Whether to ask the system how much there is to read. For a connection that reads little, the
    /// call costs more than it saves.
    pub(super) fn asks_system(&self, max: usize) -> bool {
        self.chunk.min(max) > MIN_CHUNK
    }

    /// `available` bytes can be read, behind `len` in the buffer: sized so that both together fill
    /// more than half of the buffer, and need not be copied.
    pub(super) fn expect(&mut self, len: usize, available: usize) {
        let whole = if len <= available { len + available } else { available };
        self.chunk = whole.clamp(MIN_CHUNK, MAX_CHUNK).next_power_of_two();
    }

    /// `received` bytes were read when `before` were expected; they fill the buffer, or there were
    /// no more.
    pub(super) fn learn(&mut self, received: usize, fills_buffer: bool, before: usize, max: usize) {
        self.chunk = if fills_buffer {
            (self.chunk * 4).min(max)
        } else {
            // One small read does not make the next one small.
            received.next_power_of_two().max(before / 2).clamp(MIN_CHUNK, max)
        };
    }

    /// Length of the next read into `room` bytes, when `available` can be read: all of the room, or
    /// less when a part of another long frame, as long as the last one, would have to be moved.
    /// Never 0.
    pub(super) fn read_size(&self, room: usize, available: usize) -> usize {
        let whole = match room.checked_sub(self.missing) {
            Some(more) if self.frame >= LONG_FRAME => self.missing + more / self.frame * self.frame,
            _ => 0,
        };
        // When the room is not filled, there is no more to read.
        if (1..available).contains(&whole) { whole } else { room }
    }

    /// Least room for which a read is worth its cost, behind `len` bytes in the buffer. With less,
    /// these move, and are no more than is read then.
    pub(super) fn least_room(&self, len: usize) -> usize {
        let much = if len < self.chunk / 2 { self.chunk / 2 } else { 1 };
        self.missing.min(self.chunk).max(much)
    }

    /// Size of a buffer for `len` bytes and the next read. For a long frame it grows with what has
    /// been received: the length in its header is believed only that far.
    pub(super) fn buffer_size(&self, len: usize) -> usize {
        let room = self.missing.clamp(self.least_room(len), self.chunk.max(len));
        BufferPool::size((len + room).max(self.chunk))
    }

    /// Whether a buffer of size `allocated` with `len` bytes is at least twice as large as it has
    /// to be.
    pub(super) fn is_oversized(&self, allocated: usize, len: usize) -> bool {
        allocated >= 2 * self.buffer_size(len)
    }

    /// Whether a batch of `len` bytes is queued with its whole buffer, of size `allocated`, or
    /// copied.
    pub(super) fn is_zero_copy(len: usize, allocated: usize) -> bool {
        len >= MIN_ZERO_COPY && len * ZERO_COPY_SHARE >= allocated
    }

    /// Capacity of the buffer to which the `rest` behind a batch moves; `None` for one of the
    /// rest's own size.
    pub(super) fn size_for_rest(&self, rest: usize) -> Option<usize> {
        (rest >= self.chunk / SMALL_SHARE).then(|| (rest + self.chunk / 2).max(self.chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: usize = 1024;

    #[test]
    fn longest_read_is_a_power_of_two_within_what_is_allowed() {
        for (allowed, max) in [
            (0, MIN_CHUNK),
            (MIN_CHUNK, MIN_CHUNK),
            (100_000, 64 * K),
            (MAX_CHUNK - 1, MAX_CHUNK / 2),
            (1 << 40, MAX_CHUNK),
        ] {
            assert_eq!(ReadSizer::max_chunk(allowed), max, "{allowed}");
        }
    }

    #[test]
    fn system_is_asked_only_when_more_than_the_smallest_read_is_expected() {
        let small = ReadSizer::default();
        assert!(!small.asks_system(MAX_CHUNK));
        let large = ReadSizer { chunk: 2 * MIN_CHUNK, ..small };
        assert!(large.asks_system(MAX_CHUNK) && !large.asks_system(MIN_CHUNK));
    }

    #[test]
    fn expected_read_fills_more_than_half_of_its_buffer() {
        for (len, available, chunk) in [
            (0, 1, 8 * K),
            (0, 8 * K + 1, 16 * K),
            (500, 16 * K, 32 * K),
            // More than is read is not moved along.
            (20_000, 10_000, 16 * K),
            (0, 1 << 20, MAX_CHUNK),
        ] {
            let mut sizer = ReadSizer::default();
            sizer.expect(len, available);
            assert_eq!(sizer.chunk, chunk, "{len} {available}");
        }
    }

    #[test]
    fn reads_that_fill_their_buffer_make_the_next_larger_and_others_at_most_halve_it() {
        for (chunk, received, fills_buffer, before, max, next) in [
            (8 * K, 8 * K, true, 8 * K, MAX_CHUNK, 32 * K),
            (128 * K, 128 * K, true, 128 * K, MAX_CHUNK, MAX_CHUNK),
            (32 * K, 32 * K, true, 32 * K, 64 * K, 64 * K),
            (64 * K, 100, false, 64 * K, MAX_CHUNK, 32 * K),
            (64 * K, 40 * K, false, 64 * K, MAX_CHUNK, 64 * K),
            (64 * K, 40 * K, false, 64 * K, 16 * K, 16 * K),
            (8 * K, 1, false, 8 * K, MAX_CHUNK, 8 * K),
        ] {
            let mut sizer = ReadSizer { chunk, ..ReadSizer::default() };
            sizer.learn(received, fills_buffer, before, max);
            assert_eq!(sizer.chunk, next, "{chunk} {received} {fills_buffer} {before} {max}");
        }
    }

    #[test]
    fn read_ends_where_a_long_frame_does() {
        const FRAME: usize = 20_000;
        const ROOM: usize = 64 * K;
        for (frame, len, missing, size) in [
            (FRAME, 0, 0, 3 * FRAME),
            (FRAME, 5_000, FRAME - 5_000, 3 * FRAME - 5_000),
            (FRAME, FRAME - 1, 1, 1 + 2 * FRAME),
            // There is not room for another, or not even for the rest.
            (1 << 17, 60_000, 5_000, 5_000),
            (1 << 17, 60_000, 71_072, ROOM - 60_000),
            (1 << 17, 0, 0, ROOM),
            // Short frames.
            (LONG_FRAME - 1, 5_000, LONG_FRAME - 5_001, ROOM - 5_000),
            (0, 0, 0, ROOM),
        ] {
            let sizer = ReadSizer { missing, frame, ..ReadSizer::default() };
            assert_eq!(sizer.read_size(ROOM - len, 1 << 20), size, "{frame} {len} {missing}");
            // With room to spare, when there is no more than that.
            assert_eq!(sizer.read_size(ROOM - len, size), ROOM - len);
        }
    }

    #[test]
    fn buffer_grows_with_what_was_received_and_not_with_what_a_header_claims() {
        for (chunk, missing, len, size) in [
            (8 * K, 0, 0, 8 * K),
            (8 * K, 1 << 20, 5, 16 * K),
            (8 * K, 8_000, 2_000, 16 * K),
            (64 * K, 0, 0, 64 * K),
            (64 * K, 0, 30_000, 64 * K),
            (8 * K, 1 << 20, 100 * K, MAX_CHUNK),
            // Beyond the largest kept size, exactly.
            (8 * K, 1 << 30, 1_000_000, 2_000_000),
            (8 * K, 500_000, 1_000_000, 1_500_000),
        ] {
            let sizer = ReadSizer { chunk, missing, ..ReadSizer::default() };
            assert_eq!(sizer.buffer_size(len), size, "{chunk} {missing} {len}");
            assert!(sizer.is_oversized(2 * size, len) && !sizer.is_oversized(2 * size - 1, len));
        }
    }

    #[test]
    fn batches_are_copied_unless_long_and_half_of_their_buffer() {
        for (len, allocated, zero_copy) in [
            (MIN_ZERO_COPY - 1, 0, false),
            (MIN_ZERO_COPY, 16 * K, true),
            (MIN_ZERO_COPY, 16 * K + 1, false),
            (MAX_CHUNK / 2 - 1, MAX_CHUNK, false),
            (MAX_CHUNK / 2, MAX_CHUNK, true),
        ] {
            assert_eq!(ReadSizer::is_zero_copy(len, allocated), zero_copy, "{len} {allocated}");
        }
    }

    #[test]
    fn rest_moves_to_the_next_read_unless_it_is_small() {
        let sizer = ReadSizer { chunk: 64 * K, ..ReadSizer::default() };
        for (rest, size) in [(0, None), (8 * K - 1, None), (8 * K, Some(64 * K)), (40 * K, Some(72 * K))] {
            assert_eq!(sizer.size_for_rest(rest), size, "{rest}");
        }
    }
}
