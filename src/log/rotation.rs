//! The beginning and the end of segments: a new one is durable before what is in it counts, a
//! sealed one has a footer.

use std::{io, sync::Arc};

use super::{
    disk::File,
    error::{LogError, is_full},
    layout::{
        header::{DATA, Header, SECOND},
        name::{self, BAD},
        record::RecordHeader,
    },
    segment::{Segment, Sums},
    writer::{Current, Log},
};

impl Log {
    /// Begins a segment whose first message will have this number.
    pub(super) fn begin(&mut self, first: u64, unix_ms: i64) -> Result<(), LogError> {
        let mut file = [0; 16];
        for half in file.chunks_mut(8) {
            half.copy_from_slice(&self.disk.random().to_be_bytes());
        }
        let header = Header { file, epoch: self.epoch, first, unix_ms };
        let name = name::encode(self.epoch, first);
        let (file, is_named) = loop {
            match self.create(&name, &header) {
                Ok(created) => break created,
                Err(error) => {
                    // Its remains have nothing in them; another attempt needs the name.
                    let _ = self.disk.unlink(&name);
                    if !is_full(&error) {
                        self.failures += 1;
                        return Err(if self.failures >= 2 { LogError::Failed } else { LogError::Io(error) });
                    }
                    if !self.drop_for_space() {
                        return Err(LogError::NoSpace);
                    }
                }
            }
        };
        let mut shared = self.shared.lock();
        shared.list.push_back(Segment {
            name,
            header,
            end: DATA,
            size: DATA,
            last: first - 1,
            newest: i64::MIN,
            index: Vec::new(),
        });
        shared.is_open = true;
        drop(shared);
        self.current = Some(Current { file, header, offset: DATA, is_named, sums: Sums::new(first) });
        Ok(())
    }

    /// The file with its headers. The first of an epoch is made durable at once: what is read
    /// before it is durable must not come back with other contents, so the epoch must not come
    /// back.
    fn create(&self, name: &str, header: &Header) -> io::Result<(Arc<dyn File>, bool)> {
        let file: Arc<dyn File> = self.disk.create(name)?.into();
        // Where it cannot be had, writing says so.
        let _ = file.reserve(self.options.segment);
        let bytes = header.encode();
        file.write_at(&bytes, 0)?;
        file.write_at(&bytes, SECOND)?;
        let is_first = self.shared.lock().list.back().is_none_or(|last| last.header.epoch < self.epoch);
        if is_first {
            file.sync()?;
            self.disk.sync_dir()?;
        }
        Ok((file, is_first))
    }

    /// Begins a segment for what is kept, after another one was given up.
    pub(super) fn begin_again(&mut self) -> Result<(), LogError> {
        let Some(first) = RecordHeader::parse_unbound(&self.kept) else { return Ok(()) };
        self.begin(first.first, first.unix_ms)?;
        if let Some(current) = &mut self.current {
            current.sums = Self::rebind(&mut self.kept, &current.header);
        }
        self.written = 0;
        Ok(())
    }

    /// Leaves a segment whose disk has failed. Its durable records stay; the rest is kept in
    /// memory.
    pub(super) fn give_up(&mut self, error: io::Error) -> Result<(), LogError> {
        self.failures += 1;
        self.written = 0;
        let Some(current) = self.current.take() else { return Err(LogError::Io(error)) };
        let mut shared = self.shared.lock();
        shared.is_open = false;
        if let Some(mut segment) = shared.list.pop_back() {
            let durable = shared.durable;
            shared.written = durable;
            segment.end = current.offset;
            segment.last = durable;
            segment.index.retain(|&(offset, _)| offset < current.offset);
            if durable >= segment.header.first {
                shared.list.push_back(segment);
            } else {
                drop(shared);
                // Its name is needed, and says, also when it is bad, that there was this epoch.
                let bad = format!("{}{BAD}", segment.name);
                if self.disk.rename(&segment.name, &bad).is_ok() {
                    self.add_bad(bad, segment.size);
                }
            }
        }
        self.check()
    }

    /// Ends the current segment: everything durable, then the footer. A footer that cannot be
    /// written is built again at the next opening.
    pub(super) fn seal(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let Some(current) = self.current.take() else { return Ok(()) };
        let footer = current.sums.into_footer(current.header).encode();
        let written = current.file.write_at(&footer, current.offset).is_ok();
        let _ = current.file.trim();
        let mut shared = self.shared.lock();
        shared.is_open = false;
        if let Some(segment) = shared.list.back_mut().filter(|_| written) {
            segment.size = segment.end + footer.len() as u64;
        }
        Ok(())
    }
}
