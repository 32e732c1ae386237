//! TLS: the session against a rustls server that hands the plain bytes to the real broker.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use hpfeeds::{Backoff, ClientSession, Error, SessionBuilder, SessionEvent, SessionState, TlsOptions};
use hpfeeds_broker::{Broker, Endpoint};
use tempfile::TempDir;
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring::{default_provider, sign::any_supported_type},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        sign::{CertifiedKey, SingleCertAndKey},
        version,
    },
};

use crate::certificates::certificates;

const SOON: Duration = Duration::from_secs(20);

/// A broker behind TLS, and the files that a client needs.
struct Server {
    addr: SocketAddr,
    files: TempDir,
    broker: Broker,
    /// Ends all connections.
    cut: Arc<Notify>,
    _accept: JoinSet<()>,
}

impl Server {
    async fn start(name: &str, client_certificates: bool) -> Self {
        let (files, config) = certificates(name, client_certificates);
        Self::behind(files, config).await
    }

    async fn behind(files: TempDir, config: ServerConfig) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let broker = Broker::dev().await.unwrap();
        let (listener, upstream) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), broker.local_addr());
        let addr = listener.local_addr().unwrap();
        let mut accept = JoinSet::new();
        let cut = Arc::new(Notify::new());
        let ends = cut.clone();
        accept.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, ends) = (acceptor.clone(), ends.clone());
                connections.spawn(async move {
                    // A client that refuses our certificate ends the handshake: that is the point of some tests.
                    if let Ok(mut tls) = acceptor.accept(stream).await {
                        let mut plain = TcpStream::connect(upstream).await.unwrap();
                        tokio::select! {
                            copied = copy_bidirectional(&mut tls, &mut plain) => drop(copied),
                            () = ends.notified() => {}
                        }
                    }
                });
            }
        });
        Self { addr, files, broker, cut, _accept: accept }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }

    fn builder(&self, tls: TlsOptions) -> SessionBuilder {
        ClientSession::builder(("localhost", self.addr.port()), "dev", "dev").tls(tls)
    }

    fn trusted(&self) -> TlsOptions {
        TlsOptions::new().ca_file(self.file("ca.pem"))
    }

    async fn refused(&self, tls: TlsOptions) -> Error {
        timeout(SOON, self.builder(tls).connect()).await.unwrap().unwrap_err()
    }
}

async fn echo(session: &mut ClientSession) {
    session.subscribe("a").unwrap();
    let payload = vec![7; 500_000];
    session.publish("a", payload.clone()).await.unwrap();
    let (_, _, echoed) = timeout(SOON, session.next()).await.unwrap().unwrap();
    assert!(echoed == payload);
}

#[tokio::test]
async fn a_session_over_tls_works_as_one_without() {
    let server = Server::start("localhost", false).await;
    let mut session = server.builder(server.trusted()).connect().await.unwrap();
    echo(&mut session).await;
    session.publish("a", "last").await.unwrap();
    session.close().await.unwrap();
    assert_eq!(session.next().await.unwrap().2, "last");
    let error = server.builder(server.trusted()).connect().await;
    drop(error.unwrap());
    server.broker.shutdown().await;
}

#[tokio::test]
async fn a_session_over_tls_survives_broken_connections() {
    let server = Server::start("localhost", false).await;
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(100));
    let mut session = server.builder(server.trusted()).backoff(backoff).connect().await.unwrap();
    for round in 0..5 {
        echo(&mut session).await;
        // The proxy's connections end without TLS's goodbye.
        server.cut.notify_waiters();
        session.state().wait_for(|state| *state != SessionState::Connected).await.unwrap();
        session.publish("a", round.to_string()).await.unwrap();
        assert_eq!(timeout(SOON, session.next()).await.unwrap().unwrap().2, round.to_string());
    }
    server.broker.shutdown().await;
}

