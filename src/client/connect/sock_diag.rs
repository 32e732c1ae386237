//! The kernel's knowledge of a TCP connection: the queries of `ss`, answered by the kernel over a
//! netlink socket (`sock_diag(7)`). Neither `TCP_INFO` nor `SIOCOUTQ` can be asked for without
//! unsafe code; this is bytes in, bytes out.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::connector::TransportStatus;

// From the kernel's `linux/netlink.h`, `linux/sock_diag.h`, `linux/inet_diag.h` and `linux/tcp.h`.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const INET_DIAG_INFO: u16 = 2;
const NO_COOKIE: [u8; 8] = [0xff; 8];

const NLMSG_LEN: usize = 16;
/// `struct inet_diag_msg`.
const DIAG_LEN: usize = 72;

// States in which our end of stream has been written.
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// So many retransmissions or window probes in a row without an answer are more than one that is on
/// its way.
const UNANSWERED: u8 = 3;

/// Asks for one connection by its addresses. `None`: the system does not tell, or has no such
/// connection.
pub(super) fn status(local: SocketAddr, peer: SocketAddr) -> Option<TransportStatus> {
    let mut answer = [0; 1024];
    let length = ask(&request(local, peer), &mut answer).ok()?;
    read(answer.get(..length)?)
}

/// The kernel has answered when the request is sent.
fn ask(request: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let socket = Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    socket.set_nonblocking(true)?;
    (&socket).write_all(request)?;
    (&socket).read(answer)
}

fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let (family, interface) = match local {
        SocketAddr::V4(_) => (AF_INET, 0),
        SocketAddr::V6(local) => (AF_INET6, local.scope_id()),
    };
    let any_state = u32::MAX;
    let mut body = vec![family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0];
    body.extend(any_state.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(peer.port().to_be_bytes());
    body.extend(address(local.ip()));
    body.extend(address(peer.ip()));
    body.extend(interface.to_ne_bytes());
    body.extend(NO_COOKIE);

    let length = u32::try_from(NLMSG_LEN + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and sender: neither is needed for one answer.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
    }
}

fn read(answer: &[u8]) -> Option<TransportStatus> {
    if u16_at(answer, 4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let length = usize::try_from(u32_at(answer, 0)?).ok()?;
    let message = answer.get(NLMSG_LEN..length)?;
    let state = *message.get(1)?;
    let queued = u32_at(message, 60)?;
    // The end of stream counts as a byte.
    let end = u32::from(matches!(state, FIN_WAIT1 | CLOSING | LAST_ACK));
    Some(TransportStatus {
        unacknowledged: u64::from(queued.saturating_sub(end)),
        end_acknowledged: matches!(state, FIN_WAIT2 | TIME_WAIT),
        unanswered: info(message.get(DIAG_LEN..)?).and_then(unanswered).unwrap_or_default(),
    })
}

/// `struct tcp_info`, among the attributes.
fn info(mut attributes: &[u8]) -> Option<&[u8]> {
    loop {
        let (length, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)?);
        if kind == INET_DIAG_INFO {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.next_multiple_of(4).max(4)..)?;
    }
}

/// How long ago the last acknowledgement came, when several retransmissions or probes have had no
/// answer.
fn unanswered(info: &[u8]) -> Option<Duration> {
    let (retransmits, probes) = (*info.get(2)?, *info.get(3)?);
    let last_ack_recv = u32_at(info, 56)?;
    (retransmits.max(probes) >= UNANSWERED).then(|| Duration::from_millis(last_ack_recv.into()))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    /// `None` where the kernel has no `sock_diag`.
    fn pair(bind: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(bind).ok()?;
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let theirs = listener.accept().unwrap().0;
        status(ours.local_addr().unwrap(), ours.peer_addr().unwrap())?;
        Some((ours, theirs))
    }

    #[test]
    fn a_connection_tells_what_is_unacknowledged_and_whether_its_end_is() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Some((mut ours, mut theirs)) = pair(bind) else { continue };
            let (local, peer) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
            assert_eq!(status(local, peer).unwrap(), TransportStatus::default());
            // More than the peer's window.
            ours.set_nonblocking(true).unwrap();
            let mut written = 0;
            while let Ok(n) = ours.write(&[7; 16 * 1024]) {
                written += n as u64;
            }
            let full = status(local, peer).unwrap();
            assert!((1..written).contains(&full.unacknowledged), "{full:?} of {written}");
            ours.shutdown(Shutdown::Write).unwrap();
            let ended = status(local, peer).unwrap();
            assert!(ended.unacknowledged <= full.unacknowledged && !ended.end_acknowledged, "{ended:?}");
            assert_eq!(io::copy(&mut theirs, &mut io::sink()).unwrap(), written);
            // The acknowledgement of the end comes at once, but not before the reader sees it.
            while !status(local, peer).unwrap().end_acknowledged {
                std::thread::yield_now();
            }
            assert_eq!(status(local, peer).unwrap().unacknowledged, 0);
        }
    }

    #[test]
    fn no_answer_and_a_strange_one_are_unknown() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0xff; 1024]), None);
        let mut answer = [0; 1024];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        for length in [0_u32, 15, 16, 80, 1024, 1025, u32::MAX] {
            answer[..4].copy_from_slice(&length.to_ne_bytes());
            // With the whole header of the message, and no more than there is.
            assert_eq!(read(&answer).is_some(), (88..=1024).contains(&length), "{length}");
        }
        let nowhere = "127.0.0.1:1".parse().unwrap();
        assert_eq!(status(nowhere, nowhere), None);
    }

    #[test]
    fn one_probe_on_its_way_is_no_silence() {
        let mut info = [0; 100];
        info[56..60].copy_from_slice(&119_000_u32.to_ne_bytes());
        for (retransmits, probes, expected) in [(0, 0, None), (2, 2, None), (3, 0, Some(119)), (0, 3, Some(119))] {
            (info[2], info[3]) = (retransmits, probes);
            assert_eq!(unanswered(&info), expected.map(Duration::from_secs));
        }
    }
}
