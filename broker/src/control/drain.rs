//! The drain of a broker: the first step of a shutdown, begun by a command, and what is left to do.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};
use tracing::info;

use crate::{context::BrokerContext, journal::store::Store};

/// Begins the drain, unless it has begun, and says what is left: the broker accepts nothing more, asks
/// publishers to end their streams, and hands out nothing more from mailboxes. Everything else goes on
/// until it is stopped.
pub(super) fn drain(store: &Store, context: &BrokerContext) -> Value {
    if !context.draining.is_cancelled() {
        info!("draining: nothing more is accepted, and publishers are asked to end their streams");
        context.draining.cancel();
    }
    let numbers = context.snapshot();
    let mailboxes = store.mailboxes.list();
    let on_their_way = mailboxes.iter().filter(|mailbox| mailbox.on_its_way > 0).map(|mailbox| {
        json!({
            "mailbox": mailbox.name.to_string(),
            "messages": mailbox.on_its_way,
            "acknowledges": mailbox.acknowledges,
        })
    });
    json!({
        // Connections that may still publish.
        "publishers": context.publishing.len(),
        "received": context.stats().received_messages,
        "queued": numbers.books.queued,
        // What a writer has taken is on its way until the socket has it.
        "unwritten_bytes": context.delivery.buffered.load(Relaxed),
        "on_their_way": on_their_way.collect::<Value>(),
        "waiting": mailboxes.iter().map(|mailbox| mailbox.waiting.messages).sum::<u64>(),
        "connections": numbers.levels.connections,
    })
}
