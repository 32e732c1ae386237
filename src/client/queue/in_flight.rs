//! The batches and control frames that are being written to the socket.

use std::{collections::VecDeque, io::IoSlice, ops::Range};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::wire::FrameBatch;

/// Pieces of memory that are kept for the next batches: what the processor has in its cache.
pub(crate) const SPENT: usize = 2;

/// Whole frames on their way to the socket.
#[derive(Debug, Clone)]
pub(crate) enum OutgoingBatch {
    /// SUBSCRIBE, UNSUBSCRIBE, AUTH: belongs to one connection and is not repeated on the next.
    Control(Bytes),
    /// Many small PUBLISH frames.
    Messages { bytes: Bytes, messages: u64 },
    /// One PUBLISH frame with a payload that is too large to copy.
    Large { head: Bytes, payload: Bytes },
}

impl OutgoingBatch {
    fn len(&self) -> usize {
        match self {
            Self::Control(bytes) | Self::Messages { bytes, .. } => bytes.len(),
            Self::Large { head, payload } => head.len() + payload.len(),
        }
    }

    /// How many bytes of the queue it takes up.
    pub(crate) fn weight(&self) -> usize {
        if matches!(self, Self::Control(_)) { 0 } else { self.len() }
    }

    pub(crate) fn messages(&self) -> u64 {
        match self {
            Self::Control(_) => 0,
            Self::Messages { messages, .. } => *messages,
            Self::Large { .. } => 1,
        }
    }
}

/// The messages and bytes that a write completed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes of the queue that are free again.
    pub(crate) room: usize,
    /// Messages that are now with the operating system, whole.
    pub(crate) messages: u64,
    /// Bytes of all kinds.
    pub(crate) bytes: usize,
    /// There was something of a message among them.
    pub(crate) published: bool,
}

/// The batches being written, and how far into the first one the socket has got.
///
/// It outlives connections. [`rewind`](Self::rewind) turns the frame that a broken connection cut
/// in two into a whole frame again, so that the next connection starts at a frame boundary and
/// repeats nothing that was written whole.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    batches: VecDeque<OutgoingBatch>,
    /// Bytes of the first batch that are written.
    offset: usize,
    /// Batches that are not for this connection any more.
    kept: VecDeque<OutgoingBatch>,
    /// Memory of batches that are written, for the next ones.
    spent: Vec<BytesMut>,
}

impl InFlight {
    /// Whether there is something to write; with `control_only`, before the first message.
    pub(crate) fn has_next(&self, control_only: bool) -> bool {
        match self.batches.front() {
            Some(OutgoingBatch::Control(_)) => true,
            Some(_) => !control_only,
            None => false,
        }
    }

    /// Whether control frames wait that [`push_control`](Self::push_control) has put there.
    pub(crate) fn holds_control(&self) -> bool {
        // One message may be partly written before them.
        self.batches.iter().take(2).any(|batch| matches!(batch, OutgoingBatch::Control(_)))
    }

    /// Puts control frames before all messages but one that is partly written.
    pub(crate) fn push_control(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let started = usize::from(self.offset > 0);
        let controls = self.batches.iter().skip(started).take_while(|s| matches!(s, OutgoingBatch::Control(_))).count();
        self.batches.insert(started + controls, OutgoingBatch::Control(bytes));
    }

