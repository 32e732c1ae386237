//! The TLS connector: trust, client certificates, and TLS over TCP with rustls.

pub(crate) mod fault;
#[doc(hidden)]
pub mod probe;
mod verifier;

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;
use rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName,
        pem::{self, PemObject},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector as RustlsConnector, client::TlsStream};

use self::verifier::FileVerifier;
use super::{
    addr::BrokerAddr,
    connector::{Connector, Transport, TransportStatus},
    tcp::TcpConnector,
};
use crate::{
    client::error::{Cause, Error},
    wire::OtherProtocol,
    x509,
};

/// How to trust the broker, and how to prove who we are, over TLS 1.2 or 1.3.
///
/// By default the broker's certificate must be signed by a root that the operating system trusts
/// and must name the host that was dialled.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    ca_file: Option<PathBuf>,
    client_cert: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
    config: Option<Arc<ClientConfig>>,
}

impl TlsOptions {
    /// The system's roots, no client certificate, the dialled host as the server's name.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates in this PEM file and those that they have signed, and no others.
    ///
    /// The broker's own certificate may stand in it, of any version of X.509, self-signed or not,
    /// also one that says it belongs to an authority (`CA:TRUE`): who has its key is the broker.
    /// Its time of validity and its names are checked all the same; when it lists no names
    /// (`subjectAltName`), its common name counts.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Presents a certificate (a chain, leaf first) and its key (PKCS#8, PKCS#1 or SEC1), both PEM
    /// files.
    #[must_use]
    pub fn client_certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client_cert = Some((cert.into(), key.into()));
        self
    }

    /// Expects this name (or IP address) in the broker's certificate instead of the dialled host.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Takes a configuration of rustls as it is, with its trust, its certificate and its versions: for
    /// keys in hardware, another provider of cryptography, or pinned certificates. The types are those of
    /// `hpfeeds::rustls`. Beside it only [`server_name`](Self::server_name) may be set.
    #[must_use]
    pub fn config(mut self, config: Arc<ClientConfig>) -> Self {
        self.config = Some(config);
        self
    }

    /// Reads the files. Blocks, shortly; the errors name the file.
    pub(crate) fn connector(&self, tcp: TcpConnector, addr: &BrokerAddr) -> Result<TlsConnector, Error> {
        if let Some(config) = &self.config {
            if self.ca_file.is_some() || self.client_cert.is_some() {
                let what = "TLS cannot be set up".to_owned();
                return Err(tls_error(
                    what,
                    "a configuration of rustls is given, and ca_file or client_certificate as well",
                ));
            }
            return Ok(TlsConnector { tcp, config: Arc::clone(config).into(), server_name: self.name(addr)? });
        }
        self.connector_with(tcp, addr, |verifier| verifier)
    }

    /// As [`connector`](Self::connector), with something around the verifier.
    fn connector_with(
        &self,
        tcp: TcpConnector,
        addr: &BrokerAddr,
        wrap: impl FnOnce(Arc<dyn ServerCertVerifier>) -> Arc<dyn ServerCertVerifier>,
    ) -> Result<TlsConnector, Error> {
        const NOT_SET_UP: &str = "TLS cannot be set up";
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &self.ca_file {
            Some(path) => Arc::new(trust_file(path, &provider)?),
            None => WebPkiServerVerifier::builder_with_provider(system_roots()?.into(), provider.clone())
                .build()
                .map_err(|cause| tls_error(NOT_SET_UP.to_owned(), cause))?,
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| tls_error(NOT_SET_UP.to_owned(), cause))?
            .dangerous()
            .with_custom_certificate_verifier(wrap(verifier));
        let config = match &self.client_cert {
            None => config.with_no_client_auth(),
            Some((cert, key)) => {
                let key_der = PrivateKeyDer::from_pem_file(key).map_err(|cause| {
                    tls_error(format!("cannot read a private key from {}", key.display()), fault(cause))
                })?;
                let signing = ring::sign::any_supported_type(&key_der).map_err(|_| {
                    tls_error(format!("cannot use the private key in {}", key.display()), UNSUPPORTED_KEY)
                })?;
                let certified = CertifiedKey::new(certificates(cert)?, signing);
                if !is_of_key(&certified) {
                    let what = format!("cannot use {} with {}", cert.display(), key.display());
                    return Err(tls_error(what, "the certificate is not that of the key"));
                }
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        Ok(TlsConnector { tcp, config: Arc::new(config).into(), server_name: self.name(addr)? })
    }

    fn name(&self, addr: &BrokerAddr) -> Result<ServerName<'static>, Error> {
        let name = self.server_name.as_deref().unwrap_or(addr.host());
        ServerName::try_from(name.to_owned())
            .map_err(|cause| tls_error(format!("{name:?} cannot be a TLS server name"), cause))
    }
}

