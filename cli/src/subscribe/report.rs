//! The report of `subscribe --report`: how many messages there were by channel, ident and field.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::field::{Field, Looked};
use crate::{escape::write_json, exit, words::shown};

/// Values that a table tells apart; senders can make up any number of them.
const MOST: usize = 10_000;

/// Values of a table that are shown.
const TOP: usize = 20;

/// The counts since the start.
pub(crate) struct Report {
    begun: Instant,
    messages: u64,
    bytes: u64,
    tables: Vec<Table>,
    as_json: bool,
}

/// The messages by the values of one field.
struct Table {
    field: Field,
    counts: HashMap<String, u64>,
    /// Messages that have no such field.
    without: u64,
    /// Messages with values that came when the table was full.
    not_told_apart: u64,
}

impl Report {
    /// Of channel, ident and these fields.
    pub(crate) fn new(fields: &[Field], as_json: bool) -> Self {
        let always = [Field::channel(), Field::ident()];
        let more: Vec<_> = fields.iter().filter(|field| !always.contains(field)).cloned().collect();
        let table = |field| Table { field, counts: HashMap::new(), without: 0, not_told_apart: 0 };
        let tables = always.into_iter().chain(more).map(table).collect();
        Self { begun: Instant::now(), messages: 0, bytes: 0, tables, as_json }
    }

    pub(crate) fn count(&mut self, looked: &Looked<'_>) {
        self.messages += 1;
        self.bytes += looked.message.2.len() as u64;
        for table in &mut self.tables {
            table.count(looked);
        }
    }

    /// Appends the report of now.
    pub(crate) fn write(&self, to: &mut Vec<u8>) -> io::Result<()> {
        let elapsed = self.begun.elapsed();
        if self.as_json { self.json(to, elapsed, Timestamp::now()) } else { self.text(to, elapsed) }
    }

    fn json(&self, to: &mut Vec<u8>, elapsed: Duration, now: Timestamp) -> io::Result<()> {
        let report = json!({
            "time": format!("{now:.3}"),
            "seconds": (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
            "messages": self.messages,
            "bytes": self.bytes,
            "fields": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
        });
        write_json(to, &report.to_string())?;
        to.write_all(b"\n")
    }

    fn text(&self, to: &mut Vec<u8>, elapsed: Duration) -> io::Result<()> {
        let (messages, bytes) = (exit::messages(self.messages), exit::count(self.bytes, "byte"));
        writeln!(to, "{messages} with {bytes} in {:.1} s", elapsed.as_secs_f64())?;
        self.tables.iter().try_for_each(|table| table.text(to))?;
        to.write_all(b"\n")
    }
}

impl Table {
    fn count(&mut self, looked: &Looked<'_>) {
        let Some(value) = self.field.of(looked) else {
            self.without += 1;
            return;
        };
        // As it is shown: longer ones count as one when they begin alike.
        let value = shown(&value.text());
        if let Some(count) = self.counts.get_mut(&value) {
            *count += 1;
        } else if self.counts.len() < MOST {
            self.counts.insert(value, 1);
        } else {
            self.not_told_apart += 1;
        }
    }

