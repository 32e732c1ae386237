//! The beginning of a subscription as arguments: a mailbox, a position in it, the last values.

use std::str::FromStr;

use clap::Args;
use hpfeeds::{Ident, SubscribeFrom, wire::extension::Position};

#[derive(Debug, Args)]
pub(crate) struct BeginningArgs {
    /// Receive from this mailbox of the ident: everything that the broker has stored for it and that
    /// was not printed yet, then what comes. NAME is as in the broker's `mailbox list`, and '' the
    /// ident's own. The broker is told of a message once it is printed, and with --output when it is
    /// on the disk, within a second; until then it comes again. Lost messages are told on stderr.
    #[arg(long, value_name = "NAME")]
    pub(crate) mailbox: Option<String>,

    /// Where to begin, once: with a mailbox, at EPOCH:NUMBER, a position of --format ndjson; without
    /// one, with the last-value of each channel, or live. Default: after what was printed from the
    /// mailbox, or live.
    #[arg(long, value_name = "START")]
    pub(crate) from: Option<Start>,
}

/// The first message that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Live,
    LastValue,
    At(Position),
}

impl FromStr for Start {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "live" => return Ok(Self::Live),
            "last-value" => return Ok(Self::LastValue),
            _ => {}
        }
        let position = text.split_once(':').and_then(|(epoch, number)| {
            let position = Position::new(epoch.parse().ok()?, number.parse().ok()?);
            (position.epoch > 0 && position.number > 0).then_some(position)
        });
        position.map(Self::At).ok_or("there are live, last-value, and with --mailbox a position such as 3:1400")
    }
}

impl BeginningArgs {
    /// Whether what is printed is told to a mailbox.
    pub(crate) fn commits(&self) -> bool {
        self.mailbox.is_some()
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match (&self.mailbox, self.from) {
            (Some(_), Some(Start::Live | Start::LastValue)) => {
                Err("--from live and --from last-value are for subscriptions without --mailbox")
            }
            (None, Some(Start::At(_))) => Err("--from EPOCH:NUMBER is a position in a mailbox: name it with --mailbox"),
            _ => Ok(()),
        }
    }

    /// Where the subscriptions of an ident begin; `None` for what every broker does. An error says
    /// which ident the mailbox belongs to.
    pub(crate) fn of(&self, ident: &Ident) -> Result<Option<SubscribeFrom>, String> {
        let Some(mailbox) = &self.mailbox else {
            return Ok(match self.from {
                Some(Start::Live) => Some(SubscribeFrom::live()),
                Some(Start::LastValue) => Some(SubscribeFrom::last_value()),
                _ => None,
            });
        };
        // The list of the broker names both.
        let name = match mailbox.split_once('/') {
            None => mailbox,
            Some((owner, name)) if *ident == owner => name,
            Some((owner, _)) => {
                return Err(format!("--mailbox {mailbox:?} belongs to the ident {owner:?}, and this is {ident:?}"));
            }
        };
        let from = SubscribeFrom::mailbox(name);
        Ok(Some(match self.from {
            Some(Start::At(position)) => from.first(position),
            _ => from,
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_or_a_position() {
        assert_eq!("3:1400".parse(), Ok(Start::At(Position::new(3, 1400))));
        assert_eq!("last-value".parse(), Ok(Start::LastValue));
        for text in ["", "0:1", "1:0", "1", "1:", ":1", "-1:1", "1:1:1", "now"] {
            assert!(text.parse::<Start>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_mailbox_is_named_alone_or_with_its_ident() {
        let ident = Ident::new("collector").unwrap();
        let of = |mailbox: &str, from| {
            BeginningArgs { mailbox: Some(mailbox.to_owned()), from }.of(&ident).map(Option::unwrap)
        };
        assert_eq!(of("elastic", None), Ok(SubscribeFrom::mailbox("elastic")));
        assert_eq!(of("collector/elastic", None), Ok(SubscribeFrom::mailbox("elastic")));
        assert_eq!(of("collector/", None), Ok(SubscribeFrom::mailbox("")));
        let position = Position::new(3, 9);
        assert_eq!(of("", Some(Start::At(position))), Ok(SubscribeFrom::mailbox("").first(position)));
        assert!(of("other/elastic", None).unwrap_err().contains("belongs to the ident \"other\""));
    }
}
