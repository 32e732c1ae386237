//! The body of an answer: bytes that are there, or a stream of events.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{StreamExt as _, stream::BoxStream};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};

/// The body of an answer.
pub(super) enum Content {
    Whole(Full<Bytes>),
    /// Polled only when the connection has room for more.
    Events(BoxStream<'static, Bytes>),
}

impl Content {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Pin::new(bytes).poll_frame(cx),
            Self::Events(events) => events.poll_next_unpin(cx).map(|bytes| Some(Ok(Frame::data(bytes?)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => bytes.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
