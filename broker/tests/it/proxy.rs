//! Endpoints behind a proxy: whose connection it is, is what the proxy says.

use std::{env, fs, net::SocketAddr, num::NonZero, process::Stdio, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use hpfeeds::wire::{Codec, Frame, Secret};
use hpfeeds_broker::{Broker, BrokerBuilder, Endpoint, Network};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    process::Command,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tokio_util::codec::Framed;

use crate::{
    pki::Pki,
    skip::skip,
    support::{Peer, start, until, within},
};

/// Far longer than any test waits.
const HOUR: Duration = Duration::from_secs(3600);

const PROXY: [u8; 4] = [127, 0, 7, 1];

fn endpoint() -> Endpoint {
    Endpoint::tcp("127.0.0.1", 0).proxy("127.0.7.0/24".parse::<Network>().unwrap())
}

async fn broker(configure: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Broker {
    start(configure(Broker::dev_builder().endpoint(endpoint()))).await
}

/// A connection from an address of this machine.
async fn dial(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    within(socket.connect(to)).await.unwrap()
}

/// A connection of the proxy, which says that it is this client's.
async fn through(broker: &Broker, client: &str) -> TcpStream {
    let mut stream = dial(PROXY, broker.local_addr()).await;
    let header = format!("PROXY TCP4 {client} 192.0.2.254 1234 20000\r\n");
    within(stream.write_all(header.as_bytes())).await.unwrap();
    stream
}

/// Reads to the end of the stream; a reset is an end, too.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let _ = within(stream.read_to_end(&mut said)).await;
    said
}

fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, body].concat()
}

/// It has authenticated and hears itself.
async fn works(stream: TcpStream) {
    let mut peer = Peer::greeted(stream).await.authenticate("dev", "dev").await;
    peer.settle().await;
}

