//! The declaration of a mailbox as an operator writes it: `IDENT[/NAME]=PATTERN,…` or `IDENT=auto`,
//! and options behind it.

use std::{fmt, str::FromStr, time::Duration};

use hpfeeds::{
    units,
    wire::{Ident, NameError, Pattern},
};

/// The longest window of redelivery in bytes: what the log keeps of it is in memory, too.
const MOST_REDELIVERED: u64 = 1 << 30;
/// The patterns of one mailbox.
const MOST_PATTERNS: usize = 1000;

/// The name of a mailbox: an account, and for all but its own a name behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MailboxName {
    /// The account of the ident: spellings of one account have one mailbox.
    pub(crate) account: Box<str>,
    /// Empty for the ident's own.
    pub(crate) name: Box<str>,
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.account)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, "/{}", self.name) }
    }
}

impl FromStr for MailboxName {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (account, name) = match text.split_once('/') {
            Some((_, "")) => return Err(SpecError::EmptyName),
            Some((account, name)) => (account, name),
            None => (text, ""),
        };
        Ident::new(account).map_err(SpecError::Ident)?;
        if name.len() > 255 || name.contains('/') {
            return Err(SpecError::Name);
        }
        Ok(Self { account: account.into(), name: name.into() })
    }
}

/// The channels of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Patterns that were declared, at least one.
    Declared(Vec<Pattern>),
    /// Everything that the ident has ever subscribed to.
    Auto,
}

/// The part of its messages that a collector gets again which acknowledges nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Redeliver {
    /// After an orderly end: everything younger than this.
    pub(crate) time: Duration,
    /// At most so many bytes; after any other end so many whatever their age.
    pub(crate) bytes: u64,
}

impl Default for Redeliver {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), bytes: 8 << 20 }
    }
}

/// A declared mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MailboxSpec {
    pub(crate) name: MailboxName,
    pub(crate) filter: Filter,
    /// Older messages are passed over, and counted.
    pub(crate) max_age: Option<Duration>,
    pub(crate) redeliver: Redeliver,
    /// A message on which the collector has crashed so often goes to the dead letters.
    pub(crate) skip_after: Option<u32>,
}

/// The error of a declaration of a mailbox. `Display` is one line that says what is possible; it does
/// not hold the declaration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct MailboxError(#[from] SpecError);

/// A fault of a declaration. None holds the text, which the command line names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecError {
    #[error("a mailbox is IDENT=PATTERN,… or IDENT/NAME=PATTERN,… or IDENT=auto, and this has no `=`")]
    NoEquals,
    #[error("the ident {0}")]
    Ident(NameError),
    #[error("the name behind `/` is empty: leave the `/` out for the ident's own mailbox")]
    EmptyName,
    #[error("the name behind `/` has at most 255 bytes and no other `/`")]
    Name,
    #[error("no pattern stands behind `=`: name channels such as cowrie.*, or auto")]
    NoPatterns,
    #[error("a mailbox has at most 1,000 patterns")]
    TooMany,
    #[error("the pattern `{0}` {1}")]
    Pattern(String, NameError),
    #[error("in `{0}` the `*` stands for itself: a pattern is a channel, prefix.* or *")]
    LiteralStar(String),
    #[error("`auto` stands alone, for the ident's own mailbox: other names need patterns")]
    Auto,
    #[error("`{0}` is no option of a mailbox: there are max-age=7d, redeliver=30s|8M and skip-after=5")]
    Option(String),
    #[error("the option {0} is given twice")]
    Twice(&'static str),
    #[error("max-age is {0}")]
    MaxAge(&'static str),
    #[error("redeliver is a time such as 30s, a size such as 8M, or both as 30s|8M, with at most 1G")]
    Redeliver,
    #[error("skip-after is a whole number from 3 on: so many crashes on one message")]
    SkipAfter,
}

impl FromStr for MailboxSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, rest) = text.split_once('=').ok_or(SpecError::NoEquals)?;
        let name: MailboxName = name.trim().parse()?;
        let mut parts = rest.split(':');
        let filter = filter(&name, parts.next().unwrap_or_default())?;
        let mut spec = Self { name, filter, max_age: None, redeliver: Redeliver::default(), skip_after: None };
        let mut has_redeliver = false;
        for option in parts {
            match option.trim().split_once('=') {
                Some(("max-age", value)) => {
                    let age = units::period(value).map_err(SpecError::MaxAge)?;
                    if age.is_zero() {
                        return Err(SpecError::MaxAge("at least a second"));
                    }
                    if spec.max_age.replace(age).is_some() {
                        return Err(SpecError::Twice("max-age"));
                    }
                }
                Some(("redeliver", value)) => {
                    if std::mem::replace(&mut has_redeliver, true) {
                        return Err(SpecError::Twice("redeliver"));
                    }
                    spec.redeliver = redeliver(value).ok_or(SpecError::Redeliver)?;
                }
                Some(("skip-after", value)) => {
                    let number = value.parse().ok().filter(|&number| number >= 3).ok_or(SpecError::SkipAfter)?;
                    if spec.skip_after.replace(number).is_some() {
                        return Err(SpecError::Twice("skip-after"));
                    }
                }
                _ => return Err(SpecError::Option(option.trim().to_owned())),
            }
        }
        Ok(spec)
    }
}

