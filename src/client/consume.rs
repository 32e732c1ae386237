//! The consuming side of a session: mailboxes, their positions, and what is processed.

use super::{
    error::Error,
    handle,
    mailbox::{Origin, SubscribeFrom},
    publisher,
    session::ClientSession,
};
use crate::wire::extension::ClientFrame;
use bytes::BytesMut;

impl ClientSession {
    /// Wants the messages of a channel from a mailbox, or with its last values first, and waits
    /// until the broker delivers them, over as many connections as that takes. After every reconnect
    /// the session goes on from the mailbox's cursor.
    ///
    /// **What is processed** is not delivered again: of the messages that the session returns, those
    /// before the one that is asked for next, or, with
    /// [`manual_commit`](crate::SessionBuilder::manual_commit), those before a
    /// [`commit`](Self::commit). The broker is told at least once a second, and before
    /// [`close`](Self::close) ends. The rest comes again when a connection breaks:
    /// each message at least once, in order, with the same [`origin`](Self::origin). Messages that
    /// the program has not taken then are let go, as they come again.
    ///
    /// Fails when the broker does not know mailboxes or has none of this name
    /// ([`is_no_mailbox`](Error::is_no_mailbox)), when the key may not subscribe to the channel, when
    /// the channel is unsubscribed meanwhile, and when the session ends. A name of a mailbox above 255
    /// bytes is refused at once. A channel has one subscription: this one takes the place of an
    /// earlier one. The future does not borrow the session, which can be read while it waits. Cancel
    /// safe: the channel is wanted from the call on, and stays so.
    pub fn subscribe_from<C: AsRef<str>>(
        &self,
        channel: C,
        from: SubscribeFrom,
    ) -> impl Future<Output = Result<(), Error>> + use<C> {
        let granted = self.ask_for_from(channel.as_ref(), from);
        async move { granted?.await.unwrap_or_else(|_ended| Err(Error::closed())) }
    }

    fn ask_for_from(&self, channel: &str, from: SubscribeFrom) -> Result<handle::Granted, Error> {
        let channel = publisher::parse(channel)?;
        let (mode, position, mailbox) = (from.mode(), from.position(), &**from.name());
        ClientFrame::SubscribeFrom { mode, position, mailbox, channel: &channel }.encode(&mut BytesMut::new())?;
        handle::await_answer(&self.inner.shared, channel, Some(from))
    }

    /// The origin of the message that was returned last: its mailbox and its place in the broker's
    /// journal. `None` for a message that came live, and before the first.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        self.inner.run.as_ref()?.origin()
    }

    /// Says that all messages that were returned so far are processed: the mailboxes that they came
    /// from do not deliver them again. For sessions with
    /// [`manual_commit`](crate::SessionBuilder::manual_commit), after a transaction or an fsync; for
    /// others, to include the last message, for example before [`close`](Self::close).
    ///
    /// Does not wait: the broker is told at once, or never if the connection has broken, and then the
    /// messages come again.
    pub fn commit(&self) {
        self.inner.shared.consumption.commit(self.inner.run.as_deref());
        self.inner.shared.driver.wake();
    }
}
