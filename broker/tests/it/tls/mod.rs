//! TLS endpoints: clients, and how connections end.

mod certificates;

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{SinkExt as _, StreamExt as _};
use hpfeeds::{
    ClientSession, TlsOptions,
    wire::{Codec, Frame},
};
use hpfeeds_broker::{AuthStore, Broker, ClientAuth, Endpoint, Key, Lookup};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::codec::Framed;

use crate::{
    pki::{ALL, Pki, TLS12, TlsPeer},
    support::{numbered, publish, start, until, within},
};

async fn broker(endpoint: Endpoint) -> Broker {
    start(Broker::dev_builder().endpoint(endpoint)).await
}

/// The message goes from one client to another.
async fn works(addr: SocketAddr, config: &Arc<ClientConfig>) {
    let mut reader = TlsPeer::subscriber(addr, config, "c").await;
    TlsPeer::dev(addr, config).await.send(publish("dev", "c", "x")).await;
    assert_eq!(reader.next().await, Some(publish("dev", "c", "x")));
}

/// Messages arrive in order and without a gap, until an ERROR ends it.
async fn reads_up_to_error(peer: &mut TlsPeer, error: &str) {
    let mut received = 0;
    let message = loop {
        match peer.next().await.unwrap() {
            Frame::Error { message } => break message,
            frame => {
                assert_eq!(frame, publish("dev", "c", numbered(received, 3001)));
                received += 1;
            }
        }
    };
    assert_eq!(message, error);
    assert_eq!(peer.next().await, None);
    assert!(received > 0);
}

#[tokio::test]
async fn clients_prove_themselves_with_a_certificate_where_that_is_asked_for() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    for (auth, without) in [(ClientAuth::Required, false), (ClientAuth::Optional, true)] {
        let broker = broker(pki.endpoint().client_ca(pki.path("ca.pem"), auth)).await;
        for versions in [ALL, TLS12] {
            for (identity, welcome) in [(None, without), (Some(&pki), true), (Some(&stranger), false)] {
                let config = pki.client_of(versions, identity);
                let entered = TlsPeer::try_dev(broker.local_addr(), &config).await;
                assert_eq!(entered.is_ok(), welcome, "{auth:?}, {}", identity.is_some());
                if let Ok(mut peer) = entered {
                    peer.settle().await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_broker_goes_and_others_stay() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let broker = broker(pki.endpoint()).await;
    let mut reader = TlsPeer::subscriber(broker.local_addr(), &pki.client(None), "c").await;
    let error = TlsPeer::try_dev(broker.local_addr(), &stranger.client(None)).await.err().unwrap();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    reader.settle().await;
    until(|| broker.stats().connections == 1).await;
    assert_eq!(broker.stats().handshake_failures, 1);
}

#[tokio::test]
async fn our_client_works() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let tls = TlsOptions::new().ca_file(pki.path("ca.pem")).server_name("localhost");
    let builder = ClientSession::builder(broker.local_addr(), "dev", "dev").tls(tls);
    let mut session = within(builder.connect()).await.unwrap();
    session.subscribe("c").unwrap();
    // Its own messages come back to it.
    let big = vec![7; 1_000_000];
    within(session.publish("c", big.clone())).await.unwrap();
    assert_eq!(within(session.next()).await.unwrap().2, big);
    within(session.close()).await.unwrap();
}

/// Everything that a publisher sent arrives, also at a subscriber that reads late, and however it is cut.
#[tokio::test]
async fn nothing_is_lost_or_mixed_up_when_it_gets_crowded() {
    const MESSAGES: u64 = 3000;
    let pki = Pki::new();
    for versions in [ALL, TLS12] {
        let broker = start(Broker::dev_builder().endpoint(pki.endpoint()).low_mark(100_000)).await;
        let config = pki.client_of(versions, None);
        let mut reader = TlsPeer::subscriber(broker.local_addr(), &config, "c").await;
        let mut writer = TlsPeer::dev(broker.local_addr(), &config).await;
        let len = |n: u64| usize::try_from(n * 7919 % 20_011).unwrap();
        let writing = tokio::spawn(async move {
            for n in 0..MESSAGES {
                writer.send(publish("dev", "c", numbered(n, len(n)))).await;
            }
            writer.finish().await;
            assert_eq!(writer.next().await, None);
        });
        // It does not read until the publisher waits for it.
        until(|| broker.stats().buffered > 100_000).await;
        for n in 0..MESSAGES {
            assert_eq!(reader.next().await, Some(publish("dev", "c", numbered(n, len(n)))));
        }
        within(writing).await.unwrap();
        until(|| broker.stats().buffered == 0).await;
    }
}

/// Bytes that were encrypted when the time was over arrive as it is, whole frames, and then the ERROR.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_is_told_and_disconnected() {
    let pki = Pki::new();
    for versions in [ALL, TLS12] {
        let builder = Broker::dev_builder().endpoint(pki.endpoint().send_buffer(64 * 1024));
        let builder = builder.low_mark(50_000).high_mark(200_000).floor_window(Duration::from_millis(50));
        let broker = start(builder.slow_deadline(Duration::from_millis(100))).await;
        let config = pki.client_of(versions, None);
        let mut stuck = TlsPeer::subscriber(broker.local_addr(), &config, "c").await;
        let mut writer = TlsPeer::dev(broker.local_addr(), &config).await;
        let writing = tokio::spawn(async move {
            let mut n = 0;
            loop {
                writer.send(publish("dev", "c", numbered(n, 3001))).await;
                n += 1;
            }
        });
        until(|| broker.stats().slow_disconnects == 1).await;
        writing.abort();
        reads_up_to_error(&mut stuck, "Backpressure deadline timer expired").await;
        until(|| broker.stats().buffered == 0).await;
    }
}

#[tokio::test]
async fn close_notify_is_the_end_of_the_stream_and_is_answered_in_kind() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let config = pki.client(None);
    let mut reader = TlsPeer::subscriber(broker.local_addr(), &config, "c").await;
    let mut peer = TlsPeer::dev(broker.local_addr(), &config).await;
    peer.send(publish("dev", "c", "last")).await;
    // No end of the TCP stream: the word of TLS alone.
    let (tcp, connection) = peer.framed.get_mut().get_mut();
    connection.send_close_notify();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    within(tcp.write_all(&bytes)).await.unwrap();
    assert_eq!(reader.next().await, Some(publish("dev", "c", "last")));
    // `Framed` would report an end without close_notify as an error.
    assert_eq!(peer.next().await, None);
}

