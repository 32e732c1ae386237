//! Frames as values, owned and borrowed, and how they are encoded.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    auth::{Digest, Nonce},
    error::{DecodeError, EncodeError, Field},
    header::{HEADER_LEN, Header, Limits},
    names::{Channel, Ident, MAX_NAME_LEN, NameError},
    opcode::Opcode,
    parse,
};

/// A frame that owns what it holds. Decoding one copies no payload: it is a slice of the read
/// buffer, and keeps that.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// The broker says what was wrong, and usually closes.
    Error {
        /// Text for a person; usually, but not always, UTF-8.
        message: Bytes,
    },
    /// The broker's greeting.
    Info {
        /// The broker's name, at most 255 bytes.
        name: String,
        /// The random bytes that the client must sign.
        nonce: Nonce,
    },
    /// The client's answer to INFO.
    Auth {
        /// The client's identity.
        ident: Ident,
        /// The proof.
        digest: Digest,
    },
    /// A message.
    Publish {
        /// The publisher's identity.
        ident: Ident,
        /// Where.
        channel: Channel,
        /// The payload; opaque bytes, possibly none.
        payload: Bytes,
    },
    /// The client wants a channel's messages.
    Subscribe {
        /// The client's identity; brokers do not check it here.
        ident: Ident,
        /// Which channel.
        channel: Channel,
    },
    /// The client no longer wants a channel's messages.
    Unsubscribe {
        /// The client's identity; brokers do not check it here.
        ident: Ident,
        /// Which channel.
        channel: Channel,
    },
}

impl Frame {
    /// The kind of the frame.
    #[must_use]
    pub fn opcode(&self) -> Opcode {
        match self {
            Self::Error { .. } => Opcode::Error,
            Self::Info { .. } => Opcode::Info,
            Self::Auth { .. } => Opcode::Auth,
            Self::Publish { .. } => Opcode::Publish,
            Self::Subscribe { .. } => Opcode::Subscribe,
            Self::Unsubscribe { .. } => Opcode::Unsubscribe,
        }
    }

    /// Takes a frame out of its bytes: exactly one whole frame, of which the payload stays a slice.
    ///
    /// # Panics
    /// When `bytes` is shorter than the header says it is.
    pub fn from_bytes(bytes: &Bytes, header: Header) -> Result<Self, DecodeError> {
        Ok(match FrameRef::parse(header.opcode, &bytes[HEADER_LEN..header.length])? {
            FrameRef::Error { message } => Self::Error { message: bytes.slice_ref(message) },
            FrameRef::Info { name, nonce } => Self::Info { name: name.to_owned(), nonce: Nonce::new(nonce) },
            FrameRef::Auth { ident, digest } => Self::Auth { ident: Ident::checked(ident), digest: *digest },
            FrameRef::Publish { ident, channel, payload } => Self::Publish {
                ident: Ident::checked(ident),
                channel: Channel::checked(channel),
                payload: bytes.slice_ref(payload),
            },
            FrameRef::Subscribe { ident, channel } => {
                Self::Subscribe { ident: Ident::checked(ident), channel: Channel::checked(channel) }
            }
            FrameRef::Unsubscribe { ident, channel } => {
                Self::Unsubscribe { ident: Ident::checked(ident), channel: Channel::checked(channel) }
            }
        })
    }

    /// Appends the frame's bytes to `dst`, or writes nothing and says which limit it breaks.
    pub fn encode(&self, dst: &mut BytesMut, limits: Limits) -> Result<(), EncodeError> {
        match self {
            Self::Error { message } => put(dst, limits, Opcode::Error, &[message]),
            Self::Info { name, nonce } => {
                let Ok(len) = u8::try_from(name.len()) else {
                    return Err(EncodeError::Name(NameError::TooLong(name.len())));
                };
                put(dst, limits, Opcode::Info, &[&[len], name.as_bytes(), nonce.as_bytes()])
            }
            Self::Auth { ident, digest } => {
                put(dst, limits, Opcode::Auth, &[&[len_byte(ident)], ident.as_bytes(), digest])
            }
            Self::Publish { ident, channel, payload } => encode_publish(dst, limits, ident, channel, payload),
            Self::Subscribe { ident, channel } | Self::Unsubscribe { ident, channel } => {
                put(dst, limits, self.opcode(), &[&[len_byte(ident)], ident.as_bytes(), channel.as_bytes()])
            }
        }
    }
}

/// The length of a PUBLISH frame with a payload of so many bytes, in bytes, header included.
#[must_use]
pub fn publish_len(ident: &Ident, channel: &Channel, payload: usize) -> usize {
    publish_head_len(ident, channel) + payload
}

/// Appends a PUBLISH frame to `dst`, or writes nothing when it is above the limit.
pub fn encode_publish(
    dst: &mut BytesMut,
    limits: Limits,
    ident: &Ident,
    channel: &Channel,
    payload: &[u8],
) -> Result<(), EncodeError> {
    encode_publish_head(dst, limits, ident, channel, payload.len())?;
    dst.extend_from_slice(payload);
    Ok(())
}