#[tokio::test]
async fn a_broker_that_cannot_be_trusted_is_refused() {
    let server = Server::start("localhost", false).await;
    let error = server.refused(TlsOptions::new().ca_file(server.file("other-ca.pem"))).await;
    assert!(error.is_network() && error.to_string().contains("certificate"), "{error}");
    let error = server.refused(server.trusted().server_name("other.test")).await;
    assert!(error.to_string().contains("other.test"), "{error}");
}

#[tokio::test]
async fn the_name_in_the_certificate_can_be_given() {
    let server = Server::start("broker.test", false).await;
    server.refused(server.trusted()).await;
    let mut session = server.builder(server.trusted().server_name("broker.test")).connect().await.unwrap();
    echo(&mut session).await;
}

#[tokio::test]
async fn a_configuration_of_rustls_is_taken_as_it_is() {
    use hpfeeds::rustls::{ClientConfig, RootCertStore};

    let server = Server::start("localhost", false).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.file("ca.pem")).unwrap()).unwrap();
    let config = |roots| {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    };
    let mut session = server.builder(TlsOptions::new().config(config(roots.clone()))).connect().await.unwrap();
    echo(&mut session).await;
    session.close().await.unwrap();
    // Its trust counts, and nothing beside it.
    let error = server.refused(TlsOptions::new().config(config(RootCertStore::empty()))).await;
    assert!(error.to_string().contains("is signed by none"), "{error}");
    let both = TlsOptions::new().config(config(roots)).ca_file(server.file("ca.pem"));
    let error = server.builder(both).connect().await.unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("ca_file"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_presented() {
    let server = Server::start("localhost", true).await;
    server.refused(server.trusted()).await;
    let tls = server.trusted().client_certificate(server.file("client.pem"), server.file("client.key"));
    let mut session = server.builder(tls).connect().await.unwrap();
    echo(&mut session).await;
}

#[tokio::test]
async fn an_unusable_file_is_named() {
    let server = Server::start("localhost", false).await;
    fs::write(server.file("empty.pem"), "").unwrap();
    // As it comes out of a variable that has lost its line breaks.
    let key = fs::read_to_string(server.file("client.key")).unwrap().replace('\n', " ");
    fs::write(server.file("flat.key"), &key).unwrap();
    fs::write(server.file("cut.key"), &key[..key.len() / 2]).unwrap();
    let cases = [
        (TlsOptions::new().ca_file("/nowhere/ca.pem"), "/nowhere/ca.pem"),
        (TlsOptions::new().ca_file(server.file("empty.pem")), "empty.pem"),
        (TlsOptions::new().ca_file(server.file("client.key")), "client.key"),
        (server.trusted().client_certificate(server.file("client.pem"), Path::new("/nowhere/key")), "/nowhere/key"),
        (server.trusted().client_certificate(server.file("ca.pem"), server.file("client.key")), "ca.pem"),
        (server.trusted().client_certificate(server.file("client.pem"), server.file("flat.key")), "flat.key"),
        (server.trusted().client_certificate(server.file("client.pem"), server.file("cut.key")), "cut.key"),
        (server.trusted().client_certificate(server.file("flat.key"), server.file("flat.key")), "flat.key"),
        (TlsOptions::new().ca_file(server.file("flat.key")), "flat.key"),
        (server.trusted().server_name("not a name"), "not a name"),
    ];
    let secret = &key[60..80];
    let as_numbers = format!("{:?}", secret.as_bytes());
    for (tls, named) in cases {
        let error = server.builder(tls).start().unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(named), "{error}");
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains(secret) && !text.contains(as_numbers.trim_matches(['[', ']'])), "{text}");
        }
    }
}

/// A file that `openssl` has made; see the folder's README.
fn openssl(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/certificates").join(file)
}

async fn broker_with(name: &str) -> Broker {
    let (cert, key) = (openssl(&format!("{name}.pem")), openssl(&format!("{name}.key")));
    Broker::dev_builder().endpoint(Endpoint::tls("127.0.0.1", 0, cert, key)).start().await.unwrap()
}

