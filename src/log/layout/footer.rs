//! The footer of a sealed segment: its header once more, what it holds, and an index by the MiB, so
//! that opening and seeking read no records. A footer that is missing or bad is built again by a
//! scan.
//!
//! `header 64 B | u64 last number | u64 messages | u64 offset of the last record | i64 newest unix
//! ms | u32 entries | each: u64 offset, u64 first number, u64 messages of other channels, u16
//! channels, each: u8 length, name, u64 messages | u32 CRC`, and behind it, as the last 16 bytes of
//! the file, `u32 length of the footer | magic "hpfd-end" | u32 CRC`

use super::{
    Found, LIMIT, crc,
    header::{HEADER, Header},
    take,
};

/// The last bytes of a sealed segment.
pub(in crate::log) const TAIL: usize = 16;
/// The longest footer: what a segment of some GiB needs with all its channels.
pub(in crate::log) const MAX_FOOTER: usize = 1 << 28;
/// Channels that are counted by name in one entry of the index.
pub(in crate::log) const MAX_CHANNELS: usize = 256;

const MAGIC: &[u8; 8] = b"hpfd-end";
const FIXED: usize = HEADER + 36;

/// The index of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::log) struct Footer {
    pub(in crate::log) header: Header,
    /// The highest number that was given to a message of the segment, one below the first when
    /// there is none.
    pub(in crate::log) last: u64,
    /// Messages that can be read.
    pub(in crate::log) messages: u64,
    /// Where the last record that can be read stands; 0 without one.
    pub(in crate::log) last_record: u64,
    /// The newest time of a record, `i64::MIN` without one.
    pub(in crate::log) newest: i64,
    pub(in crate::log) index: Vec<IndexEntry>,
}

/// The first record of a MiB of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::log) struct IndexEntry {
    pub(in crate::log) offset: u64,
    pub(in crate::log) first: u64,
    /// Messages by channel from here to the next entry.
    pub(in crate::log) channels: Vec<(Box<str>, u64)>,
    /// Messages of channels beyond, and of records without channels.
    pub(in crate::log) others: u64,
}

impl IndexEntry {
    /// Counts messages of a channel, by name while there is room.
    pub(in crate::log) fn count(&mut self, channel: &str, messages: u64) {
        if let Some((_, count)) = self.channels.iter_mut().find(|(name, _)| **name == *channel) {
            *count += messages;
        } else if self.channels.len() < MAX_CHANNELS && channel.len() <= 255 {
            self.channels.push((channel.into(), messages));
        } else {
            self.others += messages;
        }
    }
}

impl Footer {
    /// The footer and the tail.
    pub(in crate::log) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.encode().to_vec();
        for value in [self.last, self.messages, self.last_record] {
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        bytes.extend_from_slice(&self.newest.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(self.index.len()).unwrap_or(u32::MAX).to_be_bytes());
        for entry in &self.index {
            for value in [entry.offset, entry.first, entry.others] {
                bytes.extend_from_slice(&value.to_be_bytes());
            }
            // At most MAX_CHANNELS of at most 255 bytes: `count` sees to it.
            bytes.extend_from_slice(&u16::try_from(entry.channels.len()).unwrap_or(u16::MAX).to_be_bytes());
            for (name, messages) in &entry.channels {
                bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
                bytes.extend_from_slice(name.as_bytes());
                bytes.extend_from_slice(&messages.to_be_bytes());
            }
        }
        let checksum = crc(&[&bytes]);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        let mut tail = [0; TAIL];
        tail[..4].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        tail[4..12].copy_from_slice(MAGIC);
        let checksum = crc(&[&tail[..12]]);
        tail[12..].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend_from_slice(&tail);
        bytes
    }

    /// The length of the footer before a tail.
    pub(in crate::log) fn length(tail: &[u8; TAIL]) -> Option<usize> {
        let good = tail[4..12] == *MAGIC && crc(&[&tail[..12]]).to_be_bytes() == tail[12..];
        let length = u32::from_be_bytes(take(tail, 0)) as usize;
        (good && (FIXED + 4..=MAX_FOOTER).contains(&length)).then_some(length)
    }

    /// Reads a footer, without its tail.
    pub(in crate::log) fn parse(bytes: &[u8]) -> Found<Self> {
        let header = match Header::parse(bytes) {
            Found::Good(header) => header,
            Found::Newer(version) => return Found::Newer(version),
            Found::Bad => return Found::Bad,
        };
        Self::parse_rest(bytes, header).map_or(Found::Bad, Found::Good)
    }

