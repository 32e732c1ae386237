//! The writer of control frames: they go out between two batches, and no limit puts them off.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::time::Sleep;

use crate::{delivery::outbox::Outbox, link::Link, net::socket::WriteHalf};

/// The part of a writer that a connection with the extension has.
pub(super) struct ControlWriter {
    pub(super) link: Arc<Link>,
    /// The frames that are being written, and how many of their bytes are.
    chunk: BytesMut,
    written: usize,
    /// How many bytes of control frames have been written.
    pub(super) total: u64,
    /// The last offer, if the socket took no more: it has to be offered the same bytes again.
    pub(super) blocked: Option<Offer>,
    /// The client has a window.
    pub(super) windowed: bool,
    /// The deadline for a slow subscriber, while the socket takes no more of the control frames.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

/// An offer to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    Batches,
    Control,
}

impl ControlWriter {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, chunk: BytesMut::new(), written: 0, total: 0, blocked: None, windowed: false, timer: None }
    }

    /// Writes what there is, if it is the turn of control frames: `between` two frames of the
    /// outbox. Ready when there is nothing to write now.
    pub(super) fn poll_write(
        &mut self,
        half: &mut WriteHalf<'_>,
        outbox: &Outbox,
        between: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.chunk.is_empty() {
                let is_turn = between && self.blocked.is_none();
                if !is_turn || !self.link.take(&mut self.chunk) {
                    return Poll::Ready(Ok(()));
                }
            }
            let rest = self.chunk.get(self.written..).unwrap_or_default();
            match half.poll_write(cx, &[IoSlice::new(rest)]) {
                Poll::Ready(Ok(n)) => {
                    self.blocked = None;
                    self.advance(n, outbox);
                }
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Pending => {
                    self.blocked = Some(Offer::Control);
                    return Poll::Pending;
                }
            }
        }
    }

    /// So many bytes have been written.
    pub(super) fn advance(&mut self, n: usize, outbox: &Outbox) {
        self.written += n;
        self.total += n as u64;
        outbox.sent_control(n);
        if self.written >= self.chunk.len() {
            self.chunk.clear();
            self.written = 0;
            self.link.control().written();
        }
    }

    /// The connection cannot be written to any more.
    pub(super) fn close(&mut self) {
        self.chunk.clear();
        self.written = 0;
        self.link.control().close();
    }
}
