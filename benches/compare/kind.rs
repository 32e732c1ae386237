//! The kinds of servers that are measured: the relay, our broker, and others.

use crate::protocol::Protocol;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Relay,
    /// The loop that stores: see `storage`.
    Plain,
    Ours,
    /// Ours, too, whose publishers and idle clients say HELLO, so that what they publish is acknowledged.
    Confirmed,
    /// `hpfeeds-broker relay`, which hands on to our broker.
    OurRelay,
    Python,
    Nats,
    Redis,
    Mosquitto,
}

impl Kind {
    /// The columns of the comparison.
    pub(crate) const ALL: &'static [Self] =
        &[Self::Relay, Self::Ours, Self::Python, Self::Nats, Self::Redis, Self::Mosquitto];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Plain => "plain",
            Self::Ours => "ours",
            Self::Confirmed => "confirmed",
            Self::OurRelay => "our relay",
            Self::Python => "python",
            Self::Nats => "nats",
            Self::Redis => "redis",
            Self::Mosquitto => "mosquitto",
        }
    }

    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Relay | Self::Plain => Protocol::Blind,
            Self::Ours | Self::OurRelay | Self::Python => Protocol::Hpfeeds,
            Self::Confirmed => Protocol::Confirmed,
            Self::Nats => Protocol::Nats,
            Self::Redis => Protocol::Redis,
            Self::Mosquitto => Protocol::Mqtt,
        }
    }
}
