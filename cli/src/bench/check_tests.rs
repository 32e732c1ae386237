//! Unit tests of the checker.

use hpfeeds::{Limits, wire::Ident};

use super::*;

const FRAMES: u64 = 5;
/// Where the marker is.
const MARKED: usize = 11;

fn layout(size: usize) -> Arc<Layout> {
    let ident = Ident::new("bench").unwrap_or_else(|cause| panic!("{cause}"));
    let channel = "events".parse().unwrap_or_else(|cause| panic!("{cause}"));
    Arc::new(Layout::new(Limits::default(), &ident, &channel, size).unwrap_or_else(|cause| panic!("{cause:?}")))
}

/// Messages of two publishers, and their ends.
fn stream(layout: &Layout) -> Vec<Vec<u8>> {
    let messages = (0..FRAMES).flat_map(|number| [layout.frame(0, number), layout.frame(1, number)]);
    let ends = [layout.frame(END, FRAMES), layout.frame(MARKER, 0), layout.frame(1 | END, FRAMES)];
    messages.chain(ends).collect()
}

fn fed(layout: &Arc<Layout>, bytes: &[u8], pieces: usize) -> (Checker, Result<(), Fault>) {
    let mut checker = Checker::new(layout.clone(), 2);
    let result = bytes.chunks(pieces).try_for_each(|piece| checker.feed(piece, |_| {}));
    (checker, result)
}

#[test]
fn all_is_well_wherever_reads_cut_it() {
    for size in [STAMP, STAMP + 1, 100] {
        let layout = layout(size);
        let bytes = stream(&layout).concat();
        for pieces in 1..=bytes.len() {
            let (checker, result) = fed(&layout, &bytes, pieces);
            assert_eq!(result, Ok(()), "size {size}, pieces of {pieces}");
            assert!(checker.is_complete());
            let expected = Tally { messages: 2 * FRAMES, markers: 1, ..Tally::default() };
            assert_eq!(checker.finish(&[FRAMES; 2]), expected, "size {size}, pieces of {pieces}");
        }
    }
}

#[test]
fn every_changed_byte_is_noticed() {
    let layout = layout(40);
    let bytes = stream(&layout).concat();
    for at in 0..bytes.len() {
        for pieces in [7, bytes.len()] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let (checker, result) = fed(&layout, &bytes, pieces);
            let tally = checker.finish(&[FRAMES; 2]);
            let is_clean = result.is_ok() && tally.messages == 2 * FRAMES && tally.lost + tally.repeated == 0;
            // The number of a marker means nothing.
            let in_marker = at / layout.len() == MARKED && at % layout.len() >= layout.head().len() + 4;
            assert!(!is_clean || in_marker, "byte {at}, pieces of {pieces}: {tally:?}");
        }
    }
}

#[test]
fn messages_that_are_missing_repeated_or_out_of_order_are_counted() {
    let layout = layout(STAMP);
    let count = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut frames = stream(&layout);
        change(&mut frames);
        let (checker, result) = fed(&layout, &frames.concat(), 10);
        assert_eq!(result, Ok(()));
        let Tally { messages, lost, repeated, .. } = checker.finish(&[FRAMES; 2]);
        (messages, lost, repeated)
    };
    assert_eq!(count(&|frames| drop(frames.remove(0))), (9, 1, 0));
    assert_eq!(count(&|frames| drop(frames.drain(2..6))), (6, 4, 0));
    // The last message; and with it the end.
    assert_eq!(count(&|frames| drop(frames.remove(8))), (9, 1, 0));
    assert_eq!(count(&|frames| frames.truncate(9)), (9, 1, 0));
    assert_eq!(count(&|frames| frames.insert(3, frames[2].clone())), (11, 0, 1));
    // After the end.
    assert_eq!(count(&|frames| frames.push(frames[2].clone())), (10, 0, 1));
    assert_eq!(count(&|frames| frames.swap(2, 4)), (10, 1, 1));
}

#[test]
fn faults_say_what_it_is() {
    let layout = layout(40);
    let good = layout.frame(0, 0);
    let text = |bytes: Vec<u8>, pieces| match fed(&layout, &[good.clone(), bytes].concat(), pieces).1 {
        Err(fault) => fault.to_string(),
        Ok(()) => panic!("no fault"),
    };
    let error = [&[0, 0, 0, 7, 0][..], b"no"].concat();
    for pieces in [good.len(), 1000] {
        assert_eq!(text(error.clone(), pieces), "the broker says: no");
    }
    let mut corrupt = layout.frame(1, 0);
    let last = corrupt.len() - 1;
    corrupt[last] ^= 0x80;
    for pieces in [9, 1000] {
        let expected = "byte 39 of the payload of message 0 from publisher 1 is wrong";
        assert_eq!(text(corrupt.clone(), pieces), expected);
    }
    assert!(text(vec![0, 0, 0, 5, 3, 0], 1000).contains("PUBLISH of 5 bytes instead of PUBLISH of"));
    assert!(text(layout.frame(2, 0), 1000).contains("from publisher 2, which does not exist"));
    assert!(text(layout.frame(0, u64::MAX), 1000).contains("which does not exist"));
    assert!(text(vec![0, 0, 0, 1, 3], 1000).contains("frame"), "too short");
}
