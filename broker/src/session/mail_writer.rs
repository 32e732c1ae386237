//! The writer of mail: messages from mailboxes, between the batches of the outbox and no faster than
//! the client's window and its account's limit allow. What it holds waits for a slow client.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use hpfeeds::wire::{
    BatchExtent, FrameBatch,
    extension::{BrokerFrame, StreamId, StreamPosition},
};
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    delivery::outbox::Outbox,
    identity::quota::Quota,
    journal::{attachment::Handle, batch::Delivery},
    link::window::Window,
    net::socket::WriteHalf,
};

/// The most that is written in one go, before the outbox and control frames have their turn; one
/// frame may be longer.
const CHUNK: usize = 64 << 10;
/// The most slices of one write.
const SLICES: usize = 64;
/// The writer asks for more while it has less than this.
const HUNGRY: usize = 64 << 10;

/// Messages from a mailbox.
pub(super) struct Letter {
    pub(super) handle: Arc<Handle>,
    pub(super) delivery: Delivery,
    /// ORIGIN stands before them.
    pub(super) says_origin: bool,
}

/// Frames for a client, which are written whole: messages of one mailbox, and ORIGIN before them.
struct Sheet {
    handle: Arc<Handle>,
    frames: Bytes,
    messages: u32,
    /// The bytes that are no messages, as far as they are not written.
    others: usize,
}

/// A sheet of short letters: a slice of a vectored write costs more than copying them.
struct Draft {
    handle: Arc<Handle>,
    frames: BytesMut,
    messages: u32,
    others: usize,
}

/// Letters of up to so many bytes are short.
const SHORT: usize = 2048;

/// The limits of the client and of its account.
pub(super) struct Limits<'a> {
    pub(super) quota: Option<&'a Quota>,
    pub(super) window: Option<&'a Window>,
}

/// The mail of one connection.
#[derive(Default)]
pub(super) struct MailWriter {
    queue: VecDeque<Letter>,
    queued: usize,
    chunk: VecDeque<Sheet>,
    /// The chunk is being written: nothing may come between.
    is_begun: bool,
    /// How many bytes of the first are written.
    written: usize,
    /// The socket took no more of the chunk: it has to be offered the same bytes again.
    is_blocked: bool,
    timer: Option<Pin<Box<Sleep>>>,
    is_closed: bool,
}

impl MailWriter {
    pub(super) fn push(&mut self, letter: Letter) {
        if !self.is_closed {
            self.queued += letter.delivery.frames.len();
            self.queue.push_back(letter);
        }
    }

    /// Whether there is room for more.
    pub(super) fn is_hungry(&self) -> bool {
        self.queued < HUNGRY && !self.is_closed
    }

    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Whether the last offer to the socket was of mail.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The bytes of messages that are granted and not written.
    pub(super) fn granted(&self) -> usize {
        let all: usize = self.chunk.iter().map(|sheet| sheet.frames.len() - sheet.others).sum();
        all.saturating_sub(self.written)
    }

    /// Begins a chunk, if the limits let something of the queue pass. The task is woken up if it is a
    /// rate limit that does not.
    pub(super) fn begin(&mut self, limits: &Limits<'_>, cx: &mut Context<'_>) -> bool {
        if self.chunk.is_empty() {
            self.grant(limits);
        }
        if let Some(timer) = &mut self.timer {
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.timer = None;
        }
        self.is_begun = !self.chunk.is_empty();
        self.is_begun
    }

    /// Takes a chunk.
    fn grant(&mut self, limits: &Limits<'_>) {
        let limiter = limits.quota.and_then(|quota| quota.deliver.as_ref());
        let (most_messages, most_bytes) = limiter.map_or((u64::MAX, u64::MAX), |limiter| limiter.rate().portion());
        let (mut messages, mut bytes, mut draft) = (0, 0, None);
        while bytes < CHUNK && self.chunk.len() + 2 <= SLICES && messages < most_messages {
            let Some(letter) = self.queue.front_mut() else { break };
            let room = limits.window.map(Window::room);
            let left = most_bytes.saturating_sub(bytes as u64).min((CHUNK - bytes) as u64);
            let left = left.min(room.map_or(u64::MAX, |room| room.bytes));
            let part = FrameBatch::checked(&letter.delivery.frames).portion(most_messages - messages, left);
            // The first frame is in a portion, whatever its length is.
            let may_be_longer = bytes == 0 && room.is_none_or(|room| room.is_idle || part.len as u64 <= room.bytes);
            if part.messages == 0 || (part.len as u64 > left && !may_be_longer) {
                break;
            }
            if let Some(window) = limits.window {
                window.send(part.len as u64);
            }
            messages += u64::from(part.messages);
            bytes += part.len;
            self.queued -= part.len;
            let origin = letter.says_origin.then(|| origin(letter, part.messages));
            let (handle, frames) = (letter.handle.clone(), letter.split(part));
            if letter.delivery.frames.is_empty() {
                self.queue.pop_front();
            }
            if part.len > SHORT && origin.is_none() {
                self.chunk.extend(draft.take().map(Draft::finish));
                self.chunk.push_back(Sheet { handle, frames, messages: part.messages, others: 0 });
                continue;
            }
            self.chunk
                .extend(draft.take_if(|draft: &mut Draft| !Arc::ptr_eq(&draft.handle, &handle)).map(Draft::finish));
            let draft = draft.get_or_insert_with(|| Draft::new(handle.clone()));
            draft.others += origin.as_ref().map_or(0, Bytes::len);
            draft.frames.extend(origin);
            if part.len > SHORT {
                // ORIGIN stands at the end of that sheet, and the frames follow in one of their own.
                let before = mem::replace(draft, Draft::new(handle.clone()));
                self.chunk.push_back(before.finish());
                self.chunk.push_back(Sheet { handle, frames, messages: part.messages, others: 0 });
            } else {
                draft.frames.extend_from_slice(&frames);
                draft.messages += part.messages;
            }
        }
        self.chunk.extend(draft.filter(|draft| !draft.frames.is_empty()).map(Draft::finish));
        if let Some(limiter) = limiter.filter(|_| bytes > 0) {
            let now = Instant::now();
            let until = limiter.reserve(messages, bytes as u64, now);
            self.timer = (until > now).then(|| Box::pin(sleep_until(until)));
        }
    }

