//! The token of the extension: the end of the broker's name in INFO, by which a broker offers it.

use std::borrow::Cow;

/// The token with the space before it. It stays the same for every version of the extension.
pub(super) const TOKEN: &str = " hpx/1";

/// The longest name with the token, in bytes: some peers count to 255 and wrap there.
const MAX_OFFER: usize = 254;

/// The name for INFO that offers the extension: the broker's name and ` hpx/1`.
///
/// A name of more than 248 bytes comes back as it is, and offers nothing: with the token it would
/// be longer than 254 bytes.
///
/// ```
/// use hpfeeds::wire::extension::{offer, strip};
/// assert_eq!(offer("hpbroker"), "hpbroker hpx/1");
/// assert_eq!(strip("hpbroker hpx/1"), ("hpbroker", true));
/// assert_eq!(strip("hpbroker"), ("hpbroker", false));
/// ```
#[must_use]
pub fn offer(name: &str) -> Cow<'_, str> {
    if name.len() + TOKEN.len() <= MAX_OFFER { Cow::Owned([name, TOKEN].concat()) } else { Cow::Borrowed(name) }
}

/// The broker's name out of INFO without the token, and whether the token was there, at its very
/// end. At most one is taken off.
#[must_use]
pub fn strip(name: &str) -> (&str, bool) {
    match name.strip_suffix(TOKEN) {
        Some(name) => (name, true),
        None => (name, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offered_name_is_stripped_to_itself() {
        for name in ["", "hpbroker", "a hpx/1", "bröker", " "] {
            assert_eq!(strip(&offer(name)), (name, true), "{name}");
        }
        assert_eq!(offer("a hpx/1"), "a hpx/1 hpx/1");
    }

    #[test]
    fn a_name_that_is_too_long_offers_nothing() {
        assert_eq!(offer(&"x".repeat(248)).len(), 254);
        for name in ["x".repeat(249), "x".repeat(255), "é".repeat(125)] {
            assert_eq!(offer(&name), name);
            assert_eq!(strip(&offer(&name)), (&*name, false));
        }
        assert!(TOKEN.is_ascii());
    }

    #[test]
    fn only_the_whole_token_at_the_end_is_one() {
        for name in ["hpx/1", "a hpx/10", "a hpx/1 ", "a hpx/1\n", "a HPX/1", "ahpx/1", "a hpx/2"] {
            assert_eq!(strip(name), (name, false), "{name}");
        }
    }
}
