use bytes::{Buf as _, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::{Channel, DecodeError, EncodeError, Frame, FrameRef, HEADER_LEN, Header, Ident, Limits, Opcode, read};

/// The most that is reserved at once for a frame that has not arrived: a header alone, which anybody can send,
/// never makes us allocate what it claims.
const RESERVE: usize = 64 * 1024;

/// Turns bytes into [`Frame`]s and back, for [`tokio_util::codec::Framed`].
///
/// An error ends the stream: what follows a malformed frame has no meaning.
///
/// Most of what decoding a PUBLISH costs is the reference to the read buffer that each payload holds, counted up and
/// down again. [`Frames`](super::Frames) holds none, for those who have the bytes and can borrow from them.
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
    /// Most messages have the names of the one before.
    last: Option<Last>,
}

/// The last PUBLISH decoded: its bytes from the opcode to the end of the channel, and its names.
#[derive(Debug, Clone)]
struct Last {
    head: Vec<u8>,
    ident: Ident,
    channel: Channel,
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
        let (ident, channel, payload) = match FrameRef::parse_publish(&src[HEADER_LEN..length]) {
            Ok(publish) => publish,
            Err(error) => {
                src.advance(length);
                return Err(error);
            }
        };
        let at = length - payload.len();
        let head = &src[HEADER_LEN - 1..at];
        let (ident, channel) = (Ident::checked(ident), Channel::checked(channel));
        match &mut self.last {
            Some(last) => {
                last.head.clear();
                last.head.extend_from_slice(head);
                last.ident = ident.clone();
                last.channel = channel.clone();
            }
            none => *none = Some(Last { head: head.to_vec(), ident: ident.clone(), channel: channel.clone() }),
        }
        Ok(Frame::Publish { ident, channel, payload: payload_of(src, at, length) })
    }
}

/// Takes a frame off `src` and gives its payload. It is one reference to the buffer: a slice of the frame would take
/// two and give one back.
#[inline]
fn payload_of(src: &mut BytesMut, at: usize, length: usize) -> Bytes {
    if at == length {
        // An empty slice would keep the buffer for nothing.
        src.advance(length);
        return Bytes::new();
    }
    let mut payload = src.split_to(length).freeze();
    payload.advance(at);
    payload
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = DecodeError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(last) = &self.last else {
            return self.decode_any(src);
        };
        let Some((_, rest)) = read::repeated(src, &last.head, self.limits) else {
            return self.decode_any(src);
        };
        let (at, length) = (HEADER_LEN - 1 + last.head.len(), src.len() - rest.len());
        // Last, so that the names are written to where they stay.
        let payload = payload_of(src, at, length);
        Ok(Some(Frame::Publish { ident: last.ident.clone(), channel: last.channel.clone(), payload }))
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
