//! Arguments about the log, and the writer of its lines.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
};

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use super::backlog::Backlog;

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Logging {
    /// How a line on stderr looks: text, or one JSON object
    ///
    /// In both formats an event is one line with its time in UTC, as of RFC 3339. Control
    /// characters in names that clients send are escaped, and secrets are never logged.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: Format,

    /// The least serious events that are logged
    ///
    /// warn: events that need an operator's attention. info: also authentications, denials with
    /// their reason, and ends of connections. debug: also connections that ended before they had
    /// authenticated.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Level,

    /// The same as --log-level debug
    #[arg(long, conflicts_with = "log_level")]
    debug: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl Logging {
    /// Logs events to stderr from here on. The last lines are written when [`Log`] is dropped.
    pub(crate) fn start(&self) -> io::Result<Log> {
        let (format, ansi) = (self.log_format, io::stderr().is_terminal());
        let backlog = Backlog::start()?;
        let log = Log { format, backlog: backlog.clone() };
        let writer = move || Line { format, ansi, backlog: backlog.clone() };
        let builder = tracing_subscriber::fmt().with_writer(writer).with_max_level(self.level()).with_target(false);
        match format {
            Format::Text => builder.with_ansi(ansi).init(),
            // Flat: the ident is found without a look into spans.
            Format::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        }
        Ok(log)
    }

    fn level(&self) -> LevelFilter {
        match self.log_level {
            _ if self.debug => LevelFilter::DEBUG,
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        }
    }
}

/// The running log. Its drop waits until stderr has taken all lines, for at most 1 s.
pub(crate) struct Log {
    format: Format,
    backlog: Backlog,
}

impl Log {
    /// Tells why the broker does not run, as a line of the log in JSON, where a machine reads it.
    pub(crate) fn fatal(&self, cause: &dyn std::error::Error) {
        match self.format {
            Format::Text => {
                self.backlog.flush();
                // A stderr that is closed, or whose disk is full, is no reason to panic.
                let _ = writeln!(io::stderr(), "hpfeeds-broker: {cause}");
            }
            Format::Json => tracing::error!("{cause}"),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.backlog.flush();
    }
}

/// The writer of one event. Its text stays one line, and has no effect on the terminal that shows
/// it.
struct Line {
    format: Format,
    /// Whether the line has colours; names and the like are escaped already.
    ansi: bool,
    backlog: Backlog,
}

impl Line {
    fn escape(&self, line: &str) -> String {
        let mut escaped = String::with_capacity(line.len());
        for char in line.chars() {
            let is_plain = match char {
                '\x1b' => self.ansi,
                _ if char.is_ascii() => !char.is_ascii_control(),
                // Also what turns the direction of the text, or cannot be seen.
                _ => char.escape_debug().count() == 1,
            };
            match self.format {
                _ if is_plain => escaped.push(char),
                Format::Text => escaped.extend(char.escape_debug()),
                Format::Json => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        let _ = write!(escaped, "\\u{unit:04x}");
                    }
                }
            }
        }
        escaped
    }
}

impl io::Write for Line {
    /// Takes one whole line, as the log hands it over.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(buf);
        let mut line = self.escape(text.trim_end());
        line.push('\n');
        self.backlog.push(line.as_bytes());
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    const TEXT: &str = "é \"\\ \n\x1b[2J\x7f\u{9b}\u{202e}\u{e0001}";

    #[test]
    fn invisible_characters_are_escaped() {
        let text = |ansi| Line { format: Format::Text, ansi, backlog: Backlog::default() }.escape(TEXT);
        assert_eq!(text(false), "é \"\\ \\n\\u{1b}[2J\\u{7f}\\u{9b}\\u{202e}\\u{e0001}");
        assert_eq!(text(true), "é \"\\ \\n\x1b[2J\\u{7f}\\u{9b}\\u{202e}\\u{e0001}");
        // Escaped in part already, as a line of JSON is.
        let json = serde_json::to_string(TEXT).unwrap();
        let escaped = Line { format: Format::Json, ansi: false, backlog: Backlog::default() }.escape(&json);
        assert!(escaped.chars().all(|char| char == 'é' || (' '..='~').contains(&char)), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), TEXT);
    }
}
