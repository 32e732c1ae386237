//! Limits: what clients could exhaust, and how much of it each may have.

pub(crate) mod auth_failures;
pub(crate) mod connections;
pub(crate) mod log_sampler;
pub(crate) mod pre_auth;
pub(crate) mod rate;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod rate_properties;
pub(crate) mod source;
pub(crate) mod tls_handshakes;
