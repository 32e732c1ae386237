//! The end of a connection, and its silence, as the operating system tells of them: over real sockets.

use std::{net::Shutdown, time::Duration};

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{ClientSession, SessionBuilder, SessionEvent};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// INFO of a broker named `odd`, with the nonce `1234`.
const INFO: &[u8] = b"\x00\x00\x00\x0d\x01\x03odd1234";

/// Ident `me`: 4 + 1 + 1 + 2 + 20 bytes.
const AUTH: usize = 28;

struct Peer {
    listener: TcpListener,
}

impl Peer {
    /// Receives little that is not read.
    async fn new() -> (Self, SessionBuilder) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
        let builder = ClientSession::builder(listener.local_addr().unwrap(), "me", "x").max_retries(0);
        (Self { listener }, builder.auth_grace(Duration::from_millis(20)))
    }

    /// A connection that is greeted, and whose AUTH is read.
    async fn login(&self) -> TcpStream {
        let mut stream = self.listener.accept().await.unwrap().0;
        stream.write_all(INFO).await.unwrap();
        stream.read_exact(&mut [0; AUTH]).await.unwrap();
        stream
    }
}

/// Waits until the system of the other side has its end, and so all that was sent before.
#[cfg(target_os = "linux")]
async fn ended(stream: &TcpStream) {
    let (from, to) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
    let ended = async {
        while !procfs::net::tcp().unwrap().iter().any(|entry| {
            (entry.local_address, entry.remote_address) == (from, to) && entry.state == procfs::net::TcpState::FinWait1
        }) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the session ends its stream");
}

/// Other systems do not tell: long enough for the little that a session does before its end.
#[cfg(not(target_os = "linux"))]
async fn ended(_: &TcpStream) {
    sleep(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_end_that_crosses_unacknowledged_messages_is_not_a_confirmation() {
    let (peer, builder) = Peer::new().await;
    let (session, mut stream) = tokio::join!(builder.close_timeout(Duration::from_secs(60)).connect(), peer.login());
    let mut session = session.unwrap();
    for _ in 0..100 {
        session.publish("x", vec![7; 200]).await.unwrap();
    }
    let (closed, ()) = tokio::join!(session.close(), async {
        ended(&stream).await;
        stream.shutdown().await.unwrap();
    });
    let error = closed.expect_err("close() says that the broker has read everything");
    assert_eq!(error.unconfirmed(), 100, "{error}");
}

#[tokio::test]
async fn an_end_that_was_there_before_ours_is_not_a_confirmation() {
    let (peer, builder) = Peer::new().await;
    let (session, stream) = tokio::join!(builder.connect(), peer.login());
    let mut session = session.unwrap();
    let mut stream = stream;
    session.publish("x", "1").await.unwrap();
    stream.read_exact(&mut [0; 11]).await.unwrap();
    // The runtime hears of it when it has nothing else to do; the session closes before.
    let stream = stream.into_std().unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let error = session.close().await.expect_err("close() took an end for the answer to a later one");
    assert_eq!(error.unconfirmed(), 1, "{error}");
}

#[tokio::test]
async fn a_broker_that_reads_nothing_for_long_keeps_its_connection() {
    let (peer, builder) = Peer::new().await;
    let second = Duration::from_secs(1);
    let builder = builder.unacknowledged_timeout(second).close_timeout(60 * second);
    let (session, mut stream) = tokio::join!(builder.connect(), peer.login());
    let mut session = session.unwrap();
    let mut events = session.events();
    for _ in 0..100 {
        session.publish("x", vec![7; 10_000]).await.unwrap();
    }
    // Its window is closed for several times as long; its system answers the probes.
    sleep(7 * second).await;
    let told = std::iter::from_fn(|| events.next().now_or_never().flatten());
    let told: Vec<_> = told.filter(|event| !matches!(event, SessionEvent::Connected { .. })).collect();
    assert!(told.is_empty(), "{told:?}");
    let (closed, read) = tokio::join!(session.close(), async {
        let read = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
        drop(stream);
        read
    });
    closed.unwrap();
    assert!(read > 1_000_000, "{read}");
}

#[test]
fn a_session_can_be_closed_outside_of_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut session, answer) = runtime.block_on(async {
        let (peer, builder) = Peer::new().await;
        let (session, mut stream) = tokio::join!(builder.connect(), peer.login());
        let answer = tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap() });
        (session.unwrap(), answer)
    });
    futures::executor::block_on(async {
        session.publish("x", "1").await.unwrap();
        session.close().await.unwrap();
    });
    assert_eq!(runtime.block_on(answer).unwrap(), 11);
    drop(runtime);
    futures::executor::block_on(session.close()).unwrap();
}
