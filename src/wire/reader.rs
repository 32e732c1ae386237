//! The iterator over the frames in a buffer.

use std::iter::FusedIterator;

use super::{
    batch,
    error::DecodeError,
    frame::FrameRef,
    header::{HEADER_LEN, Header, Limits},
};

/// The frames in a buffer, one after the other, without a copy or an allocation.
///
/// It is the cheapest way to look at messages when their bytes are there already. Names that are
/// the same as those of the PUBLISH before are recognised by their bytes and not checked again, so
/// that such a frame costs a comparison.
///
/// It ends before the first frame that is not whole: read more after [`rest`](Self::rest) and begin
/// anew. It ends after an error too, since what follows a malformed frame has no meaning; `rest` is
/// then where that frame starts.
///
/// ```
/// use hpfeeds::wire::{FrameRef, Frames, Limits};
///
/// # fn main() -> Result<(), hpfeeds::wire::DecodeError> {
/// // A message, and the first bytes of another.
/// let received = b"\0\0\0\x0d\x03\x02me\x02chhi\0\0\0\x0d\x03";
/// let mut frames = Frames::new(received, Limits::default());
/// for frame in &mut frames {
///     if let FrameRef::Publish { ident, channel, payload } = frame? {
///         assert_eq!((ident, channel, payload), ("me", "ch", &b"hi"[..]));
///     }
/// }
/// assert_eq!(frames.rest(), b"\0\0\0\x0d\x03");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
    limits: Limits,
    failed: bool,
    last: Option<PreviousPublish<'a>>,
}

/// The last PUBLISH: its bytes, how many of them are no payload, and its names.
#[derive(Debug, Clone)]
struct PreviousPublish<'a> {
    frame: &'a [u8],
    head: usize,
    ident: &'a str,
    channel: &'a str,
}

impl<'a> PreviousPublish<'a> {
    #[inline]
    fn repeated(&self, bytes: &'a [u8], limits: Limits) -> Option<(&'a [u8], &'a [u8])> {
        let repeated = || batch::repeated(bytes, &self.frame[HEADER_LEN - 1..self.head], limits);
        batch::same_header(bytes, self.frame, self.head).or_else(repeated)
    }
}

impl<'a> Frames<'a> {
    /// The frames in `bytes`, the first of which starts there.
    #[must_use]
    #[inline]
    pub fn new(bytes: &'a [u8], limits: Limits) -> Self {
        Self { rest: bytes, limits, failed: false, last: None }
    }

    /// The rest of the buffer: the start of a frame of which some is missing, or a malformed frame
    /// and all that follows it.
    #[must_use]
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// A frame of which only the header is known to be ours to read.
    ///
    /// By value: were `self` passed on by reference, the compiler could not keep it in registers in
    /// a loop.
    #[inline(never)]
    fn other(mut self) -> (Self, Option<Result<FrameRef<'a>, DecodeError>>) {
        if self.failed {
            return (self, None);
        }
        let frame = self.parse().transpose();
        if let Some(Err(_)) = frame {
            (self.failed, self.last) = (true, None);
        }
        (self, frame)
    }

    fn parse(&mut self) -> Result<Option<FrameRef<'a>>, DecodeError> {
        let Some(header) = Header::parse(self.rest, self.limits)? else {
            return Ok(None);
        };
        let Some((bytes, rest)) = self.rest.split_at_checked(header.length) else {
            return Ok(None);
        };
        let frame = FrameRef::parse(header.opcode, &bytes[HEADER_LEN..])?;
        self.rest = rest;
        if let FrameRef::Publish { ident, channel, payload } = frame {
            self.last = Some(PreviousPublish { frame: bytes, head: bytes.len() - payload.len(), ident, channel });
        }
        Ok(Some(frame))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<FrameRef<'a>, DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // The names of the PUBLISH before: nothing to check but the length.
        if let Some(last) = &mut self.last {
            if let Some((frame, rest)) = last.repeated(self.rest, self.limits) {
                (last.frame, self.rest) = (frame, rest);
                let payload = &frame[last.head..];
                return Some(Ok(FrameRef::Publish { ident: last.ident, channel: last.channel, payload }));
            }
        }
        // Other names, another frame, or none.
        let (next, frame) = self.clone().other();
        *self = next;
        frame
    }
}

impl FusedIterator for Frames<'_> {}
