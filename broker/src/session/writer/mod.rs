//! The writer of a connection: writes an outbox to a socket, no faster than its account may
//! receive.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use hpfeeds::wire::{BatchExtent, FrameBatch};
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    delivery::outbox::Outbox,
    identity::quota::Quota,
    link::{Link, window::Window},
    net::socket::WriteHalf,
    session::{
        control_writer::{ControlWriter, Offer},
        mail_writer::{self, Letter, MailWriter},
    },
};

/// How many batches one system call writes.
const SLICES: usize = 64;

/// The most that the system takes of mail for a client that acknowledges nothing; it doubles that.
const UNACKNOWLEDGED: usize = 128 << 10;

/// An idle connection keeps room for so many batches: one message at a time needs no allocation.
const KEEP_CAPACITY: usize = 4;

/// The writer of one connection, which alone takes batches out of its outbox.
pub(crate) struct Writer<'a> {
    half: WriteHalf<'a>,
    outbox: Arc<Outbox>,
    /// The batches that were taken from the outbox and are not yet written as a whole.
    taken: VecDeque<Bytes>,
    /// How many bytes of the first are written.
    written: usize,
    /// The deadline for a slow subscriber, or the limit that the next bytes wait for.
    timer: Option<Pin<Box<Sleep>>>,
    /// The quota of the account, if that limits deliveries.
    quota: Option<Arc<Quota>>,
    /// How many bytes of `taken` may be written, to the end of a frame. Without a limit or a window,
    /// all.
    granted: usize,
    /// The timer is for the limit, and not for the deadline.
    pacing: bool,
    /// The outbox knows that the writer waits because of the limit.
    held: bool,
    /// The client speaks the extension.
    control: Option<Box<ControlWriter>>,
    /// The client gets messages from a mailbox.
    mail: Option<Box<MailWriter>>,
    /// A batch of the outbox was written since mail was.
    is_mails_turn: bool,
}

/// Why the writer has stopped.
#[derive(Debug)]
pub(crate) enum WriteEnd {
    /// The outbox was closed, and everything in it has been written.
    Drained,
    /// The subscriber was slow for too long. Only the rest of a frame that was begun is left to
    /// write.
    Slow,
    /// The subscriber did not read, and its memory was needed for others. Nothing is left.
    Evicted,
    /// The connection is broken. Nothing is left.
    Failed,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(half: WriteHalf<'a>, outbox: Arc<Outbox>) -> Self {
        let (taken, timer, quota) = (VecDeque::new(), None, None);
        let (granted, control, mail) = (usize::MAX, None, None);
        let (pacing, held, is_mails_turn) = (false, false, true);
        Self { half, outbox, taken, written: 0, timer, quota, granted, pacing, held, control, mail, is_mails_turn }
    }

    /// Keeps to the limit of an account, if it has one.
    pub(crate) fn limited(mut self, quota: &Arc<Quota>) -> Self {
        if quota.deliver.is_some() {
            self.quota = Some(quota.clone());
            self.granted = 0;
        }
        self
    }

