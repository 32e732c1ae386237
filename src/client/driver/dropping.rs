//! Room for new messages in a session that drops the oldest ones.

use super::{desired::Shared, reconnect::ReconnectState};
use crate::client::when_full::WhenFull;

/// So many bytes are made free at once, of a small queue an eighth: fewer would have the queue looked
/// through for each message.
const AT_ONCE: usize = 64 * 1024;

impl ReconnectState {
    /// Drops the oldest messages that were never sent while somebody has found no room, if the session
    /// is to. Those that were sent and are not confirmed stay.
    pub(crate) fn make_room(&mut self, shared: &Shared) {
        // With a spool, it decides what goes.
        if shared.config.on_full != WhenFull::DropOldest || self.spooling.is_some() || !shared.outbox.is_starved() {
            return;
        }
        // One that waits for room finds enough of it, however long its message is.
        let bytes = AT_ONCE.min(shared.outbox.capacity() / 8).max(shared.outbox.longest());
        let mut dropped = 0;
        while shared.outbox.is_starved() {
            let mut removed = self.in_flight.drop_oldest(bytes);
            if removed.room < bytes {
                let more = shared.outbox.drop_oldest(bytes - removed.room);
                removed.room += more.room;
                removed.messages += more.messages;
            }
            if removed.messages == 0 {
                break;
            }
            dropped += removed.messages;
            shared.outbox.release(removed.room);
        }
        if dropped > 0 {
            self.in_flight.unconfirmed.lose(dropped);
            shared.dropped(dropped);
        }
    }
}
