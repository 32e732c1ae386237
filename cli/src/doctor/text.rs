//! The report as text: symbols, colours and lines that fit.

use std::io::{self, IsTerminal as _, Write as _};

use super::report::{Check, Status};
use crate::terminal;

/// The width of the names of checks.
const NAME: usize = 13;

/// The width of lines where there is no terminal to ask.
const WIDTH: usize = 80;

/// The widths that a terminal is believed to have.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=120;

/// How text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) colour: bool,
    /// Symbols and text are UTF-8; ASCII otherwise.
    pub(super) unicode: bool,
    pub(super) width: usize,
}

impl Style {
    /// The style that suits stdout. Symbols are for terminals with UTF-8, and colours for those that
    /// have some and are wanted (`NO_COLOR`); files and pipes get ASCII.
    pub(super) fn of_stdout() -> Self {
        let on_terminal = io::stdout().is_terminal();
        let width = if on_terminal { terminal::columns() } else { None };
        Self {
            colour: on_terminal && terminal::wants_colours(),
            unicode: on_terminal && terminal::has_utf8(),
            width: width.unwrap_or(WIDTH).clamp(*WIDTHS.start(), *WIDTHS.end()),
        }
    }
}

/// Prints a report to stdout as it grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printer {
    style: Style,
    /// Only what is wrong.
    short: bool,
}

impl Printer {
    pub(super) fn new(style: Style, short: bool) -> Self {
        Self { style, short }
    }

    pub(super) fn title(self, title: &str) {
        print(&format!("{}\n", self.style.plain(title)));
    }

    pub(super) fn check(self, check: &Check) {
        if !self.short || matches!(check.status, Status::Warning | Status::Problem) {
            print(&self.style.check(check));
        }
    }
}

/// Writes to stdout at once. A reader that is gone is no reason to stop: the exit code says the
/// same.
pub(super) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

impl Style {
    /// The lines of a check: what was found, and below it what to do.
    pub(super) fn check(self, check: &Check) -> String {
        let symbol = self.symbol(check.status);
        let indent = 2 + self.symbol_width() + 1 + NAME + 1;
        let mut lines = self.wrap(&check.summary, indent).into_iter();
        let first = lines.next().unwrap_or_default();
        let mut text = format!("  {symbol} {:<NAME$} {first}\n", check.name);
        let advice = check.advice.iter().flat_map(|advice| self.wrap(advice, indent));
        for line in lines.chain(advice) {
            text.push_str(&" ".repeat(indent));
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    fn symbol_width(self) -> usize {
        if self.unicode { 1 } else { 4 }
    }

    fn symbol(self, status: Status) -> String {
        let symbol = match (status, self.unicode) {
            (Status::Passed, true) => "✓",
            (Status::Passed, false) => "ok  ",
            (Status::Warning, true) => "!",
            (Status::Warning, false) => "warn",
            (Status::Problem, true) => "✗",
            (Status::Problem, false) => "FAIL",
            (Status::Skipped, true) => "–",
            (Status::Skipped, false) => "skip",
        };
        if !self.colour {
            return symbol.to_owned();
        }
        let colour = match status {
            Status::Passed => "32",
            Status::Warning => "33",
            Status::Problem => "1;31",
            Status::Skipped => "2",
        };
        format!("\u{1b}[{colour}m{symbol}\u{1b}[0m")
    }

    /// The words of a text on lines that fit behind an indentation. Longer words, and commands,
    /// stay whole.
    fn wrap(self, text: &str, indent: usize) -> Vec<String> {
        let room = self.width.saturating_sub(indent).max(20);
        let mut lines: Vec<String> = Vec::new();
        let mut used = 0;
        for word in text.split(' ') {
            let word = self.plain(word);
            let len = word.chars().count();
            match lines.last_mut() {
                Some(line) if used + 1 + len <= room => {
                    line.push(' ');
                    line.push_str(&word);
                    used += 1 + len;
                }
                _ => {
                    lines.push(word);
                    used = len;
                }
            }
        }
        lines
    }

    /// The text with its unbreakable spaces as spaces, and as ASCII if so wanted.
    fn plain(self, text: &str) -> String {
        let mut plain = String::with_capacity(text.len());
        for char in text.chars() {
            match char {
                '\u{a0}' => plain.push(' '),
                _ if self.unicode || char.is_ascii() => plain.push(char),
                '·' => plain.push('|'),
                '…' => plain.push_str("..."),
                _ => plain.extend(char.escape_unicode()),
            }
        }
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(colour: bool, unicode: bool) -> Style {
        Style { colour, unicode, width: 80 }
    }

    fn checks() -> Vec<Check> {
        vec![
            Check::passed("TCP", "192.0.2.10 21 ms · 2001:db8::10 unreachable (harmless)"),
            Check::warning(
                "certificate",
                "expires in 6 days",
                "renew it on the broker, which reads a new file by itself and needs no restart for that",
            ),
            Check::problem(
                "AUTH",
                "rejected: \"Authentication failed for sensör\"",
                format!("on the broker: {}", crate::words::keys("show", "sensör", &[])),
            ),
            Check::skipped("subscribe", "not checked: AUTH failed"),
        ]
    }

    fn text(style: Style) -> String {
        checks().iter().map(|check| style.check(check)).collect()
    }

    #[test]
    fn text_with_symbols() {
        let expected = "  \
  ✓ TCP           192.0.2.10 21 ms · 2001:db8::10 unreachable (harmless)
  ! certificate   expires in 6 days
                  renew it on the broker, which reads a new file by itself and
                  needs no restart for that
  ✗ AUTH          rejected: \"Authentication failed for sensör\"
                  on the broker: hpfeeds-broker keys show 'sensör'
  – subscribe     not checked: AUTH failed
";
        assert_eq!(text(style(false, true)), expected);
        let symbols = [("✓", "32"), ("!", "33"), ("✗", "1;31"), ("–", "2")];
        let coloured = symbols.iter().fold(expected.to_owned(), |text, (symbol, colour)| {
            text.replace(&format!("  {symbol} "), &format!("  \u{1b}[{colour}m{symbol}\u{1b}[0m "))
        });
        assert_eq!(text(style(true, true)), coloured);
    }

    #[test]
    fn text_in_ascii() {
        let expected = "  \
  ok   TCP           192.0.2.10 21 ms | 2001:db8::10 unreachable (harmless)
  warn certificate   expires in 6 days
                     renew it on the broker, which reads a new file by itself
                     and needs no restart for that
  FAIL AUTH          rejected: \"Authentication failed for sens\\u{f6}r\"
                     on the broker: hpfeeds-broker keys show 'sens\\u{f6}r'
  skip subscribe     not checked: AUTH failed
";
        assert_eq!(text(style(false, false)), expected);
        assert!(text(style(true, false)).starts_with("  \u{1b}[32mok  \u{1b}[0m TCP "));
    }

    #[test]
    fn lines_fit_80_columns_unless_a_word_is_longer() {
        for style in [style(false, true), style(false, false)] {
            assert!(text(style).lines().all(|line| line.chars().count() <= 80));
        }
        let long = Check::passed("INFO", "x".repeat(200));
        assert_eq!(style(false, true).check(&long).lines().count(), 1);
    }
}
