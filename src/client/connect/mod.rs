//! How a session reaches its broker: the address, the connector interface, TCP and TLS.

pub(super) mod addr;
pub(super) mod connector;
mod parse;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod sock_diag;
pub(super) mod tcp;
#[cfg(feature = "tls")]
pub(super) mod tls;
pub(super) mod url;
