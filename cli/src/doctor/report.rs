//! The report: what each check has found, and the exit code that follows from all of it.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::exit::{FAILED, count};

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Passed,
    Warning,
    Problem,
    /// An earlier problem, or a missing key, leaves nothing to check.
    Skipped,
}

impl Status {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Skipped => "skipped",
        }
    }
}

/// One line of the report. All its texts are safe to show: what comes from the network has been
/// escaped.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) status: Status,
    pub(super) summary: String,
    /// The advice, on lines of its own.
    pub(super) advice: Vec<String>,
    /// For programs.
    pub(super) details: Map<String, Value>,
    pub(super) elapsed: Duration,
    /// The exit code of a problem.
    pub(super) code: u8,
}

impl Check {
    fn new(name: &'static str, status: Status, summary: String) -> Self {
        Self { name, status, summary, advice: Vec::new(), details: Map::new(), elapsed: Duration::ZERO, code: FAILED }
    }

    pub(super) fn passed(name: &'static str, summary: impl Into<String>) -> Self {
        Self::new(name, Status::Passed, summary.into())
    }

    /// Something that works, and should not stay so.
    pub(super) fn warning(name: &'static str, summary: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(name, Status::Warning, summary.into()).and(advice)
    }

    pub(super) fn problem(name: &'static str, summary: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(name, Status::Problem, summary.into()).and(advice)
    }

    pub(super) fn skipped(name: &'static str, summary: impl Into<String>) -> Self {
        Self::new(name, Status::Skipped, summary.into())
    }

    /// More to do.
    pub(super) fn and(mut self, advice: impl Into<String>) -> Self {
        self.advice.push(advice.into());
        self
    }

    /// Something to do before the rest.
    pub(super) fn first(mut self, advice: impl Into<String>) -> Self {
        self.advice.insert(0, advice.into());
        self
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    pub(super) fn took(mut self, elapsed: Duration) -> Self {
        self.elapsed = elapsed;
        self
    }

    pub(super) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

/// Everything that was checked.
pub(super) struct Report {
    /// `HOST:PORT as IDENT`.
    pub(super) title: String,
    pub(super) broker: String,
    pub(super) ident: Option<String>,
    pub(super) tls: bool,
    pub(super) checks: Vec<Check>,
    pub(super) strict: bool,
    started: Instant,
}

impl Report {
    pub(super) fn new(broker: String, ident: Option<String>, tls: bool, strict: bool) -> Self {
        let over = if tls { " over TLS" } else { "" };
        let title = match &ident {
            Some(ident) => format!("{broker} as {ident}{over}"),
            None => format!("{broker}{over}"),
        };
        Self { title, broker, ident, tls, checks: Vec::new(), strict, started: Instant::now() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn number_of(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// `1 problem, 1 warning, 6 passed in 0.4 s`.
    pub(super) fn summary(&self, elapsed: Duration) -> String {
        let number = |status| u64::try_from(self.number_of(status)).unwrap_or(u64::MAX);
        let mut parts = Vec::new();
        for (status, word) in [(Status::Problem, "problem"), (Status::Warning, "warning")] {
            if number(status) > 0 {
                parts.push(count(number(status), word));
            }
        }
        parts.push(format!("{} passed", number(Status::Passed)));
        if number(Status::Skipped) > 0 {
            parts.push(format!("{} not checked", number(Status::Skipped)));
        }
        format!("{} in {}", parts.join(", "), crate::words::time(elapsed))
    }

    /// The exit code: of the first problem, as the other actions would end with it.
    pub(super) fn code(&self) -> u8 {
        let problem = self.checks.iter().find(|check| check.status == Status::Problem);
        match problem {
            Some(problem) => problem.code,
            None if self.strict && self.number_of(Status::Warning) > 0 => FAILED,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{DENIED, REJECTED};

    fn report(checks: Vec<Check>, strict: bool) -> Report {
        let mut report = Report::new("broker.example:20001".to_owned(), None, false, strict);
        report.checks = checks;
        report
    }

    #[test]
    fn the_first_problem_decides_the_exit_code() {
        let warning = || Check::warning("clock", "odd", "set it");
        let rejected = || Check::problem("AUTH", "rejected", "look").code(REJECTED);
        let denied = || Check::problem("subscribe", "denied", "look").code(DENIED);
        let passed = || Check::passed("TCP", "fine");
        for (checks, strict, expected) in [
            (vec![passed()], true, 0),
            (vec![passed(), warning()], false, 0),
            (vec![passed(), warning()], true, FAILED),
            (vec![warning(), rejected(), denied()], false, REJECTED),
            (vec![warning(), rejected(), denied()], true, REJECTED),
            (vec![denied(), Check::problem("echo", "lost", "look")], false, DENIED),
            (vec![Check::skipped("AUTH", "no key")], true, 0),
        ] {
            assert_eq!(report(checks.clone(), strict).code(), expected, "{checks:?}");
        }
    }

    #[test]
    fn the_summary_counts_what_there_is() {
        let checks = vec![
            Check::problem("AUTH", "rejected", "look"),
            Check::warning("clock", "odd", "set it"),
            Check::warning("clock", "odd", "set it"),
            Check::passed("TCP", "fine"),
            Check::skipped("subscribe", "not now"),
        ];
        let elapsed = Duration::from_millis(400);
        assert_eq!(report(checks, false).summary(elapsed), "1 problem, 2 warnings, 1 passed, 1 not checked in 400 ms");
        assert_eq!(report(Vec::new(), false).summary(elapsed), "0 passed in 400 ms");
    }
}