fn client_of(broker: &Broker, tls: TlsOptions) -> SessionBuilder {
    ClientSession::builder(("localhost", broker.local_addr().port()), "dev", "dev").tls(tls)
}

#[tokio::test]
async fn a_certificate_of_any_kind_is_trusted_that_stands_in_the_file() {
    for name in ["version-1", "version-1-ec", "ca-true"] {
        let broker = broker_with(name).await;
        let tls = TlsOptions::new().ca_file(openssl(&format!("{name}.pem")));
        let mut session = client_of(&broker, tls.clone()).connect().await.unwrap();
        echo(&mut session).await;
        let other = client_of(&broker, tls.server_name("other.test")).connect().await.unwrap_err().to_string();
        assert!(other.contains("\"other.test\"") && other.contains("\"localhost\""), "{other}");
        // It has the name and the kind, and another key.
        let others = if name == "ca-true" { "version-1.pem" } else { "ca-true.pem" };
        let error = client_of(&broker, TlsOptions::new().ca_file(openssl(others))).connect().await.unwrap_err();
        assert!(error.is_network() && error.to_string().contains("certificate"), "{error}");
        broker.shutdown().await;
    }
}

#[tokio::test]
async fn a_certificate_that_stands_in_the_file_is_valid_for_its_time_only() {
    let endpoint = Endpoint::tls("127.0.0.1", 0, openssl("expired.pem"), openssl("version-1.key"));
    let broker = Broker::dev_builder().endpoint(endpoint).start().await.unwrap();
    let error = client_of(&broker, TlsOptions::new().ca_file(openssl("expired.pem"))).connect().await.unwrap_err();
    assert!(error.is_network() && error.to_string().contains("expired"), "{error}");
}