    /// Writes the chunk. Ready when nothing of it is left. Adds to `others` how many of the bytes that
    /// were written are no messages.
    pub(super) fn poll_write(
        &mut self,
        half: &mut WriteHalf<'_>,
        outbox: &Outbox,
        others: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.chunk.is_empty() {
            let mut slices: SmallVec<[IoSlice<'_>; SLICES]> = SmallVec::new();
            let mut skip = self.written;
            for sheet in self.chunk.iter().take(SLICES) {
                slices.push(IoSlice::new(sheet.frames.get(skip..).unwrap_or_default()));
                skip = 0;
            }
            let written = half.poll_write(cx, &slices);
            drop(slices);
            match written {
                Poll::Ready(Ok(n)) => *others += self.advance(n, outbox),
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Pending => {
                    self.is_blocked = true;
                    return Poll::Pending;
                }
            }
        }
        self.is_begun = false;
        Poll::Ready(Ok(()))
    }

    /// So many bytes have been written. Returns how many of them were no messages, as far as that is
    /// told: ORIGIN counts as written before the messages of its sheet.
    pub(super) fn advance(&mut self, mut n: usize, outbox: &Outbox) -> u64 {
        self.is_blocked = false;
        let mut others = 0;
        while n > 0 {
            let Some(sheet) = self.chunk.front_mut() else { break };
            let part = n.min(sheet.frames.len() - self.written);
            let own = part.min(sheet.others);
            sheet.others -= own;
            n -= part;
            self.written += part;
            let is_whole = self.written == sheet.frames.len();
            sheet.handle.wrote((part - own) as u64);
            outbox.sent_mail(part, if is_whole { sheet.messages } else { 0 });
            others += own as u64;
            if is_whole {
                self.written = 0;
                self.chunk.pop_front();
            }
        }
        others
    }

    /// Takes nothing more, and keeps only the rest of a frame that was begun.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.queue.clear();
        self.queued = 0;
        self.timer = None;
        let begun = self.chunk.pop_front().filter(|_| self.written > 0);
        self.chunk.clear();
        if let Some(mut sheet) = begun {
            let end = frame_end(&sheet.frames, self.written);
            if end > self.written {
                sheet.frames.truncate(end);
                (sheet.messages, sheet.others) = (1, 0);
                self.chunk.push_back(sheet);
                return;
            }
        }
        (self.written, self.is_begun, self.is_blocked) = (0, false, false);
    }

    /// Forgets everything, and takes nothing more.
    pub(super) fn abandon(&mut self) {
        self.close();
        self.chunk.clear();
        (self.written, self.is_begun, self.is_blocked) = (0, false, false);
    }
}

impl Letter {
    /// Takes its first messages off, whose frames are returned.
    fn split(&mut self, part: BatchExtent) -> Bytes {
        let Delivery { first, messages, frames, source } = &mut self.delivery;
        first.number += u64::from(part.messages);
        *messages = messages.saturating_sub(part.messages);
        if let Some(source) = source {
            source.last += u64::from(part.messages);
        }
        frames.split_to(part.len)
    }
}

impl Draft {
    fn new(handle: Arc<Handle>) -> Self {
        Self { handle, frames: BytesMut::new(), messages: 0, others: 0 }
    }

    fn finish(self) -> Sheet {
        let Self { handle, frames, messages, others } = self;
        Sheet { handle, frames: frames.freeze(), messages, others }
    }
}

/// The end of the frame that so many bytes of whole frames end in, or behind.
fn frame_end(frames: &[u8], written: usize) -> usize {
    let mut end = 0;
    while end < written {
        let length = frames.get(end..).and_then(<[u8]>::first_chunk).map_or(0, |length| u32::from_be_bytes(*length));
        if length == 0 {
            return frames.len();
        }
        end += length as usize;
    }
    end
}

/// ORIGIN of the first messages of a letter.
fn origin(letter: &Letter, count: u32) -> Bytes {
    let Delivery { first, source, .. } = &letter.delivery;
    let source = source.map(|source| StreamPosition { stream: StreamId::new(source.id), number: source.last });
    let frame = BrokerFrame::Origin { position: *first, count, source, mailbox: &letter.handle.name().name };
    let mut bytes = BytesMut::new();
    let encoded = frame.encode(&mut bytes);
    debug_assert!(encoded.is_ok(), "a mailbox has a short name: {encoded:?}");
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_frame_is_found_from_any_of_its_bytes() {
        let frames = [&[0, 0, 0, 6, 3, 1][..], &[0, 0, 0, 5, 0x88], &[0, 0, 0, 7, 3, 1, 2]].concat();
        let ends = (0..=18).map(|written| frame_end(&frames, written)).collect::<Vec<_>>();
        assert_eq!(ends[..7], [0, 6, 6, 6, 6, 6, 6]);
        assert_eq!(ends[7..12], [11; 5]);
        assert_eq!(ends[12..], [18; 7]);
    }
}
