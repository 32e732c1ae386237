//! Certificates for tests, made on the spot.

use std::{fs, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

/// A server for this name, and a folder with `ca.pem`, `other-ca.pem` (which signed nothing), `client.pem` and
/// `client.key`.
pub(crate) fn certificates(name: &str, client_certificates: bool) -> (TempDir, ServerConfig) {
    let (files, ca) = (TempDir::new().unwrap(), authority());
    let ((cert, key), (client, client_key)) = (issue(&ca, name), issue(&ca, "client"));
    let texts =
        [("ca.pem", ca.pem()), ("other-ca.pem", authority().pem()), ("client.pem", client), ("client.key", client_key)];
    for (file, text) in texts {
        fs::write(files.path().join(file), text).unwrap();
    }
    let provider = Arc::new(default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let config = if client_certificates {
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        config.with_client_cert_verifier(verifier)
    } else {
        config.with_no_client_auth()
    };
    let certs = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    (files, config.with_single_cert(certs, key).unwrap())
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, PEM.
fn issue(ca: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    (cert.pem(), key.serialize_pem())
}
