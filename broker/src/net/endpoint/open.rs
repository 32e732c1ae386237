//! Opening endpoints: from a description to a listening socket.

use std::{
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs as _},
    sync::Arc,
};

use hpfeeds::Keepalive;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    error::StartError,
    net::{
        endpoint::{Endpoint, Mode, network::Network},
        tls::certificate::Certificate,
    },
};

/// The most connections that the system queues until they are accepted. It has a maximum of its
/// own.
const BACKLOG: u32 = 1024;

/// The service of an endpoint: what is the same for all of its connections.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) mode: Mode,
    /// The extension is offered here, if the broker offers it.
    pub(crate) extensions: bool,
    pub(crate) keepalive: Option<Keepalive>,
    /// The proxies, whose connections all begin with a PROXY header. Empty without the PROXY
    /// protocol.
    pub(crate) proxies: Vec<Network>,
    pub(crate) tls: Option<Arc<Certificate>>,
}

impl Default for Service {
    fn default() -> Self {
        let (mode, keepalive) = (Mode::Both, Some(Keepalive::default()));
        Self { mode, extensions: true, keepalive, proxies: Vec::new(), tls: None }
    }
}

/// A listening socket and its service.
pub(crate) struct Opened {
    pub(crate) listener: TcpListener,
    pub(crate) service: Service,
}

impl Endpoint {
    /// Opens the endpoint. Blocks while files are read and a host name is resolved.
    pub(crate) fn open(&self) -> Result<Opened, StartError> {
        let certificate = |files| Certificate::load(self.to_string(), files);
        let tls = self.tls.as_deref().cloned().map(certificate).transpose()?.map(Arc::new);
        let (mode, extensions, keepalive) = (self.mode, self.extensions, self.keepalive);
        let service = Service { mode, extensions, keepalive, proxies: self.proxies.clone(), tls };
        Ok(Opened { listener: self.listen()?, service })
    }

    /// The address that it would listen on: everything short of listening is tried. Blocks as
    /// [`open`](Self::open) does.
    #[cfg(feature = "cli")]
    pub(crate) fn check(&self) -> Result<SocketAddr, StartError> {
        if let Some(files) = self.tls.as_deref() {
            Certificate::load(self.to_string(), files.clone())?;
        }
        self.socket().map(|(_, addr)| addr)
    }

    fn listen(&self) -> Result<TcpListener, StartError> {
        let (socket, addr) = self.socket()?;
        let fail = |cause| StartError::Listen { addr, cause };
        socket.bind(&addr.into()).map_err(fail)?;
        let backlog = i32::try_from(self.backlog.unwrap_or(BACKLOG)).unwrap_or(i32::MAX);
        socket.listen(backlog).map_err(fail)?;
        Ok(socket.into())
    }

    /// A socket that is not bound yet, and the address for it.
    fn socket(&self) -> Result<(Socket, SocketAddr), StartError> {
        let addr = self.resolve()?;
        let fail = |cause| StartError::Listen { addr, cause };
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP)).map_err(fail)?;
        // A restart must not wait until the system has forgotten the old connections.
        socket.set_reuse_address(true).map_err(fail)?;
        if self.reuse_port {
            reuse_port(&socket).map_err(fail)?;
        }
        // Connections inherit these; the window that a client is offered is settled before it is
        // accepted.
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes).map_err(fail)?;
        }
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes).map_err(fail)?;
        }
        if let Some(device) = &self.device {
            bind_device(&socket, device).map_err(|cause| StartError::Device { device: device.clone(), cause })?;
        }
        Ok((socket, addr))
    }

    /// Prefers IPv4, which is all that the Python broker knows.
    fn resolve(&self) -> Result<SocketAddr, StartError> {
        let fail = |cause| StartError::Resolve { interface: self.interface.clone(), cause };
        let addrs: Vec<_> = (self.interface.as_str(), self.port).to_socket_addrs().map_err(fail)?.collect();
        let first = addrs.iter().find(|addr| addr.is_ipv4()).or(addrs.first()).copied();
        first.ok_or_else(|| fail(io::Error::other("it has no address")))
    }
}

#[cfg(target_os = "linux")]
fn bind_device(socket: &Socket, device: &str) -> io::Result<()> {
    socket.bind_device(Some(device.as_bytes()))
}

#[cfg(not(target_os = "linux"))]
fn bind_device(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::Error::other("only Linux can do that"))
}

#[cfg(unix)]
fn reuse_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(unix))]
fn reuse_port(_: &Socket) -> io::Result<()> {
    Err(io::Error::other("reuseport is there on Unix only"))
}