#[tokio::test]
async fn a_client_behind_a_proxy_is_served_whatever_the_header_and_however_it_comes() {
    let broker = broker(|builder| builder).await;
    let headers = [
        b"PROXY TCP4 192.0.2.1 192.0.2.254 1234 20000\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 20000\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        version_2(0x21, 0x11, b"\xc0\0\x02\x01\xc0\0\x02\xfe\x04\xd2\x4e\x20"),
        version_2(0x21, 0x11, &[&b"\xc0\0\x02\x01\xc0\0\x02\xfe\x04\xd2\x4e\x20"[..], &[0; 4068]].concat()),
        version_2(0x20, 0x00, b""),
    ];
    for header in headers {
        let mut stream = dial(PROXY, broker.local_addr()).await;
        within(stream.write_all(&header)).await.unwrap();
        works(stream).await;
        let mut stream = dial(PROXY, broker.local_addr()).await;
        for byte in header.iter().take(200) {
            within(stream.write_all(&[*byte])).await.unwrap();
            tokio::task::yield_now().await;
        }
        within(stream.write_all(&header[header.len().min(200)..])).await.unwrap();
        works(stream).await;
    }
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let pki = Pki::new();
    let endpoint = pki.endpoint().proxy("127.0.7.1".parse::<Network>().unwrap());
    let broker = start(Broker::dev_builder().endpoint(endpoint)).await;
    let stream = through(&broker, "192.0.2.1").await;
    let connector = TlsConnector::from(pki.client(None));
    let tls = within(connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await.unwrap();
    let mut framed = Framed::new(tls, Codec::default());
    let Some(Ok(Frame::Info { nonce, .. })) = within(framed.next()).await else { panic!("no INFO") };
    let auth = Frame::Auth { ident: "dev".parse().unwrap(), digest: Secret::from("dev").sign(&nonce) };
    within(framed.send(auth)).await.unwrap();
    until(|| broker.stats().authenticated == 1).await;
}

#[tokio::test]
async fn a_connection_from_elsewhere_or_with_a_bad_header_is_closed_without_a_word() {
    let broker = broker(|builder| builder).await;
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.254 1234 20000\r\n";
    let mut elsewhere = dial([127, 0, 8, 1], broker.local_addr()).await;
    let _ = elsewhere.write_all(header).await;
    assert_eq!(rest(&mut elsewhere).await, b"");
    assert_eq!(broker.stats().rejected, 1);
    let long = version_2(0x21, 0x11, &[0; 4081]);
    for bad in [&b"\0\0\0\x20\x02\x07mallory"[..], b"PROXY TCP4 192.0.2.1\r\n", &[b'P'; 1], &long] {
        let mut stream = dial(PROXY, broker.local_addr()).await;
        let _ = stream.write_all(bad).await;
        let _ = stream.shutdown().await;
        assert_eq!(rest(&mut stream).await, b"", "{}", bad.escape_ascii());
    }
    until(|| broker.stats().handshake_failures == 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_says_nothing_has_the_time_of_the_handshake() {
    let broker = broker(|builder| builder.handshake_timeout(Duration::from_secs(7))).await;
    let begun = tokio::time::Instant::now();
    let mut stream = dial(PROXY, broker.local_addr()).await;
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    assert_eq!((said.len(), begun.elapsed().as_secs()), (0, 7));
    // With a header: what is left of that time is for AUTH.
    let mut stream = dial(PROXY, broker.local_addr()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let begun = tokio::time::Instant::now();
    stream.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut said).await;
    assert!(String::from_utf8_lossy(&said).contains("No AUTH within 7 s"), "{}", said.escape_ascii());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn limits_and_delays_are_those_of_the_client() {
    let broker = broker(|builder| builder.max_connections_per_address(NonZero::new(1)).auth_failure_delay(HOUR)).await;
    let first = through(&broker, "192.0.2.1").await;
    let first = Peer::greeted(first).await.authenticate("dev", "dev").await;
    let second = Peer::try_greeted(through(&broker, "192.0.2.1").await).await;
    assert_eq!(second.err().unwrap(), "Too many connections from your address");
    let wrong = Peer::greeted(through(&broker, "192.0.2.2").await).await.authenticate("dev", "wrong").await;
    wrong.expect_error("Authentication failed for dev").await;
    until(|| broker.stats().auth_failures == 1 && broker.stats().connections == 1).await;
    works(through(&broker, "192.0.2.3").await).await;
    // Its own delay counts all the same.
    let mut again = through(&broker, "192.0.2.2").await;
    works(through(&broker, "192.0.2.4").await).await;
    assert!(again.try_read(&mut [0; 1]).is_err_and(|cause| cause.kind() == std::io::ErrorKind::WouldBlock));
    // A place that is free again is free for that client.
    drop(first);
    until(|| broker.stats().connections == 1).await;
    works(through(&broker, "192.0.2.1").await).await;
    again.shutdown().await.unwrap();
}

/// Debian's haproxy, which connects from an address of its own.
#[tokio::test]
async fn a_wrong_secret_delays_no_other_client_of_a_real_haproxy() {
    let Some(program) = haproxy() else { return };
    for (option, version) in [("send-proxy", 1), ("send-proxy-v2", 2)] {
        let broker = broker(|builder| builder.auth_failure_delay(HOUR)).await;
        // A port that was free a moment ago, at an address that nothing else uses.
        let front = TcpListener::bind("127.0.9.1:0").await.unwrap().local_addr().unwrap();
        let folder = tempfile::TempDir::new().unwrap();
        let config = folder.path().join("haproxy.cfg");
        let back = broker.local_addr();
        fs::write(
            &config,
            format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
                 listen hpfeeds\n bind {front}\n source 127.0.7.1\n server broker {back} {option}\n"
            ),
        )
        .unwrap();
        let mut child = Command::new(&program)
            .args(["-db", "-f"])
            .arg(&config)
            .kill_on_drop(true)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let connect = async |from| loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from((from, 0))).unwrap();
            if let Ok(stream) = socket.connect(front).await {
                break stream;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let wrong = within(connect([127, 0, 5, 1])).await;
        let wrong = Peer::greeted(wrong).await.authenticate("dev", "wrong").await;
        wrong.expect_error("Authentication failed for dev").await;
        works(within(connect([127, 0, 5, 2])).await).await;
        let again = within(connect([127, 0, 5, 1])).await;
        works(within(connect([127, 0, 5, 3])).await).await;
        let silent = again.try_read(&mut [0; 1]).is_err_and(|cause| cause.kind() == std::io::ErrorKind::WouldBlock);
        assert!(silent, "version {version}");
        child.kill().await.unwrap();
    }
}

/// Where it is, if it is there.
fn haproxy() -> Option<std::path::PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&folders).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.find_map(|folder| Some(folder.join("haproxy")).filter(|path| path.is_file()));
    if found.is_none() {
        skip("haproxy is missing (scripts/test installs it)");
    }
    found
}
