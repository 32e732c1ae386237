use crate::wire::{Channel, Ident};

/// What a broker's ERROR text is about. The texts are those that brokers in use send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The ident or its secret.
    Auth,
    /// A message; the channel when the text names it.
    Publish(Option<Channel>),
    /// A subscription; the channel when the text names it.
    Subscribe(Option<Channel>),
    /// A message or a subscription: the text does not say.
    Access,
    /// Anything else.
    Other,
}

impl Refusal {
    pub(crate) fn classify(text: &str, ident: &Ident) -> Self {
        if text.starts_with("Authentication failed") || text == "authfail." || text == "identfail." {
            Self::Auth
        } else if let Some(rest) = text.strip_prefix("Authkey not allowed to pub here.") {
            Self::Publish(channel(rest, ident))
        } else if let Some(rest) = text.strip_prefix("Authkey not allowed to sub here.") {
            Self::Subscribe(channel(rest, ident))
        } else if text == "Publish not authorized" {
            Self::Publish(None)
        } else if text == "Subscribe not authorized" {
            Self::Subscribe(None)
        } else if text == "accessfail." {
            Self::Access
        } else {
            Self::Other
        }
    }
}

/// The channel in ` ident=…, chan=…`. Neither name is escaped there, so our own ident is taken off first.
fn channel(rest: &str, ident: &Ident) -> Option<Channel> {
    let rest = rest.strip_prefix(" ident=")?;
    let name = match rest.strip_prefix(ident.as_str()).and_then(|rest| rest.strip_prefix(", chan=")) {
        Some(name) => name,
        None => rest.split_once(", chan=")?.1,
    };
    Channel::new(name).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn knows_the_texts_of_brokers_in_use() {
        let ident = Ident::new("me").unwrap();
        let a = || Some(Channel::new("a").unwrap());
        let cases = [
            ("Authentication failed for me", Refusal::Auth),
            ("Authentication failed", Refusal::Auth),
            ("authfail.", Refusal::Auth),
            ("identfail.", Refusal::Auth),
            ("Authkey not allowed to pub here. ident=me, chan=a", Refusal::Publish(a())),
            ("Authkey not allowed to sub here. ident=me, chan=a", Refusal::Subscribe(a())),
            ("Publish not authorized", Refusal::Publish(None)),
            ("Subscribe not authorized", Refusal::Subscribe(None)),
            ("accessfail.", Refusal::Access),
            ("Backpressure deadline timer expired", Refusal::Other),
            ("Invalid authkey in message, ident=me", Refusal::Other),
            ("\u{9}accessfail.", Refusal::Other),
        ];
        for (text, expected) in cases {
            assert_eq!(Refusal::classify(text, &ident), expected, "{text}");
        }
    }

    #[test]
    fn finds_the_channel_among_awkward_names() {
        let ident = Ident::new("x, chan=y").unwrap();
        let text = "Authkey not allowed to sub here. ident=x, chan=y, chan=a, chan=b";
        let expected = Refusal::Subscribe(Some(Channel::new("a, chan=b").unwrap()));
        assert_eq!(Refusal::classify(text, &ident), expected);
        let unnamed = "Authkey not allowed to sub here. ident=x, chan=";
        assert_eq!(Refusal::classify(unnamed, &Ident::new("x").unwrap()), Refusal::Subscribe(None));
    }
}
