//! `hpfeeds-broker drain`: has a running broker finish what it has, and says what is left.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::Value;

use super::{
    control::Folder,
    mailbox::{messages, number, plain, print},
    values::parse_seconds,
};
use crate::control::request::Request;

/// The interval of looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// Publishers that have not ended their streams do not matter once nothing has come for so long.
const QUIET: Duration = Duration::from_secs(2);

/// Prepare a running broker for its stop, and wait until nothing is left to do
///
/// It accepts no more connections, asks publishers to end their streams, and hands out nothing more from
/// mailboxes; consumers get what is queued for them. Publishers with a spool, or behind a relay, keep
/// what comes from now on. This ends when nothing is queued or on its way, and no publisher is left or
/// none has sent anything for 2 seconds. The broker goes on until it is stopped, and only a restart
/// lets it accept again. Exit code 1 if something is left at the end of the time.
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub(crate) struct DrainCommand {
    #[command(flatten)]
    folder: Folder,

    /// The longest wait
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    timeout: Duration,
}

impl DrainCommand {
    pub(crate) fn run(&self) -> Result<(), String> {
        let start = Instant::now();
        let (mut received, mut since, mut empty) = (None, start, 0);
        loop {
            let left = self.folder.ask(&Request::Drain, |_| Ok(()))?;
            let now = Instant::now();
            if received.replace(number(&left["received"])) != Some(number(&left["received"])) {
                since = now;
            }
            let is_quiet = now >= since + QUIET;
            let rest = rest(&left, is_quiet);
            // Twice: what has just been read may be on its way between two queues.
            empty = if rest.is_empty() { empty + 1 } else { 0 };
            if empty == 2 {
                return print(&done(&left));
            }
            if empty == 0 && now >= start + self.timeout {
                return Err(format!("not drained within {} s: {}", self.timeout.as_secs(), rest.join("; ")));
            }
            thread::sleep(INTERVAL);
        }
    }
}

/// The rest to wait for, each part in some words.
fn rest(left: &Value, is_quiet: bool) -> Vec<String> {
    let mut rest = Vec::new();
    let (publishers, queued) = (number(&left["publishers"]), number(&left["queued"]));
    if publishers > 0 && !is_quiet {
        rest.push(format!("{} still {}", connections(publishers), verb(publishers, "publishes", "publish")));
    }
    if queued > 0 {
        rest.push(format!("{} {} queued for consumers", messages(queued), verb(queued, "is", "are")));
    } else if number(&left["unwritten_bytes"]) > 0 {
        rest.push(format!("{} B are not yet written to consumers", number(&left["unwritten_bytes"])));
    }
    let waited_for = on_their_way(left).filter(|mailbox| mailbox["acknowledges"] == true);
    rest.extend(waited_for.map(|mailbox| {
        let (name, count) = (plain(&mailbox["mailbox"]), number(&mailbox["messages"]));
        format!("{name} has not acknowledged {}, which {} again", messages(count), verb(count, "comes", "come"))
    }));
    rest
}

/// The lines at the end: what a stop leaves behind.
fn done(left: &Value) -> String {
    let mut lines = vec![format!("drained: {} open; stop the broker now", connections(number(&left["connections"])))];
    let (publishers, waiting) = (number(&left["publishers"]), number(&left["waiting"]));
    if publishers > 0 {
        lines.push(format!("  {} may still publish: their streams are not ended", connections(publishers)));
    }
    if waiting > 0 {
        lines.push(format!("  {} {} in mailboxes, on disk", messages(waiting), verb(waiting, "waits", "wait")));
    }
    lines.extend(on_their_way(left).map(|mailbox| {
        let (name, most) = (plain(&mailbox["mailbox"]), number(&mailbox["messages"]));
        let come = verb(most, "comes", "come");
        format!("  {name}: at most {} {come} again, as its collector acknowledges nothing", messages(most))
    }));
    lines.join("\n") + "\n"
}

fn on_their_way(left: &Value) -> impl Iterator<Item = &Value> {
    left["on_their_way"].as_array().into_iter().flatten()
}

fn verb(count: u64, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

fn connections(count: u64) -> String {
    format!("{count} {}", if count == 1 { "connection" } else { "connections" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rest_names_what_is_waited_for_and_the_end_what_comes_again() {
        let left = json!({
            "publishers": 2, "received": 7, "queued": 1200, "waiting": 50, "connections": 4, "on_their_way": [
                {"mailbox": "a", "messages": 3, "acknowledges": true},
                {"mailbox": "b\u{1b}", "messages": 1, "acknowledges": false},
            ],
        });
        let expected = [
            "2 connections still publish",
            "1,200 messages are queued for consumers",
            "a has not acknowledged 3 messages, which come again",
        ];
        assert_eq!(rest(&left, false), expected);
        assert_eq!(rest(&left, true), expected[1..]);
        assert_eq!(
            done(&left).lines().collect::<Vec<_>>(),
            [
                "drained: 4 connections open; stop the broker now",
                "  2 connections may still publish: their streams are not ended",
                "  50 messages wait in mailboxes, on disk",
                "  a: at most 3 messages come again, as its collector acknowledges nothing",
                "  b\\u{1b}: at most 1 message comes again, as its collector acknowledges nothing",
            ]
        );
        let written = json!({"queued": 0, "unwritten_bytes": 4096});
        assert_eq!(rest(&written, false), ["4096 B are not yet written to consumers"]);
        let nothing = json!({"publishers": 0, "received": 7, "queued": 0, "waiting": 0, "connections": 1});
        assert!(rest(&nothing, false).is_empty());
        assert_eq!(done(&nothing), "drained: 1 connection open; stop the broker now\n");
    }
}
