//! The route of a batch: to the store, if it is to be stored, and to its subscribers.

use bytes::Bytes;
use hpfeeds::wire::{Channel, extension::Code};

use super::{
    extension::Extension,
    fanout::{Fanout, PendingFanout},
    read_buffer::ReadBuffer,
    storing::{Stored, Storing},
    work_budget::WorkBudget,
};
use crate::{context::BrokerContext, metrics::session::SessionMetrics};

/// The parts of a session that a batch goes through.
pub(super) struct Route<'a> {
    pub(super) context: &'a BrokerContext,
    pub(super) buffer: &'a mut ReadBuffer,
    pub(super) budget: &'a mut WorkBudget,
    pub(super) extension: &'a mut Option<Box<Extension>>,
    pub(super) storing: &'a mut Option<Box<Storing>>,
    pub(super) session: &'a SessionMetrics,
}

impl Route<'_> {
    /// Takes the batches of a fanout out of the buffer, and queues them for their subscribers.
    /// Returns what is left to do when one of these has no room yet. An error is the ERROR text.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "with a call a message alone costs 1 % more instructions")]
    pub(super) fn take(mut self, fanout: &mut Fanout) -> Result<Option<PendingFanout>, String> {
        if !fanout.storage().is_none() {
            return self.take_stored(fanout);
        }
        if let Some(extension) = self.extension {
            extension.count(fanout.extent().messages)?;
        }
        #[cfg(feature = "dashboard")]
        self.show(fanout);
        let Self { context, buffer, budget, session, .. } = &mut self;
        let pending = fanout.queue(&context.metrics.counters, session, buffer, &context.pool, budget);
        self.settle(pending.is_none());
        Ok(pending)
    }

    /// Lets pages that show messages see those of the batch, which nothing keeps from going out now.
    #[cfg(feature = "dashboard")]
    fn show(&self, fanout: &Fanout) {
        if self.context.tap.is_open() {
            self.context.tap.offer(self.buffer.bytes.get(..fanout.extent().len).unwrap_or_default());
        }
    }

    fn settle(&mut self, is_done: bool) {
        if let Some(extension) = self.extension
            && is_done
        {
            extension.settle();
        }
    }

    /// The same for batches that go to the store.
    #[inline(never)]
    fn take_stored(mut self, fanout: &mut Fanout) -> Result<Option<PendingFanout>, String> {
        let extent = fanout.extent();
        if extent.messages == 0 {
            return Ok(None);
        }
        if let Some(extension) = self.extension {
            // Before anything is stored: it would be stored, and neither counted nor acknowledged.
            extension.has_numbers(extent.messages)?;
        }
        #[cfg(feature = "dashboard")]
        self.show(fanout);
        let (frames, holds) = self.buffer.take(extent.len, &self.context.pool).unwrap_or_else(|| {
            let frames = Bytes::copy_from_slice(self.buffer.bytes.get(..extent.len).unwrap_or_default());
            self.buffer.skip(extent.len);
            (frames, extent.len)
        });
        let stream = self.extension.as_ref().and_then(|extension| extension.last_of(extent.messages));
        let stored = match self.storing {
            Some(storing) => storing.store(&frames, fanout.storage(), stream),
            None => Stored::Live,
        };
        let is_stored = matches!(stored, Stored::Appended(_));
        match stored {
            Stored::Appended(position) => {
                if let Some(extension) = self.extension {
                    extension.count(extent.messages)?;
                    extension.stored(extent.messages, position, self.context);
                }
            }
            Stored::Live | Stored::Missed => {
                if let Some(extension) = self.extension {
                    extension.count(extent.messages)?;
                    if matches!(stored, Stored::Missed) {
                        extension.missed(extent.messages);
                    }
                }
            }
            Stored::ShareFull(runs) => {
                for run in runs {
                    self.refuse_full(run.messages, &run.channel)?;
                }
            }
        }
        let counters = &self.context.metrics.counters;
        let pending = fanout.queue_stored(counters, self.session, frames, holds, is_stored, self.budget);
        self.settle(pending.is_none());
        Ok(pending)
    }

    /// The share of the publisher is full: these messages are live, and not stored.
    fn refuse_full(&mut self, messages: u32, channel: &Channel) -> Result<(), String> {
        let Some(extension) = self.extension else { return Ok(()) };
        let link = extension.link().clone();
        let text = || {
            let ident = link.outbox().ident();
            format!("The share of {ident} in the journal is full: it is delivered, and not stored")
        };
        if extension.replies() {
            return extension.refuse(messages, Code::FULL, channel, text, self.context);
        }
        if extension.confirms() {
            return Err(text());
        }
        Ok(())
    }
}
