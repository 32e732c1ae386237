//! Any bytes, in any pieces, are the same frames and the same fault to every decoder that there is, and no header makes
//! one of them allocate what it claims.
//!
//! Input: which limit, how many piece sizes, those, and then what is received.

use bytes::BytesMut;
use hpfeeds::wire::{Codec, DecodeError, Frame, FrameBatch, FrameRef, Frames, HEADER_LEN, Header, Limits};
use tokio_util::codec::{Decoder as _, Encoder as _};

use crate::{
    alloc::measured,
    input::{Input, pieces},
    model,
};

/// Small ones, so that both sides of the limit are found.
const MAX: [u32; 5] = [512, 16, 0, 1 << 20, u32::MAX];

/// Bytes that may be reserved for a header whose body has not come: the codec's bound is 64 KiB.
const SPARE: usize = 256 * 1024;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let max = input.choose(&MAX);
    let sizes = { usize::from(input.byte() % 8) };
    let sizes = input.take(sizes).to_vec();
    let received = input.rest();
    let (limits, expected) = (Limits::new(max), model::decode(received, max));

    let (all, fault) = ended(Frames::new(received, limits));
    assert_eq!((owned(&all), &fault), (expected.frames.clone(), &expected.fault), "Frames");
    assert_eq!(one_by_one(received, limits), (expected.frames.clone(), expected.fault.clone()), "FrameRef");
    for sizes in [&[][..], &sizes] {
        let decoded = in_pieces(received, sizes, limits);
        assert_eq!((&decoded.0, &decoded.1), (&expected.frames, &expected.fault), "Codec in pieces of {sizes:?}");
        // Once more without keeping anything: what does the decoder itself take?
        let ((), most) = measured(|| forgetful(received, sizes, limits));
        assert!(most <= 4 * received.len() + SPARE, "{most} bytes were allocated for {}", received.len());
    }

    let mut encoded = BytesMut::new();
    for frame in expected.frames {
        Codec::new(limits).encode(frame, &mut encoded).expect("what was decoded is within the limits");
    }
    assert_eq!(encoded, received[..encoded.len()]);
    batches(received, max);
}

/// Every frame of a decoder, and its fault.
fn ended<'a>(frames: impl Iterator<Item = Result<FrameRef<'a>, DecodeError>>) -> (Vec<FrameRef<'a>>, Option<String>) {
    let (mut all, mut fault) = (Vec::new(), None);
    for frame in frames {
        assert!(fault.is_none(), "there is nothing after a fault");
        match frame {
            Ok(frame) => all.push(frame),
            Err(error) => fault = Some(model::fault(&error)),
        }
    }
    (all, fault)
}

fn owned(frames: &[FrameRef<'_>]) -> Vec<Frame> {
    let name = |name: &str| name.to_owned();
    frames
        .iter()
        .map(|frame| match *frame {
            FrameRef::Error { message } => Frame::Error { message: message.to_vec().into() },
            FrameRef::Info { name, nonce } => {
                Frame::Info { name: name.to_owned(), nonce: hpfeeds::wire::Nonce::new(nonce) }
            }
            FrameRef::Auth { ident, digest } => {
                Frame::Auth { ident: name(ident).try_into().expect("checked"), digest: *digest }
            }
            FrameRef::Publish { ident, channel, payload } => Frame::Publish {
                ident: name(ident).try_into().expect("checked"),
                channel: name(channel).try_into().expect("checked"),
                payload: payload.to_vec().into(),
            },
            FrameRef::Subscribe { ident, channel } => Frame::Subscribe {
                ident: name(ident).try_into().expect("checked"),
                channel: name(channel).try_into().expect("checked"),
            },
            FrameRef::Unsubscribe { ident, channel } => Frame::Unsubscribe {
                ident: name(ident).try_into().expect("checked"),
                channel: name(channel).try_into().expect("checked"),
            },
            other => panic!("a frame that the model does not know: {other:?}"),
        })
        .collect()
}

/// Each frame alone: nothing is remembered of the one before.
fn one_by_one(mut rest: &[u8], limits: Limits) -> (Vec<Frame>, Option<String>) {
    let mut frames = Vec::new();
    loop {
        let header = match Header::parse(rest, limits) {
            Ok(Some(header)) if header.length <= rest.len() => header,
            Ok(_) => return (frames, None),
            Err(error) => return (frames, Some(model::fault(&error))),
        };
        let (frame, after) = rest.split_at(header.length);
        match FrameRef::parse(header.opcode, &frame[HEADER_LEN..]) {
            Ok(parsed) => {
                frames.extend(owned(&[parsed]));
                let again = Frame::from_bytes(&frame.to_vec().into(), header);
                assert_eq!(again.ok().as_ref(), frames.last(), "Frame::from_bytes");
            }
            Err(error) => return (frames, Some(model::fault(&error))),
        }
        rest = after;
    }
}

fn in_pieces(received: &[u8], sizes: &[u8], limits: Limits) -> (Vec<Frame>, Option<String>) {
    let (mut codec, mut buffer, mut frames) = (Codec::new(limits), BytesMut::new(), Vec::new());
    for piece in pieces(received, sizes) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => {
                    assert_eq!(buffer.len(), before, "an incomplete frame stays in the buffer");
                    break;
                }
                Err(error) => return (frames, Some(model::fault(&error))),
            }
        }
    }
    let left = buffer.len();
    match codec.decode_eof(&mut buffer) {
        Ok(None) => assert_eq!(left, 0, "the end inside a frame is a fault"),
        Err(DecodeError::Incomplete { missing }) => assert!(left > 0 && missing > 0),
        other => panic!("{other:?} at the end"),
    }
    (frames, None)
}