/// A server that presents a certificate whose key it has not.
#[tokio::test]
async fn the_key_has_to_be_proved_over_either_version_of_tls() {
    let cert = CertificateDer::from_pem_file(openssl("version-1.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(openssl("ca-true.key")).unwrap();
    let certified = CertifiedKey::new(vec![cert], any_supported_type(&key).unwrap());
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    for version in [&version::TLS12, &version::TLS13] {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let builder = ClientSession::builder(("localhost", listener.local_addr().unwrap().port()), "dev", "dev")
            .tls(TlsOptions::new().ca_file(openssl("version-1.pem")));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let accepting = async move { acceptor.accept(listener.accept().await.unwrap().0).await };
        let (error, accepted) = tokio::join!(builder.connect(), accepting);
        let error = error.unwrap_err();
        assert!(error.is_network() && accepted.is_err(), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_of_version_1_works_over_tls_1_2() {
    for name in ["version-1", "version-1-ec"] {
        let cert = CertificateDer::from_pem_file(openssl(&format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(openssl(&format!("{name}.key"))).unwrap();
        let certified = CertifiedKey::new(vec![cert], any_supported_type(&key).unwrap());
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        let server = Server::behind(TempDir::new().unwrap(), config).await;
        let tls = TlsOptions::new().ca_file(openssl(&format!("{name}.pem")));
        let mut session = server.builder(tls).connect().await.unwrap();
        echo(&mut session).await;
    }
}

#[tokio::test]
async fn a_certificate_of_version_1_proves_a_client() {
    let server = Server::start("localhost", false).await;
    let tls = server.trusted().client_certificate(openssl("version-1.pem"), openssl("version-1.key"));
    // The server asks for none.
    echo(&mut server.builder(tls).connect().await.unwrap()).await;
}

/// Says something to each that comes, and what it says is the answer to TLS, too.
async fn says(banner: &'static [u8]) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut saying = JoinSet::new();
    saying.spawn(async move {
        let mut connections = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(banner).await.unwrap();
            connections.push(stream);
        }
    });
    (addr, saying)
}

async fn error_of(builder: SessionBuilder) -> String {
    let error = timeout(SOON, builder.connect()).await.unwrap().unwrap_err().to_string();
    assert!(error.len() < 400 && !error.contains('\n'), "{error}");
    error
}

#[tokio::test]
async fn plain_bytes_where_tls_is_expected_are_an_error() {
    let broker = Broker::dev().await.unwrap();
    let server = Server::start("localhost", false).await;
    let to = |port| ClientSession::builder(("localhost", port), "dev", "dev").tls(server.trusted());
    let error = timeout(SOON, to(broker.local_addr().port()).connect()).await.unwrap().unwrap_err();
    assert!(error.is_network(), "{error}");
    let expected = "a broker without TLS answers there: connect without TLS (no --tls and --tlscert; no \
                    SessionBuilder::tls), or to its port for TLS";
    assert!(error.to_string().ends_with(expected), "{error}");
    for (banner, what) in [
        (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], "SSH answers there, and not TLS: check the port"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP answers there, and not TLS: check the port"),
        (b"220 mail ESMTP\r\n", "what answers there is not TLS: check the port, or connect without TLS"),
    ] {
        let (addr, _saying) = says(banner).await;
        let error = error_of(to(addr.port())).await;
        assert!(error.ends_with(what), "{error}");
    }
}

#[tokio::test]
async fn another_protocol_is_named_by_its_first_bytes() {
    for (banner, what) in [
        (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], "it speaks SSH; check the port"),
        (b"HTTP/1.1 408 Request Timeout\r\n\r\n", "it speaks HTTP; check the port"),
        (
            b"\x15\x03\x03\0\x02\x02\x46",
            "it speaks TLS: connect with it (--tls or --tlscert FILE; SessionBuilder::tls)",
        ),
    ] {
        let (addr, _saying) = says(banner).await;
        let error = error_of(ClientSession::builder(addr, "dev", "dev")).await;
        assert_eq!(error, format!("{addr} does not speak hpfeeds: {what}"));
    }
}

/// The one waits for the other to begin.
#[tokio::test]
async fn a_session_without_tls_at_a_port_for_it_is_told_of_tls() {
    let server = Server::start("localhost", false).await;
    let builder = ClientSession::builder(server.addr, "dev", "dev").handshake_timeout(Duration::from_millis(300));
    let error = error_of(builder).await;
    assert!(error.contains("perhaps it expects TLS (--tls or --tlscert FILE; SessionBuilder::tls)"), "{error}");
}

#[tokio::test]
async fn certificate_faults_are_said_in_words() {
    let server = Server::start("broker.test", false).await;
    let error = error_of(server.builder(server.trusted())).await;
    let expected = "the broker's certificate is for \"broker.test\", not for \"localhost\": connect to that name, or say \
                    that it is expected (--tls-name NAME; TlsOptions::server_name)";
    assert!(error.ends_with(expected), "{error}");
    let broker = broker_with("version-1").await;
    let with = |file: &str| client_of(&broker, TlsOptions::new().ca_file(openssl(file)));
    let error = error_of(with("ca-true.pem")).await;
    assert!(
        error.contains("X.509 version 1, which is trusted only when it is given itself (--tlscert FILE; "),
        "{error}"
    );
    let broker = broker_with("ca-true").await;
    let error = error_of(client_of(&broker, TlsOptions::new().ca_file(openssl("version-1.pem")))).await;
    assert!(
        error.contains("authority (CA:TRUE), which is trusted only when it is given itself (--tlscert FILE; "),
        "{error}"
    );
    let server = Server::start("localhost", false).await;
    let error = error_of(server.builder(TlsOptions::new().ca_file(openssl("version-1.pem")))).await;
    let expected = "the broker's certificate is signed by none of those that are trusted: give that of its authority, or \
                    the broker's own (--tlscert FILE; TlsOptions::ca_file)";
    assert!(error.ends_with(expected), "{error}");
    // An authority of the same name, and another key.
    let error = error_of(server.builder(TlsOptions::new().ca_file(server.file("other-ca.pem")))).await;
    assert!(
        error.contains("it has been made anew; give the one of today (--tlscert FILE; TlsOptions::ca_file)"),
        "{error}"
    );
    let endpoint = Endpoint::tls("127.0.0.1", 0, openssl("expired.pem"), openssl("version-1.key"));
    let broker = Broker::dev_builder().endpoint(endpoint).start().await.unwrap();
    let error = error_of(client_of(&broker, TlsOptions::new().ca_file(openssl("expired.pem")))).await;
    assert!(error.contains(" days ago: it needs a new one, unless the clock here is wrong"), "{error}");
}

#[tokio::test]
async fn a_session_that_needs_a_certificate_is_told_which_options_give_one() {
    let server = Server::start("localhost", true).await;
    let error = error_of(server.builder(server.trusted())).await;
    let options = "(--tls-client-cert FILE, --tls-client-key FILE; TlsOptions::client_certificate)";
    assert!(error.ends_with(&format!("the broker asks for a certificate of ours: give one {options}")), "{error}");
    let tls = server.trusted().client_certificate(openssl("ca-true.pem"), openssl("ca-true.key"));
    let error = error_of(server.builder(tls)).await;
    assert!(error.contains("the broker does not take our certificate (") && error.ends_with(options), "{error}");
}

/// A TLS server that reads what a publisher sends, to the end of its stream, and then ends its own: with `close_notify`,
/// or with TCP's end alone.
async fn reader(clean: bool) -> (SocketAddr, TempDir, JoinSet<()>) {
    let (files, config) = certificates("localhost", false);
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let addr = listener.local_addr().unwrap();
    let mut accept = JoinSet::new();
    accept.spawn(async move {
        loop {
            let mut tls = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            tls.write_all(b"\0\0\0\x0e\x01\x04peer\x01\x02\x03\x04").await.unwrap();
            tokio::io::copy(&mut tls, &mut tokio::io::sink()).await.unwrap();
            if clean {
                tls.shutdown().await.unwrap();
            }
        }
    });
    (addr, files, accept)
}

fn rotating(addr: SocketAddr, files: &TempDir) -> ClientSession {
    let tls = TlsOptions::new().ca_file(files.path().join("ca.pem"));
    let builder = ClientSession::builder(("localhost", addr.port()), "dev", "dev").tls(tls);
    let quick = Backoff::new(Duration::from_millis(10), Duration::from_millis(20));
    builder.rotation(Duration::from_millis(50)).auth_grace(Duration::from_millis(10)).backoff(quick).start().unwrap()
}

#[tokio::test]
async fn the_end_of_a_tls_stream_confirms_messages() {
    let (addr, files, _accept) = reader(true).await;
    let session = rotating(addr, &files);
    for number in 1..=3 {
        let receipt = timeout(SOON, session.publish_confirmed("a", "x")).await.unwrap().unwrap();
        assert_eq!(receipt.position().number, number);
    }
    assert_eq!((session.stats().confirmed, session.stats().resent), (3, 0));
}

#[tokio::test]
async fn an_end_of_tcp_without_the_end_of_tls_confirms_nothing() {
    let (addr, files, _accept) = reader(false).await;
    let session = rotating(addr, &files);
    let mut events = session.events();
    let error = timeout(SOON, session.publish_confirmed("a", "x")).await.unwrap().unwrap_err();
    assert!(error.is_not_confirmable() && error.may_have_arrived(), "{error}");
    while !matches!(events.next().await.unwrap(), SessionEvent::DeliveryAssumed { .. }) {}
    assert_eq!((session.stats().confirmed, session.stats().lost, session.stats().resent), (0, 1, 1));
}