    /// The values that are shown, most frequent first, and how many values and messages are not.
    fn top(&self) -> (Vec<(&str, u64)>, u64, u64) {
        let mut all: Vec<_> = self.counts.iter().map(|(value, count)| (value.as_str(), *count)).collect();
        all.sort_unstable_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(other.0)));
        let rest = all.split_off(all.len().min(TOP));
        (all, rest.len() as u64, rest.iter().map(|(_, count)| count).sum())
    }

    fn text(&self, to: &mut Vec<u8>) -> io::Result<()> {
        let (top, more_values, more_messages) = self.top();
        let values = exit::count(self.counts.len() as u64, "value");
        writeln!(to, "{} ({values})", shown(self.field.name.as_bytes()))?;
        for (value, count) in top {
            writeln!(to, "{count:>10}  {value}")?;
        }
        if more_values > 0 {
            writeln!(to, "{more_messages:>10}  with {}, left out", exit::count(more_values, "more value"))?;
        }
        if self.not_told_apart > 0 {
            writeln!(to, "{:>10}  with values that are not told apart: the table holds {MOST}", self.not_told_apart)?;
        }
        if self.without > 0 {
            writeln!(to, "{:>10}  without it", self.without)?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let (top, more_values, more_messages) = self.top();
        let top = top.iter().map(|(value, messages)| json!({"value": value, "messages": messages}));
        json!({
            "field": self.field.name,
            "values": self.counts.len(),
            "top": top.collect::<Vec<_>>(),
            "left_out": {"values": more_values, "messages": more_messages},
            "not_told_apart": self.not_told_apart,
            "without": self.without,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::subscribe::field::tests::message;

    fn report(fields: &str, payloads: impl IntoIterator<Item = String>) -> Report {
        let mut report = Report::new(&Field::parse_list(fields).unwrap(), false);
        for payload in payloads {
            report.count(&Looked::at(&message(payload.as_bytes())));
        }
        report
    }

    fn text(report: &Report) -> String {
        let mut text = Vec::new();
        report.text(&mut text, Duration::from_millis(1500)).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn values_are_counted_by_field() {
        let payloads = [r#"{"ip":"b"}"#, r#"{"ip":"a"}"#, r#"{"ip":"b"}"#, "no JSON", r#"{"ip":"\u001b[2J\n"}"#];
        let report = report("ip,ident", payloads.map(str::to_owned));
        let expected = "5 messages with 57 bytes in 1.5 s\n\
                        channel (1 value)\n         5  a.b\n\
                        ident (1 value)\n         5  sensor-1\n\
                        ip (3 values)\n         2  b\n         1  \\u{1b}[2J\\n\n         1  a\n         1  without it\n\n";
        assert_eq!(text(&report), expected);
        let mut line = Vec::new();
        report.json(&mut line, Duration::from_millis(1500), Timestamp::UNIX_EPOCH).unwrap();
        let found: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&found["time"], &found["seconds"]), (&json!("1970-01-01T00:00:00.000Z"), &json!(1.5)));
        assert_eq!((&found["messages"], &found["bytes"]), (&json!(5), &json!(57)));
        let expected = json!({"field": "ip", "values": 3, "left_out": {"values": 0, "messages": 0}, "not_told_apart": 0,
            "without": 1, "top": [{"value": "b", "messages": 2}, {"value": "\\u{1b}[2J\\n", "messages": 1},
            {"value": "a", "messages": 1}]});
        assert_eq!(found["fields"][2], expected);
    }

    #[test]
    fn a_table_says_what_it_leaves_off() {
        let values = (0..MOST + 5).chain([0, 0]).map(|number| format!(r#"{{"n":"{number:05}"}}"#));
        let report = report("n", values);
        let text = text(&report);
        let table = text.split_once("n (10000 values)\n").unwrap().1;
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "         3  00000");
        assert_eq!(lines[TOP - 1], format!("         1  {:05}", TOP - 1));
        assert_eq!(lines[TOP], "      9980  with 9980 more values, left out");
        assert_eq!(lines[TOP + 1], "         5  with values that are not told apart: the table holds 10000");
        // Each message is in one line of the table.
        let sum = lines.iter().filter_map(|line| line.trim().split_once("  ")?.0.parse::<u64>().ok()).sum::<u64>();
        assert_eq!(sum, report.messages);
    }

    #[test]
    fn long_values_are_cut() {
        let payloads = ["x".repeat(1 << 20), "x".repeat(1 << 19)].map(|long| format!(r#"{{"a":"{long}"}}"#));
        let report = report("a,payload", payloads);
        assert_eq!(report.tables[2].counts.len(), 1);
        assert!(text(&report).len() < 1000);
    }
}
