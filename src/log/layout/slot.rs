//! A slot of the cursor file: 64 bytes, of which two stand 4 KiB apart and are written in turn.
//!
//! `magic "hpfd-cur" | u16 version | u16 length | u32 zero | u64 turn | u64 epoch | u64 number |
//! u64 lost | 12 B zero | u32 CRC`

use super::{Found, LIMIT, VERSION, crc, take, versioned};

/// The length of a slot in bytes.
pub(in crate::log) const SLOT: usize = 64;
/// How far the slots are apart.
pub(in crate::log) const APART: u64 = 4096;

const MAGIC: [u8; 8] = *b"hpfd-cur";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::log) struct Slot {
    /// Grows with each write; the higher one of two good slots counts.
    pub(in crate::log) turn: u64,
    pub(in crate::log) epoch: u64,
    pub(in crate::log) number: u64,
    /// Messages that were dropped and not consumed, since the log exists: at most so many.
    pub(in crate::log) lost: u64,
}

impl Slot {
    pub(in crate::log) fn encode(&self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_be_bytes());
        bytes[10..12].copy_from_slice(&64_u16.to_be_bytes());
        for (at, value) in [(16, self.turn), (24, self.epoch), (32, self.number), (40, self.lost)] {
            bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        let checksum = crc(&[&bytes[..60]]);
        bytes[60..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    pub(in crate::log) fn parse(bytes: &[u8]) -> Found<Self> {
        let content = match versioned(bytes, MAGIC, SLOT) {
            Found::Good(content) => content,
            Found::Newer(version) => return Found::Newer(version),
            Found::Bad => return Found::Bad,
        };
        let value = |at| u64::from_be_bytes(take(content, at));
        let slot = Self { turn: value(16), epoch: value(24), number: value(32), lost: value(40) };
        let legal = [slot.turn, slot.epoch, slot.number].into_iter().all(|value| value < LIMIT);
        if legal { Found::Good(slot) } else { Found::Bad }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::hex, *};

    const SLOT_1: Slot = Slot { turn: 9, epoch: 3, number: 501, lost: 7 };

    #[test]
    fn a_slot_is_64_bytes_with_a_checksum() {
        let encoded = SLOT_1.encode();
        let expected = hex(
            "68706664 2d637572 0001 0040 00000000 0000000000000009 0000000000000003 00000000000001f5 0000000000000007 \
             000000000000000000000000 596152f7",
        );
        assert_eq!(encoded[..], expected);
        assert_eq!(Slot::parse(&encoded), Found::Good(SLOT_1));
        for at in 0..SLOT {
            let mut flipped = encoded;
            flipped[at] ^= 0x10;
            assert_eq!(Slot::parse(&flipped), Found::Bad, "byte {at}");
            assert_eq!(Slot::parse(&encoded[..at]), Found::Bad, "{at} bytes");
        }
        let beyond = Slot { number: LIMIT, ..SLOT_1 };
        assert_eq!(Slot::parse(&beyond.encode()), Found::Bad);
    }
}
