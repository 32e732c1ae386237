//! TLS endpoints: certificates that are good, of another name, expired, not yet valid, self-signed, about to expire;
//! client certificates; and TLS where none is asked for.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use super::{Found, doctor};
use crate::{certificates::certificates, support::TestBroker};

const DAY: Duration = Duration::from_secs(86_400);

/// A TLS server before a broker, and the folder of its files.
struct Server {
    port: u16,
    files: TempDir,
    _broker: TestBroker,
    _runtime: Runtime,
}

impl Server {
    fn start(files: TempDir, config: ServerConfig) -> Self {
        let (broker, runtime) = (TestBroker::start(), Runtime::new().unwrap());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (port, upstream) = (listener.local_addr().unwrap().port(), broker.port());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut tls) = acceptor.accept(stream).await {
                        let mut plain = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
                        drop(copy_bidirectional(&mut tls, &mut plain).await);
                    }
                });
            }
        });
        Self { port, files, _broker: broker, _runtime: runtime }
    }

    /// With a certificate of `ca.pem` for `localhost` and these days from now; of itself without `signed`.
    fn valid(from: i64, to: i64, signed: bool) -> Self {
        let files = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(files.path().join("ca.pem"), ca.pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        // Not that of the authority, which is the same for all.
        params.distinguished_name.push(DnType::CommonName, "a broker");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        // Half a day more, so that the time of the test does not change the number of days.
        let moment = |days: i64| {
            let span = DAY * u32::try_from(days.unsigned_abs()).unwrap() + DAY / 2;
            date_time_ymd(1970, 1, 1) + if days < 0 { now.checked_sub(span).unwrap() } else { now + span }
        };
        (params.not_before, params.not_after) = (moment(from), moment(to));
        let cert = if signed { params.signed_by(&key, &ca) } else { params.self_signed(&key) }.unwrap();
        std::fs::write(files.path().join("cert.pem"), cert.pem()).unwrap();
        let certs = vec![CertificateDer::from(cert.der().to_vec())];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certs, key)
            .unwrap();
        Self::start(files, config)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Trusting a file, with `localhost` as the expected name.
    fn doctor(&self, trust: &str, args: &[&str]) -> Found {
        let trust = self.file(trust);
        let all = [&["--tlscert", trust.to_str().unwrap(), "--tls-name", "localhost"], args].concat();
        doctor(self.port, &all)
    }
}

#[test]
fn a_good_certificate_passes_without_a_key() {
    let server = Server::valid(-1, 90, true);
    let found = server.doctor("ca.pem", &[]);
    found.ends(0, "7 passed, 1 not checked");
    found.says("ok", "protocol", &["TLS 1.3 in "]);
    found.says("ok", "certificate", &["trusted, for localhost, expires in 90 days (20"]);
    found.says("ok", "INFO", &["\"hpfeeds\" in "]);
    assert!(found.text.lines().next().unwrap().ends_with(" over TLS"), "{}", found.text);
    let found = server.doctor("ca.pem", &["-i", "dev", "-s", "dev", "-c", "a", "--echo", "test"]);
    found.ends(0, "11 passed");
    let found = server.doctor("ca.pem", &["--json"]).json();
    let certificate = found["checks"].as_array().unwrap().iter().find(|check| check["check"] == "certificate").unwrap();
    assert_eq!((&certificate["details"]["days_left"], &certificate["details"]["chain"]), (&90.into(), &1.into()));
}

#[test]
fn a_certificate_that_expires_soon_is_a_warning() {
    let server = Server::valid(-1, 6, true);
    let found = server.doctor("ca.pem", &[]);
    found.ends(0, "1 warning, 6 passed, 1 not checked");
    found.says("warn", "certificate", &["expires in 6 days (20", "renew it: the broker reads a new file by itself"]);
    server.doctor("ca.pem", &["--strict"]).ends(1, "1 warning, 6 passed, 1 not checked");
    server.doctor("ca.pem", &["--cert-days", "6", "--strict"]).ends(0, "7 passed, 1 not checked");
    server.doctor("ca.pem", &["--cert-days", "7", "--strict"]).ends(1, "1 warning, 6 passed, 1 not checked");
    let found = server.doctor("ca.pem", &["--nagios"]);
    assert_eq!(found.code, Some(1));
    assert!(found.text.contains("certificate: expires in 6 days") && found.text.contains("certificate_days=6"));
}

