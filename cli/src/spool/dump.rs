//! `hpfeeds spool dump`: the messages of a spool as NDJSON.

use std::{
    io::{self, Write as _},
    path::Path,
};

use bytes::Bytes;
use hpfeeds::{
    Channel, Ident,
    log::{FRAMES, Finding, Record},
};
use jiff::Timestamp;

use super::{open, survey};
use crate::{
    exit::{DAMAGED, Failure, count, messages},
    record::ndjson,
};

pub(super) fn run(dir: &Path, all: bool) -> Result<(), Failure> {
    let snapshot = open(dir)?;
    let mut to = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let (mut lost, mut places) = (0, 0_u64);
    for finding in snapshot.findings() {
        let printed = match finding {
            Finding::Record(record) if record.kind == FRAMES => print(&mut to, &record, all),
            Finding::Lost(gap) => {
                lost += gap.messages();
                Ok(())
            }
            Finding::Damage(damage) if !damage.is_tail => {
                places += 1;
                Ok(())
            }
            _ => Ok(()),
        };
        if let Some(end) = end_of(printed) {
            return end;
        }
    }
    if let Some(end) = end_of(to.flush()) {
        return end;
    }
    if lost + places == 0 {
        return Ok(());
    }
    let (lost, places) = (messages(lost), count(places, "damaged place"));
    Err(Failure::with_code(DAMAGED, format!("{}: {lost} missing, {places}", dir.display())))
}

/// How printing ends, if it does.
fn end_of(printed: io::Result<()>) -> Option<Result<(), Failure>> {
    match printed {
        Ok(()) => None,
        // The reader wants no more.
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Some(Ok(())),
        Err(cause) => Some(Err(Failure::new(format!("cannot write to stdout: {cause}")))),
    }
}

fn print(to: &mut impl io::Write, record: &Record, all: bool) -> io::Result<()> {
    let time = Timestamp::from_millisecond(record.unix_ms).unwrap_or_default();
    let skip = if all { 0 } else { record.skip as usize };
    for (ident, channel, payload) in survey::messages(record).skip(skip) {
        // The names of a frame are never empty or too long.
        let (Ok(ident), Ok(channel)) = (Ident::new(ident), Channel::new(channel)) else { continue };
        ndjson(&mut *to, &(ident, channel, Bytes::copy_from_slice(payload)), time)?;
    }
    Ok(())
}
