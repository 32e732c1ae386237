//! The key of a stream: ids are chosen by clients, so each account has its own.

use hpfeeds::wire::extension::StreamId;

use crate::identity::quota::Account;

/// The key of a stream in the table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct StreamKey {
    pub(crate) account: Account,
    pub(crate) stream: StreamId,
}
