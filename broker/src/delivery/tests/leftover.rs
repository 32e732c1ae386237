//! However much is queued, a connection that ends goes through it a portion at a time.

use super::*;
use crate::delivery::leftover::{PORTION_BATCHES, PORTION_BYTES};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

/// Messages of 11 bytes on these channels by turns: nothing can be guessed or counted together.
const CHANNELS: usize = 16;
const MESSAGE: usize = 11;

/// A batch is as long as a read.
const MESSAGES: u32 = 20_000;
const BATCHES: u64 = 100;

fn alternating() -> FrameBatch<'static> {
    let mut bytes = BytesMut::new();
    let channels = (b'a'..).take(CHANNELS).cycle().take(MESSAGES as usize);
    for channel in channels {
        let channel = char::from(channel).to_string().parse().unwrap();
        let frame = Frame::Publish { ident: "i".parse().unwrap(), channel, payload: b"xy"[..].into() };
        frame.encode(&mut bytes, Limits::default()).unwrap();
    }
    assert_eq!(bytes.len(), MESSAGE * MESSAGES as usize);
    FrameBatch::new(bytes.freeze(), MESSAGES, 2 * MESSAGES as usize)
}

/// A subscriber that has read nothing of some twenty million bytes.
fn stuck() -> Fixture {
    let rules = Rules { low_mark: usize::MAX, high_mark: usize::MAX, max_buffered: usize::MAX, ..RULES };
    let mut f = fixture(rules);
    let batch = alternating();
    let frames = Bytes::copy_from_slice(&batch);
    for _ in 0..BATCHES {
        let mut batch = FrameBatch::new(frames.clone(), batch.messages, batch.payload);
        assert_eq!(f.outbox.enqueue(&mut batch, || f.now), EnqueueOutcome::Queued { more: true });
    }
    assert_eq!(f.take(), Poll::Ready(true));
    f
}

/// Clears what is queued, and looks after each portion at how much is left.
fn clear(f: &Fixture) -> usize {
    let (mut portions, mut left) = (0, f.buffered());
    while f.outbox.clear_portion() {
        let taken = left - f.buffered();
        let most = PORTION_BYTES + MESSAGE * MESSAGES as usize + PORTION_BATCHES * OVERHEAD;
        assert!(0 < taken && taken <= most, "{taken} in one portion");
        (portions, left) = (portions + 1, f.buffered());
    }
    portions
}

#[test]
fn a_stuck_subscriber_that_expires_is_gone_through_in_portions() {
    let mut f = stuck();
    let before = f.buffered();
    f.outbox.expire(&mut f.taken, 0, f.now);
    // Nothing has been looked at.
    assert_eq!(f.buffered(), before);
    assert!(clear(&f) >= 40);
    let expected = BATCHES * u64::from(MESSAGES);
    assert_eq!((f.stats().dropped, f.stats().delivered, f.buffered()), (expected, 0, 0));
    assert_eq!(f.outbox.dropped(), expected);
    let drops: Vec<_> = f.delivery.counters.drops.entries().iter().map(|drop| drop.messages).collect();
    assert_eq!(drops, [expected / CHANNELS as u64; CHANNELS]);
}

#[test]
fn a_connection_that_breaks_or_is_revoked_is_gone_through_in_portions() {
    for revoked in [false, true] {
        let mut f = stuck();
        let before = f.buffered();
        if revoked {
            f.outbox.revoke(&mut f.taken, 0);
        } else {
            f.outbox.abandon(&mut f.taken, 0);
        }
        assert!(f.buffered() > before / 10 * 9);
        // A last word that cannot be written any more has no message in it.
        f.outbox.close(Some(Bytes::from_static(b"\0\0\0\x07\0no")));
        f.outbox.abandon(&mut f.taken, 0);
        assert!(clear(&f) >= 40);
        let stats = f.stats();
        assert_eq!((stats.discarded, stats.dropped, f.buffered()), (BATCHES * u64::from(MESSAGES), 0, 0));
    }
}

#[tokio::test]
async fn other_tasks_run_between_two_portions() {
    let mut f = stuck();
    f.outbox.expire(&mut f.taken, 0, f.now);
    let outbox = f.outbox.clone();
    let clearing = tokio::spawn(std::future::poll_fn(move |cx| outbox.poll_clear(cx)));
    let other = tokio::spawn(async move {
        let mut turns = 0;
        while !clearing.is_finished() {
            tokio::task::yield_now().await;
            turns += 1;
        }
        turns
    });
    let turns = other.await.unwrap();
    assert!(turns >= 40, "{turns}");
    assert_eq!(f.buffered(), 0);
}

#[test]
fn a_queue_left_by_an_aborted_task_is_counted_when_its_writer_goes() {
    let mut f = stuck();
    f.outbox.abandon(&mut f.taken, 0);
    let (outbox, delivery) = (Arc::downgrade(&f.outbox), f.delivery.clone());
    drop(f);
    assert!(outbox.upgrade().is_none());
    assert_eq!(delivery.buffered.load(Relaxed), 0);
}
