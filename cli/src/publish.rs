//! `hpfeeds publish`: a message from the command line or stdin, or each line of stdin.

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal as _},
};

use bytes::Bytes;
use indicatif::ProgressBar;

use crate::{
    args::PublishArgs,
    connection::ConnectionArgs,
    exit::{self, Failure, SKIPPED, messages, notice},
    sending::{Cut, Outgoing},
    signals::Stop,
    stdin::{self, Line},
};

pub(crate) async fn run(connection: ConnectionArgs, args: PublishArgs, stop: Stop) -> Result<(), Failure> {
    let limit = connection.largest_payload(&args.channels.channels)?;
    if args.lines { lines(connection, args, limit, stop).await } else { one(connection, args, limit, stop).await }
}

async fn one(connection: ConnectionArgs, args: PublishArgs, limit: usize, mut stop: Stop) -> Result<(), Failure> {
    let payload = if args.is_from_stdin() {
        tracing::debug!("reading stdin");
        if io::stdin().is_terminal() {
            notice("reading the message from the terminal; Ctrl-D ends it");
        }
        tokio::select! {
            payload = stdin::whole(limit) => payload?,
            signal = stop.requested() => return Err(Failure::silent(signal.exit_code())),
        }
    } else {
        joined(&args.data)
    };
    if payload.len() > limit {
        let length = payload.len();
        return Err(Failure::new(format!(
            "the message is {length} bytes long: at most {limit} fit; raise --max-message here and on the broker"
        )));
    }
    let mut outgoing = connect(&connection, &args, stop).await?;
    let sent = outgoing.send(&payload).await;
    outgoing.finish(sent).await.map(drop)
}

async fn lines(connection: ConnectionArgs, args: PublishArgs, limit: usize, stop: Stop) -> Result<(), Failure> {
    let mut outgoing = connect(&connection, &args, stop).await?;
    let mut read = LinesRead::default();
    let sent = send_lines(&mut outgoing, limit, args.skip_long, &mut read).await;
    let cut = sent.is_err();
    let finished = outgoing.finish(sent).await;
    let skipped = read.skipped;
    let skipped = (skipped > 0).then(|| format!("skipped {} longer than {limit} bytes", exit::count(skipped, "line")));
    match (finished, skipped) {
        (Ok(_), None) => Ok(()),
        (Ok(sent), Some(skipped)) => {
            let sent = messages(sent);
            Err(Failure::with_code(SKIPPED, format!("{skipped}; the broker has read the {sent} of the others")))
        }
        (Err(mut failure), skipped) => {
            if cut {
                failure = failure.and(format_args!("stdin was read up to line {}", read.published + read.skipped));
            }
            Err(match skipped {
                Some(skipped) => failure.and(skipped),
                None => failure,
            })
        }
    }
}

/// How many lines of stdin came to what.
#[derive(Default)]
struct LinesRead {
    published: u64,
    skipped: u64,
}

async fn send_lines(outgoing: &mut Outgoing, limit: usize, skip_long: bool, read: &mut LinesRead) -> Result<(), Cut> {
    let mut batches = stdin::lines(limit, skip_long);
    while let Some(batch) = outgoing.meanwhile(batches.recv()).await? {
        for line in batch.map_err(Cut::Input)? {
            match line {
                Line::Whole(line) => {
                    outgoing.send(&line).await?;
                    read.published += 1;
                }
                Line::TooLong => {
                    read.skipped += 1;
                    // Once: input may go on for weeks, and the count comes only at its end.
                    if read.skipped == 1 {
                        let number = read.published + read.skipped;
                        notice(format_args!("line {number} of stdin is longer than {limit} bytes: skipped"));
                    }
                }
            }
        }
    }
    Ok(())
}

async fn connect(connection: &ConnectionArgs, args: &PublishArgs, stop: Stop) -> Result<Outgoing, Failure> {
    let channels = args.channels.channels.clone();
    Outgoing::connect(connection, channels, args.patience.timeout, ProgressBar::hidden(), stop).await
}

/// The arguments with a space between them, as the Python tool publishes them; the bytes of each as
/// they are.
fn joined(data: &[OsString]) -> Bytes {
    let words: Vec<_> = data.iter().map(OsString::as_os_str).map(OsStr::as_encoded_bytes).collect();
    words.join(&b' ').into()
}
