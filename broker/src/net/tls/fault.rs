//! Faults of TLS handshakes, in words that say what to change.

use std::io;

use hpfeeds::wire::OtherProtocol;
use rustls::{AlertDescription as Alert, CertificateError, Error};

/// The error of a handshake that began with these bytes of the client.
pub(super) fn of_handshake(cause: io::Error, first: &[u8]) -> io::Error {
    let words = match cause.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(Error::InvalidMessage(_)) => OtherProtocol::of(first).and_then(not_tls),
        Some(cause) => of(cause),
        None if cause.kind() == io::ErrorKind::UnexpectedEof && first.is_empty() => {
            Some("closed without a word: a client without TLS waits for the broker to begin".to_owned())
        }
        None => None,
    };
    match words {
        Some(words) => io::Error::new(cause.kind(), words),
        None => cause,
    }
}

fn not_tls(other: OtherProtocol) -> Option<String> {
    Some(match other {
        // An older version than any that is spoken here, or the beginning of a handshake and no
        // more.
        OtherProtocol::Tls => return None,
        OtherProtocol::Hpfeeds => {
            "the client speaks hpfeeds without TLS: it needs TLS (--tlscert FILE), or an endpoint tcp:".to_owned()
        }
        OtherProtocol::Proxy => {
            "a proxy sends its header: the endpoint needs proxy=yes and proxyfrom=ADDRESS".to_owned()
        }
        other => format!("the client speaks {other}: it looks for something else at this port"),
    })
}

fn of(cause: &Error) -> Option<String> {
    #[allow(deprecated, reason = "rustls has both forms of one")]
    let text = match cause {
        Error::AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::UnsupportedCertificate
            | Alert::DecryptError),
        ) => format!(
            "the client does not trust the certificate ({alert:?}): give it that, or the one of its authority (--tlscert FILE)"
        ),
        Error::NoCertificatesPresented => "the client has no certificate, which clientca asks for".to_owned(),
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the client's certificate is signed by none of those in clientca".to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithm
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => "the client's certificate has a key or a signature of a kind that is not supported".to_owned(),
        // An error of webpki, whose type cannot be named here.
        Error::InvalidCertificate(CertificateError::Other(cause)) => match cause.to_string().as_str() {
            "CaUsedAsEndEntity" => {
                "the client's certificate is that of an authority (CA:TRUE): it needs one that it signs"
            }
            "UnsupportedCertVersion" => "the client's certificate is of X.509 version 1: it needs one of version 3",
            other => return Some(format!("the client's certificate does not do: {other}")),
        }
        .to_owned(),
        Error::InvalidCertificate(cause) => format!("the client's certificate does not do: {cause}"),
        Error::PeerIncompatible(what) => {
            format!("the client has no version of TLS (1.2 or 1.3) or cipher in common with us ({what:?})")
        }
        _ => return None,
    };
    Some(text)
}
