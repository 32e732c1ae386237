//! The header of a segment: 64 bytes that bind its records to it, at offset 0, at 4096 and in the
//! footer.
//!
//! `magic "hpfd-seg" | u16 version | u16 length | u32 zero | 16 B file id | u64 epoch | u64 first
//! number | i64 unix ms | u32 zero | u32 CRC`

use super::{Found, LIMIT, VERSION, crc, take, versioned};

/// The length of the header in bytes.
pub(in crate::log) const HEADER: usize = 64;
/// Where the second copy stands: another block, which one bad sector does not reach.
pub(in crate::log) const SECOND: u64 = 4096;
/// Where the records begin.
pub(in crate::log) const DATA: u64 = 8192;

const MAGIC: [u8; 8] = *b"hpfd-seg";

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::log) struct Header {
    /// Random, so that records of another file, or of a copy in a payload, do not fit.
    pub(in crate::log) file: [u8; 16],
    pub(in crate::log) epoch: u64,
    /// The number of its first message.
    pub(in crate::log) first: u64,
    /// When it was made, in milliseconds since 1970.
    pub(in crate::log) unix_ms: i64,
}

impl Header {
    pub(in crate::log) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_be_bytes());
        bytes[10..12].copy_from_slice(&64_u16.to_be_bytes());
        bytes[16..32].copy_from_slice(&self.file);
        bytes[32..40].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.first.to_be_bytes());
        bytes[48..56].copy_from_slice(&self.unix_ms.to_be_bytes());
        let checksum = crc(&[&bytes[..60]]);
        bytes[60..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// Reads a header at the front of `bytes`.
    pub(in crate::log) fn parse(bytes: &[u8]) -> Found<Self> {
        let content = match versioned(bytes, MAGIC, HEADER) {
            Found::Good(content) => content,
            Found::Newer(version) => return Found::Newer(version),
            Found::Bad => return Found::Bad,
        };
        let header = Self {
            file: take(content, 16),
            epoch: u64::from_be_bytes(take(content, 32)),
            first: u64::from_be_bytes(take(content, 40)),
            unix_ms: i64::from_be_bytes(take(content, 48)),
        };
        let legal = (1..LIMIT).contains(&header.epoch) && (1..LIMIT).contains(&header.first);
        if legal { Found::Good(header) } else { Found::Bad }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::hex, *};

    const HEADER_1: Header = Header { file: *b"0123456789abcdef", epoch: 3, first: 500, unix_ms: 1_700_000_000_000 };

    #[test]
    fn a_header_is_64_bytes_with_a_checksum() {
        let expected =
            hex("68706664 2d736567 0001 0040 00000000 30313233 34353637 38396162 63646566 0000000000000003 \
             00000000000001f4 0000018bcfe56800 00000000 9ce3a2f9");
        let encoded = HEADER_1.encode();
        assert_eq!(encoded[..], expected);
        assert_eq!(Header::parse(&encoded), Found::Good(HEADER_1));
        for at in 0..64 {
            for bit in 0..8 {
                let mut flipped = encoded;
                flipped[at] ^= 1 << bit;
                assert_eq!(Header::parse(&flipped), Found::Bad, "bit {bit} of byte {at}");
            }
        }
        for length in 0..64 {
            assert_eq!(Header::parse(&encoded[..length]), Found::Bad, "{length} bytes");
        }
    }

    #[test]
    fn a_header_of_a_newer_version_is_told_from_a_damaged_one() {
        let mut bytes = vec![0; 100];
        bytes[..64].copy_from_slice(&HEADER_1.encode());
        bytes[8..12].copy_from_slice(&[0, 2, 0, 80]);
        assert_eq!(Header::parse(&bytes), Found::Bad);
        let checksum = crc(&[&bytes[..76]]);
        bytes[76..80].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(Header::parse(&bytes), Found::Newer(2));
    }

    #[test]
    fn epochs_and_numbers_that_no_log_reaches_are_damage() {
        for (epoch, first) in [(0, 1), (1, 0), (LIMIT, 1), (1, LIMIT), (u64::MAX, u64::MAX)] {
            assert_eq!(Header::parse(&Header { epoch, first, ..HEADER_1 }.encode()), Found::Bad, "{epoch} {first}");
        }
    }
}
