//! Any frame that is within the limits encodes to the bytes that the format says and decodes to itself; any other is
//! refused for the right reason, and then nothing is written.
//!
//! Input: which limit, and then frames: what kind, and its fields, each with its length before it.

use bytes::BytesMut;
use hpfeeds::wire::{
    Channel, Codec, EncodeError, Frame, Ident, Limits, NameError, Nonce, Secret, encode_publish, publish_len,
};
use tokio_util::codec::{Decoder as _, Encoder as _};

use crate::{input::Input, model};

const MAX: [u32; 6] = [512, 64, 3, 2, 0, 1 << 20];

/// Most inputs are shorter.
const MOST: usize = 64;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let max = input.choose(&MAX);
    let limits = Limits::new(max);
    let (mut codec, mut encoded, mut frames) = (Codec::new(limits), BytesMut::new(), Vec::new());
    while !input.is_empty() && frames.len() < MOST {
        let Some(frame) = frame(&mut input) else {
            continue;
        };
        let before = encoded.clone();
        let result = codec.encode(&frame, &mut encoded);
        if let Frame::Info { name, .. } = &frame
            && name.len() > 255
        {
            assert!(matches!(result, Err(EncodeError::Name(NameError::TooLong(n))) if n == name.len()), "{result:?}");
            assert_eq!(encoded, before);
            continue;
        }
        let golden = model::encode(&frame);
        let most = model::limit(frame.opcode() as u8, max);
        if golden.len() as u64 > most {
            match result {
                Err(EncodeError::TooLong { opcode, length, limit }) => {
                    assert_eq!((opcode, length, u64::from(limit)), (frame.opcode(), golden.len(), most));
                }
                other => panic!("{other:?} for a frame of {} bytes of {most}", golden.len()),
            }
            assert_eq!(encoded, before);
            continue;
        }
        result.expect("a frame within the limits");
        assert_eq!(encoded[before.len()..], golden);
        if let Frame::Publish { ident, channel, payload } = &frame {
            let mut again = BytesMut::new();
            encode_publish(&mut again, limits, ident, channel, payload).expect("the same");
            assert_eq!(again, golden);
            assert_eq!(publish_len(ident, channel, payload.len()), golden.len());
        }
        frames.push(frame);
    }
    for frame in frames {
        assert_eq!(codec.decode(&mut encoded).expect("what was encoded"), Some(frame));
    }
    assert!(encoded.is_empty());
}

/// `None` when its names are no names, which is checked.
fn frame(input: &mut Input<'_>) -> Option<Frame> {
    Some(match input.byte() % 7 {
        0 => Frame::Error { message: input.long().to_vec().into() },
        1 => Frame::Info { name: name(input), nonce: Nonce::new(input.short()) },
        2 => {
            let (nonce, secret) = (Nonce::new(input.short()), Secret::new(input.short()));
            let digest = secret.sign(&nonce);
            assert!(secret.verify(&nonce, &digest));
            Frame::Auth { ident: checked(name(input), Ident::new)?, digest }
        }
        3 => {
            Frame::Subscribe { ident: checked(name(input), Ident::new)?, channel: checked(name(input), Channel::new)? }
        }
        4 => Frame::Unsubscribe {
            ident: checked(name(input), Ident::new)?,
            channel: checked(name(input), Channel::new)?,
        },
        _ => Frame::Publish {
            ident: checked(name(input), Ident::new)?,
            channel: checked(name(input), Channel::new)?,
            payload: input.long().to_vec().into(),
        },
    })
}

/// Text of a few bytes, or of some hundred around the longest that is legal.
fn name(input: &mut Input<'_>) -> String {
    let text = input.text();
    match input.byte() {
        times @ 250..=255 => text.repeat(usize::from(times)).chars().take(300).collect(),
        _ => text,
    }
}

fn checked<T: std::ops::Deref<Target = str>>(
    text: String,
    new: impl FnOnce(String) -> Result<T, NameError>,
) -> Option<T> {
    let len = text.len();
    match new(text.clone()) {
        Ok(name) => {
            assert!((1..=255).contains(&len) && *name == text);
            Some(name)
        }
        Err(NameError::Empty) => {
            assert_eq!(len, 0);
            None
        }
        Err(error) => {
            assert_eq!(error, NameError::TooLong(len));
            assert!(len > 255);
            None
        }
    }
}
