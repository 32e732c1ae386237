//! Certificates made on the spot, and a client that speaks TLS with them.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc};

use futures::{SinkExt as _, StreamExt as _};
use hpfeeds::wire::{Codec, Frame, Secret};
use hpfeeds_broker::Endpoint;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};
use tokio_util::codec::Framed;

use crate::support::within;

/// The versions of TLS that clients may speak.
pub(crate) const ALL: &[&SupportedProtocolVersion] = tokio_rustls::rustls::ALL_VERSIONS;
pub(crate) const TLS12: &[&SupportedProtocolVersion] = &[&tokio_rustls::rustls::version::TLS12];

/// An authority, and a folder for files.
pub(crate) struct Pki {
    pub(crate) folder: TempDir,
    pub(crate) ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    /// The folder has `ca.pem`, and `cert.pem` and `key.pem` for localhost.
    pub(crate) fn new() -> Self {
        let ca = CertifiedIssuer::self_signed(authority(), KeyPair::generate().unwrap()).unwrap();
        let pki = Self { folder: TempDir::new().unwrap(), ca };
        pki.write("ca.pem", pki.ca.pem());
        pki.issue("cert.pem", "key.pem", "localhost");
        pki
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(file), text).unwrap();
    }

    /// Writes a certificate and its new key.
    pub(crate) fn issue(&self, cert: &str, key: &str, name: &str) {
        let pair = KeyPair::generate().unwrap();
        self.write(key, pair.serialize_pem());
        self.write(cert, self.sign(&pair, name));
    }

    /// A certificate for a key.
    pub(crate) fn sign(&self, key: &KeyPair, name: &str) -> String {
        CertificateParams::new([name.to_owned()]).unwrap().signed_by(key, &self.ca).unwrap().pem()
    }

    /// At a port that the system picks.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::tls("127.0.0.1", 0, self.path("cert.pem"), self.path("key.pem"))
    }

    /// A client that trusts this authority, and has a certificate of `identity`.
    pub(crate) fn client(&self, identity: Option<&Self>) -> Arc<ClientConfig> {
        self.client_of(ALL, identity)
    }

    pub(crate) fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Self>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match identity {
            None => config.with_no_client_auth(),
            Some(pki) => {
                let pair = KeyPair::generate().unwrap();
                let cert = CertificateDer::from_pem_slice(pki.sign(&pair, "client").as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.serialize_pem().as_bytes()).unwrap();
                config.with_client_auth_cert(vec![cert], key).unwrap()
            }
        })
    }
}

/// Parameters of an authority's certificate.
pub(crate) fn authority() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A client that speaks raw frames over TLS.
pub(crate) struct TlsPeer {
    pub(crate) framed: Framed<TlsStream<TcpStream>, Codec>,
}

impl TlsPeer {
    /// Connects, reads INFO and authenticates as `dev`. The error is that of TLS.
    pub(crate) async fn try_dev(addr: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let tcp = TcpStream::connect(addr).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let tls = within(TlsConnector::from(config.clone()).connect(name, tcp)).await?;
        let mut framed = Framed::new(tls, Codec::default());
        let nonce = match within(framed.next()).await {
            Some(Ok(Frame::Info { nonce, .. })) => nonce,
            Some(Ok(other)) => panic!("no INFO but {other:?}"),
            Some(Err(cause)) => return Err(io::Error::other(cause)),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let auth = Frame::Auth { ident: "dev".parse().unwrap(), digest: Secret::from("dev").sign(&nonce) };
        within(framed.send(auth)).await.unwrap();
        Ok(Self { framed })
    }

    pub(crate) async fn dev(addr: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        Self::try_dev(addr, config).await.unwrap()
    }

    /// Subscribes, and returns once the broker has seen to it.
    pub(crate) async fn subscriber(addr: SocketAddr, config: &Arc<ClientConfig>, channel: &str) -> Self {
        let mut peer = Self::dev(addr, config).await;
        peer.send(crate::support::subscribe("dev", channel)).await;
        peer.settle().await;
        peer
    }

    /// Returns once the broker has acted on everything that was sent before; nothing else may arrive meanwhile.
    pub(crate) async fn settle(&mut self) {
        let echo = crate::support::publish("dev", "private", "settled");
        self.send(crate::support::subscribe("dev", "private")).await;
        self.send(echo.clone()).await;
        assert_eq!(self.next().await, Some(echo));
        self.send(crate::support::unsubscribe("dev", "private")).await;
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        within(self.framed.send(frame)).await.unwrap();
    }

    /// The next frame, or `None` at the end that was announced with `close_notify`.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        within(self.framed.next()).await.map(Result::unwrap)
    }

    /// Says that nothing more will come, with `close_notify`.
    pub(crate) async fn finish(&mut self) {
        within(self.framed.get_mut().shutdown()).await.unwrap();
    }

    /// The certificate that the broker presented.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.framed.get_ref().get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}
