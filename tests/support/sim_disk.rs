//! The simulated disk: a folder in memory that knows what is synced and what is not, and can fail,
//! fill up, stall and crash. Everything that it does follows from its seed.
//!
//! A crash keeps what was synced, and of everything else any part: each 512 bytes of each write on
//! their own, old, new, zeros or garbage (what was synced is never garbage: a sector is written
//! whole), each name that was made, changed or removed since the folder was synced, or not.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use hpfeeds::log::{Disk, Entry, File, Guard, LockError, Space};

const SECTOR: u64 = 512;

/// A handle of the disk; clones are the same disk.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

/// The faults of the disk, each for as long as it is set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// So many operations that change something are done, and the next ones are errors: the power
    /// is gone.
    pub(crate) halt_after: Option<u64>,
    /// The sync of a file with this number, counted from 1, fails, and what it should have written
    /// is lost for good.
    pub(crate) fail_syncs: Vec<u64>,
    /// The sync of the folder with this number fails.
    pub(crate) fail_dir_syncs: Vec<u64>,
    /// The write with this number fails with EIO.
    pub(crate) fail_writes: Vec<u64>,
    /// The bytes that all files may have together.
    pub(crate) capacity: Option<u64>,
    /// Blocks of 4 KiB of any file that cannot be read.
    pub(crate) unreadable: Vec<u64>,
    /// A sync of a file is answered before anything is durable.
    pub(crate) lie_about_data: bool,
    /// As that, of the file `cursor` alone.
    pub(crate) lie_about_cursor: bool,
    /// As that, of the folder.
    pub(crate) lie_about_names: bool,
}

#[derive(Debug)]
struct State {
    random: u64,
    faults: Faults,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    /// The names as they were when the folder was synced, and what has happened to them since.
    synced_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    is_locked: bool,
    operations: u64,
    writes: u64,
    syncs: u64,
    dir_syncs: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Create(String, usize),
    Rename(String, String, usize),
    Unlink(String, usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    current: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<(u64, Vec<u8>)>,
    /// Writes that a sync has failed for: the page cache has them, and no later sync writes them.
    dropped: Vec<(u64, Vec<u8>)>,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, [])
    }

    /// A disk with these files, all durable.
    pub(crate) fn with(seed: u64, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let mut state = State {
            random: seed,
            faults: Faults::default(),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            changes: Vec::new(),
            is_locked: false,
            operations: 0,
            writes: 0,
            syncs: 0,
            dir_syncs: 0,
        };
        for (name, bytes) in files {
            state.names.insert(name, state.inodes.len());
            state.inodes.push(Inode { current: bytes.clone(), synced: bytes, ..Inode::default() });
        }
        state.synced_names = state.names.clone();
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Changes what it does wrong.
    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
    }

    /// The operations that have changed something, or would have.
    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Syncs of files.
    pub(crate) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// All files as programs see them.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, &inode)| (name.clone(), state.inodes[inode].current.clone())).collect()
    }

    /// The image that a killed process leaves: everything that was written.
    pub(crate) fn kill(&self) -> Self {
        let mut state = self.state();
        let seed = state.next();
        let image = Self::new(seed);
        let mut new = image.state();
        (new.inodes, new.names) = (state.inodes.clone(), state.names.clone());
        (new.synced_names, new.changes) = (state.synced_names.clone(), state.changes.clone());
        drop(new);
        image
    }

    /// The image that a power cut leaves.
    pub(crate) fn crash(&self, seed: u64) -> Self {
        let state = self.state();
        let mut random = Random(seed);
        let mut names = state.synced_names.clone();
        // Journals keep the order of names, mostly.
        let in_order = random.below(2) == 0;
        let kept = random.below(state.changes.len() as u64 + 1);
        for (at, change) in state.changes.iter().enumerate() {
            if if in_order { (at as u64) < kept } else { random.below(2) == 0 } {
                apply(&mut names, change);
            }
        }
        let crashed = |(name, inode): (String, usize)| (name, state.inodes[inode].crashed(&mut random));
        let files: Vec<_> = names.into_iter().map(crashed).collect();
        Self::with(random.next(), files)
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Create(name, inode) => {
            names.entry(name.clone()).or_insert(*inode);
        }
        // About this file: when an earlier change was undone, the name may be another one's.
        Change::Rename(from, to, inode) => {
            if names.get(from) == Some(inode) {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
        Change::Unlink(name, inode) => {
            if names.get(name) == Some(inode) {
                names.remove(name);
            }
        }
    }
}

impl Inode {
    fn write(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
        let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset).unwrap() + new.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(new);
    }

    fn crashed(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let synced = bytes.len() as u64;
        // All, none, or any: where everything is a coin, a long run of luck is rare.
        let mood = random.below(4);
        for (offset, write) in self.dropped.iter().chain(&self.pending) {
            let mut at = 0;
            while at < write.len() as u64 {
                let from = offset + at;
                let length = (SECTOR - from % SECTOR).min(write.len() as u64 - at);
                let range = usize::try_from(at).unwrap()..usize::try_from(at + length).unwrap();
                let new = &write[range];
                let is_fresh = from / SECTOR * SECTOR >= synced;
                match (mood, random.below(8)) {
                    (0, _) | (2 | 3, 0..4) => Self::write(&mut bytes, from, new),
                    (2, 4) if is_fresh => Self::write(&mut bytes, from, &vec![0; new.len()]),
                    (2, 5) if is_fresh => {
                        let garbage: Vec<u8> = new.iter().map(|_| random.next().to_be_bytes()[0]).collect();
                        Self::write(&mut bytes, from, &garbage);
                    }
                    _ => {}
                }
                at += length;
            }
        }
        bytes
    }
}

