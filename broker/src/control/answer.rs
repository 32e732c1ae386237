//! The answers to commands: mailboxes as JSON, and what a command has changed.

use std::sync::Arc;

use hpfeeds::wire::extension::Position;
use serde_json::{Map, Value, json};

use super::{
    drain,
    request::{Request, To},
};
use crate::{
    context::BrokerContext,
    journal::{
        mailbox::{core::Mailbox, losses::Losses, snapshot::MailboxSnapshot, spec::MailboxName},
        post::Mailboxes,
        store::Store,
    },
};

/// Does what a request asks for. An error is a line for the operator.
pub(super) async fn answer(
    store: &Arc<Store>,
    context: &Arc<BrokerContext>,
    request: Request,
) -> Result<Value, String> {
    // The only one that reads the journal.
    let to = match &request {
        Request::Rewind(_, To::Time(unix_ms)) => {
            store.position_before(*unix_ms).await.map_err(|cause| format!("the journal: {cause}"))?
        }
        // Everything behind the message before it.
        Request::Rewind(_, To::Position(position)) => Position::new(position.epoch, position.number - 1),
        _ => Position::NONE,
    };
    let (store, context) = (Arc::clone(store), Arc::clone(context));
    // With very many channels, what waits for a mailbox takes some milliseconds to count.
    let answering = tokio::task::spawn_blocking(move || act(&store, &context, request, to));
    answering.await.map_err(|cause| cause.to_string())?
}

/// Does it at once; `to` is the position that a mailbox is set back to.
fn act(store: &Store, context: &BrokerContext, request: Request, to: Position) -> Result<Value, String> {
    match request {
        Request::List => {
            let mailboxes: Vec<_> = store.mailboxes.list().iter().map(brief).collect();
            Ok(json!({ "journal": journal(store), "mailboxes": mailboxes }))
        }
        Request::Show(name) => {
            let name = find(&store.mailboxes, &name)?;
            store.mailboxes.show(&name).as_ref().map(full).ok_or_else(gone)
        }
        Request::Rewind(name, _) => {
            let name = find(&store.mailboxes, &name)?;
            store.mailboxes.command(&name, |mailbox| mailbox.rewind(to)).ok_or_else(gone)?;
            let shown = store.mailboxes.show(&name).ok_or_else(gone)?;
            Ok(json!({ "mailbox": name.to_string(), "to": to.to_string(), "messages": shown.waiting.messages }))
        }
        Request::Skip(name) => {
            let name = find(&store.mailboxes, &name)?;
            let skipped = store.mailboxes.command(&name, Mailbox::skip).ok_or_else(gone)?;
            let position = skipped.map_err(|cause| format!("{name}: {cause}"))?;
            Ok(json!({ "mailbox": name.to_string(), "skipped": position.to_string() }))
        }
        Request::Drop(name) => {
            let name = find(&store.mailboxes, &name)?;
            let before = store.mailboxes.show(&name).ok_or_else(gone)?;
            let end = store.journal.last();
            store.mailboxes.command(&name, |mailbox| mailbox.drop_waiting(end)).ok_or_else(gone)?;
            Ok(json!({ "mailbox": name.to_string(), "dropped": before.waiting.messages }))
        }
        Request::Drain => Ok(drain::drain(store, context)),
        Request::Status => match context.status.get() {
            Some(status) => Ok(json!(status())),
            None => Err("this broker is no relay".to_owned()),
        },
        // The caller does that.
        Request::Dump(_) => Err("a dump is no single answer".to_owned()),
    }
}

/// The mailbox of a name as an operator writes it. An error names the nearest.
pub(super) fn find(mailboxes: &Mailboxes, text: &str) -> Result<MailboxName, String> {
    let names = mailboxes.names();
    let name = text.parse::<MailboxName>().ok();
    if let Some(name) = name.filter(|name| names.contains(name)) {
        return Ok(name);
    }
    let mut fault = format!("there is no mailbox {text:?}");
    let nearest = names.iter().map(ToString::to_string).min_by_key(|name| distance(name, text));
    match nearest {
        None => fault.push_str(": none is declared (--mailbox)"),
        Some(nearest) if distance(&nearest, text) <= 3.max(text.len() / 3) => {
            fault.push_str(": did you mean ");
            fault.push_str(&nearest);
            fault.push('?');
        }
        Some(_) => fault.push_str(": mailbox list shows all"),
    }
    Err(fault)
}

/// How many bytes are to be put in, taken out or changed, between names of at most 511 bytes.
fn distance(one: &str, other: &str) -> usize {
    let other = &other.as_bytes()[..other.len().min(511)];
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, byte) in one.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = at + 1;
        for (to, there) in other.iter().enumerate() {
            let changed = corner + usize::from(byte != *there);
            corner = row[to + 1];
            row[to + 1] = changed.min(corner + 1).min(row[to] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

fn gone() -> String {
    "the mailbox has gone meanwhile".to_owned()
}

fn journal(store: &Store) -> Value {
    let figures = store.journal.figures();
    json!({
        "health": store.journal.health().word(),
        "bytes": figures.bytes(),
        "limit": figures.limit(),
        "disk_free": figures.free(),
        "last": store.journal.last().to_string(),
        "durable": store.journal.durable_position().to_string(),
    })
}

/// The facts for one line of the list.
fn brief(snapshot: &MailboxSnapshot) -> Value {
    let waiting = &snapshot.waiting;
    json!({
        "mailbox": snapshot.name.to_string(),
        "messages": waiting.messages,
        "bytes": waiting.bytes,
        "at_least": waiting.is_partial,
        "oldest_ms": waiting.oldest_ms,
        "on_its_way": snapshot.on_its_way,
        "attached": snapshot.owner.is_some(),
        "connections": snapshot.claims,
        "address": snapshot.address.map(|address| address.to_string()),
        "seen_ms": snapshot.seen_ms,
        "subscribed": !snapshot.texts.is_empty(),
        "stuck": snapshot.stuck.map(|(position, crashes)| {
            json!({ "position": position.to_string(), "crashes": crashes })
        }),
        "failures": snapshot.failures,
        "expired": snapshot.is_expired,
        "lost": reasons(&snapshot.counts.losses),
        "denied": snapshot.counts.denied,
        "unrepeatable": snapshot.counts.unrepeatable,
    })
}

/// All that is known of a mailbox.
fn full(snapshot: &MailboxSnapshot) -> Value {
    let mut value = brief(snapshot);
    let texts = snapshot.texts.iter().map(|(text, cursor)| json!({ "channel": **text, "cursor": cursor.to_string() }));
    value["cursors"] = texts.collect();
    let losses = snapshot.counts.losses.iter().map(|(reason, channel, messages)| {
        json!({ "reason": reason.word(), "channel": channel.map(|channel| &**channel), "messages": messages })
    });
    value["losses"] = losses.collect();
    value
}

fn reasons(losses: &Losses) -> Value {
    let mut counts = Map::new();
    for (reason, messages) in losses.by_reason() {
        if messages > 0 {
            counts.insert(reason.word().to_owned(), json!(messages));
        }
    }
    Value::Object(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_names_counts_changes() {
        for (one, other, expected) in
            [("", "", 0), ("a", "", 1), ("collector", "colector", 1), ("collector", "colletcor", 2), ("a", "xyz", 3)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (expected, expected), "{one} {other}");
        }
    }
}
