//! The recovery of one segment at an opening: its header from three places, its footer, or a scan
//! that makes a new one.

use std::{io, sync::Arc};

use super::{
    disk::File,
    layout::{
        Found,
        footer::{Footer, TAIL},
        header::{DATA, Header, SECOND},
        record::{Place, RECORD, RecordHeader},
    },
    segment::{Segment, Sums, segment},
    walker::{Step, Walker},
    writer::FRAMES,
};
use crate::wire::{FrameRef, Frames, Limits};

/// The header of a segment: the first copy that is good.
pub(super) fn header(file: &dyn File, length: u64) -> Found<Header> {
    for offset in [0, SECOND] {
        // Room for a longer header of a newer version.
        let mut bytes = [0; 512];
        let read = file.read_at(&mut bytes, offset).unwrap_or(0);
        match Header::parse(&bytes[..read]) {
            Found::Bad => {}
            found => return found,
        }
    }
    match read_footer(file, length) {
        Some((Found::Good(footer), _)) => Found::Good(footer.header),
        Some((Found::Newer(version), _)) => Found::Newer(version),
        Some((Found::Bad, _)) | None => Found::Bad,
    }
}

/// The footer at the end of a file, and where it begins.
fn read_footer(file: &dyn File, length: u64) -> Option<(Found<Footer>, u64)> {
    let mut tail = [0; TAIL];
    let end = length.checked_sub(TAIL as u64)?;
    if file.read_at(&mut tail, end).ok()? < TAIL {
        return None;
    }
    let footer = Footer::length(&tail)?;
    let start = end.checked_sub(footer as u64).filter(|&start| start >= DATA)?;
    let mut bytes = vec![0; footer];
    let read = file.read_at(&mut bytes, start).ok()?;
    Some((Footer::parse(&bytes[..read]), start))
}

/// The footer of a segment, if it agrees with the segment's header and last record.
pub(super) fn footer(file: &dyn File, header: &Header, length: u64) -> Option<(Footer, u64)> {
    let (Found::Good(footer), start) = read_footer(file, length)? else { return None };
    let inside = footer.index.iter().all(|entry| (DATA..start).contains(&entry.offset) && entry.first <= footer.last);
    if footer.header != *header || !inside {
        return None;
    }
    if footer.last_record == 0 {
        return (footer.messages == 0 && footer.index.is_empty()).then_some((footer, start));
    }
    let place = Place { file: header.file, epoch: header.epoch, offset: footer.last_record };
    let mut bytes = [0; RECORD];
    file.read_at(&mut bytes, footer.last_record).ok()?;
    let last = RecordHeader::parse(&bytes, &place)?;
    let end = footer.last_record.checked_add(last.total())?;
    (last.last() <= footer.last && end <= start).then_some((footer, start))
}

/// A segment that was opened.
pub(super) struct Recovered {
    pub(super) segment: Segment,
    /// It had no footer, and was scanned.
    pub(super) was_open: bool,
    /// Its data could not be made durable.
    pub(super) is_unsynced: bool,
}

/// Opens a segment. One without a footer is scanned, made durable (a process that was killed may have
/// written it and not synced it), and sealed: a torn tail is never appended to.
pub(super) fn recover(name: String, file: &Arc<dyn File>, header: Header, length: u64) -> Recovered {
    if let Some((footer, start)) = footer(&**file, &header, length) {
        return Recovered { segment: segment(name, &footer, start, length), was_open: false, is_unsynced: false };
    }
    let footer = scan(file, header, length);
    let is_unsynced = file.sync().is_err();
    let mut size = length;
    if !is_unsynced {
        // Without one it is scanned again.
        let bytes = footer.encode();
        if file.write_at(&bytes, length.max(DATA)).is_ok() {
            size = length.max(DATA) + bytes.len() as u64;
        }
        let _ = file.trim();
    }
    Recovered { segment: segment(name, &footer, length.max(DATA), size), was_open: true, is_unsynced }
}

/// The index of a segment, by reading all of it.
fn scan(file: &Arc<dyn File>, header: Header, length: u64) -> Footer {
    let mut walker = Walker::new(Arc::clone(file), header, DATA, header.first, length);
    let mut sums = Sums::new(header.first);
    loop {
        match walker.step() {
            Ok(Step::Record { offset, header, bytes }) => {
                let channels = if header.kind == FRAMES { channels(&bytes[header.body_range()]) } else { Vec::new() };
                sums.add(offset, &header, channels);
            }
            Ok(Step::Damaged { header, .. }) => sums.add_damaged(&header),
            Ok(Step::Skipped { .. }) => {}
            Ok(Step::End) => return sums.into_footer(header),
            Err(_) => walker.pass(),
        }
    }
}

/// The channels of PUBLISH frames, with neighbours of one channel together.
fn channels(frames: &[u8]) -> Vec<(&str, u32)> {
    let mut channels: Vec<(&str, u32)> = Vec::new();
    for frame in Frames::new(frames, Limits::new(u32::MAX)) {
        let Ok(FrameRef::Publish { channel, .. }) = frame else { break };
        match channels.last_mut() {
            Some((last, count)) if *last == channel => *count += 1,
            _ => channels.push((channel, 1)),
        }
    }
    channels
}

/// Reads as [`File::read_at`], and is at the end where the disk cannot read.
pub(super) fn is_empty(file: &dyn File, length: u64) -> io::Result<bool> {
    let mut at = 0;
    let mut block = [0; 4096];
    while at < length {
        let read = file.read_at(&mut block, at)?;
        if block[..read].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        if read == 0 {
            break;
        }
        at += read as u64;
    }
    Ok(true)
}
