//! `hpfeeds-broker journal`: checks and copies the files of a data folder, beside a broker or without one.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use hpfeeds::log::{RealDisk, Verified, verify};

use super::{backup::back_up, control::Folder, mailbox::print};

/// The logs of a data folder.
const LOGS: [&str; 5] = ["journal", "cursors", "last", "dead", "relay"];

/// Check or back up the journal of a data folder, with all that belongs to it
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub(crate) struct JournalCommand {
    #[command(flatten)]
    folder: Folder,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read every record, name what is damaged, and change nothing
    ///
    /// A broker may run meanwhile: what it is just writing is no damage. Exit code 1 if there is
    /// damage.
    Verify,
    /// Copy the data folder to a new one, and verify the copy
    ///
    /// A broker may run meanwhile: the copy is as after a power cut, and a broker can start on it. What
    /// mailboxes have delivered since comes again then. It holds captured credentials and malware, and is
    /// readable for this user alone. Exit code 1 if there is no copy, or damage in it.
    Backup {
        /// The new folder
        to: PathBuf,
    },
}

impl JournalCommand {
    pub(crate) fn run(&self) -> Result<(), String> {
        let dir = self.folder.path();
        match &self.action {
            Action::Verify => verify_all(dir),
            Action::Backup { to } => {
                // A file for each segment, all of them open at once.
                let _ = rlimit::increase_nofile_limit(u64::MAX);
                print(&back_up(dir, to)?)?;
                verify_all(to)
            }
        }
    }
}

fn verify_all(dir: &Path) -> Result<(), String> {
    let mut text = String::new();
    let mut damaged = Vec::new();
    let mut found = false;
    for log in LOGS {
        let path = dir.join(log);
        if !path.is_dir() {
            continue;
        }
        found = true;
        let verified = check(&path)?;
        report(&mut text, log, &verified);
        if verified.lost > 0 || verified.damage.iter().any(|place| !place.is_tail) || verified.more_damage > 0 {
            damaged.push(log);
        }
    }
    if !found {
        return Err(format!("{} is no data folder of a broker: name one with --data-dir", dir.display()));
    }
    print(&text)?;
    if damaged.is_empty() { Ok(()) } else { Err(format!("damaged: {}", damaged.join(", "))) }
}

fn check(path: &Path) -> Result<Verified, String> {
    let fault = |cause: &dyn std::fmt::Display| format!("{}: {cause}", path.display());
    let disk = RealDisk::open_anywhere(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{} may not be read by this user: run this as the user of the broker", path.display())
        }
        _ => fault(&cause),
    })?;
    verify(&disk).map_err(|cause| fault(&cause))
}

fn report(text: &mut String, log: &str, verified: &Verified) {
    let Verified { segments, records, messages, lost, .. } = verified;
    // A String takes everything.
    let _ = write!(text, "{log}: {segments} segments, {records} records, {messages} messages");
    if let Some((first, last)) = verified.range {
        let _ = write!(text, " from {first} to {last}");
    }
    text.push('\n');
    if *lost > 0 {
        let _ = writeln!(text, "  missing: {lost} messages");
    }
    for place in &verified.damage {
        let what = if place.is_tail { "not whole yet, or cut off by a crash" } else { "damaged" };
        let _ = writeln!(text, "  {}: {} bytes at {} are {what}", place.file, place.length, place.offset);
    }
    if verified.more_damage > 0 {
        let _ = writeln!(text, "  damaged: {} places more", verified.more_damage);
    }
}
