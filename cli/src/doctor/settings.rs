//! The checks that need no network: the settings and the clock.

use jiff::Timestamp;

use super::{args::Given, report::Check};
use crate::connection::Origin;

/// The name of the check.
const SETTINGS: &str = "settings";

/// No clock that is right shows an earlier time (2026-01-01): this tool did not exist.
const EARLIEST: i64 = 1_767_225_600;

/// No clock that is right shows a later time (2100-01-01) to this version of the tool.
const LATEST: i64 = 4_102_444_800;

/// The oddity of a secret or an ident, as a part of a sentence. Nothing of the value is in it.
pub(super) fn oddity(value: &str) -> Option<&'static str> {
    let (first, last) = (value.chars().next()?, value.chars().next_back()?);
    let breaks = |char| matches!(char, '\n' | '\r');
    if breaks(last) {
        Some("ends in a line break")
    } else if breaks(first) {
        Some("begins with a line break")
    } else if last.is_whitespace() {
        Some("ends in a space")
    } else if first.is_whitespace() {
        Some("begins with a space")
    } else if value.chars().count() > 1 && first == last && matches!(first, '"' | '\'' | '`') {
        Some("stands in quotes, which count as a part of it")
    } else if value.chars().any(hpfeeds::visible::acts_on_a_terminal) {
        Some("has a character in it that cannot be seen")
    } else {
        None
    }
}

/// Checks where the settings come from, and whether the key looks as it was meant.
pub(super) fn settings(given: &Given, ident: &str, secret: &str) -> Vec<Check> {
    let mut odd = Vec::new();
    for (name, value) in [("ident", ident), ("secret", secret)] {
        if let Some(oddity) = oddity(value) {
            let origin = given.origin(name);
            let advice = match origin {
                Origin::Variable => format!("set HPFEEDS_{} without it, if it is not meant", name.to_uppercase()),
                Origin::Url => format!("write the {name} in the URL without it, if it is not meant"),
                _ => format!("give --{name} without it, if it is not meant"),
            };
            odd.push(Check::warning(SETTINGS, format!("the {name} {oddity}"), advice).with("setting", name));
        }
    }
    for (name, origin) in &given.settings {
        if *origin == Origin::FlagOverVariable {
            let variable = format!("HPFEEDS_{}", name.to_uppercase());
            let summary = format!("--{name} is used, and {variable} says something else");
            odd.push(
                Check::warning(SETTINGS, summary, format!("unset {variable}, or leave --{name} out"))
                    .with("setting", *name),
            );
        }
    }
    if secret.is_empty() && !ident.is_empty() {
        let advice = "set HPFEEDS_SECRET, so that the key can be checked";
        odd.push(Check::warning(SETTINGS, "an ident is given and no secret", advice).with("setting", "secret"));
    } else if ident.is_empty() && !secret.is_empty() {
        let advice = "give --ident IDENT or set HPFEEDS_IDENT, so that the key can be checked";
        odd.push(Check::warning(SETTINGS, "a secret is given and no ident", advice).with("setting", "ident"));
    }
    if odd.is_empty() { vec![Check::passed(SETTINGS, given.words())] } else { odd }
}

impl Given {
    fn origin(&self, name: &str) -> Origin {
        let found = self.settings.iter().find(|(known, _)| *known == name);
        found.map_or(Origin::Missing, |(_, origin)| *origin)
    }

    /// Where the settings come from.
    fn words(&self) -> String {
        let of = |wanted: &[Origin]| {
            let names = self.settings.iter().filter(|(_, origin)| wanted.contains(origin)).map(|(name, _)| *name);
            names.collect::<Vec<_>>().join(", ")
        };
        let parts = [
            (of(&[Origin::Flag, Origin::FlagOverVariable]), "from the command line"),
            (of(&[Origin::Variable]), "from the environment"),
            (of(&[Origin::Url]), "from the URL"),
        ];
        let given = parts.into_iter().filter(|(names, _)| !names.is_empty());
        let parts: Vec<_> = given.map(|(names, from)| format!("{names} {from}")).collect();
        if parts.is_empty() { "none given: the defaults count".to_owned() } else { parts.join(" · ") }
    }
}

