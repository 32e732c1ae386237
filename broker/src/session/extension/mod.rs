//! The extension on one connection, as its reader has it: what HELLO has agreed on, and how far the
//! client's stream is decided.

mod acks;
mod asked;
mod hello;
mod received;
mod stream;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hpfeeds::wire::{
    Channel,
    extension::{BrokerFrame, Code, Flags, Position, RefusedRange, StreamId},
};
use tokio::time::{Sleep, sleep};

use crate::{
    context::BrokerContext,
    journal::{handle::NotDurable, streams::StreamName},
    link::Link,
    net::buffer_pool::{BufferPool, WaitingBytes},
    session::{
        end::End,
        extension::{asked::Asked, stream::Stream},
        read_buffer::ReadBuffer,
    },
    streams::StreamClaim,
};

/// How long a fenced connection waits until its pending batch has gone to all subscribers. After
/// that the batch is given up: those that have got it will get its messages again.
const FENCE_PATIENCE: Duration = Duration::from_secs(5);

/// The text for a publisher whose messages are to be stored, and cannot be any more.
const JOURNAL_FAILED: &str = "The journal has failed";

/// The text for clients of a relay whose parents have changed: they may be among these.
const MOVED: &str = "The brokers above this one have changed: connect again";

/// The text for a stream without numbers.
const NO_NUMBERS: &str = "The stream has no numbers left: take a new stream id";

/// The extension on a connection whose client has said HELLO.
pub(crate) struct Extension {
    link: Arc<Link>,
    /// The flags that were granted.
    flags: Flags,
    /// The stream that the client publishes, if its messages are numbered.
    stream: Option<Stream>,
    /// A HELLO that is not answered yet, as another connection holds its stream. In a box, as that is
    /// rare.
    asked: Option<Box<(StreamClaim, Asked)>>,
    /// Until when the pending batch of a fenced connection is waited for.
    patience: Option<Pin<Box<Sleep>>>,
    /// There is something new for the writer.
    said: bool,
    /// HELLO was answered, and the writer has not heard of it.
    renewed: bool,
    /// Accounts for the memory of the read buffer, while the next frame has to wait.
    parked: Option<WaitingBytes>,
    /// The wait until the journal has synced what was published.
    syncing: Option<Syncing>,
    /// A HELLO that waits until all before it is durable.
    settling: bool,
}

type Syncing = Pin<Box<dyn Future<Output = Result<(), NotDurable>> + Send>>;

