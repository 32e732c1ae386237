use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use super::{DecodeError, EncodeError, Frame, HEADER_LEN, Header, Limits};

/// The most that is reserved at once for a frame that has not arrived: a header alone, which anybody can send,
/// never makes us allocate what it claims.
const RESERVE: usize = 64 * 1024;

/// Turns bytes into [`Frame`]s and back, for [`tokio_util::codec::Framed`].
///
/// An error ends the stream: what follows a malformed frame has no meaning.
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
}

impl Codec {
    /// A codec with other limits than the default 1 MiB.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = DecodeError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(header) = Header::parse(src, self.limits)? else {
            return Ok(None);
        };
        let missing = header.length.saturating_sub(src.len());
        if missing > 0 {
            src.reserve(missing.min(RESERVE));
            return Ok(None);
        }
        let bytes = src.split_to(header.length).freeze();
        Frame::from_bytes(&bytes, header).map(Some)
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