    /// Writes until one of the ends above. It may be called again after [`WriteEnd::Slow`].
    pub(crate) fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<WriteEnd> {
        loop {
            if self.mail.is_some()
                && let Some(end) = self.poll_mail(cx)
            {
                return end;
            }
            if let Some(control) = &mut self.control {
                match control.poll_write(&mut self.half, &self.outbox, self.written == 0, cx) {
                    Poll::Ready(Ok(())) => control.timer = None,
                    Poll::Ready(Err(_)) => {
                        self.abandon();
                        return Poll::Ready(WriteEnd::Failed);
                    }
                    Poll::Pending => return self.poll_blocked(Offer::Control, cx),
                }
            }
            // The next batches, or a registration for them. Mail and the outbox take turns.
            if self.taken.is_empty() {
                if self.is_mails_turn && self.grants_mail(cx) {
                    continue;
                }
                match self.outbox.poll_take(cx, &mut self.taken) {
                    Poll::Ready(true) => self.is_mails_turn = true,
                    Poll::Ready(false) => return Poll::Ready(WriteEnd::Drained),
                    Poll::Pending if self.grants_mail(cx) => continue,
                    Poll::Pending => {
                        if self.taken.capacity() > KEEP_CAPACITY {
                            self.taken = VecDeque::new();
                        }
                        return Poll::Pending;
                    }
                }
            }
            if self.is_limited() && !ready!(self.poll_grant(cx)) {
                // The window is closed, and the socket counts as full, unless it is the broker that
                // does not read how far the client is.
                if self.control.as_ref().is_some_and(|control| control.link.window.is_unread()) {
                    self.hold(cx);
                    return Poll::Pending;
                }
                return self.poll_blocked(Offer::Batches, cx);
            }
            // One system call, until the socket takes no more.
            match self.poll_write(cx) {
                Poll::Ready(Ok(n)) => {
                    self.block(None);
                    self.advance(n);
                }
                Poll::Ready(Err(_)) => {
                    self.abandon();
                    return Poll::Ready(WriteEnd::Failed);
                }
                Poll::Pending => {
                    self.block(Some(Offer::Batches));
                    return self.poll_blocked(Offer::Batches, cx);
                }
            }
        }
    }

    /// Writes the chunk of mail that was begun. `None`: others may write.
    #[inline(never)]
    fn poll_mail(&mut self, cx: &mut Context<'_>) -> Option<Poll<WriteEnd>> {
        let mail = self.mail.as_mut().filter(|mail| mail.is_begun())?;
        let mut others = 0;
        let written = mail.poll_write(&mut self.half, &self.outbox, &mut others, cx);
        if let Some(control) = &mut self.control {
            control.total += others;
        }
        match written {
            Poll::Ready(Ok(())) => {
                self.is_mails_turn = false;
                None
            }
            Poll::Ready(Err(_)) => {
                self.abandon();
                Some(Poll::Ready(WriteEnd::Failed))
            }
            Poll::Pending => Some(self.poll_blocked(Offer::Batches, cx)),
        }
    }

    /// Begins a chunk of mail, if there is any that may be written.
    #[inline]
    fn grants_mail(&mut self, cx: &mut Context<'_>) -> bool {
        self.mail.is_some() && self.begin_mail(cx)
    }

    #[inline(never)]
    fn begin_mail(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(mail) = &mut self.mail else { return false };
        let window = self.control.as_ref().filter(|control| control.windowed).map(|control| &control.link.window);
        mail.begin(&mail_writer::Limits { quota: self.quota.as_deref(), window }, cx)
    }

    /// Whether there is room for mail.
    pub(crate) fn wants_mail(&self) -> bool {
        self.mail.as_ref().is_none_or(|mail| mail.is_hungry())
    }

    /// Queues messages from a mailbox, which wait for the client for as long as it takes.
    pub(super) fn mail(&mut self, letter: Letter) {
        let half = &self.half;
        let mail = self.mail.get_or_insert_with(|| {
            if !letter.handle.acknowledges() {
                // What is in there may never reach the client.
                half.limit_send_buffer(UNACKNOWLEDGED);
            }
            Box::default()
        });
        mail.push(letter);
    }

    /// Takes no more mail, and writes only the rest of a frame that was begun.
    pub(crate) fn close_mail(&mut self) {
        if let Some(mail) = &mut self.mail {
            if mail.is_blocked() {
                let committed = self.half.committed();
                mail.advance(committed, &self.outbox);
            }
            mail.close();
        }
    }

    /// A limit of the broker is waited for: the subscriber is not slow.
    fn hold(&mut self, cx: &Context<'_>) {
        if !mem::replace(&mut self.held, true) {
            self.outbox.pause_for_rate_limit();
        }
        self.outbox.register(cx);
    }

