//! Sends files through a broker to a pool of workers, which store them under their hash and answer.
//!
//! ```text
//! cargo run --example file_drop
//! cargo run --example file_drop -- HOST:PORT IDENT SECRET
//! ```
//!
//! A message on `files` is a line of JSON, a newline, and the bytes of the file; all in one
//! message, so at most 1 MiB. The answer on `files.replies` is JSON. It repeats the ident of the
//! sender and the number that the sender gave to the file:
//!
//! ```text
//! {"id":7,"name":"x.sh","sha256":"9f86…"}⏎#!/bin/sh…
//! {"to":"sensor-17","id":7,"error":null}
//! ```
//!
//! A broker keeps nothing for a subscriber that is not there, so the sender repeats files without
//! an answer. That is harmless, because the same bytes are stored in the same place.

mod support;

use std::{collections::BTreeMap, error::Error, fs, io::Write as _, path::Path, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use hpfeeds::{ClientSession, Ident};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{task::spawn_blocking, time::timeout};

const WORKERS: usize = 4;

#[derive(Serialize, Deserialize)]
struct Description {
    id: u64,
    name: String,
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Reply {
    to: String,
    id: u64,
    error: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = support::broker().await?;
    let (addr, ident, secret) = broker.access();
    let store = tempfile::tempdir()?;
    let mut worker = ClientSession::connect(addr, ident, secret).await?;
    let mut sender = ClientSession::connect(addr, ident, secret).await?;

    // The names are what attackers called the files. The last two are the same file; the third is
    // damaged.
    let files = [
        message(1, "dropper.sh", b"#!/bin/sh\necho harmless\n")?,
        message(2, "../../etc/cron.d/evil", b"* * * * * root true\n")?,
        [&message(3, "photo.jpg", b"\xff\xd8\xff\xe0")?, &b"damage"[..]].concat(),
        message(4, "mirai.arm7", b"\x7fELF...")?,
        message(5, "mirai (1).arm7", b"\x7fELF...")?,
    ];
    let files = (1..).zip(files.map(Bytes::from)).collect();
    tokio::select! {
        replies = send(&mut sender, ident, files) => println!("{} files were answered", replies?),
        ended = work(&mut worker, store.path()) => return Err(format!("the workers ended: {ended:?}").into()),
    }
    sender.close().await?;
    worker.close().await?;

    let stored = fs::read_dir(store.path())?.count();
    println!("{stored} files are in the store: three files and their descriptions");
    if stored == 6 { Ok(()) } else { Err("the store should hold 6 files".into()) }
}

fn message(id: u64, name: &str, content: &[u8]) -> serde_json::Result<Vec<u8>> {
    let description = Description { id, name: name.to_owned(), sha256: hash(content) };
    Ok([&serde_json::to_vec(&description)?, &b"\n"[..], content].concat())
}

/// Publishes the messages until each is answered, and returns the number of answers.
async fn send(
    session: &mut ClientSession,
    ident: &str,
    mut pending: BTreeMap<u64, Bytes>,
) -> Result<usize, Box<dyn Error>> {
    session.subscribe("files.replies")?;
    let total = pending.len();
    for _attempt in 0..10 {
        for message in pending.values() {
            session.publish("files", message.clone()).await?;
        }
        while let Ok(message) = timeout(Duration::from_secs(1), session.next()).await {
            let (_, _, payload) = message.ok_or("the session ended early")?;
            // Answers to other senders, and repeated ones, are not ours to count.
            let Ok(Reply { to, id, error }) = serde_json::from_slice(&payload) else { continue };
            if to == ident && pending.remove(&id).is_some() {
                println!("file {id}: {}", error.as_deref().unwrap_or("stored"));
            }
            if pending.is_empty() {
                return Ok(total);
            }
        }
    }
    Err(format!("nobody answered for {} files", pending.len()).into())
}

/// Stores the files that arrive, several at a time, until the session ends.
async fn work(session: &mut ClientSession, store: &Path) -> Result<(), Box<dyn Error>> {
    session.subscribe("files")?;
    let publisher = session.publisher();
    session
        .map(Ok)
        .try_for_each_concurrent(WORKERS, async |(ident, _, message)| {
            let store = store.to_owned();
            // Hashing and disks block; tokio has threads for that.
            let reply = spawn_blocking(move || handle(&store, &ident, &message)).await?;
            match reply {
                Ok(reply) => publisher.publish("files.replies", serde_json::to_vec(&reply)?).await?,
                Err(error) => println!("not a file: {error}"),
            }
            Ok(())
        })
        .await
}

/// Stores one file, and returns the answer. Fails when the message has no number to answer to.
fn handle(store: &Path, ident: &Ident, message: &[u8]) -> Result<Reply, String> {
    let end = message.iter().position(|byte| *byte == b'\n').ok_or("there is no description")?;
    let description: Description = serde_json::from_slice(&message[..end]).map_err(|error| error.to_string())?;
    let outcome = save(store, &description, &message[end + 1..]);
    Ok(Reply { to: ident.to_string(), id: description.id, error: outcome.err().map(|error| error.to_string()) })
}

/// Nothing from the network becomes part of a path: the file is called by the hash that we compute,
/// and the name that came with it is only text in the description beside it.
fn save(store: &Path, description: &Description, content: &[u8]) -> Result<(), Box<dyn Error>> {
    let sha256 = hash(content);
    if sha256 != description.sha256 {
        return Err("the content does not have the hash that the description says".into());
    }
    for (name, bytes) in [(format!("{sha256}.json"), &*serde_json::to_vec(description)?), (sha256, content)] {
        // Written beside and then renamed: no program ever sees half a file.
        let mut file = tempfile::NamedTempFile::new_in(store)?;
        file.write_all(bytes)?;
        file.persist(store.join(name))?;
    }
    Ok(())
}

fn hash(content: &[u8]) -> String {
    format!("{:x}", Bytes::copy_from_slice(&Sha256::digest(content)))
}
