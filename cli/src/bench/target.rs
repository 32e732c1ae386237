//! The broker that is measured, and connections to it.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use bytes::BytesMut;
use hpfeeds::{
    error_text::DenialKind,
    wire::{Channel, Frame, FrameRef, HEADER_LEN, Header, Ident, Limits, Nonce, Opcode, Secret},
};

use super::{args::Given, process::Usage};
use crate::exit::{DENIED, FAILED, Failure, REJECTED};

#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) addr: SocketAddr,
    pub(super) pid: Option<u32>,
    pub(super) ident: Ident,
    pub(super) secret: Secret,
    pub(super) channel: Channel,
    pub(super) limits: Limits,
    /// How long nothing may happen.
    pub(super) patience: Duration,
}

/// The first of the broker's addresses that accepts connections.
pub(super) fn resolve(given: &Given, patience: Duration) -> Result<SocketAddr, Failure> {
    let failed = |cause: io::Error| Failure::new(format!("cannot connect to {}: {cause}", given.addr));
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for addr in (given.addr.host(), given.addr.port()).to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&addr, patience) {
            Ok(_) => return Ok(addr),
            Err(cause) => last = cause,
        }
    }
    Err(failed(last))
}

impl Target {
    /// CPU time and memory of the broker's process so far, when its PID is known.
    pub(super) fn usage(&self) -> Option<Usage> {
        Usage::of(self.pid)
    }

    /// A connection on which AUTH was sent. A broker does not say that it accepts it.
    pub(super) fn connect(&self) -> Result<TcpStream, Failure> {
        let mut stream = TcpStream::connect_timeout(&self.addr, self.patience)
            .map_err(|cause| Failure::new(format!("cannot connect to {}: {cause}", self.addr)))?;
        self.handshake(&mut stream)?;
        Ok(stream)
    }

    /// A whole connection: after AUTH nothing is sent, and the broker must close it without an
    /// ERROR.
    pub(super) fn visit(&self) -> Result<(), Failure> {
        let mut stream = self.connect()?;
        stream.shutdown(Shutdown::Write).map_err(|cause| failed(&cause))?;
        let mut said = Vec::new();
        (&mut stream).take(64 * 1024).read_to_end(&mut said).map_err(|cause| failed(&cause))?;
        if said.is_empty() { Ok(()) } else { Err(refusal(&said)) }
    }

    /// A connection on which AUTH and SUBSCRIBE were sent.
    pub(super) fn subscriber(&self) -> Result<TcpStream, Failure> {
        let mut stream = self.connect()?;
        let (ident, channel) = (self.ident.clone(), self.channel.clone());
        self.send(&mut stream, &Frame::Subscribe { ident, channel })?;
        Ok(stream)
    }

    fn handshake(&self, stream: &mut TcpStream) -> Result<(), Failure> {
        let set = |stream: &TcpStream| {
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(self.patience))?;
            stream.set_read_timeout(Some(self.patience))
        };
        set(stream).map_err(|cause| failed(&cause))?;
        let nonce = self.greeting(stream)?;
        self.send(stream, &Frame::Auth { ident: self.ident.clone(), digest: self.secret.sign(&nonce) })
    }

    /// Reads INFO.
    fn greeting(&self, stream: &mut TcpStream) -> Result<Nonce, Failure> {
        let odd = |cause: &dyn std::fmt::Display| Failure::new(format!("{} is no hpfeeds broker: {cause}", self.addr));
        let mut bytes = vec![0; HEADER_LEN];
        stream.read_exact(&mut bytes).map_err(|cause| failed(&cause))?;
        let header = Header::parse(&bytes, self.limits).map_err(|cause| odd(&cause))?;
        let Some(Header { opcode, length }) = header else { return Err(odd(&"no header")) };
        bytes.resize(length, 0);
        stream.read_exact(&mut bytes[HEADER_LEN..]).map_err(|cause| failed(&cause))?;
        match FrameRef::parse(opcode, &bytes[HEADER_LEN..]) {
            Ok(FrameRef::Info { nonce, .. }) => Ok(Nonce::new(nonce)),
            Ok(FrameRef::Error { message }) => Err(says(message)),
            Ok(_) => Err(odd(&format_args!("it begins with {opcode}"))),
            Err(cause) => Err(odd(&cause)),
        }
    }

    fn send(&self, stream: &mut TcpStream, frame: &Frame) -> Result<(), Failure> {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes, self.limits).map_err(|cause| Failure::new(cause.to_string()))?;
        stream.write_all(&bytes).map_err(|cause| failed(&cause))
    }
}

/// Why a connection on which nothing is due can be read from, or not be written to.
pub(super) fn why(mut stream: &TcpStream, otherwise: &io::Error) -> Failure {
    let mut said = vec![0; 4096];
    // Without waiting: an ERROR comes before the end.
    drop(stream.set_nonblocking(true));
    match stream.read(&mut said) {
        Ok(length @ 1..) => refusal(&said[..length]),
        Ok(0) => Failure::new("the broker closed the connection"),
        Err(_) => failed(otherwise),
    }
}

/// Whatever a broker sends to somebody who has not subscribed.
fn refusal(said: &[u8]) -> Failure {
    match Header::parse(said, Limits::new(u32::MAX)) {
        Ok(Some(Header { opcode: Opcode::Error, length })) => says(&said[HEADER_LEN..length.min(said.len())]),
        Ok(Some(Header { opcode, .. })) => Failure::new(format!("the broker sent {opcode}, which is not due")),
        Ok(None) | Err(_) => Failure::new("the broker sent something that is no frame"),
    }
}

/// With the exit code that the texts of the brokers in use stand for.
pub(super) fn says(text: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(text);
    // The ident matters for the channel only, which nobody asks for.
    let code = match DenialKind::classify(&text, "") {
        DenialKind::Publish(_) | DenialKind::Subscribe(_) | DenialKind::Access => DENIED,
        DenialKind::Auth => REJECTED,
        DenialKind::Shutdown | DenialKind::Other => FAILED,
    };
    Failure::with_code(code, format!("the broker says: {text}"))
}

pub(super) fn failed(cause: &io::Error) -> Failure {
    Failure::new(match cause.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "the broker does not answer within --timeout".to_owned(),
        ErrorKind::UnexpectedEof => "the broker closed the connection".to_owned(),
        _ => format!("the connection to the broker failed: {cause}"),
    })
}