#[tokio::test]
async fn an_end_without_close_notify_is_not_confirmed() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let config = pki.client(None);
    let mut reader = TlsPeer::subscriber(broker.local_addr(), &config, "c").await;
    let mut peer = TlsPeer::dev(broker.local_addr(), &config).await;
    peer.send(publish("dev", "c", "last")).await;
    within(peer.framed.get_mut().get_mut().0.shutdown()).await.unwrap();
    // Messages before it count.
    assert_eq!(reader.next().await, Some(publish("dev", "c", "last")));
    assert!(within(peer.framed.next()).await.unwrap().is_err());
}

#[tokio::test]
async fn an_error_arrives_and_the_stream_ends_as_it_should() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let mut peer = TlsPeer::dev(broker.local_addr(), &pki.client(None)).await;
    // It is still sending when it is refused.
    peer.send(publish("eve", "c", vec![0; 500_000])).await;
    let _ = peer.framed.get_mut().write_all(&vec![0; 500_000]).await;
    let expected = Frame::Error { message: "Invalid authkey in message, ident=eve".into() };
    assert_eq!(peer.next().await, Some(expected));
    assert_eq!(peer.next().await, None);
}

/// Knows `dev` until it is told otherwise.
#[derive(Clone, Default)]
struct Forgetful(Arc<AtomicBool>);

impl AuthStore for Forgetful {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        let key = move || Key::new(ident, "dev").unwrap().publish(["*"]).unwrap().subscribe(["*"]).unwrap();
        Box::pin(async move { Ok((!self.0.load(Relaxed)).then(|| Arc::new(key()))) })
    }
}

/// Bytes that were encrypted already arrive as it is, whole frames, and then the ERROR.
#[tokio::test]
async fn a_stuck_subscriber_whose_key_is_removed_is_told() {
    let pki = Pki::new();
    for versions in [ALL, TLS12] {
        let store = Forgetful::default();
        let builder = Broker::builder().endpoint(pki.endpoint().send_buffer(64 * 1024)).auth(store.clone());
        let broker = start(builder.low_mark(100_000).floor_window(Duration::MAX)).await;
        let config = pki.client_of(versions, None);
        let mut stuck = TlsPeer::subscriber(broker.local_addr(), &config, "c").await;
        let mut writer = TlsPeer::dev(broker.local_addr(), &config).await;
        let writing = tokio::spawn(async move {
            // Until it is cut off.
            for n in 0.. {
                if within(writer.framed.send(publish("dev", "c", numbered(n, 3001)))).await.is_err() {
                    break;
                }
            }
        });
        until(|| broker.stats().buffered > 100_000).await;
        store.0.store(true, Relaxed);
        broker.recheck_now();
        within(writing).await.unwrap();
        reads_up_to_error(&mut stuck, "Authentication failed for dev").await;
        until(|| broker.stats().buffered == 0 && broker.stats().connections == 0).await;
        assert_eq!(broker.stats().revoked, 2);
    }
}

