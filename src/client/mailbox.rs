//! The beginning of a subscription, and the origin of a message that a mailbox has delivered.

use std::{fmt, sync::Arc};

use crate::wire::extension::{Mode, Position, StreamPosition};

/// The beginning of a subscription with a broker that knows the extension `hpx/1`: from now on, with
/// the last values, or from a mailbox.
///
/// ```
/// use hpfeeds::{SubscribeFrom, wire::extension::Position};
///
/// // Everything of the ident's mailbox `elastic` that was not processed yet.
/// let rest = SubscribeFrom::mailbox("elastic");
/// // Once more from there on.
/// let again = SubscribeFrom::mailbox("elastic").first(Position::new(3, 1_400));
/// assert_ne!(rest, again);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeFrom {
    mode: Mode,
    first: Position,
    mailbox: Arc<str>,
}

impl SubscribeFrom {
    /// From now on, whatever mailbox the ident has.
    #[must_use]
    pub fn live() -> Self {
        Self { mode: Mode::LIVE, first: Position::NONE, mailbox: "".into() }
    }

    /// The newest message of each channel that the broker keeps one of (`--last-value`), then from
    /// now on. Each connection brings them once more.
    #[must_use]
    pub fn last_value() -> Self {
        Self { mode: Mode::LAST_VALUE, ..Self::live() }
    }

    /// Everything that a mailbox of the ident has and that was not processed, then what comes; the
    /// empty name is the ident's own mailbox. The broker's operator declares it
    /// (`--mailbox 'IDENT/NAME=…'`), and a name has at most 255 bytes.
    #[must_use]
    pub fn mailbox(name: &str) -> Self {
        Self { mode: Mode::CURSOR, mailbox: name.into(), ..Self::live() }
    }

    /// Begins at this message of the mailbox, or at the oldest that there is behind it, and sets the
    /// mailbox's cursor there. Of one process this is the first connection that has the broker's
    /// answer; later ones go on from the cursor. Means nothing without a mailbox.
    #[must_use]
    pub fn first(mut self, message: Position) -> Self {
        self.first = message;
        self
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn position(&self) -> Position {
        if self.mode == Mode::CURSOR { self.first } else { Position::NONE }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.mailbox
    }

    /// Whether any broker can do that.
    pub(crate) fn is_live(&self) -> bool {
        self.mode == Mode::LIVE
    }

    /// Whether it is attached to a mailbox.
    pub(crate) fn is_mailbox(&self) -> bool {
        self.mode == Mode::CURSOR
    }
}

/// The origin of a message that came from a mailbox: its place in the broker's journal, which no
/// other message ever has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// The mailbox, as in [`SubscribeFrom::mailbox`]; empty for the ident's own.
    pub mailbox: Arc<str>,
    /// The place in the broker's journal. The same message has the same place in every mailbox, and
    /// each time that it comes.
    pub position: Position,
    /// The place in the publisher's stream, if the publisher numbers its messages.
    pub source: Option<StreamPosition>,
}

/// The position, such as `3:1400`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.position.fmt(f)
    }
}
