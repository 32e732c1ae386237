//! The ERROR frame: the broker's own texts, and how one is written to a client.

use bytes::BytesMut;
use hpfeeds::wire::{Frame, Limits};
use tokio::time::timeout;

use crate::{context::BrokerContext, net::socket::WriteHalf};

/// What everybody hears at the end. An end of stream without it confirms what a client has sent.
pub(crate) const SHUTTING_DOWN: &str = "The broker is shutting down";

/// Told to a publisher when a shutdown begins: what it sends is acted on up to its end of stream, if that comes soon.
pub(crate) const END_YOUR_STREAM: &str = "The broker is shutting down; end your stream";

/// Sends an ERROR, if the client takes it in time.
pub(crate) async fn say(write: &mut WriteHalf<'_>, text: &str, context: &BrokerContext) {
    let frame = error_frame(text, context.config.limits);
    // It is on its way out either way.
    let _ = timeout(context.config.write_timeout, write.write_all(&frame)).await;
}

/// An ERROR frame, with as much of the text as fits.
pub(crate) fn error_frame(text: &str, limits: Limits) -> BytesMut {
    let mut len = text.len().min(limits.max_message() as usize);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    let message = text.as_bytes().get(..len).unwrap_or_default().to_vec().into();
    let mut frame = BytesMut::new();
    let encoded = Frame::Error { message }.encode(&mut frame, limits);
    debug_assert!(encoded.is_ok(), "the text has been cut to the limit");
    frame
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn an_error_text_is_cut_to_the_limit_between_characters() {
        assert_eq!(error_frame("abc", Limits::new(3)), &b"\0\0\0\x08\0abc"[..]);
        assert_eq!(error_frame("abc", Limits::new(2)), &b"\0\0\0\x07\0ab"[..]);
        assert_eq!(error_frame("aé", Limits::new(2)), &b"\0\0\0\x06\0a"[..]);
    }
}