    /// Puts control frames after everything.
    pub(crate) fn push_last(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.batches.push_back(OutgoingBatch::Control(bytes));
        }
    }

    pub(crate) fn append(&mut self, batches: &mut VecDeque<OutgoingBatch>) {
        self.batches.append(batches);
    }

    /// Memory of batches that are written whole, if nobody else holds on to it.
    pub(crate) fn reuse(&mut self) -> Option<BytesMut> {
        self.spent.pop()
    }

    /// The bytes that are left to write, for one vectored write; with `control_only`, up to the
    /// first message. Returns how many slices were filled.
    pub(crate) fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>], control_only: bool) -> usize {
        let mut filled = 0;
        let mut skip = self.offset;
        let batches = self.batches.iter().take_while(|s| !control_only || matches!(s, OutgoingBatch::Control(_)));
        let parts = batches.flat_map(|batch| match batch {
            OutgoingBatch::Control(bytes) | OutgoingBatch::Messages { bytes, .. } => [bytes.as_ref(), &[]],
            OutgoingBatch::Large { head, payload } => [head.as_ref(), payload.as_ref()],
        });
        // The first part may be written already, or some of it.
        for part in parts {
            if filled == slices.len() {
                break;
            }
            if skip < part.len() {
                slices[filled] = IoSlice::new(&part[skip..]);
                filled += 1;
                skip = 0;
            } else {
                skip -= part.len();
            }
        }
        filled
    }

    /// Notes that the socket took `n` more bytes.
    pub(crate) fn advance(&mut self, n: usize) -> Written {
        let mut written = Written { bytes: n, ..Written::default() };
        self.offset += n;
        while let Some(first) = self.batches.front() {
            if self.offset < first.len() {
                break;
            }
            self.offset -= first.len();
            written.room += first.weight();
            written.messages += first.messages();
            // Its memory is kept, unless the batch shares it with another.
            if let Some(OutgoingBatch::Messages { bytes, .. }) = self.batches.pop_front()
                && self.spent.len() < SPENT
                && let Ok(mut memory) = bytes.try_into_mut()
            {
                memory.clear();
                self.spent.push(memory);
            }
        }
        written.published = written.messages > 0 || (self.offset > 0 && !self.has_next(true));
        written
    }

    /// Keeps everything for the next connection but the rest of a frame that is partly written.
    /// Returns what had been written whole before it.
    pub(crate) fn part(&mut self) -> Written {
        if let Some(OutgoingBatch::Messages { bytes, messages }) = self.batches.front_mut()
            && self.offset > 0
        {
            let begun = FrameBatch::checked(bytes).begun_by(self.offset);
            let first = OutgoingBatch::Messages { bytes: bytes.split_to(begun.len), messages: begun.messages.into() };
            *messages -= u64::from(begun.messages);
            self.batches.push_front(first);
        }
        self.kept = self.batches.split_off(usize::from(self.offset > 0).min(self.batches.len()));
        // It may have been at the end of a frame.
        self.advance(0)
    }

    /// Prepares for another connection: drops what was written whole and every control frame, keeps
    /// the rest whole.
    pub(crate) fn rewind(&mut self) -> Written {
        let mut written = Written::default();
        let offset = std::mem::take(&mut self.offset);
        self.batches.append(&mut self.kept);
        if let Some(OutgoingBatch::Messages { bytes, messages }) = self.batches.front_mut() {
            let whole = FrameBatch::checked(bytes).ended_by(offset);
            (written.room, written.messages) = (whole.len, whole.messages.into());
            bytes.advance(written.room);
            *messages -= written.messages;
        }
        self.batches.retain(|batch| !matches!(batch, OutgoingBatch::Control(_)));
        written
    }

    /// Takes out what does not satisfy `keep(channel)`; for use between connections only, after
    /// [`rewind`](Self::rewind).
    pub(crate) fn retain(&mut self, keep: impl FnMut(&str) -> bool) -> Written {
        debug_assert_eq!(self.offset, 0, "a frame that is partly written must be finished");
        retain(&mut self.batches, keep)
    }

    /// Messages and bytes that are not written whole.
    pub(crate) fn unsent(&self) -> (u64, usize) {
        let batches = || self.batches.iter().chain(&self.kept);
        (batches().map(OutgoingBatch::messages).sum(), batches().map(OutgoingBatch::weight).sum())
    }
}

/// Takes messages whose channel does not satisfy `keep` out of the batches; says what went.
pub(crate) fn retain(batches: &mut VecDeque<OutgoingBatch>, mut keep: impl FnMut(&str) -> bool) -> Written {
    #[cfg(test)]
    SEARCHES.set(SEARCHES.get() + 1);
    let mut removed = Written::default();
    let mut kept = VecDeque::with_capacity(batches.len());
    for batch in batches.drain(..) {
        match batch {
            OutgoingBatch::Control(_) => kept.push_back(batch),
            OutgoingBatch::Large { ref head, .. } => {
                if FrameBatch::checked(head).first_channel().is_none_or(&mut keep) {
                    kept.push_back(batch);
                } else {
                    removed.room += batch.weight();
                    removed.messages += 1;
                }
            }
            OutgoingBatch::Messages { bytes, .. } => {
                // One batch becomes at most one: a walk over all would otherwise meet as many as
                // messages.
                let (mut at, mut messages) = (0, 0);
                let mut stays: Vec<Range<usize>> = Vec::new();
                for frame in FrameBatch::checked(&bytes).frames() {
                    let place = at..at + frame.len();
                    at = place.end;
                    if !FrameBatch::checked(frame).first_channel().is_none_or(&mut keep) {
                        removed.room += frame.len();
                        removed.messages += 1;
                        continue;
                    }
                    messages += 1;
                    match stays.last_mut() {
                        Some(last) if last.end == place.start => last.end = place.end,
                        _ => stays.push(place),
                    }
                }
                let bytes = match &stays[..] {
                    [] => continue,
                    [one] => bytes.slice(one.clone()),
                    several => several.iter().map(|part| &bytes[part.clone()]).collect::<Vec<_>>().concat().into(),
                };
                kept.push_back(OutgoingBatch::Messages { bytes, messages });
            }
        }
    }
    *batches = kept;
    removed
}

