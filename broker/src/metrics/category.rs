//! Error categories: why the broker ended a connection or refused a part of it, in the words of the
//! Python broker.

/// The fault of a client, a label of `hpfeeds_broker_connection_error`. All but the last are those
/// of the Python broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Category {
    InvalidFirstMessage,
    ErrorCheckingIdent,
    InvalidIdent,
    InvalidSecret,
    IdentMismatchPub,
    NoPubPermission,
    NoSubPermission,
    DeadlineTimerExpired,
    /// Any other frame that ended a session, such as a malformed one.
    InvalidMessage,
}

impl Category {
    /// Labels, in the order of the variants.
    pub(super) const ALL: [&str; 9] = [
        "invalid-first-message",
        "error-checking-ident",
        "invalid-ident",
        "invalid-secret",
        "ident-mismatch-pub",
        "no-pub-permission",
        "no-sub-permission",
        "deadline-timer-expired",
        "invalid-message",
    ];
}
