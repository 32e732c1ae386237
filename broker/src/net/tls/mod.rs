//! TLS: the certificates of endpoints, which can be replaced while the broker runs, and the
//! connections that use them.

pub(crate) mod certificate;
mod fault;
pub(crate) mod reload;
pub(crate) mod stream;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