/// The error for a key that can be read and is none that ring signs with.
const UNSUPPORTED_KEY: &str =
    "its kind is not supported: use a key of P-256, P-384, Ed25519, or RSA of 2048 to 4096 bits";

/// Whether a certificate is about the key. rustls asks the same, but reads certificates of version
/// 3 only.
fn is_of_key(certified: &CertifiedKey) -> bool {
    let cert = certified.cert.first().and_then(|cert| x509::Certificate::parse(cert));
    let key = certified.key.public_key();
    let key = key.as_ref().and_then(|key| x509::PublicKey::parse(key));
    matches!((cert, key), (Some(cert), Some(key)) if cert.public_key.bits == key.bits)
}

fn trust_file(path: &Path, provider: &Arc<CryptoProvider>) -> Result<FileVerifier, Error> {
    let unusable = |cause: BoxError| tls_error(format!("a certificate in {} is unusable", path.display()), cause);
    let listed = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for cert in &listed {
        roots.add(cert.clone()).map_err(|cause| unusable(cause.into()))?;
    }
    FileVerifier::new(listed, roots, provider).map_err(|cause| unusable(cause.into()))
}

fn system_roots() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    let (added, _ignored) = roots.add_parsable_certificates(loaded.certs);
    match loaded.errors.into_iter().next() {
        Some(cause) if added == 0 => Err(tls_error("cannot load the system's root certificates".to_owned(), cause)),
        None if added == 0 => Err(tls_error(
            "no trust".to_owned(),
            "this system has no root certificates: install them, or give a file (--tlscert FILE; TlsOptions::ca_file)",
        )),
        _ => Ok(roots),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let what = || format!("cannot read certificates from {}", path.display());
    let certs: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|cause| tls_error(what(), fault(cause)))?;
    if certs.is_empty() {
        return Err(tls_error(what(), "it holds no PEM certificate"));
    }
    Ok(certs)
}

/// Why a file cannot be read. Nothing of it is quoted: it may hold a key, also where a certificate
/// is expected.
fn fault(cause: pem::Error) -> BoxError {
    match cause {
        pem::Error::Io(cause) => cause.into(),
        pem::Error::NoItemsFound => "there is none in it, in PEM format".into(),
        _ => "it is no valid PEM".into(),
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn tls_error(what: String, cause: impl Into<BoxError>) -> Error {
    Error::new(Cause::Tls { what, cause: cause.into() })
}

/// TCP, then TLS.
pub(crate) struct TlsConnector {
    tcp: TcpConnector,
    config: RustlsConnector,
    server_name: ServerName<'static>,
}

impl Connector for TlsConnector {
    fn connect<'a>(&'a self, addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let stream = Observed::new(self.tcp.dial(addr).await?);
            match self.config.connect(self.server_name.clone(), stream).into_fallible().await {
                Ok(stream) => Ok(Box::new(stream) as _),
                Err((cause, stream)) => Err(fault::of_handshake(cause, stream.first())),
            }
        })
    }
}

impl Transport for TlsStream<Observed> {
    fn peer_closed(&self) -> bool {
        self.get_ref().0.tcp.peer_closed()
    }

    fn abort(&self) {
        self.get_ref().0.tcp.abort();
    }

    fn hears_heartbeats(&self) {
        self.get_ref().0.tcp.hears_heartbeats();
    }

    /// The last record over TLS is our `close_notify`, which the broker may answer before the end
    /// of our TCP stream reaches it.
    fn status(&self) -> Option<TransportStatus> {
        let status = self.get_ref().0.tcp.status()?;
        Some(TransportStatus { end_acknowledged: status.unacknowledged == 0, ..status })
    }
}

/// A connection whose first bytes are remembered: when they are no TLS, they tell what answers
/// there.
#[derive(Debug)]
struct Observed {
    tcp: TcpStream,
    first: [u8; OtherProtocol::LEN],
    len: usize,
}

impl Observed {
    fn new(tcp: TcpStream) -> Self {
        Self { tcp, first: [0; OtherProtocol::LEN], len: 0 }
    }

    fn first(&self) -> &[u8] {
        &self.first[..self.len]
    }
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        let Self { first, len, .. } = &mut *self;
        if *len < first.len() {
            let read = &buf.filled()[before..];
            let n = read.len().min(first.len() - *len);
            first[*len..*len + n].copy_from_slice(&read[..n]);
            *len += n;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
