//! The flags, codes and other small values in frames of the extension.

use std::{
    fmt,
    ops::{BitAnd, BitOr},
};

/// The flags of HELLO: the client asks for them, the broker answers with those that it grants.
///
/// Flags combine with `|`; `&` gives those that both sides have. Bits without a name are dropped
/// when a frame is parsed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// Messages are numbered and acknowledged.
    pub const CONFIRM: Self = Self(1);
    /// Subscriptions are answered with SUBACK, and refused messages with REFUSED.
    pub const REPLIES: Self = Self(2);
    /// Both sides send HEARTBEAT.
    pub const HEARTBEAT: Self = Self(4);
    /// The broker sends no more than a window beyond CONSUMED.
    pub const WINDOW: Self = Self(8);
    /// Published messages are stored whether a mailbox wants them or not.
    pub const STORE: Self = Self(16);
    /// ORIGIN stands before messages from the journal.
    pub const ORIGIN: Self = Self(32);
    /// The broker knows the stream; only in its answer.
    pub const KNOWN: Self = Self(128);

    /// The flags that a client can ask for.
    pub(super) const ASKED: Self = Self(63);
    /// Every flag that has a name.
    const NAMED: Self = Self(63 | 128);

    /// The flags that a byte holds; bits without a name are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::NAMED.0)
    }

    /// The flags as one byte.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` are among these.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Flags {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The level at which messages are decided: what is true of a message once it is acknowledged.
/// Levels order by how much they promise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u8);

impl Level {
    /// Queued for the clients that subscribe.
    pub const ROUTED: Self = Self(0);
    /// Synced to disk, if a mailbox wants it.
    pub const STORED: Self = Self(1);
    /// Stored on several machines.
    pub const REPLICATED: Self = Self(2);
}

/// The code of REFUSED and SUBACK. A code without a name comes from a newer broker; any but
/// [`DONE`](Self::DONE) means that it was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u8);

impl Code {
    /// Done: only in SUBACK.
    pub const DONE: Self = Self(0);
    /// The key does not allow it.
    pub const NOT_ALLOWED: Self = Self(1);
    /// The name is no legal one.
    pub const BAD_NAME: Self = Self(2);
    /// The limit of subscriptions is reached.
    pub const TOO_MANY: Self = Self(3);
    /// The ident's share of the journal is full: delivered live, not stored.
    pub const FULL: Self = Self(4);
    /// There is no such mailbox.
    pub const NO_MAILBOX: Self = Self(5);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::DONE => "done",
            Self::NOT_ALLOWED => "not allowed",
            Self::BAD_NAME => "bad name",
            Self::TOO_MANY => "too many",
            Self::FULL => "full",
            Self::NO_MAILBOX => "no such mailbox",
            Self(code) => return write!(f, "code {code}"),
        })
    }
}

/// The mode of `SUBSCRIBE_FROM`. A mode without a name comes from a newer client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode(pub u8);

impl Mode {
    /// Messages from now on.
    pub const LIVE: Self = Self(0);
    /// The last value of each channel, then messages from now on.
    pub const LAST_VALUE: Self = Self(1);
    /// Attached to a mailbox, from its cursor or a position on.
    pub const CURSOR: Self = Self(2);
}

/// The reason of GAP. A reason without a name comes from a newer broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GapReason(pub u8);

impl GapReason {
    /// Removed by age, or by the journal's size.
    pub const RETENTION: Self = Self(0);
    /// Damaged on the disk.
    pub const DAMAGE: Self = Self(1);
    /// Above the share of an ident.
    pub const SHARE: Self = Self(2);
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::RETENTION => "retention",
            Self::DAMAGE => "damage",
            Self::SHARE => "share",
            Self(reason) => return write!(f, "reason {reason}"),
        })
    }
}

/// Consecutive messages of a stream that were refused for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RefusedRange {
    /// The stream number of the first; 0 on a connection without [`Flags::CONFIRM`].
    pub first: u64,
    /// How many.
    pub count: u32,
    /// Why.
    pub code: Code,
}

impl RefusedRange {
    /// Whether the message with this stream number is one of them.
    #[must_use]
    pub fn contains(self, number: u64) -> bool {
        number.checked_sub(self.first).is_some_and(|after| after < u64::from(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_combine_and_drop_bits_without_a_name() {
        let asked = Flags::CONFIRM | Flags::WINDOW;
        assert_eq!(asked.bits(), 9);
        assert!(asked.contains(Flags::WINDOW) && asked.contains(Flags::default()));
        assert!(!asked.contains(Flags::WINDOW | Flags::STORE));
        assert_eq!(asked & (Flags::WINDOW | Flags::KNOWN), Flags::WINDOW);
        assert_eq!(Flags::from_bits(0xff).bits(), 0xbf);
    }

    #[test]
    fn a_range_holds_its_numbers_and_no_others() {
        let range = |first, count| RefusedRange { first, count, code: Code::NOT_ALLOWED };
        for (first, count, number, expected) in [
            (5, 2, 4, false),
            (5, 2, 5, true),
            (5, 2, 6, true),
            (5, 2, 7, false),
            (5, 0, 5, false),
            (u64::MAX, u32::MAX, u64::MAX, true),
            (u64::MAX, u32::MAX, 0, false),
        ] {
            assert_eq!(range(first, count).contains(number), expected, "{first}, {count}, {number}");
        }
    }

    #[test]
    fn levels_order_by_what_they_promise() {
        assert!(Level::ROUTED < Level::STORED && Level::STORED < Level::REPLICATED);
    }

    #[test]
    fn codes_and_reasons_have_words() {
        assert_eq!(
            [Code::NOT_ALLOWED, Code::NO_MAILBOX, Code(9)].map(|code| code.to_string()),
            ["not allowed", "no such mailbox", "code 9"]
        );
        assert_eq!([GapReason::SHARE, GapReason(7)].map(|reason| reason.to_string()), ["share", "reason 7"]);
    }
}
