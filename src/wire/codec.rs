//! The codec for `tokio_util::codec::Framed`.

use bytes::{Buf as _, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::{
    error::{DecodeError, EncodeError},
    frame::Frame,
    header::{HEADER_LEN, Header, Limits},
    name_cache::{NameCache, payload_of},
    opcode::Opcode,
};

/// The most that is reserved at once for a frame that has not arrived: a header alone, which
/// anybody can send, never makes us allocate what it claims.
const RESERVE: usize = 64 * 1024;

/// Turns bytes into [`Frame`]s and back, for [`tokio_util::codec::Framed`].
///
/// An error ends the stream: what follows a malformed frame has no meaning.
///
/// Most of what decoding a PUBLISH costs is the reference to the read buffer that each payload
/// holds, counted up and down again. [`Frames`](super::Frames) holds none, for those who have the
/// bytes and can borrow from them.
///
/// ```
/// use bytes::BytesMut;
/// use hpfeeds::wire::{Codec, Frame};
/// use tokio_util::codec::{Decoder, Encoder};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut codec = Codec::default();
/// let mut bytes = BytesMut::new();
/// let frame = Frame::Subscribe { ident: "me".parse()?, channel: "cowrie.sessions".parse()? };
/// codec.encode(&frame, &mut bytes)?;
/// assert_eq!(codec.decode(&mut bytes)?, Some(frame));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Codec {
    limits: Limits,
    last: Option<NameCache>,
}

impl Codec {
    /// A codec with other limits than the default 1 MiB.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, last: None }
    }

    /// A frame that may be incomplete, and a PUBLISH whose names must be checked.
    fn decode_any(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(header) = Header::parse(src, self.limits)? else {
            return Ok(None);
        };
        let missing = header.length.saturating_sub(src.len());
        if missing > 0 {
            src.reserve(missing.min(RESERVE));
            return Ok(None);
        }
        if header.opcode == Opcode::Publish {
            return self.publish(src, header.length).map(Some);
        }
        let bytes = src.split_to(header.length).freeze();
        Frame::from_bytes(&bytes, header).map(Some)
    }

    /// Takes a whole PUBLISH off `src` and remembers its names.
    fn publish(&mut self, src: &mut BytesMut, length: usize) -> Result<Frame, DecodeError> {
        match NameCache::remember(&mut self.last, &src[..length]) {
            Ok((last, at)) => {
                let (ident, channel) = (last.ident.clone(), last.channel.clone());
                Ok(Frame::Publish { ident, channel, payload: payload_of(src, at, length) })
            }
            Err(error) => {
                src.advance(length);
                Err(error)
            }
        }
    }
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = DecodeError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(last) = &self.last else {
            return self.decode_any(src);
        };
        // The names of the PUBLISH before: nothing to check but the length.
        let Some((at, length)) = last.repeated(src, self.limits) else {
            return self.decode_any(src);
        };
        // The names first: 5 % faster than after the payload.
        let (ident, channel) = (last.ident.clone(), last.channel.clone());
        Ok(Some(Frame::Publish { ident, channel, payload: payload_of(src, at, length) }))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        match self.decode(src)? {
            Some(frame) => Ok(Some(frame)),
            None if src.is_empty() => Ok(None),
            None => {
                let length = Header::parse(src, self.limits)?.map_or(HEADER_LEN, |header| header.length);
                Err(DecodeError::Incomplete { missing: length - src.len() })
            }
        }
    }
}

impl Encoder<Frame> for Codec {
    type Error = EncodeError;

    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), EncodeError> {
        self.encode(&frame, dst)
    }
}

impl Encoder<&Frame> for Codec {
    type Error = EncodeError;

    fn encode(&mut self, frame: &Frame, dst: &mut BytesMut) -> Result<(), EncodeError> {
        frame.encode(dst, self.limits)
    }
}
