//! Faults of asking a dashboard, each with what to do.

use std::{error::Error as _, io};

use hpfeeds::{tls_probe::TlsFault, wire::OtherProtocol};
use http_body_util::LengthLimitError;
use hyper::StatusCode;

use super::address::Address;
use crate::{
    exit::{FAILED, Failure, REJECTED},
    words::{days, shown, time},
};

/// Why there is no answer, on one line, and the exit code of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) text: String,
    pub(super) code: u8,
}

impl Fault {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: FAILED }
    }

    /// The token would cross the network in plain text.
    pub(super) fn plain(address: &Address) -> Self {
        Self::new(format!(
            "{} is on another machine, and the token would cross the network in plain text: use https://, or a tunnel \
             (ssh -L 9432:127.0.0.1:9432 HOST) and http://127.0.0.1:9432",
            address.broker
        ))
    }

    /// No connection to any address.
    pub(super) fn unreachable(address: &Address, cause: &io::Error) -> Self {
        let advice = match cause.kind() {
            io::ErrorKind::ConnectionRefused => {
                "does the broker run, was it started with --dashboard ADDR, and is this its address?"
            }
            io::ErrorKind::TimedOut => "is the host up, and does each firewall on the way let this port through?",
            _ => "check --url and the network",
        };
        let cause = match cause.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            io::ErrorKind::TimedOut => "no answer".to_owned(),
            _ => shown(cause.to_string().as_bytes()),
        };
        Self::new(format!("cannot connect to {}: {cause}: {advice}", address.broker))
    }

    /// Something else than HTTP answers without TLS.
    pub(super) fn other(address: &Address, speaks: OtherProtocol) -> Self {
        let at = &address.broker;
        Self::new(match speaks {
            OtherProtocol::Tls => format!("TLS answers at {at}: give the address as https://{at}"),
            OtherProtocol::Hpfeeds => {
                format!("a broker's port for messages answers at {at}: give that of its dashboard (--dashboard ADDR)")
            }
            other => format!("{other} answers at {at}, and no dashboard: check --url"),
        })
    }

    /// No TLS over a connection.
    pub(super) fn tls(address: &Address, fault: &TlsFault) -> Self {
        let name = address.broker.host();
        let text = match fault {
            TlsFault::NotTls(Some(OtherProtocol::Http)) => {
                format!("HTTP without TLS answers at {}: give it as http://", address.broker)
            }
            TlsFault::NotTls(Some(other @ OtherProtocol::Hpfeeds)) => return Self::other(address, *other),
            TlsFault::NotTls(_) => format!("what answers at {} is not TLS: check --url", address.broker),
            TlsFault::Silent(wait) => format!("{} does not answer to TLS within {}", address.broker, time(*wait)),
            TlsFault::Closed => format!("{} closed the connection in the TLS handshake: check --url", address.broker),
            TlsFault::Expired(ago) => format!(
                "the certificate of {} expired {} ago: renew it, unless the clock here is wrong",
                address.broker,
                days(*ago)
            ),
            TlsFault::NotYetValid(wait) => format!(
                "the certificate of {} is valid in {} only: wait, or set the clock here",
                address.broker,
                days(*wait)
            ),
            TlsFault::Name(names) => format!(
                "the certificate of {} is for {}, not for {name}: give a name that it has in --url, or say with \
                 --tls-name NAME that another is meant",
                address.broker,
                shown(names.as_bytes())
            ),
            TlsFault::Untrusted => format!(
                "the certificate of {} is signed by none that is trusted: give that of its authority, or its own, \
                 with --tlscert FILE",
                address.broker
            ),
            TlsFault::ClientCertificateMissing => format!(
                "{} asks for a certificate of ours: give --tls-client-cert FILE and --tls-client-key FILE",
                address.broker
            ),
            TlsFault::ClientCertificateRefused(alert) => format!(
                "{} does not take our certificate ({}): give one that it trusts with --tls-client-cert FILE",
                address.broker,
                shown(alert.as_bytes())
            ),
            TlsFault::Certificate(words) | TlsFault::Other(words) => {
                format!("TLS with {} failed: {}", address.broker, shown(words.as_bytes()))
            }
        };
        Self::new(text)
    }

    /// HTTP failed on a connection.
    pub(super) fn http(address: &Address, cause: &hyper::Error) -> Self {
        let fault = cause.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        if let Some(fault) = fault.and_then(TlsFault::of) {
            return Self::tls(address, &fault);
        }
        let at = &address.broker;
        Self::new(if cause.is_parse() {
            format!("what answers at {at} is no HTTP: check --url")
        } else if cause.is_incomplete_message() || cause.is_canceled() {
            format!(
                "{at} closed the connection without an answer: it is ending, or this is not the port of a dashboard"
            )
        } else {
            let source = cause.source().map_or_else(|| cause.to_string(), ToString::to_string);
            format!("the connection to {at} broke: {}", shown(source.as_bytes()))
        })
    }

    /// The body of an answer is too long, or broke off.
    pub(super) fn body(
        address: &Address,
        cause: &(dyn std::error::Error + Send + Sync + 'static),
        most: usize,
    ) -> Self {
        if cause.is::<LengthLimitError>() {
            return Self::new(format!(
                "the answer of {} is longer than {} MiB: ask for fewer rows with --limit, if it is a broker's",
                address.broker,
                most >> 20
            ));
        }
        Self::new(format!("the answer of {} broke off: {}", address.broker, shown(cause.to_string().as_bytes())))
    }

    /// An answer that is no success; `text` is the beginning of its body.
    pub(super) fn status(address: &Address, status: StatusCode, location: Option<&str>, text: &str) -> Self {
        let said = shown(text.trim().as_bytes());
        let text = match status.as_u16() {
            401 => {
                let text = format!(
                    "the dashboard at {address} does not take this token: give the one that the broker made at its \
                     start (dashboard.tokens in its data folder)"
                );
                return Self { text, code: REJECTED };
            }
            403 => {
                "this token may look, and not read messages: give the one behind `tail` in the token file".to_owned()
            }
            400 => format!("the broker does not know what is asked for: {said}"),
            404 => format!(
                "there is no dashboard at {address}: perhaps that is the port of the metrics, or an older broker; \
                 it is started with --dashboard ADDR"
            ),
            421 => format!(
                "the broker does not go by the name {}: give its address, or start it with --dashboard-host NAME",
                address.broker.host()
            ),
            300..=399 => match location {
                Some(to) => format!("{address} says to ask elsewhere: give --url {}", shown(to.as_bytes())),
                None => format!("{address} says to ask elsewhere ({status}): check --url"),
            },
            429 | 503 => format!("the dashboard at {address} has no time or is ending ({}): {said}", status.as_u16()),
            _ => format!(
                "what answers at {address} is no dashboard, or a proxy before it failed ({status}): check --url"
            ),
        };
        Self::new(text)
    }

    /// Nothing, or not all of it, in time.
    pub(super) fn late(address: &Address, wait: std::time::Duration) -> Self {
        Self::new(format!(
            "no whole answer of {} within {}: it, its machine or the network is overloaded, or it is no dashboard",
            address.broker,
            time(wait)
        ))
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::with_code(fault.code, fault.text)
    }
}
