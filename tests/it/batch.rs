//! Batches of frames, walked without taking frames apart, hold what taking them apart finds.

use bytes::BytesMut;
use hpfeeds::wire::{BatchEnd, BatchExtent, Frame, FrameBatch, Header, Limits, Opcode};
use proptest::{collection::vec, prelude::*, sample::select};

use super::properties::cases;

const LIMITS: Limits = Limits::new(64);

/// Where the frame around a position begins and ends, in bytes.
fn around(bytes: &[u8], position: usize) -> (usize, usize) {
    let batch = FrameBatch::checked(bytes);
    (batch.ended_by(position).len, batch.begun_by(position).len)
}

fn channel_runs(bytes: &[u8]) -> impl Iterator<Item = (&str, u64)> {
    FrameBatch::checked(bytes).channel_runs()
}

fn publish(to: &mut BytesMut, ident: &str, channel: &str, payload: &'static str) {
    let frame =
        Frame::Publish { ident: ident.parse().unwrap(), channel: channel.parse().unwrap(), payload: payload.into() };
    frame.encode(to, LIMITS).unwrap();
}

/// The messages at the start that have the names of the first.
fn same_names(bytes: &[u8]) -> BatchExtent {
    let batch = FrameBatch::new(bytes, LIMITS);
    let (first, body) = batch.publish_at(0).unwrap();
    batch.same_names(first, FrameBatch::names(body).unwrap().len(), |_, _| ())
}

#[test]
fn same_names_ends_where_a_name_changes() {
    // The names below share all their bytes, but not their lengths.
    for (ident, channel) in [("j", "cd"), ("ic", "d"), ("i", "c"), ("i", "cde")] {
        let mut bytes = BytesMut::new();
        publish(&mut bytes, "i", "cd", "1");
        publish(&mut bytes, "i", "cd", "");
        let len = bytes.len();
        publish(&mut bytes, ident, channel, "d3");
        assert_eq!(same_names(&bytes), BatchExtent { len, messages: 2 }, "{ident} {channel}");
    }
}

#[test]
fn same_names_ends_before_what_is_incomplete_or_malformed() {
    let mut whole = BytesMut::new();
    publish(&mut whole, "i", "c", "1");
    let len = whole.len();
    publish(&mut whole, "i", "c", "2");
    for cut in len..whole.len() {
        assert_eq!(same_names(&whole[..cut]), BatchExtent { len, messages: 1 }, "{cut}");
    }
    for header in [[0, 0, 0, 4, 3], [0, 1, 0, 0, 3], [0, 0, 0, 9, 9], [0, 0, 0, 9, 4]] {
        whole[len..len + 5].copy_from_slice(&header);
        assert_eq!(same_names(&whole), BatchExtent { len, messages: 1 }, "{header:?}");
    }
}

#[test]
fn a_portion_is_whole_messages_and_at_least_one() {
    let mut bytes = BytesMut::new();
    for channel in ["c", "c", "d", "d"] {
        publish(&mut bytes, "i", channel, "1");
    }
    let whole = bytes.len();
    let one = whole / 4;
    bytes.extend_from_slice(b"\0\0\0\x07\x04\x01i");
    let cases = [
        (1, u64::MAX, 1),
        (3, u64::MAX, 3),
        (u64::MAX, u64::MAX, 4),
        (u64::MAX, 1, 1),
        (u64::MAX, 2 * one as u64, 2),
        (u64::MAX, 2 * one as u64 - 1, 1),
        (2, 3 * one as u64, 2),
    ];
    for (messages, len, expected) in cases {
        let extent = BatchExtent { len: one * expected as usize, messages: expected };
        assert_eq!(FrameBatch::new(&bytes, LIMITS).portion(messages, len), extent, "{messages} {len}");
    }
    assert_eq!(FrameBatch::new(&bytes[..2 * one - 1], LIMITS).portion(9, 999).messages, 1);
    assert_eq!(FrameBatch::new(&[], LIMITS).portion(9, 999).messages, 0);
}

#[test]
fn channel_runs_count_the_messages_of_each_channel() {
    let mut error = BytesMut::new();
    Frame::Error { message: "no".into() }.encode(&mut error, LIMITS).unwrap();
    let mut bytes = error.clone();
    for channel in ["c", "c", "d", "c"] {
        publish(&mut bytes, "i", channel, "1");
    }
    bytes.extend_from_slice(&error);
    assert_eq!(channel_runs(&bytes).collect::<Vec<_>>(), [("c", 2), ("d", 1), ("c", 1)]);
    assert_eq!(channel_runs(&bytes[..bytes.len() - 1]).count(), 3, "a part of a frame is nothing");
    assert_eq!(channel_runs(&error).count(), 0);
    assert_eq!(channel_runs(&[]).count(), 0);
    let channel = |bytes| FrameBatch::checked(bytes).first_channel();
    assert_eq!((channel(&bytes[error.len()..]), channel(&error), channel(&[])), (Some("c"), None, None));
}

