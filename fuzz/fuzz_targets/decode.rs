//! Any bytes, in any pieces, decode to the same frames and the same end as in one piece; and a frame that decodes
//! encodes to the bytes it came from.
#![no_main]

use bytes::BytesMut;
use hpfeeds::wire::{Codec, Frame, Limits};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::{Decoder as _, Encoder as _};

/// Small, so that the fuzzer finds both sides of the limit.
const LIMITS: Limits = Limits::new(512);

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = (usize::from(input.0).max(1), input.1);
    let (frames, error) = decode(bytes, bytes.len().max(1));
    assert_eq!((&frames, &error), (&decode(bytes, piece).0, &decode(bytes, piece).1));
    let mut encoded = BytesMut::new();
    for frame in frames {
        Codec::new(LIMITS).encode(frame, &mut encoded).expect("what was decoded is within the limits");
    }
    assert!(bytes.starts_with(&encoded));
});

fn decode(bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<String>) {
    let mut codec = Codec::new(LIMITS);
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for part in bytes.chunks(piece) {
        buffer.extend_from_slice(part);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
        assert!(buffer.capacity() < 1 << 20, "a header alone must not reserve much");
    }
    (frames, None)
}
