//! The certificate and key of a TLS endpoint, as they are read from its files.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use hpfeeds::x509;
use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    net::endpoint::{ClientAuth, TlsFiles},
    util::file_watch::Fingerprint,
};

/// A certificate or key of an endpoint that cannot be used: one line that names the endpoint and
/// the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("endpoint {endpoint:?}: {fault}")]
pub struct TlsError {
    endpoint: String,
    fault: String,
}

/// The certificate and key of a `tls:` endpoint, and the authorities of its clients.
pub(crate) struct Certificate {
    endpoint: String,
    files: TlsFiles,
    /// Replaced as a whole: a handshake sees either the old or the new pair, and connections keep
    /// what they have.
    config: ArcSwap<ServerConfig>,
    /// The end of the certificate's validity in seconds since 1970.
    expires: AtomicI64,
    /// The fingerprint of the files when `config` was read from them.
    read: Mutex<Fingerprint>,
}

impl Certificate {
    /// Reads the files.
    pub(crate) fn load(endpoint: String, files: TlsFiles) -> Result<Self, TlsError> {
        // Before the files are read: a change meanwhile is found later.
        let read = Mutex::new(fingerprint(&files));
        match server_config(&files) {
            Ok((config, expires)) => {
                let (config, expires) = (ArcSwap::from_pointee(config), AtomicI64::new(expires));
                Ok(Self { endpoint, files, config, expires, read })
            }
            Err(fault) => Err(TlsError { endpoint, fault }),
        }
    }

    /// Reads the files again. On an error everything stays as it is.
    pub(super) fn reload(&self) -> Result<(), TlsError> {
        // Before the files are read: a change meanwhile is found later.
        let now = self.fingerprint();
        let fail = |fault| TlsError { endpoint: self.endpoint.clone(), fault };
        let (config, expires) = server_config(&self.files).map_err(fail)?;
        self.config.store(Arc::new(config));
        self.expires.store(expires, Relaxed);
        *self.read.lock() = now;
        Ok(())
    }

    /// The end of the certificate's validity in seconds since 1970.
    pub(super) fn expires(&self) -> i64 {
        self.expires.load(Relaxed)
    }

    /// The endpoint, as it is written.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The fingerprint of the files when they were read last.
    pub(super) fn read_from(&self) -> Fingerprint {
        self.read.lock().clone()
    }

    /// The fingerprint of the files now.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.files)
    }

    /// The configuration of a new connection.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

fn fingerprint(files: &TlsFiles) -> Fingerprint {
    let TlsFiles { key, cert, chain, client_ca, client_auth: _ } = files;
    Fingerprint::of([Some(key), Some(cert), chain.as_ref(), client_ca.as_ref()].into_iter().flatten())
}

/// A configuration of which every part is new, also the store of sessions to resume: a client that
/// the new files would not let in must not come in with an old session. With it the end of the
/// certificate's validity.
fn server_config(files: &TlsFiles) -> Result<(ServerConfig, i64), String> {
    let provider = Arc::new(ring::default_provider());
    let mut certs = certificates("cert", &files.cert)?;
    if let Some(chain) = &files.chain {
        certs.append(&mut certificates("chain", chain)?);
    }
    let key = private_key(&files.key)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|cause| cause.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let fail = |cause: &dyn fmt::Display| format!("clientca {}: {cause}", path.display());
            let mut roots = RootCertStore::empty();
            for cert in certificates("clientca", path)? {
                roots.add(cert).map_err(|cause| fail(&cause))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = match files.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|cause| fail(&cause))?)
        }
    };
    // Not `with_single_cert`, which takes certificates of version 3 only: clients may take others,
    // too.
    let (certified, expires) = certified_key(files, certs, &key)?;
    Ok((builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified))), expires))
}

/// The key with its certificate, which is the first, and the rest of the chain; and the end of the
/// certificate's validity.
fn certified_key(
    files: &TlsFiles,
    certs: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Result<(CertifiedKey, i64), String> {
    let key = ring::sign::any_supported_type(key).map_err(|_| {
        format!(
            "key {}: its kind is not supported: use a key of P-256, P-384, Ed25519, or RSA of 2048 to 4096 bits, and a \
             certificate for it",
            files.key.display()
        )
    })?;
    let public = key.public_key();
    let public = public.as_ref().and_then(|key| x509::PublicKey::parse(key));
    let cert = certs.first().and_then(|cert| x509::Certificate::parse(cert));
    let cert = cert.ok_or_else(|| format!("cert {}: it is no X.509 certificate", files.cert.display()))?;
    if public.is_none_or(|public| public.bits != cert.public_key.bits) {
        return Err(format!(
            "cert {} with key {}: the certificate is not that of the key",
            files.cert.display(),
            files.key.display()
        ));
    }
    let expires = cert.not_after;
    Ok((CertifiedKey::new(certs, key), expires))
}

fn certificates(name: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(name, path)?;
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certs {
        Ok(certs) if certs.is_empty() => Err(format!("{name} {}: it holds no PEM certificate", path.display())),
        Ok(certs) => Ok(certs),
        // The cause quotes lines of the file, which may be a key all the same.
        Err(_) => Err(format!("{name} {}: it is no valid PEM", path.display())),
    }
}

/// Reads a private key. No error quotes the file, which may be the key.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read("key", path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|cause| {
        let encrypted = text.windows(b"ENCRYPTED".len()).any(|word| word == b"ENCRYPTED");
        let fault = match cause {
            _ if encrypted => "it is encrypted: the broker cannot ask for its passphrase",
            pem::Error::NoItemsFound => "it holds no PEM private key (PKCS#8, PKCS#1 or SEC1)",
            _ => "it is no valid PEM",
        };
        format!("key {}: {fault}", path.display())
    })
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|cause: io::Error| format!("{name} {}: {cause}", path.display()))
}
