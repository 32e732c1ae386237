//! The hpfeeds handshake over a blocking stream: INFO is read, and AUTH is sent.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use hpfeeds::wire::{Frame, FrameRef, HEADER_LEN, Header, Limits, Nonce, Secret};

/// Authenticates. A broker does not say that it accepts the key.
pub(crate) fn authenticate(stream: &mut (impl Read + Write), ident: &str, secret: &str) -> io::Result<()> {
    authenticate_and(stream, ident, secret, &[])
}

/// Authenticates, and sends more right behind that.
pub(crate) fn authenticate_and(
    stream: &mut (impl Read + Write),
    ident: &str,
    secret: &str,
    more: &[u8],
) -> io::Result<()> {
    let info = read_frame(stream)?;
    let header = Header::parse(&info, Limits::default()).map_err(io::Error::other)?;
    let frame = header.map(|header| FrameRef::parse(header.opcode, &info[HEADER_LEN..]));
    let Some(Ok(FrameRef::Info { nonce, .. })) = frame else {
        return Err(io::Error::other("the broker did not send INFO"));
    };
    let digest = Secret::from(secret).sign(&Nonce::new(nonce));
    let auth = Frame::Auth { ident: ident.parse().map_err(io::Error::other)?, digest };
    stream.write_all(&[&encode(&auth)?, more].concat())?;
    stream.flush()
}

/// Reads one frame and nothing behind it.
pub(crate) fn read_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER_LEN];
    stream.read_exact(&mut frame)?;
    let header = Header::parse(&frame, Limits::default()).map_err(io::Error::other)?;
    frame.resize(header.map_or(HEADER_LEN, |header| header.length), 0);
    stream.read_exact(&mut frame[HEADER_LEN..])?;
    Ok(frame)
}

/// The bytes of a frame.
pub(crate) fn encode(frame: &Frame) -> io::Result<Vec<u8>> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes, Limits::default()).map_err(io::Error::other)?;
    Ok(bytes.to_vec())
}
