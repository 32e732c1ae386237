//! The mailboxes of a connection: what is asked of them, where received messages come from, and what
//! the broker is told of as processed.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{
    expected::Expected,
    state::{Connection, End, subscribe, unsubscribe},
};
use crate::{
    client::{
        driver::{desired::Shared, wanted::Wish},
        error::{Cause, Error},
        event::SessionEvent,
        mailbox_fault::MailboxFault,
    },
    wire::{
        Channel, Frame, FrameBatch,
        extension::{ClientFrame, Code, GapReason, Position, StreamPosition},
    },
};

impl Connection<'_> {
    /// Encodes the frames that ask for channels, or no longer.
    pub(super) fn asking<'c>(&mut self, wishes: impl IntoIterator<Item = (&'c Channel, &'c Wish)>) -> Bytes {
        let mut bytes = BytesMut::new();
        for (channel, wish) in wishes {
            match wish {
                Wish::Nothing => plain(self.shared, &mut bytes, &unsubscribe(self.shared, channel.clone())),
                Wish::From(from) if self.extension.is_some() => {
                    if from.is_mailbox() && !from.name().is_empty() && !self.mailboxes.names.contains(from.name()) {
                        self.mailboxes.names.push(Arc::clone(from.name()));
                    }
                    let frame = ClientFrame::SubscribeFrom {
                        mode: from.mode(),
                        position: from.position(),
                        mailbox: from.name(),
                        channel,
                    };
                    // Its names were checked when they were given.
                    if let Err(error) = frame.encode(&mut bytes) {
                        debug_assert!(false, "{error}");
                    }
                }
                Wish::Plain | Wish::From(_) => plain(self.shared, &mut bytes, &subscribe(self.shared, channel)),
            }
        }
        bytes.freeze()
    }

    /// Whether the broker can do what is wished; otherwise it is no longer wanted, and that is told.
    pub(super) fn can(&self, channel: &Channel, wish: &Wish) -> bool {
        let Wish::From(from) = wish else { return true };
        if self.extension.is_some() || from.is_live() {
            return true;
        }
        let cause = Error::new(Cause::Mailbox(MailboxFault::Unknown { addr: self.shared.config.addr.clone() }));
        self.shared.unwant(channel, &cause);
        self.shared.emit(SessionEvent::SubscribeDenied { channel: Some(channel.clone()), cause });
        false
    }

    /// Whether the broker has not answered a change of this channel yet.
    pub(super) fn is_unanswered(&self, channel: &Channel) -> bool {
        let extension = self.extension.as_ref();
        extension.is_some_and(|extension| extension.unanswered.iter().any(|(asked, _)| asked == channel))
    }

    /// ORIGIN: where the next messages come from.
    pub(super) fn announced(
        &mut self,
        next: Position,
        messages: u32,
        source: Option<StreamPosition>,
        mailbox: &str,
    ) -> Result<(), End> {
        let known = self.mailboxes.names.iter().find(|known| &***known == mailbox).cloned();
        // Subscribing as every client does attaches to the ident's own.
        let Some(mailbox) = known.or_else(|| mailbox.is_empty().then(|| "".into())) else {
            return Err(
                self.unexpected(format!("it sent messages of the mailbox {mailbox:?}, which was not asked for"))
            );
        };
        self.mailboxes.deliver = true;
        self.mailboxes.expected = (messages > 0).then_some(Expected { mailbox, next, source, messages });
        Ok(())
    }

    /// Whole PUBLISH frames came: puts them into the receive queue, each run of a mailbox by itself.
    pub(super) fn queue(&mut self, mut batch: BytesMut) -> Result<(), End> {
        while let Some(expected) = self.mailboxes.expected.take() {
            let extent = FrameBatch::checked(&batch).portion(expected.messages.into(), u64::MAX);
            if extent.len == 0 {
                self.mailboxes.expected = Some(expected);
                return Ok(());
            }
            let frames = batch.split_to(extent.len);
            // While closing none is read on purpose, and nothing said about it: it comes again.
            let kept = !self.is_closing();
            self.received(frames.len(), kept)?;
            if kept {
                self.shared.inbox.push_run(frames, expected.run(self.shared.consumption.connection()));
            }
            self.mailboxes.expected = expected.advance(extent.messages);
        }
        if batch.is_empty() {
            return Ok(());
        }
        let kept = self.keeps(&batch);
        self.received(batch.len(), kept)?;
        if kept {
            self.shared.inbox.push(batch);
        }
        Ok(())
    }

    /// One message was too long, and is passed over. If it is a mailbox's, it counts as processed
    /// when those before it are.
    pub(super) fn passed_over_one(&mut self) {
        let Some(expected) = self.mailboxes.expected.take() else { return };
        let mut run = expected.run(self.shared.consumption.connection());
        run.taken = 1;
        self.shared.inbox.push_run(BytesMut::new(), run);
        self.mailboxes.expected = expected.advance(1);
    }

    /// GAP: messages that will never come.
    pub(super) fn missed(&self, messages: u64, reason: GapReason, mailbox: &str, text: &str) {
        self.shared.missed(messages, || SessionEvent::Gap {
            messages,
            reason,
            mailbox: mailbox.to_owned(),
            text: text.to_owned(),
        });
    }

    /// Tells the broker up to where the program has processed each mailbox.
    pub(super) fn tell_processed(&mut self) {
        if !self.mailboxes.deliver {
            return;
        }
        let life = self.extension.as_ref().and_then(|extension| extension.life.as_ref());
        let bytes = life.and_then(|life| life.window.as_ref()).map_or(0, |window| window.told);
        for (mailbox, position) in self.shared.consumption.take_untold() {
            self.push_frame(ClientFrame::Consumed { bytes, position, mailbox: &mailbox });
        }
    }
}

fn plain(shared: &Shared, bytes: &mut BytesMut, frame: &Frame) {
    // Names have bounded lengths: no legal one is above the limits of these frames.
    if let Err(error) = frame.encode(bytes, shared.config.limits) {
        debug_assert!(false, "{error}");
    }
}

/// Why a subscription was not granted.
pub(super) fn denial(code: Code, channel: &Channel, wish: &Wish, text: &str) -> Error {
    let message = if text.is_empty() { format!("code {}", code.0) } else { text.to_owned() };
    Error::new(match wish {
        Wish::From(from) if code == Code::NO_MAILBOX => Cause::Mailbox(if from.is_mailbox() {
            MailboxFault::Missing { name: from.name().to_string(), message }
        } else {
            MailboxFault::NoLastValue { channel: channel.clone(), message }
        }),
        _ => Cause::SubscribeDenied { channel: Some(channel.clone()), message },
    })
}
