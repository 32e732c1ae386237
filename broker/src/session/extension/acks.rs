//! The coalescing of ACKs: a publisher that sends without a pause gets one for many reads.
//!
//! An ACK costs a system call and a segment, about as much as reading a few hundred short messages.
//! So one that is about many bytes is held back for a moment, as more is likely to come. A publisher
//! that was waiting for it, as it keeps to a window of its own, gets the next ones at once: the more
//! of them, the more often it has waited.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// A publisher of which less than this was read, in bytes, may wait for each ACK.
const LARGE: usize = 16 * 1024;

/// The bytes read after which an ACK is not held back any more.
const ENOUGH: usize = 512 * 1024;

/// How long an ACK is held back at most, to the precision of the timer of a millisecond.
const DELAY: Duration = Duration::from_millis(1);

/// How many ACKs go out at once after one was held back in vain, at first and at most.
const AT_ONCE: [u32; 2] = [16, 1024];

/// The ACKs of one stream on one connection.
#[derive(Default)]
pub(super) struct Acks {
    /// The bytes that were read since the last ACK.
    read: usize,
    /// While an ACK is held back.
    timer: Option<Pin<Box<Sleep>>>,
    /// How many ACKs go out at once, and how many did after the last that was held back in vain.
    at_once: u32,
    penalty: u32,
}

impl Acks {
    /// So many bytes were read.
    pub(super) fn read(&mut self, bytes: usize) {
        self.read += bytes;
    }

    /// Whether an ACK is not to be held back, as so much was read since the last.
    pub(super) fn are_enough(&mut self) -> bool {
        if self.read < ENOUGH {
            return false;
        }
        if self.at_once > 0 {
            self.at_once -= 1;
        } else {
            // Forgiven step by step: a window may be several times as long.
            self.penalty -= self.penalty.div_ceil(32);
        }
        true
    }

    /// Whether to send the ACK that is due, when the client has sent nothing more for now. Otherwise
    /// the task is woken up when it is time.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.read < LARGE {
            return Poll::Ready(());
        }
        if self.timer.is_none() && self.at_once > 0 {
            self.at_once -= 1;
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(DELAY)));
        if timer.as_mut().poll(cx).is_ready() {
            self.penalty = (2 * self.penalty).clamp(AT_ONCE[0], AT_ONCE[1]);
            self.at_once = self.penalty;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// An ACK was sent.
    pub(super) fn sent(&mut self) {
        (self.read, self.timer) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::poll_fn;
    use tokio::time::Instant;

    use super::*;

    /// Reads so much, and waits until the ACK is sent; how long that took, in milliseconds.
    async fn acked(acks: &mut Acks, bytes: usize) -> u128 {
        let begun = Instant::now();
        acks.read(bytes);
        if !acks.are_enough() {
            poll_fn(|cx| acks.poll_due(cx)).await;
        }
        acks.sent();
        begun.elapsed().as_millis()
    }

    /// Reads so much, of which nothing more comes for now: whether the ACK is sent.
    async fn is_acked(acks: &mut Acks, bytes: usize) -> bool {
        acks.read(bytes);
        let is = acks.are_enough() || poll_fn(|cx| Poll::Ready(acks.poll_due(cx))).await.is_ready();
        if is {
            acks.sent();
        }
        is
    }

    #[tokio::test(start_paused = true)]
    async fn an_ack_of_a_small_read_is_sent_at_once() {
        let mut acks = Acks::default();
        for bytes in [1, 100, LARGE - 1] {
            assert_eq!(acked(&mut acks, bytes).await, 0, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_a_pause_gets_an_ack_for_many_reads() {
        let (mut acks, mut sent) = (Acks::default(), 0);
        for _ in 0..800 {
            sent += usize::from(is_acked(&mut acks, 64 * 1024).await);
        }
        assert_eq!(sent, 800 * 64 * 1024 / ENOUGH);
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_that_keeps_to_a_window_waits_for_few_acks() {
        for window in [LARGE, 200_000, ENOUGH - 1, ENOUGH + 100_000, 3 * ENOUGH + LARGE] {
            let (mut acks, mut waited) = (Acks::default(), 0);
            for _ in 0..10_000 {
                let mut left = window;
                while left > ENOUGH {
                    waited += acked(&mut acks, ENOUGH).await;
                    left -= ENOUGH;
                }
                waited += acked(&mut acks, left).await;
            }
            assert!((1..100).contains(&waited), "{waited} ms in 10,000 windows of {window}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_paused_is_held_back_again_in_time() {
        let mut acks = Acks::default();
        for _ in 0..20 {
            acked(&mut acks, LARGE).await;
        }
        let mut reads = 0;
        while is_acked(&mut acks, 64 * 1024).await {
            reads += 1;
        }
        assert!((1..=AT_ONCE[1]).contains(&reads), "{reads}");
    }
}
