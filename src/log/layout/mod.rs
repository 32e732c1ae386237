//! The layout of a log's bytes on disk: headers, records, footers and cursor slots, as pure
//! functions of bytes. All numbers are big endian.

pub(super) mod footer;
pub(super) mod header;
pub(super) mod name;
pub(super) mod record;
pub(super) mod slot;

/// The version that this program writes, and the newest that it reads.
pub(super) const VERSION: u16 = 1;

/// Epochs and numbers are below this, so that no sum of them with a count overflows.
pub(super) const LIMIT: u64 = 1 << 62;

/// The CRC-32 (IEEE) of some pieces one after the other.
pub(super) fn crc(pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize()
}

/// Takes `N` bytes at `at`. The caller has checked that they are there.
pub(super) fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&bytes[at..at + N]);
    taken
}

/// The content of a place where something with a magic and a version is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// As this program writes it.
    Good(T),
    /// A newer program has written it: nothing may be touched.
    Newer(u16),
    /// Nothing that can be read.
    Bad,
}

/// Checks `magic 8 B | u16 version | u16 length, with the checksum | … | u32 CRC`, which every
/// version begins and ends with, so that an older program knows a newer one's from a damaged one.
pub(super) fn versioned(bytes: &[u8], magic: [u8; 8], length: usize) -> Found<&[u8]> {
    if bytes.len() < 12 || bytes[..8] != magic {
        return Found::Bad;
    }
    let version = u16::from_be_bytes(take(bytes, 8));
    let claimed = usize::from(u16::from_be_bytes(take(bytes, 10)));
    if claimed < 16 || claimed > bytes.len() {
        return Found::Bad;
    }
    let (content, checksum) = bytes[..claimed].split_at(claimed - 4);
    if crc(&[content]).to_be_bytes() != checksum {
        return Found::Bad;
    }
    match version {
        0 => Found::Bad,
        VERSION if claimed == length => Found::Good(content),
        VERSION => Found::Bad,
        newer => Found::Newer(newer),
    }
}

/// Bytes out of hexadecimal digits and white space.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
