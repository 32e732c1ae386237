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
    exit::{Failure, notice},
    sending::{Cut, Outgoing},
    signals::Stop,
    stdin,
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
            signal = stop.requested() => return Err(Failure::interrupted(signal, None)),
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
    let mut published = 0;
    let sent = send_lines(&mut outgoing, limit, &mut published).await;
    let cut = sent.is_err();
    let finished = outgoing.finish(sent).await.map(drop);
    if cut {
        finished.map_err(|failure| failure.and(format_args!("stdin was read up to line {published}")))
    } else {
        finished
    }
}

async fn send_lines(outgoing: &mut Outgoing, limit: usize, published: &mut u64) -> Result<(), Cut> {
    let mut batches = stdin::lines(limit);
    while let Some(batch) = outgoing.meanwhile(batches.recv()).await? {
        for line in batch.map_err(Cut::Input)? {
            outgoing.send(&line).await?;
            *published += 1;
        }
    }
    Ok(())
}

async fn connect(connection: &ConnectionArgs, args: &PublishArgs, stop: Stop) -> Result<Outgoing, Failure> {
    let channels = args.channels.channels.clone();
    Outgoing::connect(connection, channels, args.patience.timeout, ProgressBar::hidden(), stop).await
}

/// The arguments with a space between them, as the Python tool publishes them; the bytes of each as they are.
fn joined(data: &[OsString]) -> Bytes {
    let words: Vec<_> = data.iter().map(OsString::as_os_str).map(OsStr::as_encoded_bytes).collect();
    words.join(&b' ').into()
}
