//! Remarks about environment variables, where a mistake is no error: the key is another one, or
//! none.

use std::{collections::BTreeMap, ffi::OsString, fmt, path::Path};

use hpfeeds::wire::Pattern;

use super::variables::{both, entries, parts, read};
use crate::auth::remarks::Remarks;

const EXPECTED: &str = "there is no key in the environment: HPFEEDS_<IDENT>_SECRET or HPFEEDS_<IDENT>_SECRET_FILE makes one, \
    with HPFEEDS_<IDENT>_PUBCHANS and HPFEEDS_<IDENT>_SUBCHANS, and the ident in upper case";

/// Remarks, in the order of the variables' names. Reads the files that the variables name.
pub(super) fn on(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<String> {
    let named = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let all: BTreeMap<String, OsString> = named.filter(|(name, _)| parts(name).is_some()).collect();
    let is_set =
        |ident: &str, field: &str| all.get(&format!("HPFEEDS_{ident}{field}")).is_some_and(|value| !value.is_empty());
    let mut remarks = Remarks::default();
    let mut keys = 0;
    for (name, value) in &all {
        let Some((ident, field)) = parts(name) else { continue };
        let mut odd = |what: fmt::Arguments<'_>| remarks.add(format_args!("{name:?} {what}"));
        let proper = format!("HPFEEDS_{}{field}", ident.to_uppercase());
        if *name != proper {
            odd(format_args!("is never looked at: the broker looks at {proper:?}"));
            continue;
        }
        let Some(value) = value.to_str() else {
            odd(format_args!("is not UTF-8"));
            continue;
        };
        around(value, &mut odd);
        let has_secret = is_set(ident, "_SECRET") || is_set(ident, "_SECRET_FILE");
        match field {
            "_SECRET" | "_SECRET_FILE" if value.is_empty() && !has_secret => {
                odd(format_args!("is empty: there is no such key"));
            }
            "_SECRET" => keys += usize::from(!value.is_empty()),
            "_SECRET_FILE" if value.is_empty() => {}
            "_SECRET_FILE" => {
                keys += 1;
                if is_set(ident, "_SECRET") {
                    remarks.add(format_args!("{}", both(ident)));
                } else if let Err(cause) = read(name, Path::new(value)) {
                    remarks.add(format_args!("{cause}"));
                }
            }
            _ if !has_secret => {
                odd(format_args!("counts for nothing: HPFEEDS_{ident}_SECRET is not set"));
            }
            "_PUBCHANS" | "_SUBCHANS" => list(value, &mut odd),
            _ => {}
        }
    }
    if keys == 0 {
        remarks.add(format_args!("{EXPECTED}"));
    }
    remarks.into_lines()
}

/// Remarks on quotes, blanks or line breaks around a value, which no shell has taken away.
fn around(value: &str, odd: &mut impl FnMut(fmt::Arguments<'_>)) {
    let trimmed = value.trim();
    if ['"', '\''].into_iter().any(|quote| trimmed.len() > 1 && trimmed.starts_with(quote) && trimmed.ends_with(quote))
    {
        odd(format_args!("has quotes around its value, which are part of it (docker's --env-file keeps them)"));
    }
    if trimmed.len() < value.len() {
        odd(format_args!("begins or ends with a blank or line break, which is part of its value"));
    }
}

/// Remarks on a list: as in the Python broker, blanks in it are parts of the channels.
fn list(value: &str, odd: &mut impl FnMut(fmt::Arguments<'_>)) {
    let list = value.trim();
    if entries(list).any(|channel| channel.trim().len() < channel.len()) {
        odd(format_args!("has blanks beside its commas, which are part of the channels"));
    }
    if entries(list).any(|channel| Pattern::new(channel).is_ok_and(|pattern| pattern.has_literal_star())) {
        odd(format_args!("holds a * that stands for itself: a pattern is * or ends in .*"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remarks(variables: &[(&str, &str)]) -> Vec<String> {
        on(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn ordinary_variables_are_not_remarked_on() {
        let variables = [
            ("HPFEEDS_BOB_SECRET", "it's \"quoted\" within"),
            ("HPFEEDS_BOB_OWNER", "the lab"),
            ("HPFEEDS_BOB_PUBCHANS", "a,b.*,,*"),
            ("HPFEEDS_HOST", " of the tool "),
            ("HPFEEDS_SECRET", "of the tool"),
            ("HPFEEDS_SECRET_FILE", "of nobody"),
            ("PATH", "\"x\""),
        ];
        assert_eq!(remarks(&variables), [""; 0]);
    }

    #[test]
    fn no_key_at_all_says_what_is_expected() {
        let lines = remarks(&[("HPFEEDS_SECRET", "of the tool")]);
        assert_eq!(lines, [EXPECTED]);
        assert!(EXPECTED.contains("HPFEEDS_<IDENT>_SECRET "));
    }

    #[test]
    fn each_mistake_names_its_variable_and_never_the_value() {
        let long = "holds a * that stands for itself";
        let cases = [
            ("HPFEEDS_A_SECRET", "\"hunter2\"", "has quotes around"),
            ("HPFEEDS_A_SECRET", "'hunter2'\r", "has quotes around"),
            ("HPFEEDS_A_SECRET", "hunter2 ", "begins or ends with a blank or line break"),
            ("HPFEEDS_A_SECRET", "hunter2\r", "begins or ends with a blank or line break"),
            ("HPFEEDS_B_SECRET", "", "is empty: there is no such key"),
            ("HPFEEDS_b_SECRET", "hunter2", "is never looked at: the broker looks at \"HPFEEDS_B_SECRET\""),
            ("\u{FEFF}HPFEEDS_B_SECRET", "hunter2", "is never looked at"),
            ("HPFEEDS_B_PUBCHANS", "hunter2", "counts for nothing: HPFEEDS_B_SECRET is not set"),
            ("HPFEEDS_A_PUBCHANS", "x, hunter2", "has blanks beside its commas"),
            ("HPFEEDS_A_SUBCHANS", "\"x,hunter2\"", "has quotes around"),
            ("HPFEEDS_A_SUBCHANS", "hunter2*", long),
            ("HPFEEDS_A_SUBCHANS", "*.hunter2", long),
        ];
        for (name, value, expected) in cases {
            let mut variables = vec![(name, value)];
            variables.extend((name != "HPFEEDS_A_SECRET").then_some(("HPFEEDS_A_SECRET", "s")));
            let lines = remarks(&variables);
            assert!(lines.iter().any(|line| line.contains(expected)), "{name}: {lines:?}");
            assert!(
                lines.iter().all(|line| line.contains(&format!("{name:?}")) && !line.contains("hunter2")),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let lines = remarks(&[("HPFEEDS_A_SECRET_FILE", "hunter2")]);
        assert!(
            lines.len() == 1 && lines[0].starts_with("HPFEEDS_A_SECRET_FILE: the file that it names: No such"),
            "{lines:?}",
        );
        let lines = remarks(&[("HPFEEDS_A_SECRET_FILE", "/nonexistent/x")]);
        assert!(
            lines.len() == 1 && lines[0].starts_with("HPFEEDS_A_SECRET_FILE: /nonexistent/x: No such"),
            "{lines:?}"
        );
        let lines = remarks(&[("HPFEEDS_A_SECRET_FILE", "/nonexistent/x"), ("HPFEEDS_A_SECRET", "hunter2")]);
        assert!(lines.len() == 1 && lines[0].contains("are both set"), "{lines:?}");
    }
}
