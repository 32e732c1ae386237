//! One peer, one task: handshake, session, farewell.

pub(crate) mod error_frame;
mod fanout;
mod handshake;
mod proxy;
mod publish_cache;
mod read_buffer;
mod reader;
mod writer;

use std::{net::SocketAddr, pin::pin, sync::Arc, task::Poll};

use futures::future::poll_fn;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use crate::{
    config::Config,
    context::BrokerContext,
    delivery::outbox::Outbox,
    limits::{connections::Permit, pre_auth::PendingConnection, tls_handshakes::HandshakePermit},
    metrics::endpoints::Phase,
    net::{
        endpoint::open::Service,
        socket::{ReadHalf, Socket, close},
    },
    session::{
        error_frame::{END_YOUR_STREAM, SHUTTING_DOWN, error_frame},
        handshake::Admitted,
        reader::{End, SessionReader},
        writer::{WriteEnd, Writer},
    },
};

/// A connection that was accepted. The permit is given back when the socket is closed.
pub(crate) struct Connection {
    pub(crate) context: Arc<BrokerContext>,
    pub(crate) socket: Socket,
    pub(crate) service: Arc<Service>,
    /// Until it has authenticated. It goes before the permit.
    pub(crate) pending: Option<Box<PendingConnection>>,
    pub(crate) permit: Permit,
}

/// Serves one connection until it ends.
///
/// Its parts, and rare or short states, live in boxes of their own: a future holds what is passed to it twice, and
/// this one is what an idle connection costs.
pub(crate) async fn serve(connection: Box<Connection>) {
    let Some((mut connection, mut reader)) = Box::pin(admit(connection)).await else {
        return;
    };
    connection.permit.enter(Phase::Session);
    let (mut read, write) = connection.socket.split();
    let mut writer = Writer::new(write, reader.outbox().clone()).limited(reader.membership().quota());
    let mut end = drive(&mut reader, &mut read, &mut writer, &connection.context).await;
    if let End::Shutdown { unread } = &mut end {
        *unread = reader.has_published() || read.has_unread();
    }
    // Nothing more is queued for it from here on.
    reader.leave().await;
    drop(reader);
    connection.permit.enter(Phase::Closing);
    Box::pin(close_session(end, connection.permit.peer, &mut read, &mut writer, &connection.context)).await;
}

/// The handshake, unless the client has to give way to another.
async fn admit(mut connection: Box<Connection>) -> Option<(Box<Connection>, Box<SessionReader>)> {
    let mut pending = connection.pending.take()?;
    let mut turn = None;
    let told = pending.evicted();
    let reader = tokio::select! {
        biased;
        reader = establish(&mut connection, &mut turn, &mut pending) => reader,
        () = told => {
            let Connection { context, socket, permit, .. } = &mut *connection;
            handshake::evict(socket, permit.peer, &pending, context);
            None
        }
    };
    // Before its place is free: nobody is told to give way who has gone.
    drop(pending);
    if let Some(reader) = reader {
        return Some((connection, reader));
    }
    let context = connection.context.clone();
    drop(connection);
    if turn.is_some() {
        // Only its turn is kept, so that the next one from there waits.
        context.draining.run_until_cancelled(sleep(context.config.auth_failure_delay)).await;
    }
    None
}

