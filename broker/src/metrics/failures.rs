//! Handshake failures: connections that did not become a session, by reason.

use crate::metrics::counter::Counter;

/// Why a connection did not become a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Tls,
    InvalidFirstMessage,
    Malformed,
    Timeout,
    Closed,
    UnknownIdent,
    WrongSecret,
    LookupFailed,
    LookupTimeout,
}

impl Reason {
    /// All reasons in the order of the variants, with their labels.
    const ALL: [(Self, &str); 9] = [
        (Self::Tls, "tls"),
        (Self::InvalidFirstMessage, "invalid-first-message"),
        (Self::Malformed, "malformed"),
        (Self::Timeout, "timeout"),
        (Self::Closed, "closed"),
        (Self::UnknownIdent, "unknown-ident"),
        (Self::WrongSecret, "wrong-secret"),
        (Self::LookupFailed, "lookup-failed"),
        (Self::LookupTimeout, "lookup-timeout"),
    ];

    /// Whether AUTH arrived and its key did not admit the client, or could not be looked up.
    fn is_authentication(self) -> bool {
        matches!(self, Self::UnknownIdent | Self::WrongSecret | Self::LookupFailed | Self::LookupTimeout)
    }
}

/// Counts handshake failures by reason.
#[derive(Debug, Default)]
pub(crate) struct HandshakeFailures([Counter; Reason::ALL.len()]);

impl HandshakeFailures {
    pub(super) fn add(&self, reason: Reason) {
        self.0[reason as usize].add(1);
    }

    pub(super) fn counts(&self) -> FailureCounts {
        FailureCounts(std::array::from_fn(|reason| self.0[reason].get()))
    }
}

/// Handshake failures by reason, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FailureCounts([u64; Reason::ALL.len()]);

impl FailureCounts {
    /// The label of each reason, with its count.
    pub(super) fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::ALL.iter().zip(self.0).map(|((_, label), count)| (*label, count))
    }

    /// Failures after AUTH arrived.
    pub(super) fn authentication(&self) -> u64 {
        self.sum(true)
    }

    /// Failures before AUTH arrived.
    pub(super) fn before_authentication(&self) -> u64 {
        self.sum(false)
    }

    fn sum(&self, authentication: bool) -> u64 {
        let counts = Reason::ALL.iter().zip(self.0);
        counts.filter(|((reason, _), _)| reason.is_authentication() == authentication).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_before_and_after_auth_are_told_apart() {
        let failures = HandshakeFailures::default();
        for (index, (reason, _)) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            failures.add(reason);
        }
        failures.add(Reason::LookupFailed);
        let counts = failures.counts();
        assert_eq!((counts.before_authentication(), counts.authentication()), (5, 5));
        assert_eq!(counts.by_reason().find(|(label, _)| *label == "lookup-failed"), Some(("lookup-failed", 2)));
    }
}
