//! The tests of batches in flight: where they are cut, and what is held back or taken out.

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
    OutgoingBatch::Messages(Batch::small(
        bytes.into(),
        u32::try_from(channels.len()).unwrap(),
        Instant::now(),
        Vec::new(),
    ))
}

fn refuses(refused: &[&str], channel: &str) -> Option<Error> {
    refused.contains(&channel).then(Error::closed)
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
    let (head, payload) = (whole.slice(..whole.len() - 100), whole.slice(whole.len() - 100..));
    batches.push_back(OutgoingBatch::Messages(Batch::large(head, payload, Instant::now(), None)));
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
fn batches_that_come_while_some_are_held_back_go_behind_these() {
    for cut in [0, 7 + 5] {
        let mut in_flight = flight();
        let all = rest(&in_flight)[7..].to_vec();
        in_flight.advance(cut);
        in_flight.part();
        assert!(in_flight.holds());
        let now = rest(&in_flight);
        in_flight.append(&mut VecDeque::from([batch(&["e"])]));
        assert_eq!(rest(&in_flight), now, "not on this connection, cut at {cut}");
        in_flight.rewind();
        assert_eq!(rest(&in_flight), [&all[..], &frame("e", b"xyz")[..]].concat(), "cut at {cut}");
        assert_eq!(in_flight.unsent().0, 6);
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
    let mut batches = VecDeque::from([batch(&["a", "b", "a", "b", "b", "a"]), batch(&["a", "a"]), batch(&["b", "b"])]);
    let (removed, _) = retain(&mut batches, |channel, _| refuses(&["a"], channel));
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
    let removed = in_flight.retain(|channel, _| refuses(&["a", "c"], channel));
    assert_eq!(removed.messages, 3);
    assert_eq!(removed.room, 2 * frame("a", b"xyz").len() + frame("c", &[7; 100]).len());
    assert_eq!(rest(&in_flight), [frame("b", b"xyz"), frame("d", b"xyz")].concat());
}
