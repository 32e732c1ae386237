//! Finds runs of messages in received bytes without taking each apart.

use hpfeeds::wire::{FrameRef, HEADER_LEN, Header, Limits, Opcode, publish_run};

use crate::metrics::Sizes;

/// How far some consecutive whole PUBLISH frames reach.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchExtent {
    /// From the start of the bytes, in bytes.
    pub(crate) len: usize,
    pub(crate) messages: u32,
}

/// The body of the first frame, when that is there as a whole.
pub(crate) fn body(bytes: &[u8], header: Header) -> Option<&[u8]> {
    bytes.get(HEADER_LEN..header.length)
}

/// The counted ident and channel at the start of a PUBLISH body, unless it is too short for them: as they hold their
/// lengths, another body that starts with the same bytes has the same names.
pub(crate) fn names(body: &[u8]) -> Option<&[u8]> {
    let channel = 1 + usize::from(*body.first()?);
    body.get(..channel + 1 + usize::from(*body.get(channel)?))
}

/// The run that starts with the first frame of `bytes`, which is whole and whose body starts with `names`.
///
/// It ends before the first frame that is incomplete, malformed or something else: whoever looks at that next will
/// see why. Nothing but the header and the names of a frame is looked at, as its payload is opaque. The length of each goes
/// to `sizes`.
pub(crate) fn run(bytes: &[u8], first: Header, names: &[u8], limits: Limits, sizes: &mut Sizes) -> BatchExtent {
    let mut messages = 0;
    let len = publish_run(bytes, first.length, names.len(), limits, |length, count| {
        messages += count;
        sizes.add(length, count);
    });
    BatchExtent { len, messages }
}

/// The header and the body of the PUBLISH frame at a position, if there is a whole one.
pub(crate) fn publish(bytes: &[u8], position: usize, limits: Limits) -> Option<(Header, &[u8])> {
    let rest = bytes.get(position..)?;
    let header = Header::parse(rest, limits).ok()?.filter(|header| header.opcode == Opcode::Publish)?;
    Some((header, body(rest, header)?))
}

/// The first PUBLISH frames of `bytes` that are no more than so many messages and bytes together: at least the first,
/// which is whole.
pub(crate) fn portion(bytes: &[u8], limits: Limits, messages: u64, len: u64) -> BatchExtent {
    let mut portion = BatchExtent { len: 0, messages: 0 };
    while let Some(rest) = bytes.get(portion.len..)
        && let Ok(Some(header)) = Header::parse(rest, limits)
        && header.length <= rest.len()
        && (portion.len == 0
            || header.opcode == Opcode::Publish
                && u64::from(portion.messages) < messages
                && (portion.len + header.length) as u64 <= len)
    {
        portion.len += header.length;
        portion.messages += 1;
    }
    portion
}

/// Channels and how many messages on each come one after the other in bytes that were checked when they were received.
/// Other frames, such as an ERROR, are passed over.
pub(crate) fn contents(mut bytes: &[u8]) -> impl Iterator<Item = (&str, u64)> {
    let limits = Limits::new(u32::MAX);
    std::iter::from_fn(move || {
        loop {
            let first = Header::parse(bytes, limits).ok()??;
            let body = body(bytes, first)?;
            let Ok(FrameRef::Publish { channel, .. }) = FrameRef::parse(first.opcode, body) else {
                bytes = bytes.get(first.length..)?;
                continue;
            };
            let run = run(bytes, first, names(body)?, limits, &mut Sizes::new(0));
            bytes = bytes.get(run.len..)?;
            return Some((channel, run.messages.into()));
        }
    })
}

/// The channel of the first frame of bytes that were checked when they were received.
pub(crate) fn channel(bytes: &[u8]) -> Option<&str> {
    let (header, body) = publish(bytes, 0, Limits::new(u32::MAX))?;
    match FrameRef::parse(header.opcode, body) {
        Ok(FrameRef::Publish { channel, .. }) => Some(channel),
        _ => None,
    }
}

/// Where the frame ends that the position is inside of, or the position itself when it is between two frames.
pub(crate) fn frame_end(run: &[u8], position: usize) -> usize {
    let mut end = 0;
    for frame in frames(run) {
        if end >= position {
            break;
        }
        end += frame.len();
    }
    end
}

/// Where the frame starts that the position is inside of, or the position itself when it is between two frames.
pub(crate) fn frame_start(run: &[u8], position: usize) -> usize {
    let mut start = 0;
    for frame in frames(run) {
        if start + frame.len() > position {
            break;
        }
        start += frame.len();
    }
    start
}