/// The length of a PUBLISH frame without its payload, in bytes, for names that have been checked.
pub(crate) fn publish_head_len(ident: &str, channel: &str) -> usize {
    HEADER_LEN + 1 + ident.len() + 1 + channel.len()
}

/// Appends all of a PUBLISH frame but its payload, for names that have been checked.
pub(crate) fn encode_publish_head(
    dst: &mut BytesMut,
    limits: Limits,
    ident: &str,
    channel: &str,
    payload: usize,
) -> Result<(), EncodeError> {
    put_header(dst, limits, Opcode::Publish, publish_head_len(ident, channel) + payload)?;
    put_name(dst, ident);
    put_name(dst, channel);
    Ok(())
}

/// Appends a frame whose body is the parts, one after the other.
fn put(dst: &mut BytesMut, limits: Limits, opcode: Opcode, parts: &[&[u8]]) -> Result<(), EncodeError> {
    let length = HEADER_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
    put_header(dst, limits, opcode, length)?;
    for part in parts {
        dst.put_slice(part);
    }
    Ok(())
}

/// Checks the length and appends the header.
fn put_header(dst: &mut BytesMut, limits: Limits, opcode: Opcode, length: usize) -> Result<(), EncodeError> {
    let limit = limits.of(opcode);
    let Some(checked) = u32::try_from(length).ok().filter(|length| *length <= limit) else {
        return Err(EncodeError::TooLong { opcode, length, limit });
    };
    let [a, b, c, d] = checked.to_be_bytes();
    dst.extend_from_slice(&[a, b, c, d, opcode as u8]);
    Ok(())
}

fn put_name(dst: &mut BytesMut, name: &str) {
    dst.put_u8(len_byte(name));
    dst.put_slice(name.as_bytes());
}

fn len_byte(name: &str) -> u8 {
    debug_assert!(name.len() <= MAX_NAME_LEN, "an Ident or Channel has at most 255 bytes");
    u8::try_from(name.len()).unwrap_or(u8::MAX)
}

/// A frame that borrows everything from the bytes it was read from: nothing is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameRef<'a> {
    /// See [`Frame::Error`].
    Error {
        /// Text for a person.
        message: &'a [u8],
    },
    /// See [`Frame::Info`].
    Info {
        /// The broker's name.
        name: &'a str,
        /// The random bytes that the client must sign.
        nonce: &'a [u8],
    },
    /// See [`Frame::Auth`].
    Auth {
        /// The client's identity; 1 to 255 bytes.
        ident: &'a str,
        /// The proof.
        digest: &'a Digest,
    },
    /// See [`Frame::Publish`].
    Publish {
        /// The publisher's identity; 1 to 255 bytes.
        ident: &'a str,
        /// Where; 1 to 255 bytes.
        channel: &'a str,
        /// The payload.
        payload: &'a [u8],
    },
    /// See [`Frame::Subscribe`].
    Subscribe {
        /// The client's identity; 1 to 255 bytes.
        ident: &'a str,
        /// Which channel; 1 to 255 bytes.
        channel: &'a str,
    },
    /// See [`Frame::Unsubscribe`].
    Unsubscribe {
        /// The client's identity; 1 to 255 bytes.
        ident: &'a str,
        /// Which channel; 1 to 255 bytes.
        channel: &'a str,
    },
}

impl<'a> FrameRef<'a> {
    /// Reads the body of a frame: what follows its [`Header`], to the end of the frame.
    ///
    /// Most of what this costs for a PUBLISH is checking that its names are UTF-8.
    /// [`Frames`](super::Frames) does that once for many frames with the same names.
    #[inline]
    pub fn parse(opcode: Opcode, body: &'a [u8]) -> Result<Self, DecodeError> {
        if opcode == Opcode::Publish {
            let (ident, channel, payload) = Self::parse_publish(body)?;
            return Ok(Self::Publish { ident, channel, payload });
        }
        Self::parse_rare(opcode, body)
    }

    /// Everything but PUBLISH.
    fn parse_rare(opcode: Opcode, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = parse::Reader { opcode, rest: body };
        Ok(match opcode {
            Opcode::Error => Self::Error { message: reader.rest },
            Opcode::Info => Self::Info { name: reader.counted(Field::Name)?, nonce: reader.rest },
            Opcode::Auth => Self::Auth { ident: reader.name(Field::Ident)?, digest: reader.digest()? },
            Opcode::Publish => {
                let (ident, channel, payload) = reader.publish()?;
                Self::Publish { ident, channel, payload }
            }
            Opcode::Subscribe => {
                Self::Subscribe { ident: reader.name(Field::Ident)?, channel: reader.last_name(Field::Channel)? }
            }
            Opcode::Unsubscribe => {
                Self::Unsubscribe { ident: reader.name(Field::Ident)?, channel: reader.last_name(Field::Channel)? }
            }
        })
    }

    /// Reads the body of a PUBLISH: its ident, channel and payload.
    #[inline]
    pub(crate) fn parse_publish(body: &'a [u8]) -> Result<(&'a str, &'a str, &'a [u8]), DecodeError> {
        match parse::publish_at_once(body) {
            Some(publish) => Ok(publish),
            None => parse::Reader { opcode: Opcode::Publish, rest: body }.publish(),
        }
    }
}
