//! The list of faults of clients: its columns, and the command on the broker that mends each.

use super::{
    model::Incident,
    table::{Column, Span, Tone},
    text::{Look, short, span},
};
use crate::words::exact_word;

pub(super) const COLUMNS: [Column; 7] = [
    Column::number("LAST", 2),
    Column::number("TIMES", 3),
    Column::text("KIND", 0),
    Column::long("IDENT", 10, 1),
    Column::long("SOURCE", 12, 4),
    Column::long("CHANNEL", 10, 5),
    Column::long("TEXT", 16, 6),
];

/// The key of an incident, which tells it from others.
pub(super) fn key(row: &Incident) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    [row.kind.clone(), part(&row.ident), row.source.clone(), part(&row.channel)].join("\0")
}

/// The cells of an incident; `now` is in milliseconds.
pub(super) fn cells(row: &Incident, now: u64, look: &Look) -> Vec<Span> {
    let maybe = |text: Option<&str>| match text {
        Some(text) if !text.is_empty() => Span::from(look.plain(text)),
        _ => Span::new("-", Tone::Faint),
    };
    vec![
        span(now.saturating_sub(row.last) / 1000).into(),
        short(row.count).into(),
        Span::new(look.plain(&row.kind), Tone::Warning),
        maybe(row.ident.as_deref()),
        maybe(Some(&row.source)),
        maybe(row.channel.as_deref()),
        maybe(Some(&row.text)),
    ]
}

/// The words in place of a command that would be about another name.
const UNPRINTABLE: &str = "the name cannot be shown as it is: no command is offered";
/// The words in place of a command that would allow what a client has asked for.
const WILD: &str = "the channel is a pattern, which would allow many: no command is offered";

/// The fault, and how to mend it.
pub(super) fn details(row: &Incident, now: u64, look: &Look) -> Vec<String> {
    let ago = |moment: u64| span(now.saturating_sub(moment) / 1000);
    let mut parts = vec![look.plain(&row.text)];
    parts.retain(|text| !text.is_empty());
    parts.push(format!("from {}", look.plain(&row.source)));
    let times = if row.count == 1 { "once".to_owned() } else { format!("{} times", short(row.count)) };
    parts.push(format!("{times}, first {} ago, last {} ago", ago(row.first), ago(row.last)));
    vec![parts.join(" · "), mending(row, look)]
}

/// The command on the broker, or the words for what to do.
fn mending(row: &Incident, look: &Look) -> String {
    let (ident, channel) = (row.ident.as_deref(), row.channel.as_deref());
    // A name that is shown otherwise than it is, or cut, would be another one in the command.
    let exact = |name: &str| exact_word(name).filter(|word| look.plain(word) == *word);
    let keys = |action: &str, ident: &str, option: &str, more: &str| {
        let Some(word) = exact(ident) else { return UNPRINTABLE.to_owned() };
        let words = if ident.starts_with('-') { format!("{option} -- {word}") } else { format!(" {word}{option}") };
        format!("on the broker: hpfeeds-broker keys {action}{words}{more}")
    };
    let allow = |flag: &str, ident: &str, channel: &str| match exact(channel) {
        None => UNPRINTABLE.to_owned(),
        Some(_) if channel == "*" || channel.ends_with(".*") => WILD.to_owned(),
        Some(word) => keys("set", ident, &format!(" {flag}={word}"), ""),
    };
    match (&*row.kind, ident, channel) {
        ("unknown-ident", Some(ident), _) => keys("add", ident, "", ", if it is yours"),
        ("wrong-secret", Some(ident), _) => {
            // Others may know the ident: the old secret goes on opening for the sensor that is right.
            let more = ", and give the sensor the one that it prints";
            keys("set", ident, " --new-secret --grace=1d", more)
        }
        ("denied-publish", Some(ident), Some(channel)) => allow("--add-publish", ident, channel),
        ("denied-subscribe", Some(ident), Some(channel)) => allow("--add-subscribe", ident, channel),
        ("others-name", ..) => "give each sensor a key of its own: a message carries the ident of its key".to_owned(),
        ("store-failed", ..) => "the keys cannot be read: see the broker's log, and the database of --auth".to_owned(),
        ("tls-failed", ..) => {
            "the client does not speak TLS, or does not trust the certificate: hpfeeds doctor --tls there says"
                .to_owned()
        }
        ("no-auth", ..) => "no hpfeeds client, or one that waits for too long: a scanner, mostly".to_owned(),
        ("turned-away", ..) => "more connections than --max-connections or those of one address allow".to_owned(),
        ("bad-frame", ..) => "the client sends what is no message, or one above --max-message".to_owned(),
        ("slow" | "dropped", ..) => {
            "it reads more slowly than messages come: see its CPU, its disk and its network".to_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn incident(kind: &str, ident: &str, channel: &str) -> Incident {
        let name = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Incident {
            kind: kind.to_owned(),
            ident: name(ident),
            source: "192.0.2.9".to_owned(),
            channel: name(channel),
            first: 0,
            last: 60_000,
            count: 12,
            text: "no".to_owned(),
        }
    }

    #[test]
    fn each_kind_says_what_mends_it() {
        let look = Look { colour: false, unicode: true, zone: TimeZone::UTC };
        let mends = |kind, ident, channel| details(&incident(kind, ident, channel), 120_000, &look)[1].clone();
        let long = "x".repeat(201);
        for (kind, ident, channel, expected) in [
            ("unknown-ident", "new-1", "", "on the broker: hpfeeds-broker keys add new-1, if it is yours"),
            ("denied-publish", "a b", "c;d", "on the broker: hpfeeds-broker keys set 'a b' --add-publish='c;d'"),
            ("denied-subscribe", "a", "cowrie*", "on the broker: hpfeeds-broker keys set a --add-subscribe='cowrie*'"),
            ("denied-publish", "$(reboot)", "x", "on the broker: hpfeeds-broker keys set '$(reboot)' --add-publish=x"),
            ("denied-publish", "-x", "-y", "on the broker: hpfeeds-broker keys set --add-publish='-y' -- '-x'"),
            (
                "wrong-secret",
                "a",
                "",
                "on the broker: hpfeeds-broker keys set a --new-secret --grace=1d, and give the sensor the one that \
                 it prints",
            ),
            // A client has asked for all of them.
            ("denied-subscribe", "a", "*", WILD),
            ("denied-publish", "a", "cowrie.*", WILD),
            // Typed as they are shown, they would be others.
            ("denied-publish", "$(reboot)\n", "x", UNPRINTABLE),
            ("unknown-ident", "x\u{202e}", "", UNPRINTABLE),
            ("unknown-ident", &long, "", UNPRINTABLE),
            ("denied-publish", "a", "x\n", UNPRINTABLE),
        ] {
            assert_eq!(mends(kind, ident, channel), expected);
        }
        for kind in
            ["store-failed", "tls-failed", "no-auth", "turned-away", "others-name", "bad-frame", "slow", "dropped"]
        {
            assert!(!mends(kind, "a", "").is_empty(), "{kind}");
        }
        assert_eq!(mends("of-a-newer-broker", "a", "b"), "");
        let ascii = Look { unicode: false, ..look.clone() };
        assert_eq!(mending(&incident("unknown-ident", "sens\u{f6}r", ""), &ascii), UNPRINTABLE);
        let lines = details(&incident("no-auth", "", ""), 120_000, &look);
        assert_eq!(lines[0], "no · from 192.0.2.9 · 12 times, first 2 min ago, last 60 s ago");
    }
}
