//! TLS errors in words that say what to change.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError};

use crate::wire::OtherProtocol;

/// The broker's first bytes are no TLS.
#[derive(Debug)]
struct NotTls(Option<OtherProtocol>);

impl fmt::Display for NotTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(OtherProtocol::Hpfeeds) => f.write_str(
                "a broker without TLS answers there: connect without TLS (no --tls and --tlscert; no SessionBuilder::tls), \
                 or to its port for TLS",
            ),
            Some(other) => write!(f, "{other} answers there, and not TLS: check the port"),
            None => f.write_str("what answers there is not TLS: check the port, or connect without TLS"),
        }
    }
}

impl std::error::Error for NotTls {}

/// The error of a handshake in which the broker's first bytes were these.
pub(super) fn of_handshake(cause: io::Error, first: &[u8]) -> io::Error {
    match of(&cause) {
        Some(rustls::Error::InvalidMessage(_)) => {
            io::Error::new(io::ErrorKind::InvalidData, NotTls(OtherProtocol::of(first)))
        }
        None if cause.kind() == io::ErrorKind::UnexpectedEof => {
            io::Error::new(cause.kind(), "the connection was closed in the TLS handshake: check the port")
        }
        _ => cause,
    }
}

pub(super) fn of(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref()?.downcast_ref()
}

/// The words for an error, if it is one of TLS that people meet.
pub(crate) fn words(cause: &io::Error) -> Option<String> {
    match of(cause)? {
        rustls::Error::InvalidCertificate(cause) => certificate(cause),
        rustls::Error::AlertReceived(alert) => self::alert(*alert),
        rustls::Error::PeerIncompatible(what) => {
            Some(format!("the broker has no version of TLS (1.2 or 1.3) or cipher in common with us ({what:?})"))
        }
        _ => None,
    }
}

fn certificate(cause: &CertificateError) -> Option<String> {
    const FILE: &str = "(--tlscert FILE; TlsOptions::ca_file)";
    #[allow(deprecated, reason = "rustls has both forms of them")]
    let text = match cause {
        CertificateError::UnknownIssuer => format!(
            "the broker's certificate is signed by none of those that are trusted: give that of its authority, or the \
             broker's own {FILE}"
        ),
        CertificateError::BadSignature => format!(
            "the broker's certificate has the name of a trusted one, but another key signed it: it has been made anew; \
             give the one of today {FILE}"
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            format!(
                "the broker's certificate is for {}, not for {expected:?}: connect to that name, or say that it is \
                 expected (--tls-name NAME; TlsOptions::server_name)",
                names(presented)
            )
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the broker's certificate expired {} ago: it needs a new one, unless the clock here is wrong",
            span(time.as_secs().saturating_sub(not_after.as_secs()))
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the broker's certificate is valid in {} only: wait, or set the clock here",
            span(not_before.as_secs().saturating_sub(time.as_secs()))
        ),
        CertificateError::UnsupportedSignatureAlgorithm
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the broker's certificate has a key or a signature of a kind that is not supported, such as P-521, SHA-1 or \
             RSA with less than 2048 bits: it needs one of P-256, P-384, Ed25519 or RSA"
                .to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the broker's certificate is not one for servers (extended key usage): it needs another".to_owned()
        }
        CertificateError::BadEncoding => "the broker's certificate cannot be read: it needs another".to_owned(),
        // webpki's own, whose type is not ours to name.
        CertificateError::Other(other) => match other.to_string().as_str() {
            "UnsupportedCertVersion" => format!(
                "the broker's certificate is of X.509 version 1, which is trusted only when it is given itself {FILE}"
            ),
            "CaUsedAsEndEntity" => format!(
                "the broker's certificate is that of an authority (CA:TRUE), which is trusted only when it is given \
                 itself {FILE}"
            ),
            other => format!("the broker's certificate cannot be trusted: {other}"),
        },
        _ => return None,
    };
    Some(text)
}

fn alert(alert: AlertDescription) -> Option<String> {
    const OURS: &str = "(--tls-client-cert FILE, --tls-client-key FILE; TlsOptions::client_certificate)";
    use AlertDescription as Alert;
    let text = match alert {
        Alert::CertificateRequired | Alert::NoCertificate => {
            format!("the broker asks for a certificate of ours: give one {OURS}")
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        | Alert::DecryptError => {
            format!("the broker does not take our certificate ({alert:?}): give one that it trusts {OURS}")
        }
        Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::InsufficientSecurity => format!(
            "the broker has no version of TLS (1.2 or 1.3) or cipher in common with us ({alert:?}), or asks for a \
             certificate of ours {OURS}"
        ),
        Alert::UnrecognisedName => {
            "the broker has no certificate for this name: say another (--tls-name NAME; TlsOptions::server_name)"
                .to_owned()
        }
        _ => return None,
    };
    Some(text)
}

/// At most five names of a certificate, which come as `DnsName("…")`.
pub(super) fn names(presented: &[String]) -> String {
    const MAX: usize = 5;
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).chars().take(100).collect::<String>()
    };
    let listed: Vec<_> = presented.iter().take(MAX).map(bare).collect();
    match presented.len() {
        0 => "no name".to_owned(),
        len if len > MAX => format!("{} and {} more", listed.join(", "), len - MAX),
        _ => listed.join(", "),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
