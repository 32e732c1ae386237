//! The protocol once more, as plainly as it can be said: what everything else is compared with.

use hpfeeds::wire::{DecodeError, Field, Frame, NameError};

/// Why bytes are no frame, in the words of `tests/vectors/README.md`.
pub(crate) type Fault = String;

/// The frames in some bytes.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) frames: Vec<Frame>,
    /// Where each of them ends.
    pub(crate) ends: Vec<usize>,
    /// The fault of the next one.
    pub(crate) fault: Option<Fault>,
}

impl Decoded {
    /// How many bytes the frames take up.
    pub(crate) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or_default()
    }
}

/// The longest frame of an opcode.
pub(crate) fn limit(opcode: u8, max: u32) -> u64 {
    match opcode {
        0 | 3 => (u64::from(max) + 5).min(u32::MAX.into()),
        1 | 2 => 281,
        _ => 516,
    }
}

pub(crate) fn decode(bytes: &[u8], max: u32) -> Decoded {
    let mut decoded = Decoded::default();
    while decoded.fault.is_none() {
        let rest = &bytes[decoded.len()..];
        match whole(rest, max) {
            Ok(Some(body)) => match frame(rest[4], body) {
                Ok(frame) => {
                    decoded.ends.push(decoded.len() + 5 + body.len());
                    decoded.frames.push(frame);
                }
                Err(fault) => decoded.fault = Some(fault),
            },
            Ok(None) => break,
            Err(fault) => decoded.fault = Some(fault),
        }
    }
    decoded
}

/// The body of the first frame, if all of it is there.
pub(crate) fn whole(bytes: &[u8], max: u32) -> Result<Option<&[u8]>, Fault> {
    if bytes.len() < 5 {
        return Ok(None);
    }
    let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if length < 5 {
        return Err("TooShort".into());
    }
    if bytes[4] > 5 {
        return Err("UnknownOpcode".into());
    }
    if u64::from(length) > limit(bytes[4], max) {
        return Err("TooLong".into());
    }
    Ok(bytes.get(5..length as usize))
}

fn frame(opcode: u8, body: &[u8]) -> Result<Frame, Fault> {
    Ok(match opcode {
        0 => Frame::Error { message: body.to_vec().into() },
        1 => {
            let (name, nonce) = counted(body, "name")?;
            Frame::Info { name, nonce: hpfeeds::wire::Nonce::new(nonce) }
        }
        2 => {
            let (ident, digest) = counted(body, "ident")?;
            let ident = name(ident, "ident")?.parse().map_err(|_| "ident")?;
            Frame::Auth { ident, digest: digest.try_into().map_err(|_| "DigestLength")? }
        }
        3 => {
            let (ident, rest) = counted(body, "ident")?;
            let ident = name(ident, "ident")?.parse().map_err(|_| "ident")?;
            let (channel, payload) = counted(rest, "channel")?;
            let channel = name(channel, "channel")?.parse().map_err(|_| "channel")?;
            Frame::Publish { ident, channel, payload: payload.to_vec().into() }
        }
        _ => {
            let (ident, rest) = counted(body, "ident")?;
            let ident = name(ident, "ident")?.parse().map_err(|_| "ident")?;
            let channel = String::from_utf8(rest.to_vec()).map_err(|_| "NotUtf8 channel")?;
            let channel = name(channel, "channel")?.parse().map_err(|_| "channel")?;
            if opcode == 4 { Frame::Subscribe { ident, channel } } else { Frame::Unsubscribe { ident, channel } }
        }
    })
}

fn counted<'a>(body: &'a [u8], field: &str) -> Result<(String, &'a [u8]), Fault> {
    let len = usize::from(*body.first().ok_or_else(|| format!("Truncated {field}"))?);
    let text = body.get(1..1 + len).ok_or_else(|| format!("Truncated {field}"))?;
    let text = String::from_utf8(text.to_vec()).map_err(|_| format!("NotUtf8 {field}"))?;
    Ok((text, &body[1 + len..]))
}

fn name(text: String, field: &str) -> Result<String, Fault> {
    match text.len() {
        0 => Err(format!("Empty {field}")),
        1..=255 => Ok(text),
        _ => Err(format!("NameTooLong {field}")),
    }
}

/// The same words for the error of a decoder.
pub(crate) fn fault(error: &DecodeError) -> Fault {
    let name = |field: &Field| match field {
        Field::Ident => "ident",
        Field::Channel => "channel",
        Field::Name => "name",
        other => panic!("{other} cannot be wrong"),
    };
    match error {
        DecodeError::TooShort { .. } => "TooShort".into(),
        DecodeError::UnknownOpcode(_) => "UnknownOpcode".into(),
        DecodeError::TooLong { .. } => "TooLong".into(),
        DecodeError::Truncated { field, .. } => format!("Truncated {}", name(field)),
        DecodeError::Name { field, cause: NameError::Empty, .. } => format!("Empty {}", name(field)),
        DecodeError::Name { field, cause: NameError::TooLong(_), .. } => format!("NameTooLong {}", name(field)),
        DecodeError::Name { field, cause: NameError::NotUtf8, .. } => format!("NotUtf8 {}", name(field)),
        DecodeError::DigestLength { .. } => "DigestLength".into(),
        other => panic!("no decoder says {other}"),
    }
}

/// The bytes of a frame, without a limit.
pub(crate) fn encode(frame: &Frame) -> Vec<u8> {
    let counted = |name: &str| [&[u8::try_from(name.len()).expect("a short name")], name.as_bytes()].concat();
    let (opcode, body) = match frame {
        Frame::Error { message } => (0, message.to_vec()),
        Frame::Info { name, nonce } => (1, [&*counted(name), nonce.as_bytes()].concat()),
        Frame::Auth { ident, digest } => (2, [&*counted(ident), digest].concat()),
        Frame::Publish { ident, channel, payload } => (3, [&*counted(ident), &*counted(channel), payload].concat()),
        Frame::Subscribe { ident, channel } => (4, [&*counted(ident), channel.as_bytes()].concat()),
        Frame::Unsubscribe { ident, channel } => (5, [&*counted(ident), channel.as_bytes()].concat()),
        other => panic!("a frame that the model does not know: {other:?}"),
    };
    let length = u32::try_from(5 + body.len()).expect("a frame of less than 4 GiB");
    [&length.to_be_bytes()[..], &[opcode], &body].concat()
}
