//! The answers of a broker that knows the extension: ACK, REFUSED and SUBACK.

use super::{
    greeting::refusal,
    mailboxes::denial,
    state::{Connection, End},
};
use crate::{
    client::{
        driver::wanted::Wish,
        error::{Cause, Error},
        event::SessionEvent,
        queue::unconfirmed::{Keeping, NeverSent},
    },
    wire::{
        Channel,
        extension::{BrokerFrame, Code, ExtensionDecodeError, ExtensionOpcode, RefusedRange},
    },
};

/// Subscriptions are not changed further while so many changes are not answered.
pub(super) const MAX_UNANSWERED: usize = 4096;

impl Connection<'_> {
    /// The broker sent a frame of the extension.
    pub(super) fn answered(&mut self, opcode: ExtensionOpcode, body: &[u8]) -> Result<(), End> {
        match BrokerFrame::parse(opcode, body).map_err(|cause| self.malformed(cause))? {
            BrokerFrame::Hello(hello) => self.greeted(&hello),
            // Nothing but HELLO means anything before it.
            _ if self.extension.as_ref().is_none_or(|extension| !extension.answered) => {
                Err(self.unexpected(format!("it sent {opcode} before HELLO")))
            }
            BrokerFrame::Ack { number } => self.acknowledged(number),
            BrokerFrame::Refused { range, channel, text } => self.message_refused(range, channel, text),
            BrokerFrame::SubAck { code, channel, text } => {
                self.subscription_answered(code, channel, text);
                Ok(())
            }
            BrokerFrame::Origin { position, count, source, mailbox } => {
                self.announced(position, count, source, mailbox)
            }
            BrokerFrame::Gap { messages, reason, mailbox, text } => {
                self.missed(messages, reason, mailbox, text);
                Ok(())
            }
            BrokerFrame::Heartbeat => Ok(()),
        }
    }

    pub(super) fn malformed(&self, cause: ExtensionDecodeError) -> End {
        End::Failed(Error::new(Cause::Extension { addr: self.shared.config.addr.clone(), cause }))
    }

    pub(super) fn unexpected(&self, what: String) -> End {
        End::Failed(Error::new(Cause::Unexpected { addr: self.shared.config.addr.clone(), what }))
    }

    fn acknowledged(&mut self, number: u64) -> Result<(), End> {
        self.split_written(number);
        match self.reconnect.in_flight.unconfirmed.ack(number) {
            Ok(()) => Ok(()),
            Err(NeverSent) => Err(self.unexpected(format!("it acknowledged message {number}, which was not sent"))),
        }
    }

    /// A batch that is partly written may be partly decided.
    fn split_written(&mut self, number: u64) {
        if number > self.reconnect.in_flight.unconfirmed.written() {
            let written = self.reconnect.in_flight.split_written();
            self.wrote(written);
        }
    }

    fn message_refused(&mut self, range: RefusedRange, channel: &str, text: &str) -> Result<(), End> {
        let channel = Channel::new(channel).ok();
        let cause = refusal(range.code, channel.clone(), text);
        let refused = if self.reconnect.in_flight.unconfirmed.keeping() == Keeping::Nothing {
            range.count.into()
        } else {
            self.split_written(range.first.saturating_add(u64::from(range.count)).saturating_sub(1));
            match self.reconnect.in_flight.unconfirmed.refuse(range.first, range.count, &cause) {
                Ok(refused) => {
                    // The last of them are news.
                    let first = range.first.saturating_add(range.count.into()).saturating_sub(refused);
                    self.reconnect.tell_refused(first, refused, Some(range.code));
                    refused
                }
                Err(NeverSent) => {
                    return Err(self.unexpected(format!("it refused message {}, which was not sent", range.first)));
                }
            }
        };
        self.shared.refused(channel, refused, &cause);
        self.reconnect.denial.get_or_insert(cause);
        Ok(())
    }

    fn subscription_answered(&mut self, code: Code, channel: &str, text: &str) {
        let Some(extension) = &mut self.extension else {
            return;
        };
        // They come in order; one about something that was not asked for changes nothing.
        let Some(at) = extension.unanswered.iter().position(|(asked, _)| *asked == *channel) else {
            return;
        };
        let Some((channel, wish)) = extension.unanswered.remove(at) else {
            return;
        };
        let again = extension.unanswered.iter().any(|(asked, _)| *asked == channel);
        if wish == Wish::Nothing || again {
            return;
        }
        if code == Code::DONE {
            self.shared.granted(&channel);
            return;
        }
        let cause = denial(code, &channel, &wish, text);
        self.subscribed.remove(&channel);
        // The answer to what was asked before.
        if self.shared.is_changed(&channel) {
            return;
        }
        self.shared.unwant(&channel, &cause);
        self.shared.emit(SessionEvent::SubscribeDenied { channel: Some(channel), cause });
    }

    /// Settles some of what is decided: publishers hear of it, and there is room in the queue.
    pub(super) fn settle(&mut self) -> bool {
        let (room, more) = self.reconnect.in_flight.settle();
        self.shared.outbox.release(room);
        more
    }
}
