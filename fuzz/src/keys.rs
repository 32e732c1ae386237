//! Text that operators write: key files, lists in databases, environment variables, patterns, addresses of databases, the
//! configuration file. Nothing makes us panic, whatever is wrong is said on one line that names the place, and no line
//! shows a password.
//!
//! Input: what it is, and then that.

use std::{collections::HashMap, env::VarError, fs, path::PathBuf, sync::OnceLock};

use futures::FutureExt as _;
use hpfeeds::wire::Pattern;
use hpfeeds_broker::{
    AuthStore as _, DatabaseAddress, EnvStore,
    fuzzing::operator,
    keys::{from_json, to_json},
};

use crate::{endpoint::one_line, input::Input};

/// Nothing else holds these letters.
const PASSWORD: &str = "hunter2";

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 7 {
        0 => json(input.rest()),
        1 => list(input.rest()),
        2 => environment(&mut input),
        3 => pattern(&input.text(), &String::from_utf8_lossy(input.rest())),
        4 => config(&String::from_utf8_lossy(input.rest())),
        5 => address(&mut input),
        _ => argument(&String::from_utf8_lossy(input.rest())),
    }
}

fn json(text: &[u8]) {
    let entries = from_json(text);
    let idents = operator::json(text);
    for error in [entries.as_ref().err().map(ToString::to_string), idents.as_ref().err().cloned()].into_iter().flatten()
    {
        one_line(&error);
        assert!(
            ["user \"", "line ", "must hold", "is UTF-16"].iter().any(|place| error.contains(place)),
            "{error:?} names no place"
        );
        let names = String::from_utf8_lossy(text).replace(&format!("\"secret\": \"{PASSWORD}"), "");
        assert!(names.contains(PASSWORD) || !error.contains(PASSWORD), "{error:?} shows a secret");
    }
    let Ok(entries) = entries else {
        assert!(idents.is_err(), "a file that cannot be read lets nobody in");
        return;
    };
    if let Ok(idents) = idents {
        assert_eq!(idents, entries.len());
    }
    for entry in &entries {
        assert!(!format!("{entry:?}").contains("secret"), "its debug output leaves the secret out");
    }
    assert_eq!(
        from_json(to_json(&entries).expect("there is randomness").as_bytes()).ok(),
        Some(entries),
        "what is written reads the same"
    );
}

fn list(text: &[u8]) {
    match operator::list(String::from_utf8(text.to_vec()).ok()) {
        Ok(channels) => {
            let again = operator::list(Some(format!(
                "[{}]",
                channels.iter().map(|channel| quoted(channel)).collect::<Vec<_>>().join(",")
            )));
            assert_eq!(again, Ok(channels));
        }
        Err(error) => one_line(&error),
    }
}

/// As JSON has it, as plainly as can be.
fn quoted(text: &str) -> String {
    let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
    format!("\"{}\"", units.collect::<String>())
}

fn environment(input: &mut Input<'_>) {
    let (ident, lists) = (input.text(), [input.text(), input.text()]);
    let fields = ["SECRET", "OWNER", "PUBCHANS", "SUBCHANS"];
    let values = [input.text(), input.text(), lists[0].clone(), lists[1].clone()];
    let absent = input.byte();
    let variables = fields.iter().zip(values).enumerate().filter(|(at, _)| absent & (1 << at) == 0);
    let variables = variables.map(|(_, (field, value))| (format!("HPFEEDS_{}_{field}", ident.to_uppercase()), value));
    let variables: HashMap<_, _> = variables.collect();
    let known =
        variables.get(&format!("HPFEEDS_{}_SECRET", ident.to_uppercase())).is_some_and(|secret| !secret.is_empty());
    let store = EnvStore::with(move |name| variables.get(name).cloned().ok_or(VarError::NotPresent));
    let found = store.lookup(&ident).now_or_never().expect("it waits for nothing");
    match found {
        Ok(key) => assert_eq!(key.is_some(), known),
        Err(error) => one_line(&error.to_string()),
    }
}

fn pattern(text: &str, channel: &str) {
    let Ok(pattern) = Pattern::new(text) else {
        assert!(text.is_empty() || text.len() > 255);
        return;
    };
    assert_eq!(pattern.to_string(), text);
    for channel in [channel, text, &format!("{text}{channel}"), &format!("{}{channel}", text.trim_end_matches('*'))] {
        let below = |prefix: &str| channel.len() > prefix.len() && channel.starts_with(prefix);
        let is_pattern = text == "*" || text.ends_with(".*");
        let expected = text == channel || is_pattern && below(&text[..text.len() - 1]);
        assert_eq!(pattern.matches(channel), expected || text == "*", "{text:?} on {channel:?}");
    }
}

/// A configuration file, and nothing else on the command line.
fn config(text: &str) {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::temp_dir().join(format!("hpfeeds-fuzz-{}.toml", std::process::id())));
    fs::write(file, text).expect("the temporary folder can be written to");
    if let Err(error) = operator::arguments(vec!["broker".into(), "--config".into(), file.into()]) {
        one_line(&error);
        // A fault of the whole file has no line.
        let name = file.to_str().expect("a plain name");
        if let Some(rest) = error.strip_prefix(name) {
            let line =
                rest.strip_prefix(':').and_then(|rest| rest.split(':').next()).and_then(|line| line.parse().ok());
            assert!(line.is_none_or(|line| (1..=text.lines().count() + 1).contains(&line)), "{error}");
        }
        assert!(!holds_password(text) || !error.contains(PASSWORD), "{error:?} shows a password");
    }
}

/// One argument alone. Of control characters, which are not shown, nothing may come together to be the password.
fn argument(text: &str) {
    let text: String = text.chars().filter(|char| !char.is_control()).collect();
    if let Err(error) = operator::arguments(vec!["broker".into(), (&*text).into()]) {
        one_line(&error);
        assert!(!holds_password(&text) || !error.contains(PASSWORD), "{error:?} shows a password");
    }
}

/// Whether it stands where nothing but a password can be: behind a user's name and before the host.
fn holds_password(text: &str) -> bool {
    let times = text.matches(PASSWORD).count();
    times > 0 && times == text.matches(&format!("://u:{PASSWORD}@h")).count()
}

fn address(input: &mut Input<'_>) {
    let scheme = input.choose(&["postgresql", "mysql", "postgresql+asyncpg", "mariadb", "sqlite", "x"]);
    let (user, before, after) = (input.text(), input.text(), input.text());
    let text =
        format!("database+{scheme}://{user}:{before}{PASSWORD}{after}@{}", String::from_utf8_lossy(input.rest()));
    if text.matches(PASSWORD).count() > 1 {
        return;
    }
    let shown = match text.parse::<DatabaseAddress>() {
        Ok(address) => {
            assert_eq!(address, address.clone());
            format!("{address} {address:?}")
        }
        Err(error) => {
            one_line(&error);
            error
        }
    };
    // Of SQLite it is a file.
    assert!(scheme == "sqlite" || !shown.contains(PASSWORD), "{text:?} is shown as {shown:?}");
}
