//! A record: the header that is bound to its place in its file, an optional stream, the body, and
//! their checksum.
//!
//! `u32 sync word | u32 body length | u64 first number | u32 messages | i64 unix ms | u16 kind |
//! u16 flags | u32 CRC(these 32 bytes, file id, epoch, offset) | with flag 1: 16 B stream id, u64
//! its last number | body | u32 CRC(stream, body)`

use super::{LIMIT, crc, take};

/// The length of the header of a record, with its checksum.
pub(in crate::log) const RECORD: usize = 36;
/// The longest body in bytes.
pub(in crate::log) const MAX_BODY: usize = 1 << 30;

pub(in crate::log) const SYNC: [u8; 4] = [0xd8, 0x1f, 0xa3, 0x0c];

const STREAM: u16 = 1;
const STREAM_LEN: usize = 24;
const CHECKSUM: usize = 4;

/// The place that a record's checksum binds it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::log) struct Place {
    pub(in crate::log) file: [u8; 16],
    pub(in crate::log) epoch: u64,
    pub(in crate::log) offset: u64,
}

/// The stream of a publisher that a record's messages belong to, and the number of the last of them
/// in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamEnd {
    /// Its id.
    pub id: [u8; 16],
    /// The number in the stream of the last message of the record.
    pub last: u64,
}

/// The fields of a record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::log) struct RecordHeader {
    pub(in crate::log) body: u32,
    pub(in crate::log) first: u64,
    pub(in crate::log) messages: u32,
    pub(in crate::log) unix_ms: i64,
    pub(in crate::log) kind: u16,
    pub(in crate::log) flags: u16,
}

impl RecordHeader {
    pub(in crate::log) fn new(first: u64, messages: u32, unix_ms: i64, kind: u16, stream: bool, body: u32) -> Self {
        Self { body, first, messages, unix_ms, kind, flags: if stream { STREAM } else { 0 } }
    }

    fn fields(&self) -> [u8; RECORD - CHECKSUM] {
        let mut bytes = [0; RECORD - CHECKSUM];
        bytes[..4].copy_from_slice(&SYNC);
        bytes[4..8].copy_from_slice(&self.body.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.first.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.messages.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.unix_ms.to_be_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_be_bytes());
        bytes[30..32].copy_from_slice(&self.flags.to_be_bytes());
        bytes
    }

    pub(in crate::log) fn encode(&self, place: &Place) -> [u8; RECORD] {
        let (fields, mut bytes) = (self.fields(), [0; RECORD]);
        bytes[..RECORD - CHECKSUM].copy_from_slice(&fields);
        bytes[RECORD - CHECKSUM..].copy_from_slice(&place.checksum(&fields).to_be_bytes());
        bytes
    }

    /// Reads a header at the front of `bytes`, if one of this place is there. `flags` that this
    /// version does not know are left alone: they are about the meaning of the body.
    pub(in crate::log) fn parse(bytes: &[u8], place: &Place) -> Option<Self> {
        let header = Self::parse_unbound(bytes)?;
        let checksum = u32::from_be_bytes(take(bytes, RECORD - CHECKSUM));
        (place.checksum(&bytes[..RECORD - CHECKSUM]) == checksum).then_some(header)
    }

    /// As [`parse`](Self::parse), of bytes that this process has encoded for another place.
    pub(in crate::log) fn parse_unbound(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < RECORD || bytes[..4] != SYNC {
            return None;
        }
        let header = Self {
            body: u32::from_be_bytes(take(bytes, 4)),
            first: u64::from_be_bytes(take(bytes, 8)),
            messages: u32::from_be_bytes(take(bytes, 16)),
            unix_ms: i64::from_be_bytes(take(bytes, 20)),
            kind: u16::from_be_bytes(take(bytes, 28)),
            flags: u16::from_be_bytes(take(bytes, 30)),
        };
        let legal = header.messages > 0 && (1..LIMIT).contains(&header.first) && header.body as usize <= MAX_BODY;
        legal.then_some(header)
    }

    /// The number of its last message.
    pub(in crate::log) fn last(&self) -> u64 {
        self.first + u64::from(self.messages) - 1
    }

    fn stream_len(&self) -> usize {
        if self.flags & STREAM == 0 { 0 } else { STREAM_LEN }
    }

    /// The whole record in bytes.
    pub(in crate::log) fn total(&self) -> u64 {
        (RECORD + self.stream_len() + CHECKSUM) as u64 + u64::from(self.body)
    }

    /// Whether what follows the header is as it was written. `bytes` is the whole record.
    pub(in crate::log) fn is_whole(&self, bytes: &[u8]) -> bool {
        let Some(end) = bytes.len().checked_sub(CHECKSUM) else { return false };
        bytes.len() as u64 == self.total() && crc(&[&bytes[RECORD..end]]).to_be_bytes() == bytes[end..]
    }

    /// The stream of a record that is whole.
    pub(in crate::log) fn stream(&self, bytes: &[u8]) -> Option<StreamEnd> {
        (self.stream_len() > 0)
            .then(|| StreamEnd { id: take(bytes, RECORD), last: u64::from_be_bytes(take(bytes, RECORD + 16)) })
    }

