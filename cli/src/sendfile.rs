//! `hpfeeds sendfile`: each file is one message.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use hpfeeds::Channel;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::spawn_blocking;

use crate::{
    args::SendfileArgs,
    connection::ConnectionArgs,
    exit::{Failure, messages, notice},
    sending::{Cut, Manner, Outgoing},
    signals::Stop,
};

pub(crate) async fn run(connection: ConnectionArgs, args: SendfileArgs, stop: Stop) -> Result<(), Failure> {
    let channels = args.channels.channels;
    let limit = connection.largest_payload(&channels)?;
    // All of them before the first is sent: a typing error in the last must not leave half of them
    // published.
    let mut total = 0;
    for path in &args.paths {
        total += check(path, limit).map_err(Failure::new)?;
    }
    let bar = progress_bar(total * channels.len() as u64);
    let manner = Manner::of(&args.patience, &args.spooling);
    let mut outgoing = Outgoing::connect(&connection, &channels, manner, bar.clone(), stop).await?;
    let sent = send_files(&mut outgoing, &channels, &args.paths, limit, &bar).await;
    bar.set_message("waiting for the broker to read it");
    let finished = outgoing.finish(sent).await;
    bar.finish_and_clear();
    let sent = finished?;
    if io::stderr().is_terminal() {
        let (count, size) = (messages(sent), HumanBytes(bar.position()));
        notice(format_args!("the broker has read {count}, {size}"));
    }
    Ok(())
}

async fn send_files(
    outgoing: &mut Outgoing,
    channels: &[Channel],
    paths: &[PathBuf],
    limit: usize,
    bar: &ProgressBar,
) -> Result<(), Cut> {
    for (done, path) in paths.iter().enumerate() {
        bar.set_message(format!("file {} of {}", done + 1, paths.len()));
        let reading = path.clone();
        let payload = outgoing.meanwhile(spawn_blocking(move || read(&reading, limit))).await?;
        let payload = payload.unwrap_or_else(|panicked| Err(panicked.to_string())).map_err(Cut::Input)?;
        outgoing.send(channels, &payload).await?;
    }
    Ok(())
}

/// The length of a file that can be sent: looked at before anything is read or sent. A file that is
/// not regular, such as a pipe, shows its length only when it is read.
fn check(path: &Path, limit: usize) -> Result<u64, String> {
    let metadata = fs::metadata(path).map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
    if metadata.is_dir() {
        return Err(format!("{} is a directory", path.display()));
    }
    let length = metadata.len();
    if length > limit as u64 {
        return Err(format!(
            "{} is {length} bytes long: at most {limit} fit one message; raise --max-message here and on the broker",
            path.display()
        ));
    }
    Ok(length)
}

/// A file's bytes. It may have grown since it was checked.
fn read(path: &Path, limit: usize) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(length) if length <= limit => Ok(bytes.into()),
        Ok(_) => Err(format!("{} is longer than the {limit} bytes that fit one message", path.display())),
        Err(cause) => Err(format!("cannot read {}: {cause}", path.display())),
    }
}

/// Nothing to see unless stderr is a terminal.
fn progress_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
