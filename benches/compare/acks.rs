//! The ACK frames of the extension `hpx/1`, as one publisher gets them, and heartbeats between them.

use std::{
    io::{self, Read as _},
    net::TcpStream,
};

use hpfeeds::wire::{HEADER_LEN, extension::ExtensionOpcode};

/// The length of an ACK, with its header.
const LEN: usize = HEADER_LEN + 8;
/// The head of one, which a number follows.
const HEAD: [u8; HEADER_LEN] = [0, 0, 0, 13, ExtensionOpcode::Ack as u8];
const HEARTBEAT: [u8; HEADER_LEN + 1] = [0, 0, 0, 6, ExtensionOpcode::Heartbeat as u8, 0];

/// The ACKs of a stream.
#[derive(Default)]
pub(crate) struct Acks {
    /// The number of the newest.
    pub(crate) number: u64,
    /// One that has not arrived whole.
    rest: Vec<u8>,
}

impl Acks {
    /// Reads once, as far as the socket blocks.
    pub(crate) fn read(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        let mut bytes = [0; 4096];
        match socket.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.rest.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut rest = &self.rest[..];
        loop {
            rest = rest.strip_prefix(&HEARTBEAT).unwrap_or(rest);
            let Some((frame, behind)) = rest.split_first_chunk::<LEN>() else {
                break;
            };
            let number = frame.strip_prefix(&HEAD).and_then(|number| Some(u64::from_be_bytes(number.try_into().ok()?)));
            match number.filter(|number| *number > self.number) {
                Some(number) => (self.number, rest) = (number, behind),
                None => return Err(io::Error::other(format!("{} after ACK of {}", frame.escape_ascii(), self.number))),
            }
        }
        self.rest = rest.to_vec();
        Ok(())
    }
}
