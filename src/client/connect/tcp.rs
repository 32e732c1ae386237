//! The TCP connector: dialling all addresses of a host, keepalive, and what the system knows of a
//! connection.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::sock_diag;
use super::{
    addr::BrokerAddr,
    connector::{Connector, Transport, TransportStatus},
};

/// How long the first of several addresses of a host is tried before the next is tried as well.
const NEXT_ADDRESS: Duration = Duration::from_secs(1);

/// All addresses of a host are being tried by then, however many there are: well before a session
/// gives its broker up ([`handshake_timeout`](crate::SessionBuilder::handshake_timeout)).
const ALL_ADDRESSES: Duration = Duration::from_secs(2);

impl Transport for TcpStream {
    /// The system would go on sending for a quarter of an hour, also after the socket is closed.
    fn abort(&self) {
        // It fails for a socket that has ended, which sends nothing any more.
        drop(SockRef::from(self).set_linger(Some(Duration::ZERO)));
    }

    /// A connector may have set the limit, or the system's default may be one.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn hears_heartbeats(&self) {
        // A socket that has ended needs none.
        drop(SockRef::from(self).set_tcp_user_timeout(None));
    }

    /// Asks the system, not the runtime, which may not have heard of it yet; and sees it also
    /// behind data that nobody has read.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn peer_closed(&self) -> bool {
        happened(self).intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn status(&self) -> Option<TransportStatus> {
        if let (Ok(local), Ok(peer)) = (self.local_addr(), self.peer_addr()) {
            if let Some(status) = sock_diag::status(local, peer) {
                return Some(status);
            }
        }
        // Both sides have ended their streams, and know of the other's end: a socket that waits for
        // an acknowledgement still has a peer. So has none that was reset, also when the peer's end
        // came before that and is all that is read: then what was on its way is lost, and how much
        // that was is not known any more.
        let ended = self.peer_addr().is_err_and(|cause| cause.kind() == io::ErrorKind::NotConnected);
        ended.then(|| {
            let reset = happened(self).contains(PollFlags::ERR);
            TransportStatus { unacknowledged: reset.into(), end_acknowledged: !reset, ..TransportStatus::default() }
        })
    }

    /// Sees it only when all data has been read.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn peer_closed(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match SockRef::from(self).peek(&mut byte) {
            Ok(n) => n == 0,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }
}

/// The events of a socket: an end of stream, or a failure. An error stays there to be read.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn happened(stream: &TcpStream) -> PollFlags {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&at_once)) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

/// TCP keepalive: probes of a silent peer, by which a side that only waits learns that the other one
/// is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe, in whole seconds.
    pub idle: Duration,
    /// Time between probes, in whole seconds.
    pub interval: Duration,
    /// Number of probes without an answer after which the connection is broken.
    pub retries: u32,
}

impl Default for Keepalive {
    /// 10 s, 5 s, 3 probes, as the Python client and broker have them: on an idle connection, a
    /// dead peer is noticed after 25 s.
    fn default() -> Self {
        Self { idle: Duration::from_secs(10), interval: Duration::from_secs(5), retries: 3 }
    }
}

/// Connects over TCP, without delay for small writes and with keepalive.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnector {
    /// The keepalive of each connection.
    pub keepalive: Keepalive,
    /// The address of this machine that connections are made from; `None`: the system chooses.
    pub local_address: Option<IpAddr>,
}

impl TcpConnector {
    pub(crate) async fn dial(&self, addr: &BrokerAddr) -> io::Result<TcpStream> {
        let found = lookup_host((addr.host(), addr.port())).await?;
        let stream = match self.local_address {
            None => connect_any(found, TcpStream::connect).await?,
            Some(local) => {
                let same: Vec<_> = found.filter(|addr| addr.is_ipv4() == local.is_ipv4()).collect();
                if same.is_empty() {
                    let text = format!("the host has no address of the family of the local address {local}");
                    return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
                }
                connect_any(same.into_iter(), |addr| connect_from(local, addr)).await?
            }
        };
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(self.keepalive.idle).with_interval(self.keepalive.interval);
        #[cfg(not(target_os = "windows"))]
        let keepalive = keepalive.with_retries(self.keepalive.retries);
        // No TCP_USER_TIMEOUT: it ends connections whose peer is alive and reads nothing, and takes
        // the place of the number of probes.
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }
}

/// Connects from an address of this machine, at a port that the system chooses.
async fn connect_from(local: IpAddr, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if local.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let bound = socket.bind(SocketAddr::new(local, 0));
    bound.map_err(|cause| io::Error::new(cause.kind(), format!("cannot connect from {local}: {cause}")))?;
    socket.connect(addr).await
}

