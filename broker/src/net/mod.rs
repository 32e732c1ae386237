//! Network: sockets, endpoints and TLS.

pub(crate) mod buffer_pool;
pub(crate) mod endpoint;
pub(crate) mod peekable;
pub(crate) mod proxy_header;
pub(crate) mod socket;
pub(crate) mod tls;
#[cfg(feature = "dashboard")]
pub(crate) mod whole_socket;