fn filter(name: &MailboxName, text: &str) -> Result<Filter, SpecError> {
    let texts: Vec<_> = text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    if texts.contains(&"auto") {
        let is_own = texts.len() == 1 && name.name.is_empty();
        return if is_own { Ok(Filter::Auto) } else { Err(SpecError::Auto) };
    }
    if texts.is_empty() {
        return Err(SpecError::NoPatterns);
    }
    if texts.len() > MOST_PATTERNS {
        return Err(SpecError::TooMany);
    }
    let pattern = |text: &str| match Pattern::new(text) {
        Err(error) => Err(SpecError::Pattern(text.chars().take(60).collect(), error)),
        Ok(pattern) if pattern.has_literal_star() => Err(SpecError::LiteralStar(text.to_owned())),
        Ok(pattern) => Ok(pattern),
    };
    Ok(Filter::Declared(texts.into_iter().map(pattern).collect::<Result<_, _>>()?))
}

/// A time, a size, or both; the one that is not given is the default.
fn redeliver(text: &str) -> Option<Redeliver> {
    let mut redeliver = Redeliver::default();
    let (mut has_time, mut has_size) = (false, false);
    for part in text.split('|') {
        let has_unit_of_time = part.ends_with(['s', 'm', 'h', 'd']);
        if has_unit_of_time && !std::mem::replace(&mut has_time, true) {
            redeliver.time = units::period(part).ok()?;
        } else if !has_unit_of_time && !std::mem::replace(&mut has_size, true) {
            redeliver.bytes = units::size(part).ok().filter(|&size| size <= MOST_REDELIVERED)?;
        } else {
            return None;
        }
    }
    Some(redeliver)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_has_a_name_patterns_and_options() {
        let spec: MailboxSpec = "collector=cowrie.*,dionaea.capture".parse().unwrap();
        let patterns =
            |texts: &[&str]| Filter::Declared(texts.iter().map(|text| Pattern::new(text).unwrap()).collect());
        assert_eq!(spec.name.to_string(), "collector");
        assert_eq!(spec.filter, patterns(&["cowrie.*", "dionaea.capture"]));
        assert_eq!((spec.max_age, spec.redeliver, spec.skip_after), (None, Redeliver::default(), None));

        let spec: MailboxSpec = "c/elastic=*:max-age=2d:redeliver=1m|16M:skip-after=5".parse().unwrap();
        assert_eq!((spec.name.to_string().as_str(), spec.filter), ("c/elastic", patterns(&["*"])));
        assert_eq!(spec.max_age, Some(Duration::from_secs(2 * 86_400)));
        assert_eq!(spec.redeliver, Redeliver { time: Duration::from_secs(60), bytes: 16 << 20 });
        assert_eq!(spec.skip_after, Some(5));

        let spec: MailboxSpec = "old=auto:redeliver=64k".parse().unwrap();
        assert_eq!(spec.filter, Filter::Auto);
        assert_eq!(spec.redeliver, Redeliver { time: Duration::from_secs(30), bytes: 64 << 10 });
    }

    #[test]
    fn a_fault_of_a_declaration_is_named() {
        let cases = [
            ("collector", SpecError::NoEquals),
            ("=a", SpecError::Ident(NameError::Empty)),
            ("c/=a", SpecError::EmptyName),
            ("c/a/b=a", SpecError::Name),
            ("c=", SpecError::NoPatterns),
            ("c=:max-age=1d", SpecError::NoPatterns),
            ("c=cowrie*", SpecError::LiteralStar("cowrie*".to_owned())),
            ("c=auto,a", SpecError::Auto),
            ("c/n=auto", SpecError::Auto),
            ("c=a:max-ago=1d", SpecError::Option("max-ago=1d".to_owned())),
            ("c=a:", SpecError::Option(String::new())),
            ("c=a:max-age=1d:max-age=2d", SpecError::Twice("max-age")),
            ("c=a:max-age=0", SpecError::MaxAge("at least a second")),
            ("c=a:redeliver=1s:redeliver=1s", SpecError::Twice("redeliver")),
            ("c=a:redeliver=1s|2s", SpecError::Redeliver),
            ("c=a:redeliver=2G", SpecError::Redeliver),
            ("c=a:redeliver=", SpecError::Redeliver),
            ("c=a:skip-after=2", SpecError::SkipAfter),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<MailboxSpec>().unwrap_err(), expected, "{text}");
        }
        let long = format!("c={}", "x".repeat(256));
        assert_eq!(
            long.parse::<MailboxSpec>().unwrap_err().to_string(),
            format!("the pattern `{}` is 256 bytes long: at most 255 are allowed", "x".repeat(60))
        );
    }
}