    fn parse_rest(bytes: &[u8], header: Header) -> Option<Self> {
        let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc(&[content]).to_be_bytes() != checksum {
            return None;
        }
        let mut rest = Rest(content.get(HEADER..)?);
        let mut footer = Self {
            header,
            last: rest.u64()?,
            messages: rest.u64()?,
            last_record: rest.u64()?,
            newest: i64::from_be_bytes(rest.take()?),
            index: Vec::new(),
        };
        let entries = u32::from_be_bytes(rest.take()?);
        for _ in 0..entries {
            let mut entry =
                IndexEntry { offset: rest.u64()?, first: rest.u64()?, others: rest.u64()?, channels: vec![] };
            for _ in 0..u16::from_be_bytes(rest.take()?) {
                let [length] = rest.take()?;
                let (name, after) = rest.0.split_at_checked(usize::from(length))?;
                rest.0 = after;
                entry.channels.push((std::str::from_utf8(name).ok()?.into(), rest.u64()?));
            }
            footer.index.push(entry);
        }
        let sorted = footer.index.is_sorted_by(|one, next| one.offset < next.offset && one.first < next.first);
        let legal = rest.0.is_empty() && footer.last < LIMIT && footer.last + 1 >= header.first;
        (sorted && legal).then_some(footer)
    }
}

/// The bytes that are not parsed yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::{super::hex, *};

    fn footer() -> Footer {
        let mut entry = IndexEntry { offset: 8192, first: 500, others: 1, ..IndexEntry::default() };
        entry.count("a", 1);
        entry.count("a", 1);
        Footer {
            header: Header { file: *b"0123456789abcdef", epoch: 3, first: 500, unix_ms: 1_700_000_000_000 },
            last: 502,
            messages: 3,
            last_record: 8237,
            newest: 1_700_000_000_001,
            index: vec![entry],
        }
    }

    #[test]
    fn a_footer_holds_header_totals_and_index_and_ends_in_its_length() {
        let bytes = footer().encode();
        let mut expected = footer().header.encode().to_vec();
        expected.extend(hex("00000000000001f6 0000000000000003 000000000000202d 0000018bcfe56801 00000001 \
             0000000000002000 00000000000001f4 0000000000000001 0001 01 61 0000000000000002 b18a1511 \
             0000008c 68706664 2d656e64 0b28fe9b"));
        assert_eq!(bytes, expected);
        let (content, tail) = bytes.split_last_chunk().unwrap();
        assert_eq!(Footer::length(tail), Some(140));
        assert_eq!(Footer::parse(content), Found::Good(footer()));
    }

    #[test]
    fn each_flip_and_cut_of_a_footer_makes_it_bad() {
        let bytes = footer().encode();
        let (content, tail) = bytes.split_last_chunk::<TAIL>().unwrap();
        for at in 0..content.len() {
            let mut flipped = content.to_vec();
            flipped[at] ^= 1;
            assert_eq!(Footer::parse(&flipped), Found::Bad, "byte {at}");
            assert_eq!(Footer::parse(&content[..at]), Found::Bad, "{at} bytes");
        }
        for at in 0..TAIL {
            let mut flipped = *tail;
            flipped[at] ^= 1;
            assert_eq!(Footer::length(&flipped), None, "byte {at}");
        }
    }

    #[test]
    fn a_footer_that_claims_what_it_has_not_is_bad_and_allocates_nothing() {
        let mut claims = footer().encode();
        claims.truncate(claims.len() - TAIL - 4);
        claims[HEADER + 32..HEADER + 36].copy_from_slice(&u32::MAX.to_be_bytes());
        let checksum = crc(&[&claims]);
        claims.extend_from_slice(&checksum.to_be_bytes());
        assert_eq!(Footer::parse(&claims), Found::Bad);
        for last in [498, LIMIT] {
            let claims = Footer { last, ..footer() }.encode();
            assert_eq!(Footer::parse(&claims[..claims.len() - TAIL]), Found::Bad, "{last}");
        }
    }

    #[test]
    fn channels_beyond_256_are_counted_together() {
        let mut entry = IndexEntry::default();
        for channel in 0..300 {
            entry.count(&channel.to_string(), 2);
        }
        entry.count("0", 5);
        entry.count(&"x".repeat(256), 1);
        assert_eq!((entry.channels.len(), entry.others), (256, 2 * 44 + 1));
        assert_eq!(entry.channels[0], ("0".into(), 7));
    }
}
