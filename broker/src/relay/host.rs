//! The host of a relay: what it asks of the broker that sensors talk to.

use std::sync::Arc;

use bytes::BytesMut;
use hpfeeds::wire::{Channel, EncodeError, Ident, encode_publish, extension::NodeId};

use crate::{
    broker::Broker,
    context::{MoreMetrics, Status},
    journal::handle::Journal,
    session::fanout,
};

impl Broker {
    /// This broker in the frames of the extension.
    pub(crate) fn node(&self) -> NodeId {
        self.context.node
    }

    /// The journal, if there is a data folder.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.context.journal.as_ref().map(|store| &store.journal)
    }

    /// How many messages the journal did not get or has lost, since the start: the disk did not follow
    /// for too long, or the journal has failed. A relay has no shares.
    pub(crate) fn not_stored(&self) -> impl Fn() -> u64 + Clone + Send + Sync + use<> {
        let store = self.context.journal.clone();
        move || store.iter().flat_map(|store| store.not_stored()).map(|(_, messages)| messages).sum()
    }

    /// Sets the brokers above this one, nearest first. If they are others than before, clients that
    /// know the path have to connect again.
    pub(crate) fn set_above(&self, above: Vec<NodeId>) {
        if **self.context.above.load() != above {
            self.context.above.store(Arc::new(above));
            self.context.pulse.move_away();
        }
    }

    /// Sets what the operator's command `relay status` shows, once.
    pub(crate) fn set_status(&self, status: Status) {
        // Only the first one counts.
        let _ = self.context.status.set(status);
    }

    /// Adds metrics behind those of the broker, once.
    pub(crate) fn add_metrics(&self, more: MoreMetrics) {
        // Only the first ones count.
        let _ = self.context.more_metrics.set(more);
    }

    /// Hands a message that was not published here to the subscribers of its channel. It is not
    /// stored. Waits for those that keep up and have no room.
    pub(crate) async fn deliver(&self, ident: &Ident, channel: &Channel, payload: &[u8]) -> Result<(), EncodeError> {
        let mut frame = BytesMut::new();
        encode_publish(&mut frame, self.context.config.limits, ident, channel, payload)?;
        let subscribers = self.context.router.topic(channel).subscribers();
        fanout::deliver(frame.freeze(), payload.len(), &subscribers, &self.context.metrics).await;
        Ok(())
    }
}
