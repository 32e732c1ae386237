//! The end of a connection, and its silence, as the operating system tells of them: over real sockets.

use std::time::Duration;

use hpfeeds::{ClientSession, SessionBuilder};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
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