/// Tries the addresses of a host in their order, the next when one has failed or has not answered
/// for a while. Earlier ones are tried on: the first that answers is it, and however many
/// swallow packets, all have their turn.
async fn connect_any<T, F>(addrs: impl Iterator<Item = SocketAddr>, connect: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let addrs: Vec<_> = addrs.collect();
    let pause = (ALL_ADDRESSES / u32::try_from(addrs.len()).unwrap_or(u32::MAX).max(1)).min(NEXT_ADDRESS);
    let mut addrs = addrs.into_iter();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    let mut connecting = FuturesUnordered::new();
    loop {
        connecting.extend(addrs.next().map(&connect));
        let connected = match timeout(pause, connecting.next()).await {
            Err(_elapsed) if addrs.len() > 0 => continue,
            Err(_elapsed) => connecting.next().await,
            Ok(connected) => connected,
        };
        match connected {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last = error,
            None => return Err(last),
        }
    }
}

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move { Ok(Box::new(self.dial(addr).await?) as _) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tcp_connections_notice_dead_peers_and_send_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpConnector::default().dial(&listener.local_addr().unwrap().into()).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
            assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn connections_are_made_from_the_local_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = BrokerAddr::from(listener.local_addr().unwrap());
        let from =
            |local: &str| TcpConnector { local_address: Some(local.parse().unwrap()), ..TcpConnector::default() };
        let stream = from("127.0.0.7").dial(&addr).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!((peer.ip().to_string().as_str(), peer), ("127.0.0.7", stream.local_addr().unwrap()));
        // None of this machine, and one of the other family.
        let error = from("192.0.2.1").dial(&addr).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot connect from 192.0.2.1: "), "{error}");
        let error = from("::1").dial(&addr).await.unwrap_err();
        assert!(error.to_string().contains("family of the local address ::1"), "{error}");
    }

    #[tokio::test]
    async fn the_next_address_of_a_host_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listens = listener.local_addr().unwrap();
        // A port that was free a moment ago.
        let refuses = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stream = connect_any([refuses, listens].into_iter(), TcpStream::connect).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listens);
        let error = connect_any([refuses].into_iter(), TcpStream::connect).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let none = connect_any(std::iter::empty(), TcpStream::connect).await;
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_of_a_host_has_its_turn_however_many_swallow_packets() {
        for (count, good, limit) in [(2, 0, 0), (2, 1, 1100), (5, 4, 2100), (60, 59, 2100)] {
            let started = tokio::time::Instant::now();
            let addrs = (0..count).map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
            let connected = connect_any(addrs, |addr| async move {
                if addr.port() != good {
                    std::future::pending::<()>().await;
                }
                Ok(addr.port())
            });
            assert_eq!(connected.await.unwrap(), good);
            assert!(started.elapsed() <= Duration::from_millis(limit), "{good}: {:?}", started.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_answers_late_is_taken_and_one_that_fails_makes_room_at_once() {
        // The first needs longer than the next are waited for with; the second refuses; the third
        // swallows.
        let addrs = (0..3).map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let started = tokio::time::Instant::now();
        let connected = connect_any(addrs, |addr| async move {
            match addr.port() {
                0 => tokio::time::sleep(Duration::from_secs(5)).await,
                1 => return Err(io::ErrorKind::ConnectionRefused.into()),
                _ => std::future::pending().await,
            }
            Ok(addr.port())
        });
        assert_eq!(connected.await.unwrap(), 0);
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn tcp_sees_that_the_peer_closed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().into();
        let stream = TcpConnector::default().dial(&addr).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        peer.writable().await.unwrap();
        assert!(!stream.peer_closed());
        // Also with something unread before it.
        peer.try_write(b"unread").unwrap();
        drop(peer);
        while !stream.peer_closed() {
            tokio::task::yield_now().await;
        }
        let mut read = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut { stream }, &mut read).await.unwrap();
        assert_eq!(read, b"unread");
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn an_end_that_a_reset_follows_acknowledges_nothing() {
        use tokio::io::AsyncReadExt as _;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().into();
        for reset in [true, false] {
            let mut stream = TcpConnector::default().dial(&addr).await.unwrap();
            let (mut peer, _) = listener.accept().await.unwrap();
            stream.writable().await.unwrap();
            if reset {
                drop(peer);
                while !stream.peer_closed() {
                    tokio::task::yield_now().await;
                }
                // It comes to a peer that has closed; on a real network, both may be on their way
                // at the same time.
                stream.try_write(b"lost").unwrap();
            } else {
                stream.try_write(b"read").unwrap();
                tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
                peer.read_to_end(&mut Vec::new()).await.unwrap();
                drop(peer);
            }
            while stream.peer_addr().is_ok() {
                tokio::task::yield_now().await;
            }
            // The stream reads the same.
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            let status = stream.status().unwrap();
            assert_eq!((status.end_acknowledged, status.unacknowledged > 0), (!reset, reset));
        }
    }

    /// Bytes that the system holds of a connection that was given up would arrive behind messages
    /// of the next one.
    #[tokio::test]
    async fn an_aborted_connection_sends_nothing_more() {
        use tokio::io::AsyncReadExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().into();
        for aborted in [true, false] {
            let stream = TcpConnector::default().dial(&addr).await.unwrap();
            let (mut peer, _) = listener.accept().await.unwrap();
            stream.writable().await.unwrap();
            // More than the peer's system takes: the rest waits in ours.
            let mut written = 0;
            while let Ok(n) = stream.try_write(&[7; 8192]) {
                written += n;
            }
            if aborted {
                stream.abort();
            }
            drop(stream);
            let mut read = Vec::new();
            let end = peer.read_to_end(&mut read).await.map_err(|cause| cause.kind());
            if aborted {
                assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
                assert!(read.len() < written, "{} of {written}", read.len());
            } else {
                assert_eq!(end, Ok(written));
            }
        }
    }
}
