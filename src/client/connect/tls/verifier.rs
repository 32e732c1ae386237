//! Which broker's certificate is trusted, when a file of certificates is given.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, PeerMisbehaved, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{ParsedCertificate, VerifierBuilderError},
};

use crate::x509::Certificate;

/// Accepts a certificate that stands in the file byte for byte, and those that one in the file has
/// signed.
///
/// The first kind needs no chain, so that certificates of version 1 and those of authorities, which
/// are no link of any chain to a server, work as they do with OpenSSL. Time, name and the proof of
/// the key are checked in either case.
#[derive(Debug)]
pub(super) struct FileVerifier {
    listed: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl FileVerifier {
    pub(super) fn new(
        listed: Vec<CertificateDer<'static>>,
        roots: RootCertStore,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let chains = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
        Ok(Self { listed, chains, algorithms: provider.signature_verification_algorithms })
    }

    /// The parsed certificate, if it stands in the file. Nothing of a peer is parsed that does
    /// not.
    fn listed<'a>(&self, cert: &'a CertificateDer<'_>) -> Option<Result<Certificate<'a>, rustls::Error>> {
        let found = self.listed.iter().any(|listed| listed == cert);
        found.then(|| Certificate::parse(cert).ok_or(CertificateError::BadEncoding.into()))
    }
}

impl ServerCertVerifier for FileVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(cert) = self.listed(end_entity) else {
            return self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        };
        let cert = cert?;
        verify_time(&cert, now)?;
        if cert.has_alt_names {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        } else if !cert.is_named(&server_name.to_str()) {
            // As OpenSSL does: the common name counts where no names are listed.
            let presented = cert.common_names().map(|name| format!("{name:?}")).collect();
            return Err(CertificateError::NotValidForNameContext { expected: server_name.to_owned(), presented }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let Some(listed) = self.listed(cert) else {
            return self.chains.verify_tls12_signature(message, cert, signed);
        };
        let key = listed?.public_key;
        let mapped = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let (_, algorithms) = mapped.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let valid = algorithms
            .iter()
            .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == key.algorithm)
            .any(|algorithm| algorithm.verify_signature(key.bits, message, signed.signature()).is_ok());
        if valid { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let Some(listed) = self.listed(cert) else {
            return self.chains.verify_tls13_signature(message, cert, signed);
        };
        let key = SubjectPublicKeyInfoDer::from(listed?.public_key.der);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn verify_time(cert: &Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let time = |seconds: i64| UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap_or_default()));
    let (not_before, not_after) = (time(cert.not_before), time(cert.not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    Ok(())
}