/// The frames of bytes that were checked when they were received.
fn frames(mut run: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let header = Header::parse(run, Limits::new(u32::MAX)).ok()??;
        let (frame, rest) = run.split_at_checked(header.length)?;
        run = rest;
        Some(frame)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use bytes::BytesMut;
    use hpfeeds::wire::Frame;

    use super::*;

    const LIMITS: Limits = Limits::new(64);

    fn publish(to: &mut BytesMut, ident: &str, channel: &str, payload: &'static str) {
        let frame = Frame::Publish {
            ident: ident.parse().unwrap(),
            channel: channel.parse().unwrap(),
            payload: payload.into(),
        };
        frame.encode(to, LIMITS).unwrap();
    }

    fn scan(bytes: &[u8]) -> BatchExtent {
        let first = Header::parse(bytes, LIMITS).unwrap().unwrap();
        let body = body(bytes, first).unwrap();
        run(bytes, first, names(body).unwrap(), LIMITS, &mut Sizes::new(0))
    }

    #[test]
    fn a_run_ends_where_a_name_changes() {
        // The names below share all their bytes, but not their lengths.
        for (ident, channel) in [("j", "cd"), ("ic", "d"), ("i", "c"), ("i", "cde")] {
            let mut bytes = BytesMut::new();
            publish(&mut bytes, "i", "cd", "1");
            publish(&mut bytes, "i", "cd", "");
            let len = bytes.len();
            publish(&mut bytes, ident, channel, "d3");
            assert_eq!(scan(&bytes), BatchExtent { len, messages: 2 }, "{ident} {channel}");
        }
    }

    #[test]
    fn a_run_ends_before_what_is_incomplete_or_malformed() {
        let mut whole = BytesMut::new();
        publish(&mut whole, "i", "c", "1");
        let len = whole.len();
        publish(&mut whole, "i", "c", "2");
        for cut in len..whole.len() {
            assert_eq!(scan(&whole[..cut]), BatchExtent { len, messages: 1 }, "{cut}");
        }
        for header in [[0, 0, 0, 4, 3], [0, 1, 0, 0, 3], [0, 0, 0, 9, 9], [0, 0, 0, 9, 4]] {
            whole[len..len + 5].copy_from_slice(&header);
            assert_eq!(scan(&whole), BatchExtent { len, messages: 1 }, "{header:?}");
        }
    }

    #[test]
    fn a_portion_is_whole_messages_and_at_least_one() {
        let mut bytes = BytesMut::new();
        for channel in ["c", "c", "d", "d"] {
            publish(&mut bytes, "i", channel, "1");
        }
        let whole = bytes.len();
        let one = whole / 4;
        bytes.extend_from_slice(b"\0\0\0\x07\x04\x01i");
        let cases = [
            (1, u64::MAX, 1),
            (3, u64::MAX, 3),
            (u64::MAX, u64::MAX, 4),
            (u64::MAX, 1, 1),
            (u64::MAX, 2 * one as u64, 2),
            (u64::MAX, 2 * one as u64 - 1, 1),
            (2, 3 * one as u64, 2),
        ];
        for (messages, len, expected) in cases {
            let extent = BatchExtent { len: one * expected as usize, messages: expected };
            assert_eq!(portion(&bytes, LIMITS, messages, len), extent, "{messages} {len}");
        }
        assert_eq!(portion(&bytes[..2 * one - 1], LIMITS, 9, 999).messages, 1);
        assert_eq!(portion(&[], LIMITS, 9, 999).messages, 0);
    }

    #[test]
    fn contents_counts_messages_by_channel() {
        let mut error = BytesMut::new();
        Frame::Error { message: "no".into() }.encode(&mut error, LIMITS).unwrap();
        let mut bytes = error.clone();
        for channel in ["c", "c", "d", "c"] {
            publish(&mut bytes, "i", channel, "1");
        }
        bytes.extend_from_slice(&error);
        assert_eq!(contents(&bytes).collect::<Vec<_>>(), [("c", 2), ("d", 1), ("c", 1)]);
        assert_eq!(contents(&bytes[..bytes.len() - 1]).count(), 3, "a part of a frame is nothing");
        assert_eq!(contents(&error).count(), 0);
        assert_eq!(contents(&[]).count(), 0);
        assert_eq!((channel(&bytes[error.len()..]), channel(&error), channel(&[])), (Some("c"), None, None));
    }

    #[test]
    fn frame_boundaries_are_found() {
        let mut bytes = BytesMut::new();
        publish(&mut bytes, "i", "c", "1");
        let first = bytes.len();
        publish(&mut bytes, "i", "c", "22");
        let len = bytes.len();
        for position in [0, first, len] {
            assert_eq!((frame_start(&bytes, position), frame_end(&bytes, position)), (position, position));
        }
        for position in 1..first {
            assert_eq!((frame_start(&bytes, position), frame_end(&bytes, position)), (0, first));
        }
        for position in first + 1..len {
            assert_eq!((frame_start(&bytes, position), frame_end(&bytes, position)), (first, len));
        }
    }
}