impl State {
    fn next(&mut self) -> u64 {
        let mut random = Random(self.random);
        let next = random.next();
        self.random = random.0;
        next
    }

    /// Counts an operation that changes something.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.faults.halt_after {
            Some(last) if self.operations > last => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// The generator `SplitMix64`.
#[derive(Debug)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let state = self.state();
        let length = |inode: usize| state.inodes[inode].current.len() as u64;
        Ok(state.names.iter().map(|(name, &inode)| Entry { name: name.clone(), length: length(inode) }).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.operate()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.to_owned(), inode);
        state.changes.push(Change::Create(name.to_owned(), inode));
        Ok(Box::new(SimFile { disk: self.clone(), inode, is_cursor: name.starts_with("cursor") }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let inode = self.state().inode(name)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode, is_cursor: name.starts_with("cursor") }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let inode = state.inode(from)?;
        let change = Change::Rename(from.to_owned(), to.to_owned(), inode);
        apply(&mut state.names, &change);
        state.changes.push(change);
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let inode = state.inode(name)?;
        let change = Change::Unlink(name.to_owned(), inode);
        apply(&mut state.names, &change);
        state.changes.push(change);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.dir_syncs += 1;
        if state.faults.fail_dir_syncs.contains(&state.dir_syncs) {
            return Err(io::Error::other("the folder's sync has failed"));
        }
        if !state.faults.lie_about_names {
            state.synced_names = state.names.clone();
            state.changes.clear();
        }
        Ok(())
    }

    fn lock(&self) -> Result<Guard, LockError> {
        let mut state = self.state();
        if state.is_locked {
            return Err(LockError::Used("the simulated disk is used by process 1".to_owned()));
        }
        state.is_locked = true;
        Ok(Box::new(Locked(self.clone())))
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state();
        let used: u64 = state.names.values().map(|&inode| state.inodes[inode].current.len() as u64).sum();
        let total = state.faults.capacity.unwrap_or(1 << 40);
        Ok(Space { total, available: total.saturating_sub(used) })
    }

    fn random(&self) -> u64 {
        self.state().next()
    }
}

struct Locked(SimDisk);

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.state().is_locked = false;
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
    is_cursor: bool,
}

impl File for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        state.writes += 1;
        if state.faults.fail_writes.contains(&state.writes) {
            return Err(io::Error::other("a bad block"));
        }
        let used: u64 = state.names.values().map(|&inode| state.inodes[inode].current.len() as u64).sum();
        let more = (offset + bytes.len() as u64).saturating_sub(state.inodes[self.inode].current.len() as u64);
        let missing = state.faults.capacity.map_or(0, |capacity| (used + more).saturating_sub(capacity)).min(more);
        let fits = bytes.len().saturating_sub(usize::try_from(missing).unwrap());
        let inode = &mut state.inodes[self.inode];
        if fits > 0 {
            Inode::write(&mut inode.current, offset, &bytes[..fits]);
            inode.pending.push((offset, bytes[..fits].to_vec()));
        }
        if missing > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let bytes = &state.inodes[self.inode].current;
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        let length = buffer.len().min(bytes.len() - start);
        let touched = |block: &u64| block * 4096 < offset + length as u64 && offset < (block + 1) * 4096;
        if state.faults.unreadable.iter().any(touched) {
            return Err(io::Error::other("a bad block"));
        }
        buffer[..length].copy_from_slice(&bytes[start..start + length]);
        Ok(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[self.inode].current.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate()?;
        state.syncs += 1;
        let (number, faults) = (state.syncs, state.faults.clone());
        let inode = &mut state.inodes[self.inode];
        if faults.fail_syncs.contains(&number) {
            inode.dropped.append(&mut inode.pending);
            return Err(io::Error::other("a sync has failed"));
        }
        if faults.lie_about_data && !self.is_cursor || faults.lie_about_cursor && self.is_cursor {
            return Ok(());
        }
        for (offset, bytes) in std::mem::take(&mut inode.pending) {
            Inode::write(&mut inode.synced, offset, &bytes);
        }
        Ok(())
    }

    fn reserve(&self, _: u64) -> io::Result<()> {
        self.disk.state().operate()
    }

    fn trim(&self) -> io::Result<()> {
        self.disk.state().operate()
    }
}