/// Checks that the clock can be right: certificates are judged by it.
pub(super) fn clock(now: Timestamp) -> Check {
    let shown = now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let check = if (EARLIEST..LATEST).contains(&now.as_second()) {
        Check::passed("clock", shown.clone())
    } else {
        let summary = format!("the clock shows {shown}, which cannot be");
        Check::problem("clock", summary, "set it: certificates are judged by it, and logs are read by it")
    };
    check.with("time", now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    fn given(origins: &[(&'static str, Origin)]) -> Given {
        Given { settings: origins.to_vec() }
    }

    #[test]
    fn oddities_of_secrets_are_named_without_the_secret() {
        for (secret, expected) in [
            ("secret", None),
            ("se cret", None),
            ("", None),
            ("\"", None),
            ("secret\n", Some("ends in a line break")),
            ("secret\r\n", Some("ends in a line break")),
            ("\nsecret", Some("begins with a line break")),
            ("secret ", Some("ends in a space")),
            ("\tsecret", Some("begins with a space")),
            ("secret\u{a0}", Some("ends in a space")),
            ("\"secret\"", Some("stands in quotes, which count as a part of it")),
            ("\u{feff}secret", Some("has a character in it that cannot be seen")),
        ] {
            assert_eq!(oddity(secret), expected, "{secret:?}");
        }
        for secret in ["hunter2 ", "'hunter2'"] {
            let checks = settings(&given(&[("secret", Origin::Variable)]), "me", secret);
            assert_eq!((checks.len(), checks[0].status), (1, Status::Warning));
            assert!(!format!("{checks:?}").contains("hunter2"), "{checks:?}");
            assert_eq!(checks[0].advice, ["set HPFEEDS_SECRET without it, if it is not meant"]);
        }
    }

    #[test]
    fn settings_say_where_they_come_from() {
        let from = [("host", Origin::Flag), ("port", Origin::Missing), ("ident", Origin::Flag)];
        let with_secret = [&from[..], &[("secret", Origin::Variable)]].concat();
        let checks = settings(&given(&with_secret), "me", "secret");
        assert_eq!(checks[0].summary, "host, ident from the command line · secret from the environment");
        assert_eq!(settings(&Given::default(), "", "")[0].summary, "none given: the defaults count");
        let of_url = [("url", Origin::Variable), ("ident", Origin::Url), ("secret", Origin::Url)];
        let checks = settings(&given(&of_url), "me", "secret");
        assert_eq!(checks[0].summary, "url from the environment · ident, secret from the URL");
        let checks = settings(&given(&of_url), "me", "hunter2 ");
        assert_eq!(checks[0].advice, ["write the secret in the URL without it, if it is not meant"]);
        let over = [("host", Origin::FlagOverVariable)];
        let checks = settings(&given(&over), "me", "secret");
        assert_eq!(checks[0].status, Status::Warning);
        assert_eq!(checks[0].summary, "--host is used, and HPFEEDS_HOST says something else");
        assert_eq!(settings(&Given::default(), "me", "")[0].summary, "an ident is given and no secret");
        assert_eq!(settings(&Given::default(), "", "x")[0].summary, "a secret is given and no ident");
    }

    #[test]
    fn a_clock_that_was_never_set_is_a_problem() {
        for (second, expected) in [
            (0, Status::Problem),
            (EARLIEST - 1, Status::Problem),
            (EARLIEST, Status::Passed),
            (LATEST, Status::Problem),
        ] {
            assert_eq!(clock(Timestamp::from_second(second).unwrap()).status, expected, "{second}");
        }
        assert_eq!(
            clock(Timestamp::from_second(0).unwrap()).summary,
            "the clock shows 1970-01-01 00:00:00 UTC, which cannot be"
        );
    }
}
