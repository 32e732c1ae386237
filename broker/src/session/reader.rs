//! Session reader: receives and processes the frames of one authenticated client.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use hpfeeds::wire::{Channel, DecodeError, Field, HEADER_LEN, Header, NameError, Opcode};
use tracing::info;

use crate::{
    context::BrokerContext,
    delivery::outbox::Outbox,
    identity::{KeyChange, Membership},
    net::{
        endpoint::{Mode, open::Service},
        socket::ReadHalf,
    },
    presence::Attendance,
    routing::subscriptions::Subscriptions,
    session::{
        end::End, extension::Extension, mail::Post, publish_cache::PublishCache, read_buffer::ReadBuffer,
        storing::Storing, suspension::Suspension, work_budget::WorkBudget,
    },
};

/// Reads and processes the frames of one authenticated client.
pub(crate) struct SessionReader {
    pub(super) context: Arc<BrokerContext>,
    pub(super) mode: Mode,
    pub(super) membership: Membership,
    pub(super) attendance: Attendance,
    pub(super) subscriptions: Subscriptions,
    pub(super) cache: PublishCache,
    /// The client has published, or begun to.
    published: bool,
    pub(super) buffer: ReadBuffer,
    pub(super) budget: WorkBudget,
    /// The client was offered the extension.
    offered: bool,
    /// The client has said HELLO.
    pub(super) extension: Option<Box<Extension>>,
    /// Completes before the next frame is processed.
    suspension: Option<Suspension>,
    /// The broker stores messages, and the client has published.
    pub(super) storing: Option<Box<Storing>>,
    /// The client gets messages from mailboxes.
    pub(super) post: Option<Box<Post>>,
}

impl SessionReader {
    /// `received` is what the client sent behind AUTH.
    pub(crate) fn new(
        context: Arc<BrokerContext>,
        service: &Service,
        membership: Membership,
        attendance: Attendance,
        outbox: Arc<Outbox>,
        received: BytesMut,
    ) -> Self {
        outbox.session().received(received.len());
        let subscriptions = Subscriptions::new(context.router.clone(), outbox);
        let offered = service.extensions && context.config.offers_extension();
        Self {
            context,
            mode: service.mode,
            membership,
            attendance,
            subscriptions,
            cache: PublishCache::default(),
            published: false,
            buffer: ReadBuffer::new(received),
            budget: WorkBudget::default(),
            offered,
            extension: None,
            suspension: None,
            storing: None,
            post: None,
        }
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        self.subscriptions.outbox()
    }

    /// Whether the client has published, or begun to.
    pub(crate) fn has_published(&self) -> bool {
        self.published || !self.buffer.bytes.is_empty()
    }

    /// Cancels all subscriptions, so that nothing more is queued for the connection. The work is
    /// proportional to their number, and other tasks run in between.
    pub(crate) async fn unsubscribe_all(&mut self) {
        while self.subscriptions.leave() {
            tokio::task::yield_now().await;
        }
    }

