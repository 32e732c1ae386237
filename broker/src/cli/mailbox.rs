//! `hpfeeds-broker mailbox`: shows the mailboxes of a running broker, and steers them.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use clap::{Args, Subcommand};
use hpfeeds::units::period;
use serde_json::Value;

use super::control::Folder;
use crate::{
    control::request::{Request, To, position},
    util::clock::unix_ms,
};

/// Show the mailboxes of a running broker, and steer them
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub(crate) struct MailboxCommand {
    #[command(flatten)]
    folder: Folder,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all mailboxes: what waits, since when, who is attached, what is stuck or lost
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one mailbox with its cursors, and what was lost by channel
    Show {
        /// IDENT or IDENT/NAME
        mailbox: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Deliver messages once more, from a time on
    Rewind {
        /// IDENT or IDENT/NAME
        mailbox: String,
        /// How far back: a time such as 90s, 30m, 2h or 7d; a position such as 3:1400; or start, for
        /// everything that is there
        #[arg(long, value_name = "TIME", value_parser = parse_back)]
        to: Back,
    },
    /// Pass over the message on which the collector crashes, into the dead letters
    Skip {
        /// IDENT or IDENT/NAME
        mailbox: String,
    },
    /// Forget all that waits, and begin with what comes from now on
    Drop {
        /// IDENT or IDENT/NAME
        mailbox: String,
    },
    /// Print the messages that wait as lines of JSON, and leave them
    Dump {
        /// IDENT or IDENT/NAME
        mailbox: String,
    },
}

/// How far a mailbox is set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    By(Duration),
    To(To),
}

fn parse_back(text: &str) -> Result<Back, String> {
    if text == "start" {
        return Ok(Back::To(To::Start));
    }
    if text.contains(':') {
        return position(text).map(|position| Back::To(To::Position(position))).ok_or("no position as 3:1400".into());
    }
    period(text).map(Back::By).map_err(str::to_owned)
}

impl MailboxCommand {
    pub(crate) fn run(&self) -> Result<(), String> {
        let none = |_: &Value| Ok(());
        match &self.action {
            Action::List { json } => {
                let list = self.folder.ask(&Request::List, none)?;
                print(&if *json { format!("{list:#}\n") } else { table(&list, unix_ms()) })
            }
            Action::Show { mailbox, json } => {
                let shown = self.folder.ask(&Request::Show(mailbox.clone()), none)?;
                print(&if *json { format!("{shown:#}\n") } else { describe(&shown, unix_ms()) })
            }
            Action::Rewind { mailbox, to } => {
                let to = match *to {
                    Back::To(to) => to,
                    Back::By(time) => {
                        To::Time(unix_ms().saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)))
                    }
                };
                let done = self.folder.ask(&Request::Rewind(mailbox.clone(), to), none)?;
                print(&format!(
                    "{}: goes on behind {}; {} to deliver\n",
                    plain(&done["mailbox"]),
                    plain(&done["to"]),
                    messages(number(&done["messages"])),
                ))
            }
            Action::Skip { mailbox } => {
                let done = self.folder.ask(&Request::Skip(mailbox.clone()), none)?;
                print(&format!("{}: passes over {}\n", plain(&done["mailbox"]), plain(&done["skipped"])))
            }
            Action::Drop { mailbox } => {
                let done = self.folder.ask(&Request::Drop(mailbox.clone()), none)?;
                let dropped = messages(number(&done["dropped"]));
                print(&format!("{}: has forgotten {dropped}\n", plain(&done["mailbox"])))
            }
            Action::Dump { mailbox } => {
                let mut out = io::stdout().lock();
                let done = self.folder.ask(&Request::Dump(mailbox.clone()), |message| {
                    writeln!(out, "{message}").map_err(|cause| match cause.kind() {
                        io::ErrorKind::BrokenPipe => "nobody reads the output any more".to_owned(),
                        _ => format!("cannot print: {cause}"),
                    })
                })?;
                match number(&done["unreadable"]) {
                    0 => Ok(()),
                    missing => Err(format!("{} of these and others cannot be read", messages(missing))),
                }
            }
        }
    }
}

