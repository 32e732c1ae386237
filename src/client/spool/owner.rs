//! The owner of a spool: a small file beside the log that names the ident, and the streams that
//! were renamed, with a checksum.
//!
//! ```text
//! hpfeeds-spool 1
//! ident 6d65                             the ident's bytes in hexadecimal digits
//! renamed <32 digits> <32 digits>        a stream, and under which id it goes on; at most 64
//! crc 89abcdef                           CRC-32 of everything before this line
//! ```

use std::{fmt::Write as _, io};

use crate::{log::Disk, wire::extension::StreamId};

/// The name of the file.
const NAME: &str = "spool";
/// The file while it is made anew.
const NEW: &str = "spool.new";
/// The longest file that is read.
const LONGEST: usize = 16 << 10;
/// The streams that can be renamed, newest last.
const RENAMED: usize = 64;

/// The owner of a spool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) ident: String,
    /// Pairs of what stands on disk and what it is called.
    renamed: Vec<(StreamId, StreamId)>,
}

/// The owner that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    None,
    Owner(Owner),
    /// The file is damaged.
    Damaged,
    /// A newer program has written it.
    Newer,
}

impl Owner {
    pub(super) fn new(ident: &str) -> Self {
        Self { ident: ident.to_owned(), renamed: Vec::new() }
    }

    /// The id under which messages of this stream are sent.
    pub(super) fn name_of(&self, stream: StreamId) -> StreamId {
        self.renamed.iter().find(|(from, _)| *from == stream).map_or(stream, |(_, to)| *to)
    }

    /// Notes that a stream goes on under another id, with the same numbers.
    pub(super) fn rename(&mut self, from: StreamId, to: StreamId) {
        for (_, name) in &mut self.renamed {
            if *name == from {
                *name = to;
            }
        }
        if self.renamed.len() == RENAMED {
            self.renamed.remove(0);
        }
        self.renamed.push((from, to));
    }

    /// Forgets names, when nothing of the streams is left.
    pub(super) fn forget_renamed(&mut self) -> bool {
        let had_some = !self.renamed.is_empty();
        self.renamed.clear();
        had_some
    }

    fn encode(&self) -> String {
        let mut text = "hpfeeds-spool 1\nident ".to_owned();
        for byte in self.ident.bytes() {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        for (from, to) in &self.renamed {
            let _ = writeln!(text, "renamed {from} {to}");
        }
        let crc = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "crc {crc:08x}");
        text
    }

    fn parse(bytes: &[u8]) -> Found {
        Self::parsed(bytes).unwrap_or(Found::Damaged)
    }

    fn parsed(bytes: &[u8]) -> Option<Found> {
        let text = std::str::from_utf8(bytes).ok()?;
        let version = text.strip_prefix("hpfeeds-spool ")?.lines().next()?;
        let (body, crc) = text.strip_suffix('\n')?.rsplit_once("\ncrc ")?;
        if crc32fast::hash(&bytes[..=body.len()]) != u32::from_str_radix(crc, 16).ok()? {
            return None;
        }
        if version != "1" {
            return Some(Found::Newer);
        }
        let mut owner = Self::default();
        for line in body.lines().skip(1) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["ident", ident] => owner.ident = String::from_utf8(hex(ident)?).ok()?,
                ["renamed", from, to] if owner.renamed.len() < RENAMED => {
                    owner.renamed.push((stream(from)?, stream(to)?));
                }
                _ => return None,
            }
        }
        (!owner.ident.is_empty()).then_some(Found::Owner(owner))
    }

    pub(super) fn read(disk: &dyn Disk) -> io::Result<Found> {
        let file = match disk.open(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
            file => file?,
        };
        let mut bytes = vec![0; LONGEST];
        let read = file.read_at(&mut bytes, 0)?;
        Ok(Self::parse(&bytes[..read]))
    }

    /// Makes it durable: the old file stays until the new one is.
    pub(super) fn store(&self, disk: &dyn Disk) -> io::Result<()> {
        match disk.unlink(NEW) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create(NEW)?;
        file.write_at(self.encode().as_bytes(), 0)?;
        file.sync()?;
        disk.rename(NEW, NAME)?;
        disk.sync_dir()
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.len() % 2 != 0 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

fn stream(text: &str) -> Option<StreamId> {
    Some(StreamId::new(hex(text)?.try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const STREAMS: [StreamId; 3] = [StreamId::new([1; 16]), StreamId::new([0xab; 16]), StreamId::new([3; 16])];

    #[test]
    fn an_owner_is_read_as_it_was_written() {
        let mut owner = Owner::new("me");
        assert_eq!(owner.encode(), "hpfeeds-spool 1\nident 6d65\ncrc 27f700b5\n");
        owner.rename(STREAMS[0], STREAMS[1]);
        let Found::Owner(read) = Owner::parse(owner.encode().as_bytes()) else { panic!("it is whole") };
        assert_eq!(read, owner);
        owner.ident = "a \n\"\u{e9}".to_owned();
        let Found::Owner(read) = Owner::parse(owner.encode().as_bytes()) else { panic!("it is whole") };
        assert_eq!(read, owner);
    }

    #[test]
    fn each_changed_byte_of_an_owner_is_noticed() {
        let mut owner = Owner::new("sensor-17");
        owner.rename(STREAMS[0], STREAMS[1]);
        let text = owner.encode().into_bytes();
        for at in 0..text.len() {
            for change in [1, 0x20, 0x80] {
                let mut changed = text.clone();
                changed[at] ^= change;
                let found = Owner::parse(&changed);
                // Digits in upper case are the same checksum.
                assert!(found == Found::Damaged || found == Found::Owner(owner.clone()), "{at}: {found:?}");
            }
            assert_eq!(Owner::parse(&text[..at]), Found::Damaged, "cut at {at}");
        }
        let newer = "hpfeeds-spool 2\nwhatever\n";
        let newer = format!("{newer}crc {:08x}\n", crc32fast::hash(newer.as_bytes()));
        assert_eq!(Owner::parse(newer.as_bytes()), Found::Newer);
    }

    #[test]
    fn a_stream_that_is_renamed_twice_has_the_last_name() {
        let mut owner = Owner::new("me");
        owner.rename(STREAMS[0], STREAMS[1]);
        owner.rename(STREAMS[1], STREAMS[2]);
        assert_eq!(STREAMS.map(|stream| owner.name_of(stream)), [STREAMS[2]; 3]);
        assert!(owner.forget_renamed() && !owner.forget_renamed());
        assert_eq!(owner.name_of(STREAMS[0]), STREAMS[0]);
    }
}