#[test]
fn faults_of_certificates_are_told_apart() {
    let expired = Server::valid(-30, -3, true).doctor("ca.pem", &[]);
    expired.ends(1, "1 problem, 5 passed");
    expired.says("FAIL", "certificate", &["expired 3 days ago renew it", "see the clock here: it shows 20"]);
    let early = Server::valid(3, 30, true).doctor("ca.pem", &[]);
    early.says("FAIL", "certificate", &["is valid only in 3 days see the clock here"]);
    let server = Server::valid(-1, 90, true);
    let other = server.file("ca.pem");
    let name = doctor(server.port, &["--tlscert", other.to_str().unwrap(), "--tls-name", "broker.example"]);
    name.says(
        "FAIL",
        "certificate",
        &["is for \"localhost\", not for \"broker.example\" connect to a name that it has"],
    );
    let unknown = Server::valid(-1, 90, true);
    let untrusted = doctor(unknown.port, &["--tlscert", other.to_str().unwrap(), "--tls-name", "localhost"]);
    untrusted.ends(1, "1 problem, 5 passed");
    untrusted.says("FAIL", "certificate", &["is signed by none in the file of --tlscert give the certificate"]);
    untrusted.says("FAIL", "certificate", &["its file needs the whole chain"]);
    let own = Server::valid(-1, 90, false);
    let own_found = doctor(own.port, &["--tlscert", other.to_str().unwrap(), "--tls-name", "localhost"]);
    own_found.says("FAIL", "certificate", &["is self-signed, and not trusted copy the certificate (not the key)"]);
    own.doctor("cert.pem", &[]).ends(0, "7 passed, 1 not checked");
}

#[test]
fn a_client_certificate_that_is_missing_or_wrong_is_named() {
    let (files, config) = certificates("localhost", true);
    let server = Server::start(files, config);
    let missing = server.doctor("ca.pem", &["-i", "dev", "-s", "dev"]);
    assert_eq!(missing.code, Some(1));
    missing.says(
        "FAIL",
        "INFO",
        &["asks for a certificate of ours give one that the broker trusts: --tls-client-cert"],
    );
    let [cert, key] = ["client.pem", "client.key"].map(|name| server.file(name).to_str().unwrap().to_owned());
    let args = ["--tls-client-cert", &cert, "--tls-client-key", &key, "-i", "dev", "-s", "dev"];
    server.doctor("ca.pem", &args).ends(0, "9 passed");
}

#[test]
fn tls_where_none_is_asked_for_is_named_and_the_other_way_around() {
    let server = Server::valid(-1, 90, true);
    let found = doctor(server.port, &["-i", "dev", "-s", "dev"]);
    found.ends(1, "1 problem, 4 passed");
    found.says("FAIL", "protocol", &["TLS answers there, and not hpfeeds connect with --tls"]);
    let plain = TestBroker::start();
    let ca = server.file("ca.pem");
    let found = doctor(plain.port(), &["--tlscert", ca.to_str().unwrap()]);
    found.says("FAIL", "protocol", &["hpfeeds without TLS answers, and TLS is asked for leave out --tls"]);
}

#[test]
fn a_file_that_cannot_be_used_is_2() {
    let server = Server::valid(-1, 90, true);
    let found = server.doctor("no-such.pem", &[]);
    assert_eq!(found.code, Some(2), "{}", found.text);
    assert!(found.text.contains("no-such.pem") && found.text.contains("mend the options of TLS"), "{}", found.text);
}
