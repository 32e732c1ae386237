//! The dump of a mailbox: the messages that wait, as lines of JSON, which stay where they are.

use std::{fmt::Write as _, io, sync::Arc};

use hpfeeds::wire::{FrameBatch, FrameRef, extension::Position};
use serde_json::{Value, json};
use tokio::io::AsyncWrite;

use super::{answer::find, say};
use crate::journal::{
    batch::Batch,
    handle::Entry,
    mailbox::{core::Mailbox, spec::MailboxName},
    store::Store,
};

/// Writes each message that waits for a mailbox, oldest first, up to the newest of now. The outer
/// error is the connection's.
pub(super) async fn dump(
    store: &Arc<Store>,
    name: &str,
    write: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Result<Value, String>> {
    let name = match find(&store.mailboxes, name) {
        Ok(name) => name,
        Err(fault) => return Ok(Err(fault)),
    };
    let end = store.journal.last();
    let Some(mut at) = store.mailboxes.look(&name, Mailbox::lowest) else {
        return Ok(Err("the mailbox has gone meanwhile".to_owned()));
    };
    let (mut reader, mut messages, mut missing) = (None, 0_u64, 0_u64);
    while at < end {
        let page = store.journal.page(at, reader.take()).await?;
        for entry in &page.entries {
            match entry {
                Entry::Lost(lost) => missing += lost.messages(),
                Entry::Batch(batch) => {
                    for message in of(store, &name, batch, at, end) {
                        say(write, &json!({ "message": message })).await?;
                        messages += 1;
                    }
                }
            }
        }
        if page.end <= at {
            break;
        }
        at = page.end;
        reader = Some(page.reader);
    }
    Ok(Ok(json!({ "messages": messages, "unreadable": missing })))
}

/// The messages of a batch that a mailbox waits for, between two positions.
fn of(store: &Store, name: &MailboxName, batch: &Batch, after: Position, end: Position) -> Vec<Value> {
    let mut messages = Vec::new();
    for (run, number, offset) in batch.runs() {
        let open = store.mailboxes.look(name, |mailbox| mailbox.open_after(&run.channel)).flatten();
        let Some(open) = open.map(|open| open.max(after)) else { continue };
        let frames = &batch.frames[offset..offset + run.bytes];
        for (number, frame) in (number..).zip(FrameBatch::checked(frames).frames()) {
            let position = Position::new(batch.first.epoch, number);
            if position > open && position <= end {
                messages.extend(message(frame, position, batch.unix_ms));
            }
        }
    }
    messages
}

fn message(frame: &[u8], position: Position, unix_ms: i64) -> Option<Value> {
    let (header, body) = FrameBatch::checked(frame).publish_at(0)?;
    let Ok(FrameRef::Publish { ident, channel, payload }) = FrameRef::parse(header.opcode, body) else { return None };
    let mut value = json!({
        "time_ms": unix_ms,
        "position": position.to_string(),
        "ident": ident,
        "channel": channel,
    });
    match str::from_utf8(payload) {
        Ok(text) => value["payload"] = json!(text),
        Err(_) => value["payload_hex"] = json!(hex(payload)),
    }
    Some(value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
