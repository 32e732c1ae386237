//! TLS, against a rustls server that hands the plain bytes to a broker.

use std::{path::PathBuf, sync::Arc};

use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    certificates::certificates,
    support::{TestBroker, fails, tool},
};

struct Server {
    port: u16,
    files: TempDir,
    broker: TestBroker,
    _runtime: Runtime,
}

impl Server {
    fn start(name: &str, client_certificates: bool) -> Self {
        let (broker, runtime) = (TestBroker::start(), Runtime::new().unwrap());
        let (files, config) = certificates(name, client_certificates);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (port, upstream) = (listener.local_addr().unwrap().port(), broker.port());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that refuses our certificate ends the handshake.
                    if let Ok(mut tls) = acceptor.accept(stream).await {
                        let mut plain = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
                        drop(copy_bidirectional(&mut tls, &mut plain).await);
                    }
                });
            }
        });
        Self { port, files, broker, _runtime: runtime }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn publish(&self) -> assert_cmd::Command {
        let mut command = tool();
        command.args(["publish", "--timeout", "5", "-p", &self.port.to_string(), "-i", "dev", "-s", "dev"]);
        command.args(["-c", "events", "x"]);
        command
    }
}

#[test]
fn tlscert_alone_means_tls_with_that_authority() {
    let server = Server::start("localhost", false);
    let mut peer = server.broker.listen(&["events"]);
    server.publish().arg("--tlscert").arg(server.file("ca.pem")).assert().success().stderr("");
    server.publish().arg("--tls").arg("--tlscert").arg(server.file("ca.pem")).assert().success();
    assert_eq!(peer.payloads(), ["x", "x"]);
}

#[test]
fn tls_alone_trusts_the_roots_of_the_system() {
    let server = Server::start("localhost", false);
    // Where the system's roots are can be told.
    server.publish().arg("--tls").env("SSL_CERT_FILE", server.file("ca.pem")).assert().success().stderr("");
    fails(server.publish().arg("--tls").env("SSL_CERT_FILE", server.file("other-ca.pem")), 1, "certificate");
}

#[test]
fn a_certificate_that_is_not_trusted_is_1() {
    let server = Server::start("localhost", false);
    fails(server.publish().arg("--tlscert").arg(server.file("other-ca.pem")), 1, "certificate");
    // The system's roots do not know it either; a system without any says that it has none.
    let stderr = server.publish().arg("--tls").assert().failure().get_output().stderr.clone();
    assert!(String::from_utf8(stderr).unwrap().contains("certificate"));
}

#[test]
fn the_name_is_checked_and_can_be_another() {
    let server = Server::start("broker.example", false);
    let ca = server.file("ca.pem");
    fails(server.publish().arg("--tlscert").arg(&ca), 1, "certificate");
    server.publish().arg("--tlscert").arg(&ca).args(["--tls-name", "broker.example"]).assert().success();
}

#[test]
fn a_client_certificate_is_presented() {
    let server = Server::start("localhost", true);
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| server.file(name));
    server.publish().arg("--tlscert").arg(&ca).assert().failure();
    let mut publish = server.publish();
    publish.arg("--tlscert").arg(&ca).arg("--tls-client-cert").arg(&cert).arg("--tls-client-key").arg(&key);
    publish.assert().success();
}

#[test]
fn a_file_that_holds_no_certificate_is_2() {
    let server = Server::start("localhost", false);
    let key = server.file("client.key");
    fails(server.publish().arg("--tlscert").arg(&key), 2, key.to_str().unwrap());
}
