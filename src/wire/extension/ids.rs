//! The identifiers of streams and nodes, and positions in streams and journals.

use std::fmt;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Its text (`Display`) is 32 hexadecimal digits in lower case. The default is all zeros,
        /// which stands for none.
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes the 16 bytes as they are.
            #[must_use]
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes as they stand in a frame.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id_type! {
    /// The identifier of a stream: 16 random bytes, made anew at every start of a program.
    StreamId
}

id_type! {
    /// The identifier of a broker: 16 random bytes.
    NodeId
}

/// A position in a log, such as a broker's journal. Cursors, `SUBSCRIBE_FROM`, CONSUMED and ORIGIN
/// speak of these; they are no numbers of a stream.
///
/// Positions order by epoch, then by number. Every opening of a log that appends begins a new epoch,
/// so a position never comes back with other contents, also when messages that were read before they
/// were durable have vanished in a power cut. Numbers count messages and grow over all epochs: the
/// difference of two is how many messages lie between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch, from 1: one opening of the log.
    pub epoch: u64,
    /// The number of the message, from 1.
    pub number: u64,
}

impl Position {
    /// Epoch 0 and number 0, where no message stands: nothing new in CONSUMED, the stored cursor
    /// in `SUBSCRIBE_FROM`.
    pub const NONE: Self = Self { epoch: 0, number: 0 };

    /// The position of a message.
    #[must_use]
    pub const fn new(epoch: u64, number: u64) -> Self {
        Self { epoch, number }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.number)
    }
}

/// A place in a stream: the number of a PUBLISH frame in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamPosition {
    /// Which stream.
    pub stream: StreamId,
    /// Which PUBLISH frame of the stream; they count from 1.
    pub number: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_written_as_32_hexadecimal_digits() {
        let mut bytes = [0; 16];
        bytes[0] = 0x0a;
        bytes[15] = 0xf1;
        assert_eq!(StreamId::new(bytes).to_string(), "0a0000000000000000000000000000f1");
        assert_eq!(format!("{:?}", NodeId::default()), "NodeId(00000000000000000000000000000000)");
        assert_eq!(StreamId::new(bytes).as_bytes(), &bytes);
    }

    #[test]
    fn positions_order_by_epoch_and_then_by_number() {
        let at = |epoch, number| Position { epoch, number };
        assert!(Position::NONE < at(0, 1) && at(1, 9) < at(2, 0) && at(2, 0) < at(2, 1));
        assert_eq!(at(3, 14).to_string(), "3:14");
    }
}
