//! `hpfeeds doctor` against every kind of peer that is met: its text, its exit code, and what it says to do.

mod broker;
mod hostile;
mod link;
mod peers;
mod secure;

use serde_json::Value;

use crate::support::tool;

/// The output of the tool, and its exit code.
pub(crate) struct Found {
    code: Option<i32>,
    text: String,
}

/// Runs `hpfeeds doctor` against a port of this machine.
fn doctor(port: u16, args: &[&str]) -> Found {
    let mut command = tool();
    command.args(["doctor", "--host", "127.0.0.1", "--port", &port.to_string()]).args(args);
    run(&mut command)
}

fn run(command: &mut assert_cmd::Command) -> Found {
    let output = command.env_remove("LC_ALL").env("LANG", "C").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    Found { code: output.status.code(), text: String::from_utf8(output.stdout).unwrap() }
}

impl Found {
    /// The lines of a check, without the indentation of those that follow the first, joined.
    fn check(&self, name: &str) -> Option<String> {
        let mut lines = self.text.lines().skip_while(|line| {
            let words: Vec<_> = line.split_whitespace().take(2).collect();
            !line.starts_with("  ") || words.get(1) != Some(&name)
        });
        let mut text = lines.next()?.trim().to_owned();
        for line in lines.take_while(|line| line.starts_with("      ")) {
            text.push(' ');
            text.push_str(line.trim());
        }
        Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// The check has this state, and says these.
    #[track_caller]
    fn says(&self, state: &str, name: &str, parts: &[&str]) {
        let check = self.check(name).unwrap_or_else(|| panic!("no {name} in {}", self.text));
        assert!(check.starts_with(&format!("{state} {name} ")), "{check}\n{}", self.text);
        for part in parts {
            assert!(check.contains(part), "{part:?} not in {check}");
        }
    }

    /// It ends with this code and this summary, but for the time.
    #[track_caller]
    fn ends(&self, code: i32, summary: &str) {
        assert_eq!(self.code, Some(code), "{}", self.text);
        let last = self.text.lines().last().unwrap();
        assert_eq!(last.rsplit_once(" in ").unwrap().0, summary, "{}", self.text);
    }

    fn json(&self) -> Value {
        assert_eq!(self.text.lines().count(), 1, "{}", self.text);
        serde_json::from_str(&self.text).unwrap()
    }
}
