//! Names and patterns: idents and channels, and what a pattern stands for.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use ecow::EcoString;

/// The longest ident or channel, in bytes: PUBLISH stores its length in one byte.
pub const MAX_NAME_LEN: usize = 255;

/// Why a string cannot be an ident or a channel. Converts to [`Error`](crate::Error).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It has no bytes.
    #[error("is empty")]
    Empty,
    /// It has more than [`MAX_NAME_LEN`] bytes.
    #[error("is {0} bytes long: at most 255 are allowed")]
    TooLong(usize),
    /// The peer's bytes are not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
}

/// Checks the length of a name: 1 to 255 bytes.
pub(crate) fn check(name: &str) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty),
        1..=MAX_NAME_LEN => Ok(()),
        n => Err(NameError::TooLong(n)),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// It behaves like a string, is never empty and has at most 255 bytes. Cloning does not
        /// allocate, and it holds on to no receive buffer: keeping one is cheap.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(EcoString);

        impl $name {
            /// Checks and stores a name of 1 to 255 bytes.
            pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
                let name = name.as_ref();
                check(name)?;
                Ok(Self::checked(name))
            }

            /// Stores a name that [`check`] has accepted.
            pub(crate) fn checked(name: &str) -> Self {
                debug_assert_eq!(check(name), Ok(()));
                Self(EcoString::from(name))
            }

            /// The name as a string slice.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        // As a string: control characters from the network are escaped.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;

            fn try_from(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        impl PartialEq<String> for $name {
            fn eq(&self, other: &String) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<$name> for str {
            fn eq(&self, other: &$name) -> bool {
                self == other.as_str()
            }
        }

        impl PartialEq<$name> for &str {
            fn eq(&self, other: &$name) -> bool {
                *self == other.as_str()
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&name).map_err(|cause| {
                    serde::de::Error::custom(format_args!(concat!(stringify!($name), " {}"), cause))
                })
            }
        }
    };
}

name_type! {
    /// The identifier of an authkey, such as `"sensor-17"`.
    Ident
}

name_type! {
    /// Where messages go: the name of a channel, such as `"cowrie.sessions"`.
    Channel
}

/// An entry of an access list: a channel, `prefix.*` for every channel below a prefix, or `*` for
/// all.
///
/// ```
/// # fn main() -> Result<(), hpfeeds::wire::NameError> {
/// use hpfeeds::wire::Pattern;
/// let pattern = Pattern::new("cowrie.*")?;
/// assert!(pattern.matches("cowrie.sessions"));
/// assert!(!pattern.matches("cowrie"));
/// assert!(!pattern.matches("cowries.sessions"));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(EcoString);

impl Pattern {
    /// Checks and stores a pattern of 1 to 255 bytes. A `*` anywhere else than alone or after a
    /// final dot is an ordinary character, as it is in a channel name: `cowrie*` and `*.sessions`
    /// each stand for the one channel of that name. [`has_literal_star`](Self::has_literal_star)
    /// tells such ones, which are mostly mistakes.
    pub fn new(pattern: impl AsRef<str>) -> Result<Self, NameError> {
        let pattern = pattern.as_ref();
        check(pattern)?;
        Ok(Self(EcoString::from(pattern)))
    }

    /// Whether the channel is one that the pattern stands for.
    #[must_use]
    pub fn matches(&self, channel: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some("") => true,
            Some(prefix) if prefix.ends_with('.') => channel.len() > prefix.len() && channel.starts_with(prefix),
            _ => channel == self.0,
        }
    }

    /// Whether it has a `*` that stands for itself, as in `cowrie*`, `*.sessions` and `**`: it is
    /// legal, and matches the one channel of that name, which may not be what was meant.
    #[must_use]
    pub fn has_literal_star(&self) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) if prefix.is_empty() || prefix.ends_with('.') => prefix.contains('*'),
            _ => self.0.contains('*'),
        }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = NameError;

    fn from_str(pattern: &str) -> Result<Self, NameError> {
        Self::new(pattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn lengths_are_checked_in_bytes() {
        assert_eq!(Ident::new(""), Err(NameError::Empty));
        assert!(Ident::new("x".repeat(255)).is_ok());
        assert_eq!(Ident::new("x".repeat(256)), Err(NameError::TooLong(256)));
        assert_eq!(Channel::new("é".repeat(128)), Err(NameError::TooLong(256)));
    }

    #[test]
    fn a_name_can_be_looked_up_by_str() {
        let map = HashMap::from([(Channel::new("a").unwrap(), 1)]);
        assert_eq!(map.get("a"), Some(&1));
        assert_eq!(map.get("b"), None);
    }

    #[test]
    fn names_compare_and_format_as_strings() {
        let ident = Ident::new("bob\n").unwrap();
        assert_eq!(ident, "bob\n");
        assert_eq!("bob\n", ident);
        assert_eq!(format!("{ident:?}"), r#""bob\n""#);
        assert_eq!(format!("{:>5}|", Ident::new("bob").unwrap()), "  bob|");
    }

    #[test]
    fn every_constructor_of_a_name_checks_it() {
        assert_eq!("a".parse::<Ident>(), Ident::try_from("a"));
        assert_eq!(Channel::try_from("c".to_owned()).unwrap(), "c".to_owned());
        assert!(*"c" == Channel::new("c").unwrap());
        assert_eq!(Ident::try_from(String::new()), Err(NameError::Empty));
        assert_eq!(Channel::try_from(""), Err(NameError::Empty));
        assert_eq!("".parse::<Ident>(), Err(NameError::Empty));
        assert_eq!("a.*".parse::<Pattern>().unwrap().to_string(), "a.*");
        assert_eq!("".parse::<Pattern>().unwrap_err(), NameError::Empty);
    }

    #[test]
    fn patterns_match_whole_labels() {
        let cases = [
            ("*", "anything", true),
            ("a", "a", true),
            ("a", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", true),
            ("a.*", "a.", false),
            ("a.*", "a", false),
            ("a*", "ab", false),
            ("a*", "a*", true),
            ("*.a", "b.a", false),
            ("*.a", "*.a", true),
        ];
        for (pattern, channel, expected) in cases {
            assert_eq!(Pattern::new(pattern).unwrap().matches(channel), expected, "{pattern} on {channel}");
        }
    }

    #[test]
    fn a_star_that_stands_for_itself_is_told_from_a_pattern() {
        for pattern in ["cowrie*", "*.sessions", "**", "a*b", "*.a.*", "*.*"] {
            assert!(Pattern::new(pattern).unwrap().has_literal_star(), "{pattern}");
        }
        for pattern in ["*", "a", "a.*", "a.b.*", "..*"] {
            assert!(!Pattern::new(pattern).unwrap().has_literal_star(), "{pattern}");
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_checks_names() {
        let channel: Channel = serde_json::from_str(r#""a""#).unwrap();
        assert_eq!(serde_json::to_string(&channel).unwrap(), r#""a""#);
        let error = serde_json::from_str::<Ident>(r#""""#).unwrap_err();
        assert!(error.to_string().contains("Ident is empty"), "{error}");
    }
}
