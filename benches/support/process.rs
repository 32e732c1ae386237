//! CPU time and resident memory of a server's process, from `/proc`.

use std::{
    io,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use procfs::{
    ProcResult,
    process::{self, Status},
};

/// A process that is measured. Its files in `/proc` are opened once, so that they are never those
/// of another process.
pub(crate) struct Process(process::Process);

impl Process {
    pub(crate) fn of(child: &Child) -> io::Result<Self> {
        let pid = child.id().try_into().map_err(io::Error::other)?;
        process::Process::new(pid).map(Self).map_err(io::Error::other)
    }

    /// The processor time that all its threads have used, in nanoseconds.
    pub(crate) fn cpu(&self) -> io::Result<u64> {
        let of_all = |process: &process::Process| -> ProcResult<u64> {
            process.tasks()?.map(|task| Ok(task?.schedstat()?.sum_exec_runtime)).sum()
        };
        of_all(&self.0).map_err(io::Error::other)
    }

    /// How much more that is than before; an error when the process or one of its threads has
    /// ended.
    pub(crate) fn cpu_since(&self, before: u64) -> io::Result<u64> {
        self.memory()?;
        self.cpu()?.checked_sub(before).ok_or_else(|| io::Error::other("a thread of the broker has ended"))
    }

    /// Resident memory in KiB.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        // A process that has ended, and that nobody has asked for its exit code, has no memory.
        self.status()?.vmrss.ok_or_else(|| io::Error::other("the broker has ended"))
    }

    pub(crate) fn status(&self) -> io::Result<Status> {
        self.0.status().map_err(io::Error::other)
    }

    /// Waits until the process uses less than 0.5 ms of processor time in 100 ms, at most
    /// `patience`.
    pub(crate) fn settle(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let before = self.cpu()?;
            thread::sleep(Duration::from_millis(100));
            if self.cpu_since(before)? < 500_000 || Instant::now() > deadline {
                return Ok(());
            }
        }
    }
}
