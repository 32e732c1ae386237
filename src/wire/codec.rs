use bytes::{Buf as _, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::{
    Channel, DecodeError, EncodeError, Frame, FrameRef, HEADER_LEN, Header, Ident, Limits, Opcode, payload_after,
};

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
    /// The names of the last PUBLISH decoded: most have those of the one before.
    last: Option<(Ident, Channel)>,
}

impl Codec {
    /// A codec with other limits than the default 1 MiB.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, last: None }
    }

    /// Takes a whole PUBLISH off `src`. Only its payload is split off: one reference to the buffer, where a slice of a
    /// frame that was split off would take two and give one back.
    fn publish(&mut self, src: &mut BytesMut, length: usize) -> Result<Option<Frame>, DecodeError> {
        let body = &src[HEADER_LEN..length];
        let known = self.last.as_ref().and_then(|(ident, channel)| payload_after(body, ident, channel));
        let (payload, (ident, channel)) = match (known, &mut self.last) {
            (Some(payload), Some(last)) => (payload.len(), last),
            (_, last) => match FrameRef::parse_publish(body) {
                Ok((ident, channel, payload)) => {
                    (payload.len(), last.insert((Ident::checked(ident), Channel::checked(channel))))
                }
                Err(error) => {
                    src.advance(length);
                    return Err(error);
                }
            },
        };
        src.advance(length - payload);
        // An empty slice would keep the buffer for nothing.
        let payload = if payload == 0 { Bytes::new() } else { src.split_to(payload).freeze() };
        Ok(Some(Frame::Publish { ident: ident.clone(), channel: channel.clone(), payload }))
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
        if header.opcode == Opcode::Publish {
            return self.publish(src, header.length);
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