/// One screen of 80 columns: a line for each mailbox, and what is wrong under it.
fn table(list: &Value, now_ms: i64) -> String {
    let mut text = String::new();
    let mailboxes = list["mailboxes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width = mailboxes.iter().map(|one| plain(&one["mailbox"]).chars().count()).max().unwrap_or(0).clamp(7, 26);
    let line = |cells: [&str; 5]| {
        let [name, messages, bytes, oldest, attached] = cells;
        let line = format!("{name:<width$}  {messages:>11}  {bytes:>8}  {oldest:>7}  {attached}");
        line.trim_end().chars().take(80).chain(['\n']).collect::<String>()
    };
    text += &line(["MAILBOX", "MESSAGES", "BYTES", "OLDEST", "ATTACHED"]);
    for one in mailboxes {
        let at_least = if one["at_least"] == true { ">" } else { "" };
        let waiting = format!("{at_least}{}", grouped(number(&one["messages"])));
        let oldest = one["oldest_ms"].as_i64().map_or("-".to_owned(), |oldest| age(now_ms - oldest));
        let name: String = plain(&one["mailbox"]).chars().take(width).collect();
        text += &line([&name, &waiting, &size(number(&one["bytes"])), &oldest, &attached(one, now_ms)]);
        for fault in faults(one) {
            text += &format!("  {fault}").chars().take(80).chain(['\n']).collect::<String>();
        }
    }
    if mailboxes.is_empty() {
        text += "none is declared: --mailbox 'IDENT=CHANNEL,...' does\n";
    }
    text += &journal(&list["journal"]);
    text
}

/// The faults that a person should know of: stuck and lost messages, and why.
fn faults(one: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    if one["expired"] == true {
        faults.push("expired: without a connection for too long; the next one begins anew".to_owned());
    } else if one["subscribed"] == false {
        faults.push("nobody has ever subscribed".to_owned());
    }
    if let Some(stuck) = one["stuck"].as_object() {
        let crashes = number(&stuck["crashes"]);
        faults.push(format!("stuck: crashed {crashes} times on {}; mailbox skip", plain(&stuck["position"])));
    } else if number(&one["failures"]) >= 3 {
        faults.push(format!("stuck: {} connections in a row without progress", number(&one["failures"])));
    }
    if let Some(lost) = one["lost"].as_object().filter(|lost| !lost.is_empty()) {
        let reasons: Vec<_> =
            lost.iter().map(|(reason, count)| format!("{reason} {}", grouped(number(count)))).collect();
        faults.push(format!("lost: {}", reasons.join(", ")));
    }
    if number(&one["denied"]) > 0 {
        faults.push(format!("not allowed by the key: {}", grouped(number(&one["denied"]))));
    }
    faults
}

/// The attached collector's address, or since when there is none.
fn attached(one: &Value, now_ms: i64) -> String {
    if one["attached"] == true {
        return plain(&one["address"]);
    }
    match one["seen_ms"].as_i64() {
        Some(seen) => format!("no, for {}", age(now_ms - seen)),
        None => "no".to_owned(),
    }
}

fn journal(journal: &Value) -> String {
    format!(
        "journal: {}, {} of {} used, {} of disk free\n",
        plain(&journal["health"]),
        size(number(&journal["bytes"])),
        size(number(&journal["limit"])),
        size(number(&journal["disk_free"])),
    )
}

/// One mailbox, a line for each of its facts.
fn describe(one: &Value, now_ms: i64) -> String {
    let mut lines: Vec<(&str, String)> = vec![("mailbox", plain(&one["mailbox"]))];
    let at_least = if one["at_least"] == true { "at least " } else { "" };
    let bytes = size(number(&one["bytes"]));
    lines.push(("waiting", format!("{at_least}{}, {bytes}", messages(number(&one["messages"])))));
    if let Some(oldest) = one["oldest_ms"].as_i64() {
        lines.push(("oldest", age(now_ms - oldest)));
    }
    lines.push(("on its way", messages(number(&one["on_its_way"]))));
    lines.push(("attached", attached(one, now_ms)));
    lines.push(("connections", number(&one["connections"]).to_string()));
    lines.extend(faults(one).into_iter().map(|fault| ("note", fault)));
    for cursor in one["cursors"].as_array().into_iter().flatten() {
        lines.push(("cursor", format!("{} {}", plain(&cursor["cursor"]), plain(&cursor["channel"]))));
    }
    for loss in one["losses"].as_array().into_iter().flatten() {
        let channel = loss["channel"].as_str().map_or_else(|| "other channels".to_owned(), clean);
        lines.push((
            "lost",
            format!("{} of {channel} ({})", messages(number(&loss["messages"])), plain(&loss["reason"])),
        ));
    }
    let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name:<13}{value}")).collect();
    lines.join("\n") + "\n"
}

pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

pub(super) fn messages(count: u64) -> String {
    format!("{} {}", grouped(count), if count == 1 { "message" } else { "messages" })
}

/// A text for a terminal.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map(clean).unwrap_or_default()
}

fn clean(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { char.escape_default().to_string() } else { char.to_string() })
        .collect()
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that they have twice of.
fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= 2 * unit) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

/// A time in the largest unit that it has twice of.
fn age(ms: i64) -> String {
    let seconds = u64::try_from(ms).unwrap_or_default() / 1000;
    match [(86_400, "d"), (3600, "h"), (60, "min")].into_iter().find(|(unit, _)| seconds >= 2 * unit) {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

/// Prints to stdout.
pub(super) fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot print: {cause}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_of_mailboxes_fits_a_screen_and_says_what_is_wrong() {
        let now = 1_800_000_000_000;
        let list = json!({
            "journal": { "health": "good", "bytes": 5_u64 << 30, "limit": 10_u64 << 30, "disk_free": 123_u64 << 30 },
            "mailboxes": [
                {
                    "mailbox": "collector", "messages": 0, "bytes": 0, "at_least": false, "oldest_ms": null,
                    "attached": true, "address": "2001:db8::1234:5678:9abc:def0", "subscribed": true, "lost": {},
                },
                {
                    "mailbox": "elastic/a-mailbox-with-a-very-long-name", "messages": 1_234_567, "bytes": 3_000_000_000_u64,
                    "at_least": true, "oldest_ms": now - 7_300_000, "attached": false, "seen_ms": now - 90_000,
                    "subscribed": true, "stuck": { "position": "3:1400", "crashes": 7 },
                    "lost": { "retention": 12_000, "damage": 3 }, "denied": 4,
                },
                { "mailbox": "new\u{1b}", "messages": 1, "bytes": 99, "seen_ms": now, "subscribed": false },
            ],
        });
        let text = table(&list, now);
        let expected = "\
MAILBOX                        MESSAGES     BYTES   OLDEST  ATTACHED
collector                             0       0 B        -  2001:db8::1234:5678:
elastic/a-mailbox-with-a-v   >1,234,567     2 GiB      2 h  no, for 90 s
  stuck: crashed 7 times on 3:1400; mailbox skip
  lost: damage 3, retention 12,000
  not allowed by the key: 4
new\\u{1b}                             1      99 B        -  no, for 0 s
  nobody has ever subscribed
journal: good, 5 GiB of 10 GiB used, 123 GiB of disk free
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= 80));
        assert!(table(&json!({ "mailboxes": [], "journal": {} }), now).contains("none is declared"));
    }

    #[test]
    fn a_mailbox_is_described_with_cursors_and_losses() {
        let one = json!({
            "mailbox": "c", "messages": 1, "bytes": 10, "attached": false, "seen_ms": 0, "subscribed": true,
            "oldest_ms": 0, "failures": 3, "connections": 0, "on_its_way": 0,
            "cursors": [{ "channel": "a.*", "cursor": "2:7" }],
            "losses": [{ "reason": "retention", "channel": "a.b", "messages": 5 }, { "reason": "damage", "messages": 1 }],
        });
        let text = describe(&one, 60_000);
        for line in [
            "waiting      1 message, 10 B",
            "oldest       60 s",
            "note         stuck: 3 connections in a row without progress",
            "cursor       2:7 a.*",
            "lost         5 messages of a.b (retention)",
            "lost         1 message of other channels (damage)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} in {text}");
        }
    }

    #[test]
    fn a_way_back_is_a_time_a_position_or_the_start() {
        assert_eq!(parse_back("2h"), Ok(Back::By(Duration::from_secs(7200))));
        assert_eq!(parse_back("start"), Ok(Back::To(To::Start)));
        assert!(matches!(parse_back("3:1400"), Ok(Back::To(To::Position(_)))));
        for text in ["", "yesterday", "0:1", "1:", "-2h"] {
            assert!(parse_back(text).is_err(), "{text}");
        }
    }
}