/// The part that has come cannot be decrypted yet, but it was on its way.
#[tokio::test]
async fn shutdown_confirms_nothing_to_a_client_of_whom_half_a_record_has_come() {
    let pki = Pki::new();
    for versions in [ALL, TLS12] {
        for cut in [3, 1000] {
            let broker = broker(pki.endpoint()).await;
            let config = pki.client_of(versions, None);
            let mut peer = TlsPeer::dev(broker.local_addr(), &config).await;
            let mut other = TlsPeer::dev(broker.local_addr(), &config).await;
            until(|| broker.stats().authenticated == 2).await;
            let (tcp, connection) = peer.framed.get_mut().get_mut();
            let frame = crate::support::bytes([publish("dev", "c", vec![0; 10_000])]);
            connection.writer().write_all(&frame).unwrap();
            let mut record = Vec::new();
            connection.write_tls(&mut record).unwrap();
            within(tcp.write_all(&record[..cut])).await.unwrap();
            // Everything that arrived before this has been read.
            other.settle().await;
            within(broker.shutdown()).await;
            let goodbye = Frame::Error { message: "The broker is shutting down; end your stream".into() };
            assert_eq!(peer.next().await, Some(goodbye));
            let goodbye = Frame::Error { message: "The broker is shutting down".into() };
            assert_eq!((peer.next().await, peer.next().await), (Some(goodbye), None));
        }
    }
}

#[tokio::test]
async fn shutdown_says_goodbye() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let config = pki.client(None);
    let mut reader = TlsPeer::subscriber(broker.local_addr(), &config, "c").await;
    let mut writer = TlsPeer::subscriber(broker.local_addr(), &config, "d").await;
    writer.send(publish("dev", "c", "x")).await;
    let mut half_open = TcpStream::connect(broker.local_addr()).await.unwrap();
    assert_eq!(reader.next().await, Some(publish("dev", "c", "x")));
    within(broker.shutdown()).await;
    let goodbye = Frame::Error { message: "The broker is shutting down; end your stream".into() };
    assert_eq!(writer.next().await, Some(goodbye));
    let goodbye = Frame::Error { message: "The broker is shutting down".into() };
    assert_eq!((writer.next().await, writer.next().await), (Some(goodbye), None));
    assert_eq!(within(half_open.read(&mut [0; 100])).await.unwrap_or(0), 0);
}

#[tokio::test(start_paused = true)]
async fn silence_and_noise_before_tls_end_in_time() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for (bytes, waits) in
        [(&b""[..], true), (hello, true), (&b"GET / HTTP/1.1\r\n\r\n"[..], false), (&[0; 5000], false)]
    {
        let begun = Instant::now();
        let mut tcp = TcpStream::connect(broker.local_addr()).await.unwrap();
        let _ = tcp.write_all(bytes).await;
        let mut heard = Vec::new();
        // An alert and the end, or a reset.
        let _ = within(tcp.read_to_end(&mut heard)).await;
        assert!(!heard.windows(7).any(|word| word == b"hpfeeds"), "{heard:?}");
        assert_eq!(begun.elapsed() >= Duration::from_secs(10), waits, "{bytes:?}: {:?}", begun.elapsed());
        drop(tcp);
    }
    // AUTH has to come in what the handshake of TLS has left of the time.
    let begun = Instant::now();
    let tcp = TcpStream::connect(broker.local_addr()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let name = "localhost".try_into().unwrap();
    let tls = tokio_rustls::TlsConnector::from(pki.client(None)).connect(name, tcp).await.unwrap();
    let mut framed = Framed::new(tls, Codec::default());
    assert!(matches!(within(framed.next()).await, Some(Ok(Frame::Info { .. }))));
    let expected = Frame::Error { message: "No AUTH within 10 s".into() };
    assert_eq!(within(framed.next()).await.unwrap().unwrap(), expected);
    assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
}

/// A client of one kind at a port of the other: neither hangs, and the broker goes on.
#[tokio::test]
async fn the_wrong_kind_of_port_is_noticed() {
    let pki = Pki::new();
    let builder = Broker::dev_builder().endpoint(pki.endpoint()).endpoint(Endpoint::tcp("127.0.0.1", 0));
    let broker = start(builder.handshake_timeout(Duration::from_millis(300))).await;
    let (secure, plain) = (broker.local_addrs()[0], broker.local_addrs()[1]);
    assert!(TlsPeer::try_dev(plain, &pki.client(None)).await.is_err());
    // It waits for INFO.
    let mut peer = Framed::new(TcpStream::connect(secure).await.unwrap(), Codec::default());
    assert!(!matches!(within(peer.next()).await, Some(Ok(_))));
    works(secure, &pki.client(None)).await;
}
