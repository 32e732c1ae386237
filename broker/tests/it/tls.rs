//! TLS endpoints: keys, certificates, their replacement, and how connections end.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::PathBuf,
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
use hpfeeds_broker::{AuthStore, Broker, ClientAuth, Endpoint, Key, Lookup, StartError};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind};
use tokio_util::codec::Framed;

use crate::{
    pki::{ALL, Pki, TLS12, TlsPeer, authority},
    support::{number, numbered, publish, start, until, within},
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
async fn keys_have_any_of_the_formats_of_openssl() {
    let pki = Pki::new();
    for (key, format) in [("ec", "pkcs8"), ("ec", "sec1"), ("rsa", "pkcs8"), ("rsa", "pkcs1")] {
        let text = |format: &str| fs::read_to_string(format!("tests/fixtures/{key}-{format}.pem")).unwrap();
        pki.write("cert.pem", pki.sign(&KeyPair::from_pem(&text("pkcs8")).unwrap(), "localhost"));
        pki.write("key.pem", text(format));
        let broker = broker(pki.endpoint()).await;
        for versions in [ALL, TLS12] {
            works(broker.local_addr(), &pki.client_of(versions, None)).await;
        }
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let pki = Pki::new();
    let other = Pki::new();
    pki.write("encrypted.pem", fs::read("tests/fixtures/ec-encrypted.pem").unwrap());
    pki.write("broken.pem", "-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----\n");
    // As it comes out of a variable that has lost its line breaks.
    pki.write("flat.pem", "-----BEGIN PRIVATE KEY----- hunter2! -----END PRIVATE KEY-----");
    let (cert, key, ca) = (pki.path("cert.pem"), pki.path("key.pem"), pki.path("ca.pem"));
    let tls = |cert, key| Endpoint::tls("127.0.0.1", 0, cert, key);
    let at = |file: &str| pki.path(file).display().to_string();
    let openssl = |file: &str| PathBuf::from("../tests/support/certificates").join(file);
    let unsupported = |file: &str| {
        format!(
            "key {}: its kind is not supported: use a key of P-256, P-384, Ed25519, or RSA",
            openssl(file).display()
        )
    };
    let cases = [
        (tls(pki.path("no.pem"), key.clone()), format!("cert {}: No such file or directory", at("no.pem"))),
        (tls(cert.clone(), pki.path("no.pem")), format!("key {}: No such file or directory", at("no.pem"))),
        (tls(key.clone(), key.clone()), format!("cert {}: it holds no PEM certificate", at("key.pem"))),
        (tls(cert.clone(), cert.clone()), format!("key {}: it holds no PEM private key", at("cert.pem"))),
        (tls(cert.clone(), pki.path("encrypted.pem")), format!("key {}: it is encrypted", at("encrypted.pem"))),
        (tls(cert.clone(), pki.path("broken.pem")), format!("key {}: it is no valid PEM", at("broken.pem"))),
        (tls(cert.clone(), pki.path("flat.pem")), format!("key {}: it is no valid PEM", at("flat.pem"))),
        (tls(pki.path("flat.pem"), key.clone()), format!("cert {}: it is no valid PEM", at("flat.pem"))),
        (
            tls(cert.clone(), other.path("key.pem")),
            format!(
                "cert {} with key {}: the certificate is not that of the key",
                at("cert.pem"),
                other.path("key.pem").display()
            ),
        ),
        (tls(openssl("p521.pem"), openssl("p521.key")), unsupported("p521.key")),
        (tls(openssl("rsa-1024.pem"), openssl("rsa-1024.key")), unsupported("rsa-1024.key")),
        (pki.endpoint().chain(pki.path("no.pem")), format!("chain {}: No such file", at("no.pem"))),
        (
            pki.endpoint().client_ca(pki.path("no.pem"), ClientAuth::Required),
            format!("clientca {}: No such file", at("no.pem")),
        ),
        (
            pki.endpoint().client_ca(key, ClientAuth::Required),
            format!("clientca {}: it holds no PEM certificate", at("key.pem")),
        ),
    ];
    assert!(ca.exists());
    for (endpoint, expected) in cases {
        let named = format!("endpoint {:?}: {expected}", endpoint.to_string());
        let error = Broker::dev_builder().endpoint(endpoint).start().await.unwrap_err();
        assert!(matches!(error, StartError::Tls(_)), "{error:?}");
        assert!(error.to_string().starts_with(&named), "{error}\n{named}");
        // In figures: hunter2, as some parsers quote bytes.
        for secret in ["hunter2", "104, 117, 110"] {
            assert!(!error.to_string().contains(secret), "{error}");
        }
    }
}

#[tokio::test]
async fn a_chain_is_sent_after_the_certificate() {
    let pki = Pki::new();
    let between = CertifiedIssuer::signed_by(authority(), KeyPair::generate().unwrap(), &pki.ca).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &between).unwrap();
    pki.write("key.pem", key.serialize_pem());
    pki.write("cert.pem", leaf.pem());
    pki.write("chain.pem", between.pem());
    let client = pki.client(None);
    let without = broker(pki.endpoint()).await;
    assert!(TlsPeer::try_dev(without.local_addr(), &client).await.is_err());
    works(broker(pki.endpoint().chain(pki.path("chain.pem"))).await.local_addr(), &client).await;
    // Or all in one file, as certbot writes it.
    pki.write("cert.pem", leaf.pem() + &between.pem());
    works(broker(pki.endpoint()).await.local_addr(), &client).await;
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

#[tokio::test]
async fn a_certificate_is_replaced_under_load_without_a_dropped_connection() {
    const MESSAGES: u64 = 400;
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let config = pki.client(None);
    let mut reader = TlsPeer::subscriber(broker.local_addr(), &config, "c").await;
    let mut writer = TlsPeer::dev(broker.local_addr(), &config).await;
    let mut certificates = vec![reader.certificate()];
    for n in 0..MESSAGES {
        writer.send(publish("dev", "c", numbered(n, 10_000))).await;
        if n % 100 == 50 {
            pki.issue("cert.pem", "key.pem", "localhost");
            broker.reload().await.unwrap();
            // A new configuration each time, so that no session is resumed.
            let mut new = TlsPeer::dev(broker.local_addr(), &pki.client(None)).await;
            new.settle().await;
            assert!(!certificates.contains(&new.certificate()));
            certificates.push(new.certificate());
        }
    }
    for n in 0..MESSAGES {
        assert_eq!(number(&reader.next().await.unwrap()), n);
    }
}

#[tokio::test]
async fn a_bad_pair_keeps_the_old_one() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let old = TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate();
    // A key of another certificate.
    pki.write("key.pem", KeyPair::generate().unwrap().serialize_pem());
    let error = broker.reload().await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("endpoint {:?}: cert ", pki.endpoint().to_string())), "{error}");
    assert!(error.ends_with("the certificate is not that of the key"), "{error}");
    fs::remove_file(pki.path("cert.pem")).unwrap();
    assert!(broker.reload().await.is_err());
    assert_eq!(TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate(), old);
    pki.issue("cert.pem", "key.pem", "localhost");
    broker.reload().await.unwrap();
    assert_ne!(TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate(), old);
}

/// By itself, without being told. The ways in which files change are tested without sockets.
#[tokio::test]
async fn a_certificate_that_is_renewed_is_noticed() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let old = TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate();
    pki.issue("new-cert.pem", "new-key.pem", "localhost");
    for file in ["cert.pem", "key.pem"] {
        fs::rename(pki.path(&format!("new-{file}")), pki.path(file)).unwrap();
    }
    within(async {
        while TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate() == old {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn sessions_are_resumed_but_not_past_a_new_certificate() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    for versions in [ALL, TLS12] {
        let config = pki.client_of(versions, None);
        let kind = async || {
            let mut peer = TlsPeer::dev(broker.local_addr(), &config).await;
            peer.settle().await;
            peer.framed.get_ref().get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!((kind().await, kind().await), (HandshakeKind::Full, HandshakeKind::Resumed));
        broker.reload().await.unwrap();
        assert_eq!(kind().await, HandshakeKind::Full);
    }
}
