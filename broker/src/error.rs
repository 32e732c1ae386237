//! Errors of starting and reloading a broker.

use std::{io, net::SocketAddr};

use crate::{auth::AuthError, net::tls::certificate::TlsError};

/// Why a broker did not start. Nothing is left half started: everything that it had opened is
/// closed again.
///
/// `Display` is one line that names the place, to be printed to the person who has to act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Neither [`listen`](crate::builder::BrokerBuilder::listen) nor
    /// [`endpoint`](crate::builder::BrokerBuilder::endpoint) nor
    /// [`listener`](crate::builder::BrokerBuilder::listener) nor
    /// [`without_endpoint`](crate::builder::BrokerBuilder::without_endpoint) was called.
    #[error("no endpoint to listen on")]
    NoEndpoint,
    /// Neither [`user`](crate::builder::BrokerBuilder::user) nor
    /// [`auth`](crate::builder::BrokerBuilder::auth) was called.
    #[error("no keys: nobody could authenticate")]
    NoKeys,
    /// An option makes no sense, alone or together with another.
    #[error("{0}")]
    Option(String),
    /// A certificate or key of an endpoint cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The interface of an endpoint is not an address and could not be resolved to one.
    #[error("cannot resolve {interface:?}: {cause}")]
    Resolve {
        /// The name as it was given.
        interface: String,
        /// The error of the resolver.
        cause: io::Error,
    },
    /// The network device of an endpoint cannot be used.
    #[error("cannot bind to device {device:?}: {cause}")]
    Device {
        /// The name as it was given.
        device: String,
        /// The error of the system.
        cause: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {cause}")]
    Listen {
        /// The address and port.
        addr: SocketAddr,
        /// The error of the system.
        cause: io::Error,
    },
    /// A listener that the caller opened cannot be used.
    #[error("cannot use the given listener: {0}")]
    Listener(io::Error),
    /// The system has no random bytes.
    #[error("no random bytes: {0}")]
    Random(io::Error),
    /// The data folder cannot be used: another process has it, it is on a network file system, or
    /// its disk fails. The text names the folder, and the process that has it.
    #[error("{0}")]
    DataDir(String),
    /// A key store could not be opened.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// Failures of [`Broker::reload`](crate::broker::Broker::reload): the key stores and certificates
/// that could not be read again. Their previous content stays in use.
#[derive(Debug, thiserror::Error)]
#[error("{}", failures.join("; "))]
pub struct ReloadError {
    failures: Vec<String>,
}

impl ReloadError {
    pub(crate) fn unless_empty(failures: Vec<String>) -> Result<(), Self> {
        if failures.is_empty() { Ok(()) } else { Err(Self { failures }) }
    }

    /// One line for each store or certificate, which names it and the cause.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}
