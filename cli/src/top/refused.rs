//! The list of faults of clients: its columns, and the command on the broker that mends each.

use super::{
    model::Incident,
    table::{Column, Span, Tone},
    text::{Look, short, span},
};
use crate::words::word;

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
    let name = |text: &Option<String>| text.as_deref().map(|text| look.plain(&word(text)));
    let (ident, channel) = (name(&row.ident), name(&row.channel));
    let keys = |action: &str, ident: &str| format!("on the broker: hpfeeds-broker keys {action} {ident}");
    match (&*row.kind, ident, channel) {
        ("unknown-ident", Some(ident), _) => format!("{}, if it is yours", keys("add", &ident)),
        ("wrong-secret", Some(ident), _) => {
            format!("{} --new-secret, and give the sensor the one that it prints", keys("set", &ident))
        }
        ("denied-publish", Some(ident), Some(channel)) => format!("{} --add-publish {channel}", keys("set", &ident)),
        ("denied-subscribe", Some(ident), Some(channel)) => {
            format!("{} --add-subscribe {channel}", keys("set", &ident))
        }
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
        for (kind, ident, channel, expected) in [
            ("unknown-ident", "new-1", "", "on the broker: hpfeeds-broker keys add new-1, if it is yours"),
            ("denied-publish", "a b", "c;d", "on the broker: hpfeeds-broker keys set 'a b' --add-publish 'c;d'"),
            (
                "denied-subscribe",
                "a",
                "cowrie.*",
                "on the broker: hpfeeds-broker keys set a --add-subscribe 'cowrie.*'",
            ),
            (
                "denied-publish",
                "$(reboot)\n",
                "x",
                r"on the broker: hpfeeds-broker keys set '$(reboot)\n' --add-publish x",
            ),
        ] {
            assert_eq!(mends(kind, ident, channel), expected);
        }
        for kind in [
            "wrong-secret",
            "store-failed",
            "tls-failed",
            "no-auth",
            "turned-away",
            "others-name",
            "bad-frame",
            "slow",
            "dropped",
        ] {
            assert!(!mends(kind, "a", "").is_empty(), "{kind}");
        }
        assert_eq!(mends("of-a-newer-broker", "a", "b"), "");
        let lines = details(&incident("no-auth", "", ""), 120_000, &look);
        assert_eq!(lines[0], "no · from 192.0.2.9 · 12 times, first 2 min ago, last 60 s ago");
    }
}
