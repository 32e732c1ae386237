//! Runs, portions and frame boundaries, found without taking frames apart, are what taking them apart finds.

use bytes::BytesMut;
use hpfeeds::wire::{Frame, FrameRef, Header, Limits, Opcode};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    metrics::Sizes,
    util::{property::cases, scan},
};

const LIMITS: Limits = Limits::new(64);

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
    let alike = (vec(frame(), 1..8), vec(0..4usize, 8)).prop_map(|(frames, times)| {
        frames.into_iter().zip(times).flat_map(|(frame, times)| vec![frame; times + 1]).collect::<Vec<_>>()
    });
    (alike, vec(any::<u8>(), 0..12)).prop_map(|(mut frames, rest)| {
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

fn names(frame: &Frame) -> Option<(&str, &str)> {
    match frame {
        Frame::Publish { ident, channel, .. } => Some((ident, channel)),
        _ => None,
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_run_is_all_that_have_the_same_names((frames, ends, bytes) in received()) {
        let mut start = 0;
        for (at, frame) in frames.iter().enumerate() {
            let rest = &bytes[start..];
            if let Some((_, channel)) = names(frame) {
                let first = Header::parse(rest, LIMITS).unwrap().unwrap();
                let body = scan::body(rest, first).unwrap();
                let is_publish = matches!(FrameRef::parse(first.opcode, body), Ok(FrameRef::Publish { .. }));
                prop_assert!(is_publish && first.opcode == Opcode::Publish);
                let run = scan::run(rest, first, scan::names(body).unwrap(), LIMITS, &mut Sizes::new(0));
                let same = frames[at..].iter().take_while(|other| names(other) == names(frame)).count();
                prop_assert_eq!((run.len, run.messages as usize), (ends[at + same - 1] - start, same));
                prop_assert_eq!(scan::contents(&rest[..run.len]).collect::<Vec<_>>(), [(channel, same as u64)]);
            }
            start = ends[at];
        }
    }

    #[test]
    fn contents_are_the_messages_of_each_channel_in_order((frames, ends, bytes) in received()) {
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
        prop_assert_eq!(scan::contents(&bytes).collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(scan::contents(&bytes[..ends[ends.len() - 1]]).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_portion_is_as_many_as_may_pass((frames, ends, bytes) in received(), messages in 0..6u64, len in 0..80u64) {
        // The first always.
        let mut expected = 1;
        while expected < frames.len()
            && names(&frames[expected]).is_some()
            && (expected as u64) < messages
            && ends[expected] as u64 <= len
        {
            expected += 1;
        }
        let portion = scan::portion(&bytes, LIMITS, messages, len);
        prop_assert_eq!((portion.len, portion.messages as usize), (ends[expected - 1], expected));
    }

    #[test]
    fn a_position_is_inside_one_frame_or_between_two((_, ends, bytes) in received()) {
        let whole = &bytes[..ends[ends.len() - 1]];
        for position in 0..=whole.len() {
            let start = ends.iter().copied().filter(|end| *end <= position).max().unwrap_or_default();
            let end = if start == position { position } else { ends.iter().copied().find(|end| *end > position).unwrap() };
            prop_assert_eq!((scan::frame_start(whole, position), scan::frame_end(whole, position)), (start, end));
        }
    }
}