    /// The subscriber is waited for with an offer, and may be slow for too long.
    fn poll_blocked(&mut self, offer: Offer, cx: &mut Context<'_>) -> Poll<WriteEnd> {
        if mem::take(&mut self.held) {
            self.outbox.resume();
        }
        let timer = match &mut self.control {
            // Batches may be waiting for their limit meanwhile.
            Some(control) if offer == Offer::Control => &mut control.timer,
            _ => &mut self.timer,
        };
        if self.outbox.poll_deadline(cx, timer).is_pending() {
            return Poll::Pending;
        }
        self.close_mail();
        self.commit();
        let called_in = self.outbox.is_called_in();
        self.outbox.expire(&mut self.taken, self.written, Instant::now());
        self.lift_limit();
        // The rest of the first batch may be written already.
        self.advance(0);
        if called_in {
            self.abandon();
            return Poll::Ready(WriteEnd::Evicted);
        }
        Poll::Ready(WriteEnd::Slow)
    }

    /// Follows what HELLO has agreed on: from the first one on, the writer has control frames.
    pub(crate) fn follow(&mut self, link: &Arc<Link>) {
        let new = || Box::new(ControlWriter::new(link.clone()));
        let control = self.control.get_or_insert_with(new);
        let (was_set, is_set) = (control.windowed, link.window.is_set());
        control.windowed = is_set;
        if is_set && !was_set {
            // The batches on their way go, and count.
            if self.quota.is_none() {
                self.granted = self.taken.iter().map(Bytes::len).sum::<usize>() - self.written;
            }
            let (written, _) = self.outbox.session().progress();
            let mail = self.mail.as_ref().map_or(0, |mail| mail.granted());
            link.window.begin((written - control.total).saturating_add((self.granted + mail) as u64));
        } else if was_set && !is_set && self.quota.is_none() {
            self.granted = usize::MAX;
        }
    }

    /// Notes the offer of which the socket took no more.
    fn block(&mut self, offer: Option<Offer>) {
        if let Some(control) = &mut self.control {
            control.blocked = offer;
        }
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The socket, once there is nothing more to write to it but its end.
    pub(crate) fn half(&mut self) -> &mut WriteHalf<'a> {
        &mut self.half
    }

    /// Gives up all that has not been written.
    pub(crate) fn abandon(&mut self) {
        if let Some(control) = &mut self.control {
            control.close();
        }
        if let Some(mail) = &mut self.mail {
            mail.abandon();
        }
        self.outbox.abandon(&mut self.taken, self.written);
        self.written = 0;
    }

    /// Gives up all that has not been written, but for the rest of a frame that was begun: the
    /// connection must not get it.
    pub(crate) fn revoke(&mut self) {
        self.close_mail();
        self.commit();
        self.outbox.revoke(&mut self.taken, self.written);
        self.lift_limit();
        // The rest of the first batch may be written already.
        self.advance(0);
    }

    /// Whether a limit or a window can keep the queue back.
    pub(crate) fn is_limited(&self) -> bool {
        self.granted != usize::MAX
    }

    /// Ends the window: CONSUMED is not read any more. The rest of the queue goes
    /// as fast as the client takes it.
    pub(crate) fn lift_window(&mut self) {
        if let Some(control) = &mut self.control {
            control.link.window.resize(None);
            let link = control.link.clone();
            self.follow(&link);
        }
    }

    /// Counts encrypted bytes as written: they cannot be taken back.
    fn commit(&mut self) {
        let committed = self.half.committed();
        match &mut self.control {
            Some(control) if control.blocked == Some(Offer::Control) => {
                control.advance(committed, &self.outbox);
            }
            _ => self.advance(committed),
        }
        self.block(None);
    }

    /// Ends the limit: the rest ends the connection, which no limit puts off.
    fn lift_limit(&mut self) {
        (self.quota, self.granted) = (None, usize::MAX);
        (self.timer, self.pacing) = (None, false);
        self.lift_window();
    }

