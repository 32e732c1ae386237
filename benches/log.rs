//! The cost of the log: appending beside a plain loop that writes the same bytes with the same
//! policy of syncing, reading back, and the time that an opening takes.
//!
//! `cargo bench --features spool --bench log`, on a quiet machine. Arguments: `--rounds N` (default
//! 7), `--dir DIR` (a folder of the disk to measure; default: the current one), `--open MIB` (the
//! log that is opened; default 1024, 0 leaves that out). Rounds are interleaved, and the ratio is the
//! median of those of each round.

/// The log's folder needs Unix.
#[cfg(not(unix))]
fn main() {
    eprintln!("this benchmark needs Unix");
}

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` runs benchmarks too, without it.
    if !args.iter().any(|arg| arg == "--bench") {
        return std::process::ExitCode::SUCCESS;
    }
    match unix::bench(&args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::{
        env,
        error::Error,
        fs::File,
        io::{self, Write as _},
        path::{Path, PathBuf},
        sync::Arc,
        time::Instant,
    };

    use hpfeeds::{
        log::{Append, Disk, Extent, FRAMES, Log, LogOptions, RealDisk, StreamEnd},
        wire::{Channel, Ident, Limits, encode_publish},
    };

    type Result<T> = std::result::Result<T, Box<dyn Error>>;

    /// The bytes of one round, in records of this length.
    const ROUND: usize = 192 << 20;
    const RECORD: usize = 64 << 10;
    /// The bytes that a log syncs by itself, and the group of a program that syncs.
    const UNSYNCED: usize = 8 << 20;
    const GROUP: usize = 256 << 10;

    pub(super) fn bench(args: &[String]) -> Result<()> {
        let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
        let number = |name: &str, default: usize| value(name).map_or(Ok(default), |text| text.parse());
        let rounds = number("--rounds", 7)?.max(1);
        let dir = value("--dir").map_or_else(env::current_dir, |dir| Ok(PathBuf::from(dir)))?;
        let (body, messages) = body()?;
        println!("{} MiB in records of {} KiB, {rounds} rounds, {}", ROUND >> 20, RECORD >> 10, dir.display());
        for (what, group) in
            [("append, never synced by the program", UNSYNCED), ("append, synced every 256 KiB", GROUP)]
        {
            let (mut log, mut plain, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..rounds {
                // The second may find the disk busy: they take turns.
                let mut speeds = [0.0; 2];
                for turn in [round % 2, 1 - round % 2] {
                    let folder = tempfile::tempdir_in(&dir)?;
                    speeds[turn] = match turn {
                        0 => append(folder.path(), &body, messages, group)?,
                        _ => write(folder.path(), &body, group)?,
                    };
                }
                log.push(speeds[0]);
                plain.push(speeds[1]);
                ratios.push(speeds[0] / speeds[1]);
            }
            let (log, plain, ratio) = (median(log), median(plain), median(ratios));
            println!("{what}: {log:.0} MB/s, a plain loop {plain:.0} MB/s, ratio {ratio:.3}");
        }
        match number("--open", 1024)? {
            0 => Ok(()),
            size => open(&dir, &body, messages, size),
        }
    }

    /// PUBLISH frames of 256 B, as a batch has them.
    fn body() -> Result<(Vec<u8>, u32)> {
        let mut bytes = bytes::BytesMut::new();
        let (ident, channel) = (Ident::new("sensor-17")?, Channel::new("cowrie.sessions")?);
        let mut messages = 0_u32;
        while bytes.len() + 256 <= RECORD - 100 {
            encode_publish(&mut bytes, Limits::default(), &ident, &channel, &[messages.to_be_bytes()[3]; 225])?;
            messages += 1;
        }
        Ok((bytes.to_vec(), messages))
    }

    fn record(body: &[u8], messages: u32, last: u64) -> Append<'_> {
        let stream = Some(StreamEnd { id: [7; 16], last });
        Append { kind: FRAMES, unix_ms: 0, messages, stream, channels: &[], body }
    }

    /// Appends a round to a log; MB/s.
    fn append(folder: &Path, body: &[u8], messages: u32, group: usize) -> Result<f64> {
        let options = LogOptions::default().segment_bytes(64 << 20).max_bytes(4 << 30).max_unsynced(UNSYNCED);
        let (mut log, _) = Log::open(Arc::new(RealDisk::open(folder.join("log"))?), &options)?;
        let started = Instant::now();
        let (mut since, mut last) = (0, 0);
        for _ in 0..ROUND / body.len() {
            last += u64::from(messages);
            log.append(&record(body, messages, last))?;
            since += body.len();
            if group < UNSYNCED && since >= group {
                log.sync()?;
                since = 0;
            }
        }
        log.sync()?;
        Ok(speed(started, ROUND))
    }

    /// Writes as much as a plain loop does: to files of the same length, whatever it writes to is
    /// synced after the same bytes.
    fn write(folder: &Path, body: &[u8], group: usize) -> Result<f64> {
        let (mut file, mut length, mut since) = (File::create(folder.join("0"))?, 0, 0);
        let started = Instant::now();
        for at in 0..ROUND / body.len() {
            if length + body.len() > 64 << 20 {
                file.sync_data()?;
                (file, length, since) = (File::create(folder.join(at.to_string()))?, 0, 0);
            }
            file.write_all(body)?;
            (length, since) = (length + body.len(), since + body.len());
            if since >= group {
                file.sync_data()?;
                since = 0;
            }
        }
        file.sync_data()?;
        Ok(speed(started, ROUND))
    }

    fn open(dir: &Path, body: &[u8], messages: u32, size: usize) -> Result<()> {
        let folder = tempfile::tempdir_in(dir)?;
        let path = folder.path().join("log");
        let options = LogOptions::default().segment_bytes(16 << 20).max_bytes(64 << 30);
        let (mut log, _) = Log::open(Arc::new(RealDisk::open(&path)?), &options)?;
        for _ in 0..(size << 20) / body.len() {
            log.append(&record(body, messages, u64::from(messages)))?;
        }
        log.sync()?;
        drop(log);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&path)?);
        for what in ["after a kill", "again"] {
            forget(&path)?;
            let started = Instant::now();
            let (log, report) = Log::open(Arc::clone(&disk), &options)?;
            let took = started.elapsed();
            println!(
                "opening {} MiB in {} segments, {what}, nothing of it in memory: {took:.1?} ({} scanned)",
                log.size() >> 20,
                report.segments,
                report.scanned
            );
        }
        let (log, _) = Log::open(disk, &options)?;
        forget(&path)?;
        let (mut reader, mut bytes, started) = (log.reader(log.cursor(), Extent::Durable), 0, Instant::now());
        loop {
            let items = reader.read()?;
            if items.is_empty() {
                break;
            }
            for item in items {
                let hpfeeds::log::Item::Record(record) = item else { return Err("something is lost".into()) };
                bytes += record.body.len();
            }
        }
        println!("reading it back, nothing of it in memory: {:.0} MB/s", speed(started, bytes));
        Ok(())
    }

    /// Asks the system to forget what it has in memory of these files.
    fn forget(folder: &Path) -> io::Result<()> {
        for entry in folder.read_dir()? {
            let file = File::open(entry?.path())?;
            file.sync_data()?;
            #[cfg(target_os = "linux")]
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    #[allow(clippy::cast_precision_loss, reason = "the figures are far below 2^52")]
    fn speed(started: Instant, bytes: usize) -> f64 {
        bytes as f64 / 1e6 / started.elapsed().as_secs_f64()
    }

    fn median(mut figures: Vec<f64>) -> f64 {
        figures.sort_unstable_by(f64::total_cmp);
        let middle = figures.len() / 2;
        if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) }
    }
}