    /// Reads until the client ends its stream or is refused, or until there is a reason to `stop`:
    /// frames that have been read by then are processed first. `None` stands for that reason.
    ///
    /// Not a future, which would make every idle connection larger: `suspension` holds what it
    /// waits for.
    pub(crate) fn poll_end(
        &mut self,
        half: &mut ReadHalf<'_>,
        stop: Option<&End>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<End>> {
        loop {
            if let Err(end) = ready!(self.poll_step(half, stop, cx)) {
                return Poll::Ready(end);
            }
        }
    }

    /// Waits for the suspension, processes the frames that have been read, and reads more. An error
    /// is the end, `None` when there was a reason to `stop`.
    fn poll_step(
        &mut self,
        half: &mut ReadHalf<'_>,
        stop: Option<&End>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Option<End>>> {
        // Also while suspended: a revoked key ends the wait for a slow subscriber.
        self.follow_key()?;
        if let Some(extension) = &mut self.extension
            && let Poll::Ready(end) = extension.poll_signals(&self.context, cx)
        {
            return Poll::Ready(Err(Some(end)));
        }
        // A suspension comes before the next frame.
        if let Some(suspension) = &mut self.suspension {
            if suspension.until_stopped && is_stopped(stop, half, cx) {
                return Poll::Ready(Err(None));
            }
            if let Some(extension) = &mut self.extension {
                extension.set_suspended(!suspension.yields);
            }
            let is_good = ready!(suspension.future.as_mut().poll(cx));
            self.suspension = None;
            if let (false, Some(storing)) = (is_good, &mut self.storing) {
                storing.miss();
            }
            if let Some(extension) = &mut self.extension {
                extension.set_suspended(false);
                extension.settle();
                // It may have been fenced meanwhile.
                return Poll::Ready(Ok(()));
            }
        }
        if let Some(extension) = &mut self.extension {
            extension.claim(&self.context).map_err(|text| Some(End::Refused(text)))?;
            if extension.is_waiting() {
                extension.park(&mut self.buffer, &self.context.pool);
                return if is_stopped(stop, half, cx) { Poll::Ready(Err(None)) } else { Poll::Pending };
            }
            extension.unpark();
        }
        // All whole frames are processed, before any more is read.
        let mut suspension = self.process_frames(half)?;
        if let Some(extension) = &mut self.extension {
            match &suspension {
                None => extension.poll_durable(&self.context, cx),
                // Before the connection waits for anything but its turn.
                Some(suspension) if !suspension.yields => extension.acknowledge(&self.context),
                Some(_) => {}
            }
            if suspension.is_none() && extension.is_waiting() {
                extension.acknowledge(&self.context);
                return Poll::Ready(Ok(()));
            }
        }
        // A stream that never pauses yields to the other connections.
        if suspension.is_none() && self.budget.must_yield_reading() {
            suspension = Some(Suspension::yield_now());
        }
        // Memory that a suspended connection keeps counts among that of all publishers that wait.
        if let Some(mut suspension) = suspension {
            let pool = &self.context.pool;
            suspension.tracked = pool.track_waiting(suspension.kept + self.buffer.release_if_idle(pool));
            self.outbox().session().unparsed(suspension.messages + self.buffer.bytes.len());
            self.suspension = Some(suspension);
            return Poll::Ready(Ok(()));
        }
        if is_stopped(stop, half, cx) {
            return Poll::Ready(Err(None));
        }
        if let Some(extension) = &self.extension {
            extension.link().set_reading(true);
        }
        // Not more than the rate limit lets pass at once: the rest would only take memory.
        let max = self.membership.quota().publish.as_ref().map(|limiter| limiter.rate().portion().1);
        let max = max.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        let read = self.buffer.poll_read(half, &self.context.pool, max, cx);
        // An idle connection keeps no buffer.
        if read.is_pending() {
            self.buffer.release(&self.context.pool);
            if let Some(extension) = &mut self.extension {
                extension.acknowledge_soon(&self.context, cx);
            }
        }
        Poll::Ready(match ready!(read) {
            Ok(0) => match self.storing.as_mut().and_then(|storing| storing.settle()) {
                // The end of our stream confirms all of theirs: first the disk must have it.
                Some(settling) => {
                    self.suspension = Some(Suspension::settling(settling));
                    Ok(())
                }
                None => Err(Some(self.eof())),
            },
            Ok(n) => {
                self.budget.charge_read(n);
                self.outbox().session().received(n);
                if let Some(extension) = &mut self.extension {
                    extension.has_read(n);
                }
                Ok(())
            }
            Err(cause) => Err(Some(End::Failed(cause))),
        })
    }

    /// Processes every whole frame in the buffer, up to one that has to wait. An error is why the
    /// session ends.
    fn process_frames(&mut self, half: &ReadHalf<'_>) -> Result<Option<Suspension>, Option<End>> {
        loop {
            // Each frame is judged by the key as it is now.
            self.follow_key()?;
            if self.budget.must_yield() {
                return Ok(Some(Suspension::yield_now()));
            }
            if let Some(extension) = &self.extension {
                // The writer looks at a new HELLO before the next frame is; a fenced connection reads
                // nothing more.
                if extension.is_renewed() || extension.link().is_fenced() {
                    return Ok(Some(Suspension::yield_now()));
                }
                if extension.is_waiting() {
                    return Ok(self.need_more());
                }
            }
            // The header alone tells a frame that is too long or not allowed.
            let bytes = &self.buffer.bytes;
            let refused = |text: String| Some(End::Refused(text));
            let header = match Header::parse(bytes, self.context.config.limits) {
                Ok(header) => header,
                Err(DecodeError::UnknownOpcode(_)) if self.offered => {
                    if self.extension_frame().map_err(refused)? {
                        continue;
                    }
                    return Ok(self.need_more());
                }
                Err(cause) => return Err(refused(cause.to_string())),
            };
            let Some(header) = header else {
                self.buffer.need_header();
                return Ok(self.need_more());
            };
            match header.opcode {
                // From here on, a mere end of the stream would confirm it, even if it is refused
                // later.
                Opcode::Publish if !self.published => {
                    self.published = true;
                    half.reset_on_close();
                }
                Opcode::Publish | Opcode::Subscribe | Opcode::Unsubscribe => {}
                Opcode::Auth => return Err(refused("AUTH is only allowed as the first message".to_owned())),
                other => return Err(refused(format!("{other} is not allowed from a client"))),
            }
            if header.length > bytes.len() {
                self.buffer.need_frame(header.length);
                return Ok(self.need_more());
            }
            // A subscription is one frame; messages are taken in batches, as far as the rate limit
            // lets them pass.
            let suspension = if header.opcode != Opcode::Publish {
                self.subscription(header).map_err(refused)?;
                None
            } else if self.buffer.granted == 0 && self.membership.quota().publish.is_some() {
                self.reserve()
            } else {
                self.publish().map_err(refused)?
            };
            if suspension.is_some() {
                return Ok(suspension);
            }
        }
    }

    /// No whole frame is left: reports the rest as not processed.
    fn need_more(&self) -> Option<Suspension> {
        self.outbox().session().unparsed(self.buffer.bytes.len());
        None
    }

    /// Applies a change of the key: a comparison, unless there is one.
    fn follow_key(&mut self) -> Result<(), Option<End>> {
        if !self.membership.has_news() {
            return Ok(());
        }
        // A batch that waits for subscribers was allowed: all of them get it, and it is acknowledged,
        // before a change that may end the connection.
        let waits = self.suspension.as_ref().is_some_and(|suspension| suspension.messages > 0);
        if waits && !self.membership.is_revoked() {
            return Ok(());
        }
        match self.membership.look() {
            KeyChange::Same => {}
            KeyChange::Revoked => return Err(Some(End::Revoked)),
            KeyChange::Changed => {
                info!(ident = self.membership.ident().as_str(), peer = %self.outbox().peer(), "its key has changed");
                // Each channel is checked again when it is used.
                self.cache = PublishCache::default();
                if let Some(post) = &self.post {
                    post.rekey(self.membership.key());
                }
                let changed = self.subscriptions.rekey(self.membership.key());
                let changed = changed.map_err(|channel| End::Refused(self.denial(&channel)))?;
                self.budget.charge_subscriptions(changed);
            }
        }
        Ok(())
    }

    /// The client has ended its stream: an error when that is inside of a frame.
    fn eof(&self) -> End {
        let missing = match (self.buffer.bytes.len(), self.buffer.missing()) {
            (0, _) if self.storing.as_ref().is_some_and(|storing| storing.has_missed()) => return End::Unstored,
            (0, _) => return End::Eof,
            (received, 0) => HEADER_LEN - received,
            (_, missing) => missing,
        };
        End::Refused(DecodeError::Incomplete { missing }.to_string())
    }
}

/// Whether the session is to end now.
fn is_stopped(stop: Option<&End>, half: &ReadHalf<'_>, cx: &mut Context<'_>) -> bool {
    match stop {
        None => false,
        // A client that has ended its stream is read to that end, which confirms all of it.
        Some(End::Shutdown { .. }) => !half.is_finished(cx),
        Some(_) => true,
    }
}

/// A channel of its own.
pub(super) fn owned(channel: &str, opcode: Opcode) -> Result<Channel, String> {
    let fault = |cause: NameError| DecodeError::Name { opcode, field: Field::Channel, cause }.to_string();
    Channel::new(channel).map_err(fault)
}
