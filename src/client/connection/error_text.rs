//! The classifier of ERROR texts: what brokers in use refuse with them.
//!
//! Public for `hpfeeds bench` alone, which speaks to brokers without a session; it may change at
//! any time.

use crate::wire::Channel;

/// The longest part of an ERROR that is kept: far more than any broker in use says, far less than
/// the megabyte that it may be long.
const MAX_TEXT: usize = 1024;

/// The kind of denial that a broker's ERROR text stands for. The texts are those that brokers in
/// use send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenialKind {
    /// The ident or its secret.
    Auth,
    /// A message; the channel when the text names it.
    Publish(Option<Channel>),
    /// A subscription; the channel when the text names it.
    Subscribe(Option<Channel>),
    /// A message or a subscription: the text does not say.
    Access,
    /// Nothing: the broker shuts down, and reads what was sent up to the end of our stream.
    Shutdown,
    /// Anything else.
    Other,
}

impl DenialKind {
    /// Reads a text that was sent to `ident`.
    #[must_use]
    pub fn classify(text: &str, ident: &str) -> Self {
        let text = without_length(text);
        if text.starts_with("Authentication faile") || matches!(text, "Bad credentials" | "hpfeeds: Bad credentials") {
            Self::Auth
        } else if let Some(rest) = text.strip_prefix("Authkey not allowed to pub here.") {
            Self::Publish(channel(rest, ident))
        } else if let Some(rest) = text.strip_prefix("Authkey not allowed to sub here.") {
            Self::Subscribe(channel(rest, ident))
        } else if text.starts_with("Publish not authorize")
            || text.starts_with("hpfeeds: You do not have permission to publish")
        {
            Self::Publish(None)
        } else if text.starts_with("Subscribe not authorize")
            || text.starts_with("hpfeeds: You do not have permission to subscribe")
        {
            Self::Subscribe(None)
        } else if text == "The broker is shutting down; end your stream" {
            Self::Shutdown
        } else {
            match text.strip_suffix('.').unwrap_or(text) {
                "authfail" | "identfail" => Self::Auth,
                "accessfail" => Self::Access,
                _ => Self::Other,
            }
        }
    }
}

/// The text without the length byte that hpfeeds/broker writes before it and does not count, so
/// that the frame ends one byte before the text does.
fn without_length(text: &str) -> &str {
    text.strip_prefix(|first: char| first as usize == text.len()).unwrap_or(text)
}

/// The channel in ` ident=…, chan=…`. Neither name is escaped there, so our own ident is taken off
/// first.
fn channel(rest: &str, ident: &str) -> Option<Channel> {
    let rest = rest.strip_prefix(" ident=")?;
    let name = match rest.strip_prefix(ident).and_then(|rest| rest.strip_prefix(", chan=")) {
        Some(name) => name,
        None => rest.split_once(", chan=")?.1,
    };
    Channel::new(name).ok()
}

/// The text of an ERROR for a person, at most 1 KiB of it.
pub(crate) fn text(message: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(message.get(..MAX_TEXT).unwrap_or(message)).into_owned();
    if message.len() > MAX_TEXT {
        text.push('…');
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn denial_kind_is_told_by_the_texts_of_brokers_in_use() {
        let ident = "me";
        let a = || Some(Channel::new("a").unwrap());
        let cases = [
            ("Authentication failed for me", DenialKind::Auth),
            ("Authentication failed", DenialKind::Auth),
            ("authfail.", DenialKind::Auth),
            ("identfail.", DenialKind::Auth),
            ("Authkey not allowed to pub here. ident=me, chan=a", DenialKind::Publish(a())),
            ("Authkey not allowed to sub here. ident=me, chan=a", DenialKind::Subscribe(a())),
            ("Publish not authorized", DenialKind::Publish(None)),
            ("Subscribe not authorized", DenialKind::Subscribe(None)),
            ("accessfail.", DenialKind::Access),
            ("Backpressure deadline timer expired", DenialKind::Other),
            ("Invalid authkey in message, ident=me", DenialKind::Other),
            // hpfeeds/broker: a length byte, and one byte short.
            ("\u{15}Authentication faile", DenialKind::Auth),
            ("\u{16}Publish not authorize", DenialKind::Publish(None)),
            ("\u{18}Subscribe not authorize", DenialKind::Subscribe(None)),
            // tentacool.
            ("accessfail", DenialKind::Access),
            ("authfail", DenialKind::Auth),
            // d1str0.
            ("hpfeeds: Bad credentials", DenialKind::Auth),
            ("Bad credentials", DenialKind::Auth),
            ("hpfeeds: You do not have permission to publish to this channel", DenialKind::Publish(None)),
            ("hpfeeds: You do not have permission to subscribe to this channel", DenialKind::Subscribe(None)),
            // No length of it.
            ("\u{9}accessfail.", DenialKind::Other),
        ];
        for (text, expected) in cases {
            assert_eq!(DenialKind::classify(text, ident), expected, "{text}");
        }
    }

    #[test]
    fn denied_channel_is_found_among_awkward_names() {
        let ident = "x, chan=y";
        let text = "Authkey not allowed to sub here. ident=x, chan=y, chan=a, chan=b";
        let expected = DenialKind::Subscribe(Some(Channel::new("a, chan=b").unwrap()));
        assert_eq!(DenialKind::classify(text, ident), expected);
        let unnamed = "Authkey not allowed to sub here. ident=x, chan=";
        assert_eq!(DenialKind::classify(unnamed, "x"), DenialKind::Subscribe(None));
    }
}
