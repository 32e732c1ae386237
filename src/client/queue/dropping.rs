//! The oldest messages of a full queue, which make room for newer ones.

use std::collections::VecDeque;

use super::{
    batch::{Batch, OutgoingBatch},
    retain::{Removed, retain},
    waiter::Waiter,
};
use crate::client::error::Error;

/// Takes so many bytes of the oldest messages without a number out of the batches, whole messages and
/// no more than that takes; the first `begun` batches stay. Returns the barriers behind which nothing
/// is left.
pub(crate) fn drop_oldest(batches: &mut VecDeque<OutgoingBatch>, begun: usize, bytes: usize) -> (Removed, Vec<Waiter>) {
    let mut end = begun.min(batches.len());
    let mut found = 0;
    // Only as many are looked through as are needed.
    while found < bytes {
        let Some(batch) = batches.get(end) else {
            break;
        };
        end += 1;
        found += batch.batch().filter(|batch| batch.number().is_none()).map_or(0, Batch::len);
    }
    let mut rest = batches.split_off(end);
    let mut oldest = batches.split_off(begun.min(batches.len()));
    let mut gone = 0;
    let (removed, mut barriers) = retain(&mut oldest, |_, length| {
        let goes = gone < bytes;
        gone += if goes { length } else { 0 };
        goes.then(Error::dropped)
    });
    if let Some(next) = rest.front_mut().and_then(OutgoingBatch::batch_mut).filter(|batch| batch.number().is_none()) {
        next.prepend_barriers(std::mem::take(&mut barriers));
    }
    batches.append(&mut oldest);
    batches.append(&mut rest);
    (removed, barriers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use bytes::Bytes;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        client::queue::{in_flight::InFlight, send::Outbox},
        wire::{Ident, Limits},
    };

    /// Messages of 21 bytes: header, two names of two bytes with their lengths, and a payload of 10.
    const LENGTH: usize = 21;

    fn filled(messages: usize) -> (Outbox, InFlight) {
        let outbox = Outbox::new(Ident::new("me").unwrap(), Limits::default(), 8 << 20);
        for number in 0..messages {
            outbox.push("ch", Bytes::from(format!("{number:010}")), None).unwrap();
        }
        (outbox, InFlight::default())
    }

    #[test]
    fn the_oldest_go_and_no_more_than_are_needed() {
        let (outbox, mut in_flight) = filled(100);
        outbox.take(&mut in_flight);
        assert_eq!(in_flight.unsent(), (100, 100 * LENGTH));
        let removed = in_flight.drop_oldest(3 * LENGTH + 1);
        assert_eq!((removed.messages, removed.room), (4, 4 * LENGTH));
        assert_eq!(in_flight.unsent(), (96, 96 * LENGTH));
        let mut slices = [std::io::IoSlice::new(&[]); 1];
        in_flight.chunks(&mut slices, false);
        assert!(slices[0].ends_with(b"0000000099") && slices[0][LENGTH - 10..LENGTH] == *b"0000000004");
        assert_eq!(in_flight.drop_oldest(usize::MAX).messages, 96);
        assert_eq!((in_flight.unsent(), in_flight.drop_oldest(1).messages), ((0, 0), 0));
        // In the queue itself as well.
        let (outbox, _) = filled(10);
        assert_eq!(outbox.drop_oldest(1).messages, 1);
        assert_eq!(outbox.unsent(), (9, 9 * LENGTH));
    }

    #[test]
    fn a_message_that_is_partly_written_stays() {
        let (outbox, mut in_flight) = filled(10);
        outbox.take(&mut in_flight);
        in_flight.advance(LENGTH + 1);
        // They are one batch, whose second frame is cut in two on the wire: the third is the oldest.
        assert_eq!(in_flight.drop_oldest(1).messages, 1);
        let mut slices = [std::io::IoSlice::new(&[]); 2];
        in_flight.chunks(&mut slices, false);
        assert!(slices[0].ends_with(b"0000000001") && slices[0].len() == LENGTH - 1);
        assert!(slices[1].starts_with(&[0]) && slices[1][..LENGTH].ends_with(b"0000000003"));
        assert_eq!(in_flight.drop_oldest(usize::MAX).messages, 7);
        assert_eq!(in_flight.unsent(), (2, 2 * LENGTH));
    }

    #[test]
    fn receipts_of_dropped_messages_fail_and_barriers_stay_in_place() {
        let outbox = Outbox::new(Ident::new("me").unwrap(), Limits::default(), 8 << 20);
        let (receipt, mut refused) = oneshot::channel();
        let (barrier, mut flushed) = oneshot::channel();
        outbox.push("ch", Bytes::from_static(b"1"), Some(Waiter::Receipt(receipt))).unwrap();
        outbox.push_barrier(Waiter::Barrier(barrier)).unwrap();
        outbox.push("ch", Bytes::from_static(b"2"), None).unwrap();
        let mut in_flight = InFlight::default();
        outbox.take(&mut in_flight);
        assert_eq!(in_flight.drop_oldest(1).messages, 1);
        let cause = refused.try_recv().unwrap().unwrap_err();
        assert!(cause.is_full() && !cause.may_have_arrived(), "{cause}");
        assert!(flushed.try_recv().is_err(), "it waits for its place");
        assert_eq!(in_flight.unsent().0, 1);
    }
}
