//! The tap of published messages: hands a bounded sample to listeners, and costs a publisher one relaxed
//! load a batch while there are none.
//!
//! Publishers never wait for it. A message that finds the sample full, or another publisher at it, is
//! counted and not copied.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use hpfeeds::wire::{FrameBatch, FrameRef, Opcode};
use parking_lot::Mutex;

use crate::util::{clock::unix_ms, glob::Glob};

/// The most messages of a sample, and the most bytes of their payloads.
pub(crate) const MAX_MESSAGES: usize = 512;
const MAX_BYTES: usize = 1 << 20;

/// The most bytes of one payload.
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024;

/// The tap of one broker.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    is_open: AtomicBool,
    listeners: ArcSwap<Vec<Arc<Bucket>>>,
    /// Held while the listeners change.
    changing: Mutex<()>,
}

/// The messages that a listener wants: those on these channels, of these idents. `None` for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) channel: Option<Glob>,
    pub(crate) ident: Option<Glob>,
}

impl Wanted {
    fn has(&self, ident: &str, channel: &str) -> bool {
        let fits = |glob: &Option<Glob>, text| glob.as_ref().is_none_or(|glob| glob.matches(text));
        fits(&self.channel, channel) && fits(&self.ident, ident)
    }
}

/// Messages that were published since the last look.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    /// How many messages were wanted.
    pub(crate) seen: u64,
    /// The first of them, as many as there is room for.
    pub(crate) messages: Vec<Tapped>,
}

/// A message of a sample.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tapped {
    /// The time in milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) ident: String,
    pub(crate) channel: String,
    /// The length of the payload.
    pub(crate) size: usize,
    /// The payload, or its first [`MAX_PAYLOAD`] bytes.
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug, Default)]
struct Bucket {
    wanted: Wanted,
    seen: AtomicU64,
    is_full: AtomicBool,
    filled: Mutex<Filled>,
}

#[derive(Debug, Default)]
struct Filled {
    messages: Vec<Tapped>,
    bytes: usize,
}

/// A listener. A guard: dropping it closes its bucket.
#[derive(Debug)]
pub(crate) struct Listener {
    tap: Arc<Tap>,
    bucket: Arc<Bucket>,
}

impl Tap {
    /// Whether somebody listens.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Relaxed)
    }

    /// Offers whole PUBLISH frames to all listeners.
    #[cold]
    #[inline(never)]
    pub(crate) fn offer(&self, frames: &[u8]) {
        for bucket in self.listeners.load().iter() {
            bucket.offer(frames);
        }
    }

    /// Begins to listen. How many may is for the caller to bound.
    pub(crate) fn listen(self: &Arc<Self>, wanted: Wanted) -> Listener {
        let bucket = Arc::new(Bucket { wanted, ..Bucket::default() });
        self.change(|listeners| listeners.push(bucket.clone()));
        Listener { tap: self.clone(), bucket }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Bucket>>)) {
        let _turn = self.changing.lock();
        let mut listeners = Vec::clone(&self.listeners.load());
        change(&mut listeners);
        self.is_open.store(!listeners.is_empty(), Relaxed);
        self.listeners.store(Arc::new(listeners));
    }
}

impl Listener {
    /// The messages since the last call.
    pub(crate) fn take(&self) -> Sample {
        let bucket = &self.bucket;
        let Filled { messages, .. } = mem::take(&mut *bucket.filled.lock());
        bucket.is_full.store(false, Relaxed);
        Sample { seen: bucket.seen.swap(0, Relaxed), messages }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tap.change(|listeners| listeners.retain(|bucket| !Arc::ptr_eq(bucket, &self.bucket)));
    }
}

impl Bucket {
    fn offer(&self, frames: &[u8]) {
        let mut rest = frames;
        // Messages with the same names are one step.
        while let Some((first, body)) = FrameBatch::checked(rest).publish_at(0)
            && let Some(names) = FrameBatch::names(body)
            && let Ok(FrameRef::Publish { ident, channel, .. }) = FrameRef::parse(Opcode::Publish, body)
        {
            let extent = FrameBatch::checked(rest).same_names(first, names.len(), |_, _| ());
            let Some((run, behind)) = rest.split_at_checked(extent.len).filter(|(run, _)| !run.is_empty()) else {
                return;
            };
            if self.wanted.has(ident, channel) {
                self.seen.fetch_add(extent.messages.into(), Relaxed);
                self.keep(run, ident, channel);
            }
            rest = behind;
        }
    }