impl Extension {
    fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            flags: Flags::default(),
            stream: None,
            asked: None,
            patience: None,
            said: false,
            renewed: false,
            parked: None,
            syncing: None,
            settling: false,
        }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether the writer has something new to look at, since the last call.
    pub(crate) fn take_said(&mut self) -> bool {
        std::mem::take(&mut self.said)
    }

    /// Whether HELLO has been answered, and the writer has not heard of it.
    pub(super) fn is_renewed(&self) -> bool {
        self.renewed
    }

    /// Whether HELLO has been answered since the last call.
    pub(crate) fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Counts messages that are about to be routed, and are not decided before
    /// [`settle`](Self::settle).
    #[inline(never)]
    pub(super) fn count(&mut self, messages: u32) -> Result<(), String> {
        if let Some(stream) = &mut self.stream {
            stream.numbering.count(messages.into()).ok_or(NO_NUMBERS)?;
            stream.pending = messages.into();
        }
        Ok(())
    }

    /// Whether so many messages more can be counted: an error is the ERROR text.
    pub(super) fn has_numbers(&self, messages: u32) -> Result<(), String> {
        let mut numbering = self.stream.as_ref().map(|stream| stream.numbering);
        let counted = numbering.as_mut().map(|numbering| numbering.count(messages.into()));
        if counted == Some(None) { Err(NO_NUMBERS.to_owned()) } else { Ok(()) }
    }

    /// All messages that were counted have gone to their subscribers.
    #[inline(never)]
    pub(super) fn settle(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.pending = 0;
            stream.settle();
        }
    }

    /// Acknowledges what is decided, unless the client knows.
    ///
    /// Nothing is acknowledged once the broker closes: subscribers have ended because of that, and a
    /// batch may have been discarded for them. Messages before that were acknowledged as they were
    /// read.
    #[inline(never)]
    pub(super) fn acknowledge(&mut self, context: &BrokerContext) {
        if let Some(stream) = &mut self.stream
            && stream.hold.progress.decided > stream.acked
            && !context.closing.is_cancelled()
        {
            stream.acked = stream.hold.progress.decided;
            stream.acks.sent();
            self.link.control().ack(stream.acked);
            self.said = true;
        }
    }

    /// Acknowledges what is decided, unless more is likely to come: the connection waits for the
    /// client, and is woken up when it is time.
    #[inline(never)]
    pub(super) fn acknowledge_soon(&mut self, context: &BrokerContext, cx: &mut Context<'_>) {
        if let Some(stream) = &mut self.stream
            && stream.hold.progress.decided > stream.acked
            && stream.acks.poll_due(cx).is_ready()
        {
            self.acknowledge(context);
        }
    }

    /// The same on a connection of which more is read at once.
    fn acknowledge_much(&mut self, context: &BrokerContext) {
        // The disk decides about many at once.
        if let Some(stream) = &mut self.stream
            && stream.hold.progress.decided > stream.acked
            && (context.journal.is_some() || stream.acks.are_enough())
        {
            self.acknowledge(context);
        }
    }

    /// So many bytes were read.
    pub(super) fn has_read(&mut self, bytes: usize) {
        if let Some(stream) = &mut self.stream {
            stream.acks.read(bytes);
        }
    }

    /// Whether the publisher gets confirmations.
    pub(super) fn confirms(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether everything is to be stored, wanted or not.
    pub(super) fn stores_all(&self) -> bool {
        self.flags.contains(Flags::STORE)
    }

    /// Whether messages from mailboxes are announced.
    pub(super) fn says_origin(&self) -> bool {
        self.flags.contains(Flags::ORIGIN)
    }

    /// The stream, and the number that the last of so many messages more will have.
    pub(super) fn last_of(&self, messages: u32) -> Option<(StreamId, u64)> {
        let stream = self.stream.as_ref()?;
        Some((stream.id(), stream.numbering.next().saturating_add(messages.into()) - 1))
    }

    /// So many messages, which were counted last, are in the journal, the last one at a position. The
    /// publisher waits for that to be durable.
    pub(super) fn stored(&mut self, messages: u32, position: Position, context: &BrokerContext) {
        if let (Some(stream), Some(store)) = (&mut self.stream, &context.journal) {
            stream.stored(messages, position);
            store.journal.want(position);
        }
    }

    /// So many messages, which were counted last, cannot be stored, and are never confirmed.
    pub(super) fn missed(&mut self, messages: u32) {
        if let Some(stream) = &mut self.stream {
            stream.stored(messages, Position::new(u64::MAX, u64::MAX));
            self.link.fail();
        }
    }

    /// Takes over what has become durable, and acknowledges much that is decided. The task is woken
    /// up when there is more.
    #[inline(never)]
    pub(super) fn poll_durable(&mut self, context: &BrokerContext, cx: &mut Context<'_>) {
        let (Some(stream), Some(store)) = (&mut self.stream, &context.journal) else {
            return self.acknowledge_much(context);
        };
        while let Some(next) = stream.waits_for() {
            let durable = store.journal.durable_position();
            if durable >= next {
                self.syncing = None;
                stream.durable(durable);
                continue;
            }
            let journal = store.journal.clone();
            let syncing = self.syncing.get_or_insert_with(|| Box::pin(async move { journal.durable(next).await }));
            match syncing.as_mut().poll(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => self.syncing = None,
                Poll::Ready(Err(_)) => {
                    self.syncing = None;
                    self.link.fail();
                    break;
                }
            }
        }
        self.settling &= stream.is_storing();
        self.acknowledge_much(context);
    }

    /// Whether HELLO has to wait, as what stands before it is not durable.
    pub(super) fn settles_first(&mut self) -> bool {
        self.settling = self.stream.as_ref().is_some_and(Stream::is_storing);
        self.settling
    }

    /// Whether messages that are not allowed are answered with REFUSED.
    pub(super) fn replies(&self) -> bool {
        self.flags.contains(Flags::REPLIES)
    }

    /// Refuses messages on a channel, which are decided by that. All before them are.
    pub(super) fn refuse(
        &mut self,
        messages: u32,
        code: Code,
        channel: &Channel,
        text: impl FnOnce() -> String,
        context: &BrokerContext,
    ) -> Result<(), String> {
        let mut range = RefusedRange { first: 0, count: messages, code };
        if let Some(stream) = &mut self.stream {
            range.first = stream.numbering.count(messages.into()).ok_or(NO_NUMBERS)?;
            stream.hold.progress.refusals.add(range);
            if let Some(store) = &context.journal {
                store.mailboxes.refused(StreamName::new(stream.id(), self.link.outbox().ident()), range);
            }
            stream.settle();
        }
        self.link.control().refuse(range, channel, text);
        self.said = true;
        Ok(())
    }

    /// The client has consumed so many bytes of messages in all, which may open its window.
    pub(super) fn consume(&mut self, bytes: u64) -> Result<(), String> {
        if !self.link.window.is_set() {
            return Ok(());
        }
        self.said = true;
        self.link
            .window
            .consume(bytes)
            .map_err(|sent| format!("CONSUMED counts {bytes} bytes of messages, and {sent} were sent"))
    }

    /// Whether the connection waits for something else than the client: a subscriber, or its rate
    /// limit. The writer is to know that, as CONSUMED is not read meanwhile.
    #[inline(never)]
    pub(super) fn set_suspended(&mut self, suspended: bool) {
        self.said |= self.link.window.set_unread(suspended);
    }

    /// Queues any other frame for the client.
    pub(super) fn say(&mut self, frame: &BrokerFrame<'_>) {
        self.link.control().push(frame);
        self.said = true;
    }

    /// Queues a frame of the base protocol, which no window keeps back.
    #[cold]
    pub(crate) fn say_base(&mut self, frame: &[u8]) {
        self.link.control().push_base(frame);
        self.said = true;
    }

    /// Whether the next frame has to wait: for the answer to HELLO, or until the client takes what
    /// it is told.
    pub(super) fn is_waiting(&self) -> bool {
        self.asked.is_some() || self.settling || self.link.control().is_full()
    }

    /// The connection waits with what it has read.
    pub(super) fn park(&mut self, buffer: &mut ReadBuffer, pool: &Arc<BufferPool>) {
        if self.parked.is_none() {
            self.parked = pool.track_waiting(buffer.release_if_idle(pool));
        }
    }

    /// It goes on.
    pub(super) fn unpark(&mut self) {
        self.parked = None;
    }

    /// Whether the connection has to end: nothing comes from the client, it takes nothing, or another
    /// connection uses its stream. Then a pending batch goes to its subscribers and to the disk first,
    /// if that takes no longer than [`FENCE_PATIENCE`].
    #[inline(never)]
    pub(super) fn poll_signals(&mut self, context: &BrokerContext, cx: &mut Context<'_>) -> Poll<End> {
        self.link.set_reading(false);
        self.poll_durable(context, cx);
        if self.link.has_failed() && self.stream.is_some() {
            return Poll::Ready(End::Refused(JOURNAL_FAILED.to_owned()));
        }
        if self.link.has_moved() {
            return Poll::Ready(End::Refused(MOVED.to_owned()));
        }
        if let Some(seconds) = self.link.silence() {
            return Poll::Ready(End::Silent(seconds));
        }
        if self.link.is_stuck() {
            self.link.outbox().count_slow();
            return Poll::Ready(End::Slow);
        }
        if !self.link.is_fenced() {
            return Poll::Pending;
        }
        if self.stream.as_ref().is_some_and(|stream| stream.pending > 0 || stream.is_storing()) {
            let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(FENCE_PATIENCE)));
            if patience.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(End::Fenced)
    }

    /// The connection is not read any more: acknowledges what is decided, and gives its stream
    /// back. A batch that is still pending is not.
    pub(crate) fn part(&mut self, context: &Arc<BrokerContext>) {
        self.acknowledge(context);
        if let Some(stream) = self.stream.take() {
            stream.give_back(context);
        }
        self.asked = None;
    }
}
