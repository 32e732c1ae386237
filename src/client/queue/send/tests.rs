//! Tests of the send queue.

use super::*;

fn outbox() -> Outbox {
    Outbox::new(Ident::new("me").unwrap(), Limits::default(), 8 << 20)
}

#[test]
fn a_broker_cannot_make_the_quarantine_grow_without_bound() {
    let (outbox, now) = (outbox(), Instant::now());
    for n in 0..10_000 {
        let quarantine = outbox.quarantine(&Channel::new(n.to_string()).unwrap(), &Error::closed(), now);
        assert!(quarantine);
    }
    assert_eq!(outbox.quarantined(now).len(), MAX_QUARANTINED);
    assert!(outbox.push("9999", Bytes::new(), None).is_err());
    assert!(!outbox.quarantine(&Channel::new("9999").unwrap(), &Error::closed(), now));
}

#[test]
fn a_payload_that_is_not_taken_comes_back() {
    let outbox = outbox();
    outbox.close(Error::closed());
    let (error, payload) = outbox.push("a", Bytes::from_static(b"mine"), None).unwrap_err();
    assert!(error.is_closed());
    assert_eq!(payload, "mine");
}

#[test]
fn memory_of_written_batches_is_used_again_and_never_grows() {
    let (outbox, mut in_flight) = (outbox(), InFlight::default());
    for _ in 0..200 {
        // Not a divisor of the memory's size: each batch ends with a message that no longer
        // fits.
        for _ in 0..70 {
            outbox.push("a", Bytes::from_static(&[7; 1000]), None).unwrap();
        }
        assert!(outbox.take(&mut in_flight));
        while in_flight.has_next(false) {
            let mut slices = [std::io::IoSlice::new(&[]); 1];
            in_flight.chunks(&mut slices, false);
            assert!(slices[0].len() <= BATCH);
            let n = slices[0].len();
            in_flight.advance(n);
        }
    }
    assert!((1..=SPENT).contains(&outbox.state.lock().spare.len()));
}

#[test]
fn a_publisher_yields_once_for_each_batch_that_is_not_taken() {
    let (outbox, mut in_flight) = (outbox(), InFlight::default());
    let yields = |payload: &Bytes, total: usize| {
        let mut yields = 0;
        for _ in 0..total / payload.len() {
            outbox.push("a", payload.clone(), None).unwrap();
            yields += usize::from(outbox.should_yield());
        }
        yields
    };
    let (small, large) = (Bytes::from_static(&[7; 1000]), Bytes::from(vec![7; BATCH]));
    // Whole batches count, and a batch of small messages is a little less than `BATCH`.
    assert!((3..=4).contains(&yields(&small, 4 * YIELD_AFTER)));
    outbox.take(&mut in_flight);
    assert_eq!(yields(&large, 4 * YIELD_AFTER), 4);
    outbox.take(&mut in_flight);
    assert_eq!(yields(&small, YIELD_AFTER / 2), 0);
}

#[test]
fn taking_messages_out_leaves_the_others_together() {
    let outbox = outbox();
    for n in 0..10_000 {
        outbox.push(if n == 5_000 { "bad" } else { "good" }, Bytes::from_static(b"x"), None).unwrap();
    }
    outbox.retain(|channel, _| (channel == "bad").then(Error::closed));
    let mut in_flight = InFlight::default();
    outbox.take(&mut in_flight);
    let mut slices = [std::io::IoSlice::new(&[]); 100];
    let batches = in_flight.chunks(&mut slices, false);
    assert!(batches < 10, "{batches} batches");
    assert_eq!(in_flight.unsent().0, 9_999);
}
