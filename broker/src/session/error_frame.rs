//! ERROR frames: their texts at a shutdown, their encoding, and how one is sent.

use bytes::BytesMut;
use hpfeeds::wire::{Frame, Limits};
use tokio::time::timeout;

use crate::{context::BrokerContext, net::socket::WriteHalf};

/// ERROR text at the end of a shutdown. An end of stream without it confirms the messages that a
/// client has sent.
pub(crate) const SHUTTING_DOWN: &str = "The broker is shutting down";

/// ERROR text for publishers at the beginning of a shutdown. Their messages are processed up to the
/// end of their stream, if that comes soon.
pub(crate) const END_YOUR_STREAM: &str = "The broker is shutting down; end your stream";

/// Sends an ERROR, if the client takes it within the write timeout.
pub(crate) async fn send_error(write: &mut WriteHalf<'_>, text: &str, context: &BrokerContext) {
    let frame = error_frame(text, context.config.limits);
    // The connection ends in any case.
    let _ = timeout(context.config.write_timeout, write.write_all(&frame)).await;
}

/// Encodes an ERROR frame, with as much of the text as the limits allow.
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
    fn error_text_is_cut_to_the_limit_between_characters() {
        assert_eq!(error_frame("abc", Limits::new(3)), &b"\0\0\0\x08\0abc"[..]);
        assert_eq!(error_frame("abc", Limits::new(2)), &b"\0\0\0\x07\0ab"[..]);
        assert_eq!(error_frame("aé", Limits::new(2)), &b"\0\0\0\x06\0a"[..]);
    }
}