/// The handshake, unless the broker shuts down meanwhile. With TLS it takes a turn.
async fn establish(
    connection: &mut Connection,
    turn: &mut Option<HandshakePermit>,
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
        *turn = context.draining.run_until_cancelled(pin!(handshake::turn(socket, peer, context))).await.flatten();
        if turn.is_none() {
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
    // `run_until_cancelled` would hold it twice.
    let admitted =
        context.draining.run_until_cancelled(pin!(handshake::run(socket, peer, begun, pending, context))).await;
    let Some(admitted) = admitted else {
        pending.end_without_session();
        if context.aborted.run_until_cancelled(pin!(handshake::cut(socket, context))).await.is_none() {
            socket.reset_on_close();
        }
        return None;
    };
    let Admitted { membership, received } = admitted?;
    info!(ident = membership.ident().as_str(), owner = membership.key().owner, %peer, "connected");
    let session = context.metrics.session(membership.ident(), &membership.key().owner);
    let outbox = Outbox::new(session, peer, context.delivery.clone());
    membership.attach(&outbox);
    Some(Box::new(SessionReader::new(context.clone(), service.mode, membership, outbox, received)))
}

/// Reads and writes at the same time, until there is no more to read or no sense in it.
async fn drive(
    reader: &mut SessionReader,
    read: &mut ReadHalf<'_>,
    writer: &mut Writer<'_>,
    context: &BrokerContext,
) -> End {
    let mut stop = None;
    // The beginning of a shutdown, and then its second part.
    let mut shutdown = pin!(context.draining.cancelled());
    let mut parting = Some(context.parting.token());
    let mut draining = false;
    let mut cut = None;
    let mut writing = true;
    let ended = poll_fn(|cx| {
        if writing && let Poll::Ready(end) = writer.poll_run(cx) {
            writing = false;
            // On a broken connection there may still be something to read.
            match end {
                WriteEnd::Slow => _ = stop.get_or_insert(End::Slow),
                WriteEnd::Evicted => _ = stop.get_or_insert(End::Evicted),
                WriteEnd::Drained | WriteEnd::Failed => {}
            }
        }
        if !writing {
            // The writer does so no longer.
            reader.outbox().register(cx);
            // It wakes the task while there is more.
            let _ = reader.outbox().poll_clear(cx);
        }
        if !draining && shutdown.as_mut().poll(cx).is_ready() {
            draining = true;
            shutdown.set(context.closing.cancelled());
            if stop.is_some() || (!reader.has_published() && !read.has_unread()) {
                parting = None;
            } else if !read.is_finished(cx) {
                reader.outbox().say(error_frame(END_YOUR_STREAM, context.config.limits).freeze());
            }
        }
        if draining && stop.is_none() && shutdown.as_mut().poll(cx).is_ready() {
            parting = None;
            stop = Some(End::Shutdown { unread: true });
        }
        if let Some(End::Shutdown { .. }) = stop {
            // A peer that has said everything is read to its end, if that does not take too long.
            let cut =
                cut.get_or_insert_with(|| Box::pin(timeout(context.config.drain_timeout, context.aborted.cancelled())));
            if cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
        }
        reader.poll_run(read, stop.as_ref(), cx)
    })
    .await;
    ended.or(stop).unwrap_or(End::Eof)
}

/// Writes what is left and says goodbye, unless there is no time for it.
async fn close_session(
    end: End,
    peer: SocketAddr,
    read: &mut ReadHalf<'_>,
    writer: &mut Writer<'_>,
    context: &BrokerContext,
) {
    // The memory of a slow subscriber is needed by others: it does not wait for the ERROR to be written.
    poll_fn(|cx| writer.outbox().poll_clear(cx)).await;
    context.aborted.run_until_cancelled(pin!(finish(&end, read, writer, &context.config))).await;
    poll_fn(|cx| writer.outbox().poll_clear(cx)).await;
    match end {
        End::Refused(_) => {
            context.metrics.counters.refused.add(1);
            writer.outbox().session().refused();
        }
        End::Revoked => context.metrics.counters.revoked.add(1),
        _ => {}
    }
    let outbox = writer.outbox();
    info!(ident = outbox.ident().as_str(), %peer, reason = %end, dropped = outbox.dropped(), "disconnected");
}

/// Writes what is left, says what was wrong, and closes.
async fn finish(end: &End, read: &mut ReadHalf<'_>, writer: &mut Writer<'_>, config: &Config) {
    let revoked = format!("Authentication failed for {}", writer.outbox().ident());
    let (text, deadline) = match end {
        End::Eof => {
            // Whatever happens now: everything that it sent has been acted on.
            read.finish_on_close();
            (None, config.write_timeout)
        }
        End::Refused(text) => {
            // What is queued could keep the ERROR back for long.
            if writer.is_limited() {
                revoke(writer).await;
            }
            (Some(text.as_str()), config.write_timeout)
        }
        // It must not get anything any more.
        End::Revoked => {
            revoke(writer).await;
            (Some(revoked.as_str()), config.write_timeout)
        }
        End::Slow => (Some("Backpressure deadline timer expired"), config.write_timeout),
        // A mere end of stream would confirm what has not been read. Who has only listened hears no ERROR, as from the
        // Python broker: its command line would end instead of connecting again.
        End::Shutdown { unread } => (unread.then_some(SHUTTING_DOWN), config.drain_timeout),
        End::Evicted | End::Failed(_) => return writer.abandon(),
    };
    writer.outbox().close(text.map(|text| error_frame(text, config.limits).freeze()));
    let writing = async {
        let written = poll_fn(|cx| writer.poll_run(cx)).await;
        if !matches!((&written, end), (WriteEnd::Drained, End::Shutdown { unread: false })) || !read.has_unread() {
            return written;
        }
        // It has begun to send meanwhile.
        writer.outbox().close(Some(error_frame(SHUTTING_DOWN, config.limits).freeze()));
        poll_fn(|cx| writer.poll_run(cx)).await
    };
    match timeout(deadline, writing).await {
        Ok(WriteEnd::Drained) => {
            let expect = matches!(end, End::Refused(_) | End::Revoked | End::Slow);
            close(read, writer.half(), expect, deadline).await;
        }
        Ok(WriteEnd::Slow | WriteEnd::Evicted | WriteEnd::Failed) | Err(_) => writer.abandon(),
    }
}

/// Takes back what is queued, but for the rest of a frame that was begun.
async fn revoke(writer: &mut Writer<'_>) {
    writer.revoke();
    poll_fn(|cx| writer.outbox().poll_clear(cx)).await;
}
