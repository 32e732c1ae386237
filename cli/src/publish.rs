//! `hpfeeds publish`: a message from the command line or stdin, or one for each line of stdin.

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
    lines,
    sending::{Manner, Outgoing},
    signals::Stop,
    stdin,
};

pub(crate) async fn run(connection: ConnectionArgs, args: PublishArgs, stop: Stop) -> Result<(), Failure> {
    let manner = Manner::of(&args.patience, &args.spooling);
    if args.is_by_line() {
        // Lines that were read from stdin by the time that a signal comes are sent.
        lines::run(&connection, &args, manner.sending_to_the_end(), stop).await
    } else {
        one(connection, args, manner, stop).await
    }
}

async fn one(connection: ConnectionArgs, args: PublishArgs, manner: Manner, mut stop: Stop) -> Result<(), Failure> {
    let channels = &args.channels.channels;
    let limit = connection.largest_payload(channels)?;
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
    let mut outgoing = Outgoing::connect(&connection, channels, manner, ProgressBar::hidden(), stop).await?;
    let sent = outgoing.send(channels, &payload).await;
    outgoing.finish(sent).await.map(drop)
}

/// The arguments with a space between them, as the Python tool publishes them; the bytes of each as
/// they are.
fn joined(data: &[OsString]) -> Bytes {
    let words: Vec<_> = data.iter().map(OsString::as_os_str).map(OsStr::as_encoded_bytes).collect();
    words.join(&b' ').into()
}