#[test]
fn begun_by_and_ended_by_find_the_frame_around_a_position() {
    let mut bytes = BytesMut::new();
    publish(&mut bytes, "i", "c", "1");
    let first = bytes.len();
    publish(&mut bytes, "i", "c", "22");
    let len = bytes.len();
    for position in [0, first, len] {
        assert_eq!(around(&bytes, position), (position, position));
    }
    for position in 1..first {
        assert_eq!(around(&bytes, position), (0, first));
    }
    for position in first + 1..len {
        assert_eq!(around(&bytes, position), (first, len));
    }
}

/// Names that share letters: the cut between them is what tells some of them apart.
const NAMES: [&str; 5] = ["a", "b", "ab", "aba", "\u{e9}"];

fn frame() -> impl Strategy<Value = Frame> {
    let name = || select(&NAMES[..]);
    let payload = vec(prop_oneof![Just(0), Just(3), any::<u8>()], 0..20);
    prop_oneof![
        8 => (name(), name(), payload).prop_map(|(ident, channel, payload)| Frame::Publish {
            ident: ident.parse().unwrap(),
            channel: channel.parse().unwrap(),
            payload: payload.into(),
        }),
        1 => (name(), name()).prop_map(|(ident, channel)| Frame::Subscribe {
            ident: ident.parse().unwrap(),
            channel: channel.parse().unwrap(),
        }),
    ]
}

/// Some frames and where each ends, and then a few bytes of anything.
fn received() -> impl Strategy<Value = (Vec<Frame>, Vec<usize>, Vec<u8>)> {
    let repeated = (vec(frame(), 1..8), vec(0..4usize, 8)).prop_map(|(frames, times)| {
        frames.into_iter().zip(times).flat_map(|(frame, times)| vec![frame; times + 1]).collect::<Vec<_>>()
    });
    (repeated, vec(any::<u8>(), 0..12)).prop_map(|(mut frames, rest)| {
        let (mut bytes, mut ends) = (BytesMut::new(), Vec::new());
        for frame in &frames {
            frame.encode(&mut bytes, LIMITS).unwrap();
            ends.push(bytes.len());
        }
        bytes.extend_from_slice(&rest);
        // They may happen to be one.
        while let Ok(Some(header)) = Header::parse(&bytes[ends[ends.len() - 1]..], LIMITS)
            && bytes.len() - ends[ends.len() - 1] >= header.length
        {
            bytes.truncate(ends[ends.len() - 1]);
        }
        frames.truncate(ends.len());
        (frames, ends, bytes.to_vec())
    })
}

/// Frames with lengths that are right or a little wrong, repeated, and bytes between them. Random
/// bytes alone would hardly ever begin with a header.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let frame = (frame(), -2..3i8, 1..4usize).prop_map(|(frame, lie, times)| {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes, LIMITS).unwrap();
        bytes[3] = bytes[3].saturating_add_signed(lie);
        bytes.repeat(times)
    });
    let header = (0..30u8, 0..7u8).prop_map(|(length, opcode)| vec![0, 0, 0, length, opcode]);
    let piece = prop_oneof![4 => frame, 1 => header, 1 => vec(0..6u8, 0..12), 1 => vec(any::<u8>(), 0..8)];
    (vec(piece, 0..8), 0..8usize).prop_map(|(pieces, cut)| {
        let mut bytes = pieces.concat();
        bytes.truncate(bytes.len().saturating_sub(cut));
        bytes
    })
}

