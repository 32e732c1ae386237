//! The report for programs: one JSON object, or one line of a Nagios plugin.

use serde::Serialize;
use serde_json::{Map, Value};

use super::report::{Check, Report, Status};
use crate::escape::Escaped;

/// The whole report. Keys are only added in later versions.
#[derive(Serialize)]
struct Whole<'a> {
    tool: &'static str,
    broker: &'a str,
    ident: Option<&'a str>,
    tls: bool,
    exit_code: u8,
    problems: usize,
    warnings: usize,
    passed: usize,
    skipped: usize,
    seconds: f64,
    checks: Vec<One<'a>>,
}

/// One check.
#[derive(Serialize)]
struct One<'a> {
    check: &'static str,
    status: &'static str,
    summary: String,
    advice: Vec<String>,
    seconds: f64,
    details: &'a Map<String, Value>,
}

/// The report as a line of JSON.
pub(super) fn json(report: &Report) -> String {
    let spaced = |text: &String| text.replace('\u{a0}', " ");
    let whole = Whole {
        tool: env!("CARGO_PKG_VERSION"),
        broker: &report.broker,
        ident: report.ident.as_deref(),
        tls: report.tls,
        exit_code: report.code(),
        problems: report.number_of(Status::Problem),
        warnings: report.number_of(Status::Warning),
        passed: report.number_of(Status::Passed),
        skipped: report.number_of(Status::Skipped),
        seconds: report.elapsed().as_secs_f64(),
        checks: report
            .checks
            .iter()
            .map(|check| One {
                check: check.name,
                status: check.status.word(),
                summary: spaced(&check.summary),
                advice: check.advice.iter().map(spaced).collect(),
                seconds: check.elapsed.as_secs_f64(),
                details: &check.details,
            })
            .collect(),
    };
    // Only keys that are no strings, and numbers that are none, can fail; there are none of them.
    serde_json::to_string(&whole).unwrap_or_default() + "\n"
}

/// The exit code of a Nagios plugin that could not check anything.
pub(super) const UNKNOWN: u8 = 3;

/// The line of a Nagios plugin that could not check anything.
pub(super) fn nagios_unknown(why: &str) -> String {
    format!("HPFEEDS UNKNOWN - {}\n", Escaped(why.replace('|', "/").as_bytes()))
}

/// The line of a Nagios plugin, and its exit code.
pub(super) fn nagios(report: &Report) -> (String, u8) {
    let (warnings, problems) = (report.number_of(Status::Warning), report.number_of(Status::Problem));
    let (word, code) = match (problems, warnings) {
        (0, 0) => ("OK", 0),
        (0, _) if !report.strict => ("WARNING", 1),
        _ => ("CRITICAL", 2),
    };
    let wrong = |check: &&Check| matches!(check.status, Status::Warning | Status::Problem);
    let mut found: Vec<_> = report.checks.iter().filter(wrong).collect();
    // The worst first: some screens show the beginning alone.
    found.sort_by_key(|check| check.status != Status::Problem);
    let mut text: Vec<_> = found.iter().map(|check| format!("{}: {}", check.name, check.summary)).collect();
    if text.is_empty() {
        text.push(format!("{}: {}", report.title, report.summary(report.elapsed())));
    }
    let mut figures = vec![format!("time={:.3}s;;;0", report.elapsed().as_secs_f64())];
    for (check, detail, label, unit) in [
        ("INFO", "seconds", "greeting", "s"),
        ("certificate", "days_left", "certificate_days", ""),
        ("echo", "round_trip_seconds", "round_trip", "s"),
    ] {
        let check = report.checks.iter().find(|one| one.name == check && one.details.contains_key(detail));
        if let Some(value) = check.and_then(|check| check.details[detail].as_f64()) {
            figures.push(format!("{label}={value}{unit}"));
        }
    }
    // A bar begins the figures; no line is broken.
    let text = text.join("; ").replace('\u{a0}', " ").replace('|', "/");
    (format!("HPFEEDS {word} - {text} | {}\n", figures.join(" ")), code)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn report(checks: Vec<Check>, strict: bool) -> Report {
        let mut report = Report::new("broker.example:20001".to_owned(), Some("sensor-17".to_owned()), true, strict);
        report.checks = checks;
        report
    }

    fn figures_cut((line, code): (String, u8)) -> (String, u8) {
        assert_eq!(line.lines().count(), 1, "{line}");
        assert_eq!(line.matches('|').count(), 1, "{line}");
        (line.split_once(" | ").map_or_else(String::new, |(text, _)| text.to_owned()), code)
    }

    #[test]
    fn nagios_codes_are_those_of_plugins() {
        let warning = || Check::warning("certificate", "expires in 6 days", "renew it").with("days_left", 6);
        let problem = || Check::problem("AUTH", "rejected: \"a | b\"", "look");
        let (line, code) = nagios(&report(vec![warning()], false));
        assert!(line.ends_with(" certificate_days=6\n") && line.contains(" | time=0.00"), "{line}");
        assert_eq!(code, 1);
        assert_eq!(
            figures_cut(nagios(&report(vec![warning(), problem()], false))),
            ("HPFEEDS CRITICAL - AUTH: rejected: \"a / b\"; certificate: expires in 6 days".to_owned(), 2)
        );
        assert_eq!(nagios(&report(vec![warning()], true)).1, 2);
        let (line, code) = figures_cut(nagios(&report(vec![Check::passed("TCP", "fine")], true)));
        assert!(
            line.starts_with("HPFEEDS OK - broker.example:20001 as sensor-17 over TLS: 1 passed in ") && code == 0,
            "{line}"
        );
    }

    #[test]
    fn json_has_everything_that_the_text_has() {
        let problem = Check::problem("AUTH", "rejected", crate::words::keys("show", "a", &[]))
            .code(crate::exit::REJECTED)
            .with("text", "no")
            .took(Duration::from_millis(500));
        let text = super::json(&report(vec![problem], false));
        assert!(text.starts_with("{\"tool\":") && text.ends_with("}\n"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value["checks"][0],
            json!({
                "check": "AUTH", "status": "problem", "summary": "rejected", "advice": ["hpfeeds-broker keys show a"],
                "seconds": 0.5, "details": {"text": "no"},
            })
        );
        for (key, expected) in [
            ("broker", json!("broker.example:20001")),
            ("ident", json!("sensor-17")),
            ("tls", json!(true)),
            ("problems", json!(1)),
            ("warnings", json!(0)),
            ("passed", json!(0)),
            ("skipped", json!(0)),
            ("exit_code", json!(3)),
        ] {
            assert_eq!(value[key], expected, "{key}");
        }
    }
}
