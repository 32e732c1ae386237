//! The TLS handshake for a diagnosis: over a connection that is there, with the certificates that
//! the broker presented and the kind of what is wrong.
//!
//! Public for `hpfeeds doctor` and `hpfeeds top` alone; it may change at any time.

use std::{io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, ProtocolVersion, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector as RustlsConnector, client::TlsStream};

use super::{Observed, TlsOptions, fault};
use crate::{
    client::{
        connect::{addr::BrokerAddr, connector::Transport},
        error::Error,
    },
    wire::OtherProtocol,
};

/// The most certificates of a peer that are kept.
const MAX_CHAIN: usize = 10;

/// How a handshake ended.
pub struct TlsProbe {
    /// The certificates that the broker presented, DER, its own first: at most ten. Also when they
    /// are not trusted.
    pub certificates: Vec<Vec<u8>>,
    /// The connection, or what is wrong.
    pub outcome: Result<SecuredConnection, TlsFault>,
}

/// A connection over TLS, whose certificate is trusted.
pub struct SecuredConnection {
    /// The connection.
    pub transport: Box<dyn Transport>,
    /// The version of TLS.
    pub version: &'static str,
}

/// Why there is no TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFault {
    /// The peer's first bytes are no TLS: what they are, if that is known.
    NotTls(Option<OtherProtocol>),
    /// The peer said nothing for so long.
    Silent(Duration),
    /// The peer closed the connection in the handshake.
    Closed,
    /// The certificate is not valid any more, for so long.
    Expired(Duration),
    /// The certificate is valid only after so long.
    NotYetValid(Duration),
    /// The certificate is for other names: which.
    Name(String),
    /// The certificate is signed by none that is trusted.
    Untrusted,
    /// The certificate cannot be used otherwise: the words of the library.
    Certificate(String),
    /// The broker asks for a certificate of ours.
    ClientCertificateMissing,
    /// The broker does not take our certificate: its alert.
    ClientCertificateRefused(String),
    /// Anything else: its words.
    Other(String),
}

impl TlsFault {
    /// The fault behind an error of a connection over TLS; `None` when it is one of the network.
    ///
    /// TLS 1.3 refuses a client certificate after the handshake, with the first read.
    #[must_use]
    pub fn of(cause: &io::Error) -> Option<Self> {
        let error = fault::of(cause)?;
        let words = || fault::words(cause).unwrap_or_else(|| error.to_string());
        Some(match error {
            rustls::Error::InvalidCertificate(why) => of_certificate(why, words),
            rustls::Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                    Self::ClientCertificateMissing
                }
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError => Self::ClientCertificateRefused(format!("{alert:?}")),
                _ => Self::Other(words()),
            },
            _ => Self::Other(words()),
        })
    }

    /// Whether TLS is what the peer speaks.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::NotTls(_) | Self::Silent(_) | Self::Closed)
    }
}

fn of_certificate(why: &CertificateError, words: impl FnOnce() -> String) -> TlsFault {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFault::Untrusted,
        CertificateError::NotValidForNameContext { presented, .. } => TlsFault::Name(fault::names(presented)),
        CertificateError::ExpiredContext { time, not_after } => {
            TlsFault::Expired(Duration::from_secs(time.as_secs().saturating_sub(not_after.as_secs())))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            TlsFault::NotYetValid(Duration::from_secs(not_before.as_secs().saturating_sub(time.as_secs())))
        }
        _ => TlsFault::Certificate(words()),
    }
}

impl TlsOptions {
    /// Does the handshake over a connection, as a session would. Fails only when an option makes no
    /// sense or a file cannot be read.
    #[doc(hidden)]
    pub async fn probe(&self, addr: &BrokerAddr, tcp: TcpStream, wait: Duration) -> Result<TlsProbe, Error> {
        let presented = Presented::default();
        let connector = self.connector_with(super::TcpConnector::default(), addr, |verifier| {
            Arc::new(Recorder { verifier, presented: presented.clone() })
        })?;
        let stream = Observed::new(tcp);
        let connecting = connector.config.connect(connector.server_name.clone(), stream).into_fallible();
        let outcome = match timeout(wait, connecting).await {
            Err(_elapsed) => Err(TlsFault::Silent(wait)),
            Ok(Ok(stream)) => {
                let version = version(&stream);
                Ok(SecuredConnection { transport: Box::new(stream), version })
            }
            Ok(Err((cause, stream))) => Err(of_handshake(&cause, stream.first())),
        };
        Ok(TlsProbe { certificates: std::mem::take(&mut presented.lock()), outcome })
    }
}

/// Asks a peer what it speaks by the start of a handshake; nothing is trusted. `None` when it says
/// nothing for so long, or something of no protocol that is known.
pub async fn identify(tcp: TcpStream, wait: Duration) -> Option<OtherProtocol> {
    let provider = Arc::new(ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Distrust { schemes }))
        .with_no_client_auth();
    let name = ServerName::from(tcp.peer_addr().ok()?.ip());
    let connecting = RustlsConnector::from(Arc::new(config)).connect(name, Observed::new(tcp)).into_fallible();
    match timeout(wait, connecting).await.ok()? {
        Ok(_) => Some(OtherProtocol::Tls),
        Err((cause, stream)) => match of_handshake(&cause, stream.first()) {
            TlsFault::NotTls(other) => other,
            fault => fault.is_tls().then_some(OtherProtocol::Tls),
        },
    }
}

/// Trusts no certificate, so that a handshake goes no further than to that.
#[derive(Debug)]
struct Distrust {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Distrust {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// The fault of a handshake in which the peer's first bytes were these.
fn of_handshake(cause: &io::Error, first: &[u8]) -> TlsFault {
    match fault::of(cause) {
        Some(rustls::Error::InvalidMessage(_)) => TlsFault::NotTls(OtherProtocol::of(first)),
        // A reset, or its end.
        None => TlsFault::Closed,
        Some(_) => TlsFault::of(cause).unwrap_or(TlsFault::Closed),
    }
}

fn version(stream: &TlsStream<Observed>) -> &'static str {
    match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "TLS",
    }
}

/// The certificates of one handshake.
type Presented = Arc<Mutex<Vec<Vec<u8>>>>;

/// Keeps what the peer presents, and asks the verifier of sessions.
struct Recorder {
    verifier: Arc<dyn ServerCertVerifier>,
    presented: Presented,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = [end_entity].into_iter().chain(intermediates).take(MAX_CHAIN);
        *self.presented.lock() = chain.map(|cert| cert.to_vec()).collect();
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
