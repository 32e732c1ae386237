//! The requests of the control socket as values, and as lines of JSON.

use std::{fmt, str::FromStr};

use hpfeeds::wire::extension::Position;
use serde_json::{Value, json};

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    List,
    Show(String),
    /// Delivers a mailbox's messages once more.
    Rewind(String, To),
    /// Passes over the message on which a collector crashes.
    Skip(String),
    /// Forgets what a mailbox has.
    Drop(String),
    /// Shows the messages that wait, and leaves them.
    Dump(String),
    /// Begins a drain, and shows what is left.
    Drain,
    /// Shows the screen of a relay.
    Status,
}

/// The place that a mailbox is set back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// The messages from this time on, in milliseconds since 1970.
    Time(i64),
    /// This message and those behind it.
    Position(Position),
    /// Everything that there is.
    Start,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |command: &str, name: &str| json!({ "command": command, "mailbox": name });
        let value = match self {
            Self::List => json!({ "command": "list" }),
            Self::Drain => json!({ "command": "drain" }),
            Self::Status => json!({ "command": "status" }),
            Self::Show(name) => named("show", name),
            Self::Skip(name) => named("skip", name),
            Self::Drop(name) => named("drop", name),
            Self::Dump(name) => named("dump", name),
            Self::Rewind(name, to) => {
                let mut value = named("rewind", name);
                value["to"] = match to {
                    To::Time(unix_ms) => json!(unix_ms),
                    To::Position(position) => json!(position.to_string()),
                    To::Start => json!("start"),
                };
                value
            }
        };
        value.fmt(f)
    }
}

impl FromStr for Request {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        if !line.ends_with('\n') {
            return Err("a request is one line of at most 4,096 bytes".to_owned());
        }
        let value: Value = serde_json::from_str(line).map_err(|cause| format!("the request is no JSON: {cause}"))?;
        let name = || {
            let name = value["mailbox"].as_str().ok_or("the request names no mailbox");
            name.map(str::to_owned).map_err(str::to_owned)
        };
        Ok(match value["command"].as_str().unwrap_or_default() {
            "list" => Self::List,
            "drain" => Self::Drain,
            "status" => Self::Status,
            "show" => Self::Show(name()?),
            "skip" => Self::Skip(name()?),
            "drop" => Self::Drop(name()?),
            "dump" => Self::Dump(name()?),
            "rewind" => Self::Rewind(name()?, To::of(&value["to"]).ok_or("the request does not say where to")?),
            other => return Err(format!("this broker knows no command {other:?}: it may be older than the program")),
        })
    }
}

impl To {
    fn of(value: &Value) -> Option<Self> {
        if let Some(unix_ms) = value.as_i64() {
            return Some(Self::Time(unix_ms));
        }
        match value.as_str()? {
            "start" => Some(Self::Start),
            text => position(text).map(Self::Position),
        }
    }
}

/// Reads a position such as `3:1400`.
pub(crate) fn position(text: &str) -> Option<Position> {
    let (epoch, number) = text.split_once(':')?;
    let position = Position::new(epoch.parse().ok()?, number.parse().ok()?);
    (position.epoch > 0 && position.number > 0).then_some(position)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_line_that_reads_as_it_was() {
        let name = || "c/\"ü\n".to_owned();
        for request in [
            Request::List,
            Request::Drain,
            Request::Status,
            Request::Show(name()),
            Request::Skip(name()),
            Request::Drop(name()),
            Request::Dump(name()),
            Request::Rewind(name(), To::Time(-7)),
            Request::Rewind(name(), To::Position(Position::new(3, 1400))),
            Request::Rewind(name(), To::Start),
        ] {
            let line = format!("{request}\n");
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(line.parse(), Ok(request));
        }
    }

    #[test]
    fn a_line_that_is_no_request_says_why() {
        for (line, words) in [
            ("", "one line"),
            ("{\"command\":\"list\"}", "one line"),
            ("nonsense\n", "no JSON"),
            ("[]\n", "knows no command"),
            ("{\"command\":\"explode\"}\n", "knows no command \"explode\""),
            ("{\"command\":\"show\"}\n", "names no mailbox"),
            ("{\"command\":\"rewind\",\"mailbox\":\"a\",\"to\":\"0:1\"}\n", "where to"),
            ("{\"command\":\"rewind\",\"mailbox\":\"a\",\"to\":{}}\n", "where to"),
        ] {
            let fault = line.parse::<Request>().unwrap_err();
            assert!(fault.contains(words), "{fault}");
        }
    }
}
