//! The operators' manual, beside the log lines in the sources.

use std::{fs, path::Path};

const MANUAL: &str = include_str!("../../../docs/operating.md");

/// The text of all sources below a folder.
fn sources(folder: &Path) -> String {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: &Path| if path.is_dir() { sources(path) } else { fs::read_to_string(path).unwrap() };
    files.map(|path| text(&path)).collect()
}

/// A section of the manual.
fn section(title: &str) -> &'static str {
    let (_, rest) = MANUAL.split_once(&format!("\n## {title}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// The texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether a quoted text can be a log line, rather than a flag, a metric or a command.
fn is_line(text: &&str) -> bool {
    text.contains(' ') && text.chars().all(|char| char.is_ascii_lowercase() || " :,'…".contains(char))
}

#[test]
fn log_lines_of_the_manual_are_in_the_sources() {
    let table = section("The log").lines().filter_map(|row| row.strip_prefix("| `")?.split(" | ").next());
    let mut lines: Vec<_> = table.flat_map(|cell| cell.split('`').step_by(2)).filter(|line| !line.is_empty()).collect();
    assert!(lines.len() > 30, "{lines:?}");
    let told = lines.len();
    lines.extend(quoted(section("Nothing arrives")).filter(is_line));
    assert!(lines.len() > told + 10, "{:?}", &lines[told..]);
    let sources = sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    for line in lines {
        // A part of some lines is put in when they are written: the cause, say.
        let parts = line.split(['…', ':']).map(str::trim).filter(|part| !part.is_empty());
        for part in parts {
            assert!(sources.contains(part), "docs/operating.md has a log line that no source has: {line}");
        }
    }
}
