//! The ACK frames of the extension `hpx/1`, as one publisher gets them.

use std::{
    io::{self, Read as _},
    net::TcpStream,
};

use hpfeeds::wire::{HEADER_LEN, extension::ExtensionOpcode};

/// The length of one, with its header.
const LEN: usize = HEADER_LEN + 8;
const HEAD: [u8; HEADER_LEN] = [0, 0, 0, 13, ExtensionOpcode::Ack as u8];

/// The ACKs of a stream, which are the only frames that come.
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
        let (frames, rest) = self.rest.as_chunks::<LEN>();
        for frame in frames {
            let (head, number) = frame.split_at(HEADER_LEN);
            let number = u64::from_be_bytes(number.try_into().map_err(io::Error::other)?);
            if head != HEAD || number <= self.number {
                return Err(io::Error::other(format!("{} after ACK of {}", frame.escape_ascii(), self.number)));
            }
            self.number = number;
        }
        self.rest = rest.to_vec();
        Ok(())
    }
}