    /// Copies the messages of a run that there is room for.
    fn keep(&self, run: &[u8], ident: &str, channel: &str) {
        if self.is_full.load(Relaxed) {
            return;
        }
        // A publisher waits for nobody.
        let Some(mut filled) = self.filled.try_lock() else { return };
        let at = unix_ms().unsigned_abs();
        for frame in FrameBatch::checked(run).frames() {
            let Some((_, body)) = FrameBatch::checked(frame).publish_at(0) else { continue };
            let Ok(FrameRef::Publish { payload, .. }) = FrameRef::parse(Opcode::Publish, body) else { continue };
            if filled.messages.len() >= MAX_MESSAGES || filled.bytes >= MAX_BYTES {
                return self.is_full.store(true, Relaxed);
            }
            let kept = payload.get(..MAX_PAYLOAD).unwrap_or(payload);
            filled.bytes += kept.len();
            filled.messages.push(Tapped {
                at,
                ident: ident.to_owned(),
                channel: channel.to_owned(),
                size: payload.len(),
                payload: kept.to_owned(),
            });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use bytes::BytesMut;
    use hpfeeds::wire::{Frame, Limits};

    use super::*;

    fn frames(messages: &[(&str, &str, &[u8])]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for (ident, channel, payload) in messages {
            let (ident, channel) = (ident.parse().unwrap(), channel.parse().unwrap());
            let frame = Frame::Publish { ident, channel, payload: payload.to_vec().into() };
            frame.encode(&mut bytes, Limits::default()).unwrap();
        }
        bytes
    }

    fn wanted(channel: &str, ident: &str) -> Wanted {
        let glob = |text: &str| (!text.is_empty()).then(|| Glob::new(text));
        Wanted { channel: glob(channel), ident: glob(ident) }
    }

    #[test]
    fn listeners_get_what_they_want_while_they_listen() {
        let tap = Arc::<Tap>::default();
        assert!(!tap.is_open());
        let (all, cowrie, one) =
            (tap.listen(Wanted::default()), tap.listen(wanted("cowrie.*", "")), tap.listen(wanted("", "one")));
        assert!(tap.is_open());
        tap.offer(&frames(&[
            ("one", "cowrie.sessions", b"a"),
            ("one", "cowrie.sessions", b"bc"),
            ("two", "cowrie.commands", b""),
            ("two", "dionaea", b"d"),
        ]));
        let payloads = |listener: &Listener| {
            let sample = listener.take();
            assert_eq!(sample.seen, sample.messages.len() as u64);
            sample.messages.into_iter().map(|message| String::from_utf8(message.payload).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(payloads(&all), ["a", "bc", "", "d"]);
        assert_eq!(payloads(&cowrie), ["a", "bc", ""]);
        assert_eq!(payloads(&one), ["a", "bc"]);
        drop(all);
        tap.offer(&frames(&[("one", "x", b"e")]));
        let last = one.take();
        let Tapped { ident, channel, size, payload, .. } = &last.messages[0];
        assert_eq!((&**ident, &**channel, *size, &**payload), ("one", "x", 1, &b"e"[..]));
        assert_eq!((cowrie.take().seen, tap.is_open()), (0, true));
        drop((cowrie, one));
        assert!(!tap.is_open());
    }

    #[test]
    fn a_sample_is_bounded_and_what_it_has_no_room_for_is_counted() {
        let tap = Arc::<Tap>::default();
        let listener = tap.listen(Wanted::default());
        let small = frames(&vec![("one", "a", &b"x"[..]); 2 * MAX_MESSAGES]);
        tap.offer(&small);
        tap.offer(&small);
        let sample = listener.take();
        assert_eq!((sample.seen, sample.messages.len()), (4 * MAX_MESSAGES as u64, MAX_MESSAGES));
        let long = vec![b'x'; MAX_PAYLOAD + 1];
        tap.offer(&frames(&vec![("one", "a", &long[..]); 100]));
        let sample = listener.take();
        assert_eq!((sample.seen, sample.messages.len()), (100, MAX_BYTES / MAX_PAYLOAD));
        let message = &sample.messages[0];
        assert_eq!((message.size, message.payload.len()), (MAX_PAYLOAD + 1, MAX_PAYLOAD));
        // There is room again.
        tap.offer(&small);
        assert_eq!(listener.take().messages.len(), MAX_MESSAGES);
    }

    #[test]
    fn no_bytes_make_it_panic_and_no_publisher_waits() {
        let tap = Arc::<Tap>::default();
        let listener = tap.listen(Wanted::default());
        let whole = frames(&[("one", "a", b"xyz"), ("two", "b", b"")]);
        for end in 0..whole.len() {
            tap.offer(&whole[..end]);
        }
        tap.offer(&[0xff; 40]);
        tap.offer(&[0, 0, 0, 5, 3]);
        listener.take();
        let held = listener.bucket.filled.lock();
        tap.offer(&whole);
        drop(held);
        let sample = listener.take();
        assert_eq!((sample.seen, sample.messages.len()), (2, 0));
    }
}