fn names(frame: &Frame) -> Option<(&str, &str)> {
    match frame {
        Frame::Publish { ident, channel, .. } => Some((ident, channel)),
        _ => None,
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn same_names_is_all_messages_up_to_one_with_others((frames, ends, bytes) in received()) {
        let mut start = 0;
        for (at, frame) in frames.iter().enumerate() {
            let rest = &bytes[start..];
            if let Some((_, channel)) = names(frame) {
                let run = same_names(rest);
                let same = frames[at..].iter().take_while(|other| names(other) == names(frame)).count();
                prop_assert_eq!((run.len, run.messages as usize), (ends[at + same - 1] - start, same));
                prop_assert_eq!(channel_runs(&rest[..run.len]).collect::<Vec<_>>(), [(channel, same as u64)]);
            }
            start = ends[at];
        }
    }

    #[test]
    fn channel_runs_are_the_messages_of_each_channel_in_order((frames, ends, bytes) in received()) {
        let mut expected: Vec<(&str, u64)> = Vec::new();
        let mut before = None;
        for frame in &frames {
            match (names(frame), expected.last_mut()) {
                (Some(own), Some((_, messages))) if before == Some(own) => *messages += 1,
                (Some((_, channel)), _) => expected.push((channel, 1)),
                (None, _) => {}
            }
            before = names(frame);
        }
        prop_assert_eq!(channel_runs(&bytes).collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(channel_runs(&bytes[..ends[ends.len() - 1]]).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_portion_is_as_many_messages_as_may_pass((frames, ends, bytes) in received(), messages in 0..6u64, len in 0..80u64) {
        // The first always.
        let mut expected = 1;
        while expected < frames.len()
            && names(&frames[expected]).is_some()
            && (expected as u64) < messages
            && ends[expected] as u64 <= len
        {
            expected += 1;
        }
        let portion = FrameBatch::new(&bytes, LIMITS).portion(messages, len);
        prop_assert_eq!((portion.len, portion.messages as usize), (ends[expected - 1], expected));
    }

    #[test]
    fn a_position_is_inside_one_frame_or_between_two((_, ends, bytes) in received()) {
        let whole = &bytes[..ends[ends.len() - 1]];
        for position in 0..=whole.len() {
            let start = ends.iter().copied().filter(|end| *end <= position).max().unwrap_or_default();
            let end = if start == position { position } else { ends.iter().copied().find(|end| *end > position).unwrap() };
            prop_assert_eq!(around(whole, position), (start, end));
        }
    }

    #[test]
    fn publishes_are_all_whole_messages_up_to_another_frame((frames, ends, bytes) in received()) {
        let messages = frames.iter().take_while(|frame| names(frame).is_some()).count();
        let len = if messages == 0 { 0 } else { ends[messages - 1] };
        let (found, end) = FrameBatch::new(&bytes, LIMITS).publishes();
        prop_assert_eq!(found, len);
        match (Header::parse(&bytes[len..], LIMITS), end) {
            (Ok(Some(header)), BatchEnd::Other(other)) => {
                prop_assert!(header == other && header.opcode == Opcode::Subscribe);
            }
            (Ok(_), BatchEnd::Incomplete) => prop_assert_eq!(messages, frames.len()),
            (Err(_), BatchEnd::Malformed(_)) => prop_assert_eq!(messages, frames.len()),
            (header, end) => prop_assert!(false, "{:?}: {:?}", header, end),
        }
    }

    #[test]
    fn frames_are_those_that_were_encoded((frames, ends, bytes) in received()) {
        let found: Vec<_> = FrameBatch::new(&bytes, LIMITS).frames().map(<[u8]>::len).collect();
        let lengths: Vec<_> = ends.iter().scan(0, |start, end| Some(end - std::mem::replace(start, *end))).collect();
        prop_assert_eq!(found.len(), frames.len());
        prop_assert_eq!(found, lengths);
        let (all, end) = (FrameBatch::new(&bytes, LIMITS).ended_by(usize::MAX >> 1), ends[ends.len() - 1]);
        prop_assert_eq!((all.len, all.messages as usize), (end, frames.len()));
    }

    #[test]
    fn hostile_bytes_are_walked_without_a_panic(
        bytes in hostile(),
        at in 0..90usize,
        length in prop_oneof![0..40usize, Just(usize::MAX)],
        names in prop_oneof![0..12usize, Just(usize::MAX)],
    ) {
        for batch in [FrameBatch::new(&bytes, LIMITS), FrameBatch::checked(&bytes)] {
            // Where a frame ends, by the number of frames up to there.
            let mut ends = vec![0];
            ends.extend(batch.frames().scan(0, |end, frame| { *end += frame.len(); Some(*end) }));
            let whole = ends[ends.len() - 1];
            prop_assert!(whole <= bytes.len());
            for position in [at, usize::MAX] {
                for extent in [batch.ended_by(position), batch.begun_by(position)] {
                    prop_assert_eq!(extent.len, ends[extent.messages as usize]);
                }
            }
            for portion in [batch.portion(at as u64, at as u64), batch.portion(u64::MAX, u64::MAX)] {
                prop_assert_eq!(portion.len, ends[portion.messages as usize]);
            }
            prop_assert!(ends.contains(&batch.publishes().0));
            prop_assert!(batch.publish_at(at).is_none_or(|(header, body)| body.len() + 5 == header.length));
            prop_assert!(batch.publish_at(usize::MAX).is_none());
            let counted = batch.channel_runs().map(|(_, messages)| messages).sum::<u64>();
            prop_assert!(counted < ends.len() as u64);
            // The header may be that of other bytes.
            let mut told = BatchExtent::default();
            let first = Header { opcode: Opcode::Publish, length };
            let extent = batch.same_names(first, names, |length, count| {
                told.len += length * count as usize;
                told.messages += count;
            });
            prop_assert!(extent == told && extent.len <= bytes.len());
        }
        prop_assert!(FrameBatch::names(&bytes).is_none_or(|names| bytes.starts_with(names)));
    }
}