    /// Where the body stands in the record.
    pub(in crate::log) fn body_range(&self) -> std::ops::Range<usize> {
        let start = RECORD + self.stream_len();
        start..start + self.body as usize
    }
}

impl Place {
    fn checksum(&self, fields: &[u8]) -> u32 {
        crc(&[fields, &self.file, &self.epoch.to_be_bytes(), &self.offset.to_be_bytes()])
    }
}

/// Appends a record to `into`, as it stands at this place. The body is at most [`MAX_BODY`] long
/// and the length in its header.
pub(in crate::log) fn encode(
    into: &mut Vec<u8>,
    header: &RecordHeader,
    place: &Place,
    stream: Option<StreamEnd>,
    body: &[u8],
) {
    into.extend_from_slice(&header.encode(place));
    let start = into.len();
    if let Some(stream) = stream {
        into.extend_from_slice(&stream.id);
        into.extend_from_slice(&stream.last.to_be_bytes());
    }
    into.extend_from_slice(body);
    let checksum = crc(&[&into[start..]]);
    into.extend_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::{super::hex, *};

    const PLACE: Place = Place { file: *b"0123456789abcdef", epoch: 3, offset: 8192 };

    fn record(place: &Place, first: u64, messages: u32, stream: Option<StreamEnd>, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        let header = RecordHeader::new(first, messages, 1_700_000_000_001, 1, stream.is_some(), length);
        let mut bytes = Vec::new();
        encode(&mut bytes, &header, place, stream, body);
        assert_eq!(header.total(), bytes.len() as u64);
        bytes
    }

    #[test]
    fn a_record_is_a_header_a_body_and_two_checksums() {
        let bytes = record(&PLACE, 500, 2, None, b"hello");
        let expected =
            hex("d81fa30c 00000005 00000000000001f4 00000002 0000018bcfe56801 0001 0000 a9e8d0b4 68656c6c6f 3610a686");
        assert_eq!(bytes, expected);
        let header = RecordHeader::parse(&bytes, &PLACE).unwrap();
        assert_eq!((header.first, header.last(), header.messages, header.kind), (500, 501, 2, 1));
        assert!(header.is_whole(&bytes) && header.stream(&bytes).is_none());
        assert_eq!(&bytes[header.body_range()], b"hello");
    }

    #[test]
    fn the_stream_of_a_record_stands_before_its_body() {
        let place = Place { offset: 8237, ..PLACE };
        let stream = StreamEnd { id: *b"stream-id-16-byt", last: 77 };
        let bytes = record(&place, 502, 1, Some(stream), b"hi");
        let expected = hex("d81fa30c 00000002 00000000000001f6 00000001 0000018bcfe56801 0001 0001 6b9b05fc \
             73747265616d2d69642d31362d627974 000000000000004d 6869 120418d6");
        assert_eq!(bytes, expected);
        let header = RecordHeader::parse(&bytes, &place).unwrap();
        assert!(header.is_whole(&bytes));
        assert_eq!(header.stream(&bytes), Some(stream));
        assert_eq!(&bytes[header.body_range()], b"hi");
    }

    #[test]
    fn a_record_fits_its_own_place_alone() {
        let bytes = record(&PLACE, 500, 2, None, b"hello");
        for other in [
            Place { offset: 8193, ..PLACE },
            Place { epoch: 4, ..PLACE },
            Place { file: *b"0123456789abcdeg", ..PLACE },
        ] {
            assert_eq!(RecordHeader::parse(&bytes, &other), None, "{other:?}");
        }
    }

    #[test]
    fn each_flipped_bit_and_each_cut_of_a_record_is_noticed() {
        let stream = StreamEnd { id: [7; 16], last: 77 };
        let bytes = record(&PLACE, 500, 2, Some(stream), b"hello");
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let header = RecordHeader::parse(&flipped, &PLACE);
                assert_eq!(header.is_some(), at >= RECORD, "bit {bit} of byte {at}");
                assert!(!header.is_some_and(|header| header.is_whole(&flipped)), "bit {bit} of byte {at}");
            }
            let header = RecordHeader::parse(&bytes[..at], &PLACE);
            assert!(!header.is_some_and(|header| header.is_whole(&bytes[..at])), "{at} bytes");
        }
    }

    #[test]
    fn a_record_without_messages_or_with_numbers_that_no_log_reaches_is_none() {
        for (first, messages, body) in [(0, 1, 0), (LIMIT, 1, 0), (1, 0, 0), (1, 1, u32::MAX)] {
            let header = RecordHeader::new(first, messages, 0, 0, false, body);
            assert_eq!(RecordHeader::parse(&header.encode(&PLACE), &PLACE), None, "{header:?}");
        }
        let header = RecordHeader::new(LIMIT - 1, u32::MAX, 0, 0, false, 0);
        assert_eq!(RecordHeader::parse(&header.encode(&PLACE), &PLACE), Some(header));
    }
}
