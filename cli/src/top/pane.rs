//! The panes: which list of a broker each of them shows, and the orders that it can have.

use super::args::Show;

/// A pane of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Sensors,
    Consumers,
    Channels,
    Refused,
    Tail,
    Mailboxes,
}

impl Pane {
    /// In the order of their keys, from 1.
    pub(super) const ALL: [Self; 6] =
        [Self::Sensors, Self::Consumers, Self::Channels, Self::Refused, Self::Tail, Self::Mailboxes];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Sensors => "Sensors",
            Self::Consumers => "Consumers",
            Self::Channels => "Channels",
            Self::Refused => "Refused",
            Self::Tail => "Tail",
            Self::Mailboxes => "Mailboxes",
        }
    }

    /// The name of the list in a query; none for the tail.
    pub(super) fn list(self) -> &'static str {
        match self {
            Self::Sensors => "sensors",
            Self::Consumers => "consumers",
            Self::Channels => "channels",
            Self::Refused => "incidents",
            Self::Tail => "",
            Self::Mailboxes => "mailboxes",
        }
    }

    /// The orders that the key `s` goes through: the value of `sort` in a query, and its words. The
    /// first is the broker's own.
    pub(super) fn sorts(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Sensors => &[
                ("", "worst first"),
                ("-since", "last change"),
                ("published", "longest quiet"),
                ("-rate", "rate"),
                ("-messages", "messages"),
                ("ident", "ident"),
            ],
            Self::Consumers => &[
                ("", "ident"),
                ("-queued", "queued"),
                ("-dropped", "dropped"),
                ("-sent", "sent"),
                ("-since", "last change"),
            ],
            Self::Channels => {
                &[("", "channel"), ("-messages", "messages"), ("-bytes", "bytes"), ("-unrouted", "unrouted")]
            }
            Self::Refused => &[("", "last first"), ("-count", "count"), ("first", "first")],
            Self::Tail => &[("", "as they come")],
            Self::Mailboxes => &[("", "mailbox"), ("-waiting", "waiting"), ("oldest", "oldest"), ("-lost", "lost")],
        }
    }
}

impl From<Show> for Pane {
    fn from(show: Show) -> Self {
        match show {
            Show::Sensors => Self::Sensors,
            Show::Consumers => Self::Consumers,
            Show::Channels => Self::Channels,
            Show::Refused => Self::Refused,
            Show::Tail => Self::Tail,
            Show::Mailboxes => Self::Mailboxes,
        }
    }
}
