//! One connection, one task: the handshake, then the session, then the close.

mod control_writer;
mod end;
pub(crate) mod error_frame;
mod extension;
pub(crate) mod fanout;
mod handshake;
mod mail;
mod mail_writer;
mod proxy;
mod publish_cache;
mod publishing;
mod read_buffer;
mod read_sizer;
mod reader;
mod route;
mod storing;
mod subscribing;
mod suspension;
mod work_budget;
mod writer;

use std::{
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::poll_fn;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use crate::{
    config::Config,
    context::BrokerContext,
    delivery::outbox::Outbox,
    incidents::IncidentKind,
    journal::mailbox,
    limits::{connections::Permit, pre_auth::PendingConnection, tls_handshakes::HandshakePermit},
    metrics::endpoints::Phase,
    net::{
        endpoint::open::Service,
        socket::{ReadHalf, Socket, close},
    },
    session::{
        end::End,
        error_frame::{END_YOUR_STREAM, SHUTTING_DOWN, error_frame},
        handshake::Authenticated,
        reader::SessionReader,
        writer::{WriteEnd, Writer},
    },
};

/// How often mailboxes are asked for more before other connections have their turn.
const DELIVERIES: usize = 4;

/// An accepted connection. The permit is given back after the socket is closed.
pub(crate) struct Connection {
    pub(crate) context: Arc<BrokerContext>,
    pub(crate) socket: Socket,
    pub(crate) service: Arc<Service>,
    /// Present until the client has authenticated. Dropped before the permit.
    pub(crate) pending: Option<Box<PendingConnection>>,
    pub(crate) permit: Permit,
}

/// Serves one connection until it ends.
///
/// This future is the memory that an idle connection takes. A future holds its arguments twice, so
/// the parts of the connection, and states that are rare or short, live in boxes of their own.
pub(crate) async fn serve(connection: Box<Connection>) {
    let Some((mut connection, mut reader)) = Box::pin(establish(connection)).await else {
        return;
    };
    connection.permit.enter(Phase::Session);
    let (mut read, write) = connection.socket.split();
    let mut writer = Writer::new(write, reader.outbox().clone()).limited(reader.membership().quota());
    let mut end = drive(&mut reader, &mut read, &mut writer, &connection.context).await;
    if let End::Shutdown { unread } = &mut end {
        *unread = reader.has_published() || read.has_unread();
    }
    reader.attendance.leave((&end).into());
    if let Some(extension) = &mut reader.extension {
        extension.part(&connection.context);
    }
    writer.close_mail();
    // Nothing more is queued for the client from here on.
    reader.unsubscribe_all().await;
    // After that, as a connection that owns no mailbox gets everything live.
    if let Some(post) = reader.post.take() {
        // After its end of stream, what our system holds may still arrive.
        post.end(if let End::Eof | End::Unstored = end {
            mailbox::window::End::Fin
        } else {
            mailbox::window::End::Broken
        });
    }
    drop(reader);
    connection.permit.enter(Phase::Closing);
    Box::pin(close_session(end, connection.permit.peer, &mut read, &mut writer, &connection.context)).await;
}

/// Performs the handshake, unless the connection is evicted meanwhile. `None` when there is no
/// session.
async fn establish(mut connection: Box<Connection>) -> Option<(Box<Connection>, Box<SessionReader>)> {
    let mut pending = connection.pending.take()?;
    let mut tls_permit = None;
    let evicted = pending.evicted();
    let reader = tokio::select! {
        biased;
        reader = shake_hands(&mut connection, &mut tls_permit, &mut pending) => reader,
        () = evicted => {
            let Connection { context, socket, permit, .. } = &mut *connection;
            handshake::evict(socket, permit.peer, &pending, context);
            None
        }
    };
    // Before its place is free, so that no connection is evicted that has ended.
    drop(pending);
    if let Some(reader) = reader {
        return Some((connection, reader));
    }
    let context = connection.context.clone();
    drop(connection);
    if tls_permit.is_some() {
        // The permit outlives the connection, which bounds the rate of failed handshakes from one
        // address.
        context.draining.run_until_cancelled(sleep(context.config.auth_failure_delay)).await;
    }
    None
}

/// Performs the handshake, unless the broker shuts down meanwhile: the PROXY header, TLS, AUTH.
/// With TLS it takes a permit.
async fn shake_hands(
    connection: &mut Connection,
    tls_permit: &mut Option<HandshakePermit>,
    pending: &mut PendingConnection,
) -> Option<Box<SessionReader>> {
    let Connection { context, socket, service, permit, .. } = connection;
    let mut begun = Instant::now();
    if !service.proxies.is_empty() {
        let identifying = pin!(proxy::identify(socket, permit, pending, service.tls.is_none(), context));
        if !context.draining.run_until_cancelled(identifying).await.unwrap_or_default() {
            return None;
        }
    }
    let peer = permit.peer;
    if service.tls.is_some() {
        pending.silent = true;
        let acquiring = pin!(handshake::acquire_permit(socket, peer, context));
        *tls_permit = context.draining.run_until_cancelled(acquiring).await.flatten();
        if tls_permit.is_none() {
            return None;
        }
        begun = Instant::now();
    }
    if let Some(certificate) = &service.tls {
        let securing = pin!(handshake::secure(socket, certificate, peer, pending, context));
        if !context.draining.run_until_cancelled(securing).await.unwrap_or_default() {
            return None;
        }
    }
    // Pinned here, as `run_until_cancelled` would hold the future twice.
    let authenticated = context
        .draining
        .run_until_cancelled(pin!(handshake::authenticate(socket, peer, begun, service, pending, context)))
        .await;
    let Some(authenticated) = authenticated else {
        pending.end_without_session();
        if context.aborted.run_until_cancelled(pin!(handshake::end_for_shutdown(socket, context))).await.is_none() {
            socket.reset_on_close();
        }
        return None;
    };
    let Authenticated { membership, received } = authenticated?;
    info!(ident = membership.ident().as_str(), owner = membership.key().owner, %peer, "connected");
    let session = context.metrics.session(membership.ident(), &membership.key().owner);
    let attendance = context.presence.arrive(membership.ident(), peer, session.counters());
    let outbox = Outbox::new(session, peer, context.delivery.clone());
    membership.attach(&outbox);
    Some(Box::new(SessionReader::new(context.clone(), service, membership, attendance, outbox, received)))
}

/// Drives the session: reads and writes at the same time, until the client ends its stream or there
/// is a reason to stop.
async fn drive(
    reader: &mut SessionReader,
    read: &mut ReadHalf<'_>,
    writer: &mut Writer<'_>,
    context: &BrokerContext,
) -> End {
    let mut stop = None;
    // `draining` at first, and then `closing`.
    let mut shutdown = pin!(context.draining.cancelled());
    // Held while the client may still publish: a shutdown waits for it.
    let mut publishing = Some(context.publishing.token());
    let mut draining = false;
    let mut last_read = None;
    let mut writing = true;
    let ended = poll_fn(|cx| {
        if writing && let Poll::Ready(end) = writer.poll_run(cx) {
            writing = false;
            stop_for(&end, &mut stop);
        }
        if !writing {
            // In the place of the writer, which has ended. The outbox wakes the task while there is
            // more to clear.
            reader.outbox().register(cx);
            let _ = reader.outbox().poll_clear(cx);
        }
        if !draining && shutdown.as_mut().poll(cx).is_ready() {
            draining = true;
            shutdown.set(context.closing.cancelled());
            if stop.is_some() || (!reader.has_published() && !read.has_unread()) {
                publishing = None;
            } else if !read.is_finished(cx) {
                let frame = error_frame(END_YOUR_STREAM, context.config.limits);
                match &mut reader.extension {
                    Some(extension) => extension.say_base(&frame),
                    None => reader.outbox().say(frame.freeze()),
                }
            }
        }
        if draining && stop.is_none() && shutdown.as_mut().poll(cx).is_ready() {
            publishing = None;
            stop = Some(End::Shutdown { unread: true });
        }
        if let Some(End::Shutdown { .. }) = stop {
            // A client that has ended its stream is read to that end, for as long as the drain
            // timeout lasts.
            let last_read = last_read
                .get_or_insert_with(|| Box::pin(timeout(context.config.drain_timeout, context.aborted.cancelled())));
            if last_read.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
        }
        let ended = reader.poll_end(read, stop.as_ref(), cx);
        // Frames of the extension are written before the task waits.
        if ended.is_pending() && reader.extension.is_some() {
            speak(reader, writer, &mut writing, &mut stop, cx);
        }
        // The rest of the mailbox comes after the restart, once.
        if ended.is_pending() && writing && !draining && reader.post.is_some() {
            deliver(reader, writer, &mut writing, &mut stop, cx);
        }
        ended
    })
    .await;
    ended.or(stop).unwrap_or(End::Eof)
}

/// Lets the writer write what the reader has said with the extension.
#[inline(never)]
fn speak(
    reader: &mut SessionReader,
    writer: &mut Writer<'_>,
    writing: &mut bool,
    stop: &mut Option<End>,
    cx: &mut Context<'_>,
) {
    let Some(extension) = &mut reader.extension else {
        return;
    };
    if !extension.take_said() {
        return;
    }
    if extension.take_renewed() {
        writer.follow(extension.link());
    }
    let was_waiting = extension.is_waiting();
    if *writing && let Poll::Ready(end) = writer.poll_run(cx) {
        *writing = false;
        stop_for(&end, stop);
        cx.waker().wake_by_ref();
    }
    // The client has taken it, and is read again.
    if was_waiting && !extension.is_waiting() {
        cx.waker().wake_by_ref();
    }
}

/// Lets the writer write what the mailboxes of the client have for it.
#[inline(never)]
fn deliver(
    reader: &mut SessionReader,
    writer: &mut Writer<'_>,
    writing: &mut bool,
    stop: &mut Option<End>,
    cx: &mut Context<'_>,
) {
    let SessionReader { post: Some(post), extension, .. } = reader else { return };
    for _ in 0..DELIVERIES {
        if !post.poll(writer, extension.as_deref(), cx) {
            return;
        }
        if let Poll::Ready(end) = writer.poll_run(cx) {
            *writing = false;
            stop_for(&end, stop);
            cx.waker().wake_by_ref();
            return;
        }
    }
    // Others have their turn.
    cx.waker().wake_by_ref();
}

/// The reason to stop reading once the writer has ended. Of a broken connection, frames that have
/// arrived are still read.
fn stop_for(end: &WriteEnd, stop: &mut Option<End>) {
    match end {
        WriteEnd::Slow => _ = stop.get_or_insert(End::Slow),
        WriteEnd::Evicted => _ = stop.get_or_insert(End::Evicted),
        WriteEnd::Drained | WriteEnd::Failed => {}
    }
}

/// Closes the session: writes the rest of the outbox and the ERROR, unless the broker aborts, then
/// counts and logs the end.
async fn close_session(
    end: End,
    peer: SocketAddr,
    read: &mut ReadHalf<'_>,
    writer: &mut Writer<'_>,
    context: &BrokerContext,
) {
    // First, as other subscribers need the memory: a slow one may take the ERROR late.
    poll_fn(|cx| writer.outbox().poll_clear(cx)).await;
    context.aborted.run_until_cancelled(pin!(finish(&end, read, writer, &context.config))).await;
    poll_fn(|cx| writer.outbox().poll_clear(cx)).await;
    let outbox = writer.outbox();
    let incident = |kind, text: &str| context.incidents.add(kind, Some(outbox.ident()), peer.ip(), None, text);
    match &end {
        End::Refused(text) => {
            context.metrics.counters.refused.add(1);
            if outbox.session().refused() {
                incident(IncidentKind::BadFrame, text);
            }
        }
        End::Slow | End::Evicted => incident(IncidentKind::Slow, &end.to_string()),
        End::Revoked => context.metrics.counters.revoked.add(1),
        End::Fenced => context.metrics.counters.fenced.add(1),
        End::Silent(_) => context.metrics.counters.silent.add(1),
        _ => {}
    }
    info!(ident = outbox.ident().as_str(), %peer, reason = %end, dropped = outbox.dropped(), "disconnected");
}

/// Writes the rest of the outbox and the ERROR that `end` calls for, and closes the socket.
async fn finish(end: &End, read: &mut ReadHalf<'_>, writer: &mut Writer<'_>, config: &Config) {
    writer.lift_window();
    let revoked = format!("Authentication failed for {}", writer.outbox().ident());
    let silent;
    let (text, deadline) = match end {
        End::Eof => {
            // All that the client sent has been processed: whatever fails from here on, the close
            // must confirm it.
            read.finish_on_close();
            (None, config.write_timeout)
        }
        End::Refused(text) => {
            // At its rate limit, the queue could keep the ERROR back for long.
            if writer.is_limited() {
                revoke(writer).await;
            }
            (Some(text.as_str()), config.write_timeout)
        }
        // Without a key, the client must not receive anything more.
        End::Revoked => {
            revoke(writer).await;
            (Some(revoked.as_str()), config.write_timeout)
        }
        End::Slow => (Some("Backpressure deadline timer expired"), config.write_timeout),
        End::Silent(seconds) => {
            silent = format!("No sign of life within {seconds} s");
            (Some(silent.as_str()), config.write_timeout)
        }
        End::Fenced => (Some("The stream is used by another connection"), config.write_timeout),
        // A mere end of stream would confirm messages that were not read. A client that has only
        // subscribed gets no ERROR, as from the Python broker: that one's command line would end
        // instead of connecting again.
        End::Shutdown { unread } => (unread.then_some(SHUTTING_DOWN), config.drain_timeout),
        End::Evicted | End::Failed(_) | End::Unstored => return writer.abandon(),
    };
    writer.outbox().close(text.map(|text| error_frame(text, config.limits).freeze()));
    let writing = async {
        let written = poll_fn(|cx| writer.poll_run(cx)).await;
        if !matches!((&written, end), (WriteEnd::Drained, End::Shutdown { unread: false })) || !read.has_unread() {
            return written;
        }
        // The client has begun to send meanwhile.
        writer.outbox().close(Some(error_frame(SHUTTING_DOWN, config.limits).freeze()));
        poll_fn(|cx| writer.poll_run(cx)).await
    };
    match timeout(deadline, writing).await {
        Ok(WriteEnd::Drained) => {
            let client_may_send =
                matches!(end, End::Refused(_) | End::Revoked | End::Slow | End::Silent(_) | End::Fenced);
            close(read, writer.half(), client_may_send, deadline).await;
        }
        Ok(WriteEnd::Slow | WriteEnd::Evicted | WriteEnd::Failed) | Err(_) => writer.abandon(),
    }
}

/// Discards the queue, but for the rest of a frame that is written in part.
async fn revoke(writer: &mut Writer<'_>) {
    writer.revoke();
    poll_fn(|cx| writer.outbox().poll_clear(cx)).await;
}