fn forgetful(received: &[u8], sizes: &[u8], limits: Limits) {
    let (mut codec, mut buffer) = (Codec::new(limits), BytesMut::new());
    for piece in pieces(received, sizes) {
        buffer.extend_from_slice(piece);
        while let Ok(Some(_)) = codec.decode(&mut buffer) {}
    }
}

/// A batch of frames, walked without taking each apart, finds the same frames.
fn batches(received: &[u8], max: u32) {
    let (limits, expected) = (Limits::new(max), model::decode(received, max));
    let whole = FrameBatch::new(&received[..expected.len()], limits).frames().scan(0, |end, frame| {
        *end += frame.len();
        Some(*end)
    });
    assert!(whole.eq(expected.ends.iter().copied()), "the frames of a batch");
    let starts = [0].into_iter().chain(expected.ends.iter().copied());
    let frames: Vec<_> = starts.zip(&expected.ends).zip(&expected.frames).map(|((a, b), f)| (a, *b, f)).collect();
    let names = |frame: &Frame| match frame {
        Frame::Publish { ident, channel, .. } => Some((ident.clone(), channel.clone())),
        _ => None,
    };
    for (at, (start, _, frame)) in frames.iter().enumerate() {
        let Some(wanted) = names(frame) else {
            continue;
        };
        let batch = FrameBatch::new(&received[*start..], limits);
        let (first, body) = batch.publish_at(0).expect("it starts with a PUBLISH");
        let head = FrameBatch::names(body).expect("its names are legal").len();
        let found = batch.same_names(first, head, |_, _| ());
        let same: Vec<_> =
            frames[at..].iter().take_while(|(_, _, frame)| names(frame).as_ref() == Some(&wanted)).collect();
        let len = same.last().map_or(0, |last| last.1 - start);
        assert_eq!((found.len, found.messages as usize), (len, same.len()), "the messages from {start} on");
        let batch = FrameBatch::checked(&received[*start..start + len]);
        assert!(batch.channel_runs().eq([(&*wanted.1, same.len() as u64)]));
        assert_eq!(batch.first_channel(), Some(&*wanted.1));
        for (begin, end, _) in same.into_iter().map(|(a, b, f)| (a - start, b - start, f)).take(4) {
            for position in [begin, begin + 1, end - 1].into_iter().filter(|position| *position < len) {
                let boundary = if position == begin { (begin, begin) } else { (begin, end) };
                let found = (batch.ended_by(position).len, batch.begun_by(position).len);
                assert_eq!(found, boundary, "around {position}");
            }
        }
    }
    // Whole PUBLISH frames, of which nobody has looked at the names; the first may be anything.
    for (most, len) in [(1, u64::MAX), (3, 64), (u64::MAX, u64::MAX)] {
        let (mut end, mut messages) = (0, 0u32);
        while let Ok(Some(body)) = model::whole(&received[end..], max) {
            let next = end + 5 + body.len();
            if end > 0 && (received[end + 4] != 3 || u64::from(messages) >= most || next as u64 > len) {
                break;
            }
            (end, messages) = (next, messages + 1);
        }
        let found = FrameBatch::new(received, limits).portion(most, len);
        assert_eq!((found.len, found.messages), (end, messages), "at most {most} and {len}");
    }
}