    /// Waits until bytes may be delivered. `false` when the window is closed.
    fn poll_grant(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.granted == 0 {
            let Some((granted, until)) = self.reserve() else {
                return Poll::Ready(false);
            };
            self.granted = granted;
            if let Some(until) = until {
                self.timer = Some(Box::pin(sleep_until(until)));
                self.pacing = true;
            }
        }
        if let Some(timer) = self.timer.as_mut().filter(|_| self.pacing) {
            if timer.as_mut().poll(cx).is_pending() {
                self.hold(cx);
                return Poll::Pending;
            }
            self.timer = None;
            self.pacing = false;
        }
        Poll::Ready(true)
    }

    /// Reserves a portion of `taken`. Returns its length in bytes, and until when it has to wait;
    /// `None` when the window is closed.
    fn reserve(&self) -> Option<(usize, Option<Instant>)> {
        let limiter = self.quota.as_ref().and_then(|quota| quota.deliver.as_ref());
        let window = self.control.as_ref().filter(|control| control.windowed).map(|control| &control.link.window);
        let room = window.map(Window::room);
        let (messages, bytes) = limiter.map_or((u64::MAX, u64::MAX), |limiter| limiter.rate().portion());
        let bytes = room.map_or(bytes, |room| room.bytes.min(bytes));
        let (mut all_messages, mut all_bytes) = (0, 0);
        let mut skip = self.written;
        for batch in &self.taken {
            let rest = batch.get(skip..).unwrap_or_default();
            skip = 0;
            let (messages_left, bytes_left) = (messages - all_messages, bytes.saturating_sub(all_bytes as u64));
            let more = if limiter.is_none() && rest.len() as u64 <= bytes_left {
                // Its messages need not be counted.
                BatchExtent { len: rest.len(), messages: 0 }
            } else {
                FrameBatch::checked(rest).portion(messages_left, bytes_left)
            };
            if all_bytes > 0 && more.len as u64 > bytes_left {
                break;
            }
            all_messages += u64::from(more.messages);
            all_bytes += more.len;
            if all_messages >= messages || more.len < rest.len() {
                break;
            }
        }
        if let (Some(window), Some(room)) = (window, room) {
            // A frame that is longer than the window goes alone.
            if all_bytes as u64 > room.bytes && !room.is_idle {
                return None;
            }
            window.send(all_bytes as u64);
        }
        let until = limiter.and_then(|limiter| {
            let now = Instant::now();
            Some(limiter.reserve(all_messages, all_bytes as u64, now)).filter(|until| *until > now)
        });
        Some((all_bytes, until))
    }

    /// Writes as much of `taken` as is granted with one system call.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A slice for each batch: most often there is one.
        let mut slices: SmallVec<[IoSlice<'_>; SLICES]> = SmallVec::new();
        let mut skip = self.written;
        let mut granted = self.granted;
        for batch in self.taken.iter().take(SLICES) {
            // Without the part of the first that is written, and no more than is granted.
            let rest = batch.get(skip..).unwrap_or_default();
            let slice = rest.get(..granted).unwrap_or(rest);
            slices.push(IoSlice::new(slice));
            granted -= slice.len();
            skip = 0;
            if granted == 0 {
                break;
            }
        }
        self.half.poll_write(cx, &slices)
    }

    /// So many bytes have been written.
    fn advance(&mut self, n: usize) {
        let mut batches = 0;
        self.written += n;
        if self.is_limited() {
            self.granted -= n;
        }
        while let Some(batch) = self.taken.front()
            && batch.len() <= self.written
        {
            self.written -= batch.len();
            batches += 1;
            self.taken.pop_front();
        }
        // The granted bytes end with a frame: the rest is a batch of its own.
        if self.granted == 0
            && let Some(batch) = self.taken.front_mut()
        {
            batch.advance(mem::take(&mut self.written));
        }
        self.outbox.sent(n, batches, Instant::now);
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // Also when the task is aborted: the rest is counted, and publishers do not wait for it. A
        // task that has come to its end has left nothing.
        self.abandon();
        while self.outbox.clear_portion() {}
    }
}