#[cfg(test)]
thread_local! {
    /// How often batches were searched for messages on this thread.
    pub(crate) static SEARCHES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::wire::{Channel, Ident, Limits, encode_publish};

    fn frame(channel: &str, payload: &[u8]) -> Bytes {
        let mut bytes = BytesMut::new();
        let (ident, channel) = (Ident::new("me").unwrap(), Channel::new(channel).unwrap());
        encode_publish(&mut bytes, Limits::default(), &ident, &channel, payload).unwrap();
        bytes.freeze()
    }

    fn batch(channels: &[&str]) -> OutgoingBatch {
        let bytes: Vec<u8> = channels.iter().flat_map(|channel| frame(channel, b"xyz")).collect();
        OutgoingBatch::Messages { bytes: bytes.into(), messages: channels.len() as u64 }
    }

    fn rest(in_flight: &InFlight) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 16];
        let n = in_flight.chunks(&mut slices, false);
        slices[..n].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    fn flight() -> InFlight {
        let mut in_flight = InFlight::default();
        let mut batches = VecDeque::from([batch(&["a", "b", "a"])]);
        let whole = frame("c", &[7; 100]);
        batches.push_back(OutgoingBatch::Large {
            head: whole.slice(..whole.len() - 100),
            payload: whole.slice(whole.len() - 100..),
        });
        batches.push_back(batch(&["d"]));
        in_flight.append(&mut batches);
        in_flight.push_control(Bytes::from_static(b"control"));
        in_flight
    }

    #[test]
    fn a_cut_at_any_byte_repeats_exactly_the_frames_that_were_not_whole() {
        let frames =
            [frame("a", b"xyz"), frame("b", b"xyz"), frame("a", b"xyz"), frame("c", &[7; 100]), frame("d", b"xyz")];
        let all = rest(&flight());
        for cut in 0..=all.len() {
            let mut in_flight = flight();
            let first = in_flight.advance(cut);
            assert_eq!(rest(&in_flight), all[cut..]);
            let second = in_flight.rewind();

            let mut sent = 7;
            let whole =
                frames.iter().take_while(|frame| (sent + frame.len() <= cut).then(|| sent += frame.len()).is_some());
            let whole = whole.count();
            assert_eq!(rest(&in_flight), frames[whole..].concat(), "cut at {cut}");
            assert_eq!(first.messages + second.messages, whole as u64);
            assert_eq!(first.room + second.room, frames[..whole].iter().map(Bytes::len).sum::<usize>());
            assert_eq!(in_flight.unsent().0, (frames.len() - whole) as u64);
        }
    }

    #[test]
    fn control_frames_never_cut_a_message_in_two() {
        let mut in_flight = flight();
        in_flight.push_control(Bytes::from_static(b"more"));
        assert_eq!(rest(&in_flight)[..11], *b"controlmore");
        in_flight.advance(11 + 5);
        let start = rest(&in_flight).len() - frame("c", &[7; 100]).len() - frame("d", b"xyz").len();
        in_flight.push_control(Bytes::from_static(b"late"));
        assert_eq!(rest(&in_flight)[start..start + 4], *b"late");
    }

    #[test]
    fn chunks_stop_at_the_slices_given() {
        let in_flight = flight();
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(in_flight.chunks(&mut slices, false), 2);
        assert_eq!(in_flight.chunks(&mut slices, true), 1);
    }

    #[test]
    fn retained_messages_are_in_no_more_batches_than_before() {
        let mut batches =
            VecDeque::from([batch(&["a", "b", "a", "b", "b", "a"]), batch(&["a", "a"]), batch(&["b", "b"])]);
        let removed = retain(&mut batches, |channel| channel == "b");
        assert_eq!((removed.messages, batches.len()), (5, 2));
        let mut in_flight = InFlight::default();
        in_flight.append(&mut batches);
        assert_eq!(rest(&in_flight), frame("b", b"xyz").repeat(5));
        assert_eq!(in_flight.unsent().0, 5);
    }

    #[test]
    fn retain_takes_out_whole_messages_and_counts_them() {
        let mut in_flight = flight();
        in_flight.rewind();
        let removed = in_flight.retain(|channel| channel != "a" && channel != "c");
        assert_eq!(removed.messages, 3);
        assert_eq!(removed.room, 2 * frame("a", b"xyz").len() + frame("c", &[7; 100]).len());
        assert_eq!(rest(&in_flight), [frame("b", b"xyz"), frame("d", b"xyz")].concat());
    }
}
