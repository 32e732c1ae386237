//! `--config`: a TOML file whose keys are the long flags.
//!
//! There is no second list of them: each entry of the file becomes an argument that clap parses,
//! before those of the command line. A flag that is added anywhere is a key of the file as well.

use std::{
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::cli::output::{one_line, suggestion};

/// Flags that belong on the command line only.
const NOT_IN_A_FILE: [&str; 4] = ["config", "check-config", "help", "version"];

#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct ConfigFile {
    /// A TOML file with flags: max-connections = 100
    ///
    /// The keys of the file are the long flags, without the dashes in front. A flag without a value
    /// is true or false; one that is repeatable takes a list. The command line wins: a flag there
    /// replaces that of the file, with all its values, and the flags that it excludes.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration and end
    ///
    /// Reads the configuration, opens the key stores and certificates, resolves the endpoints, and
    /// prints where the broker would listen; exit code 0, or one line about the fault. Nothing is
    /// started or listened on: a broker may be running meanwhile.
    #[arg(long)]
    pub(crate) check_config: bool,
}

/// The arguments, after those of the file that they name. `arguments` begin with the program's
/// name; faults in them are left to the parser of the result.
pub(crate) fn expand(command: &Command, mut arguments: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    // Finds the flags that are given; conflicts and the like do not matter yet.
    let Ok(given) = command.clone().ignore_errors(true).try_get_matches_from(&arguments) else {
        return Ok(arguments);
    };
    let Some(path) = given.get_one::<PathBuf>("config").filter(|_| given.subcommand_name().is_none()) else {
        return Ok(arguments);
    };
    let mut file = File { path, text: String::new(), command };
    file.text = fs::read_to_string(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::InvalidData => file.fault(None, &"is not UTF-8 (but UTF-16, say): save it as UTF-8"),
        _ => file.fault(None, &cause),
    })?;
    let from_file = file.arguments(&given)?;
    arguments.splice(1..1, from_file);
    Ok(arguments)
}

struct File<'a> {
    path: &'a Path,
    text: String,
    command: &'a Command,
}

/// A key of the file.
struct Entry<'a> {
    arg: &'a Arg,
    long: &'a str,
    at: usize,
    arguments: Vec<OsString>,
}

impl File<'_> {
    /// Every flag of the file that the command line does not replace, checked.
    fn arguments(&self, given: &ArgMatches) -> Result<Vec<OsString>, clap::Error> {
        let table = DeTable::parse(&self.text)
            .map_err(|cause| self.fault(cause.span().map(|span| span.start), &cause.message()))?;
        let mut keys: Vec<_> = table.get_ref().iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        let mut entries: Vec<Entry<'_>> = Vec::new();
        for (key, value) in keys {
            let entry = self.entry(key, value)?;
            if let Some(other) = entries.iter().find(|other| other.long == entry.long) {
                let first = self.line(other.at);
                return Err(self.key_fault(entry.at, key.get_ref(), &format_args!("stands in line {first} already")));
            }
            entries.push(entry);
        }
        self.check_together(&entries)?;
        entries.retain(|entry| !self.is_replaced(entry.arg, given));
        Ok(entries.into_iter().flat_map(|entry| entry.arguments).collect())
    }

    fn entry(&self, key: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) -> Result<Entry<'_>, clap::Error> {
        let name = key.get_ref().as_ref();
        let at = key.span().start;
        let long = name.replace('_', "-");
        if let DeValue::Table(_) = value.get_ref() {
            return Err(self.key_fault(at, name, &"sections are not used here: each flag is a line of its own"));
        }
        let known = self.command.get_arguments().find_map(|arg| Some((arg, arg.get_long().filter(|l| *l == long)?)));
        let Some((arg, long)) = known.filter(|(_, long)| !NOT_IN_A_FILE.contains(long)) else {
            if NOT_IN_A_FILE.contains(&&*long) {
                return Err(self.key_fault(at, name, &"belongs on the command line"));
            }
            let suggestion = self.suggestion(&long).map(|key| format!(": did you mean {key}?")).unwrap_or_default();
            return Err(self.key_fault(at, name, &format_args!("unknown key{suggestion}")));
        };
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        let values = match value.get_ref() {
            DeValue::Array(values) if is_list => values.iter().collect(),
            _ => vec![value],
        };
        let mut arguments = Vec::new();
        for value in values {
            let at = value.span().start;
            let argument = argument(arg, long, value.get_ref());
            let argument = argument.map_err(|cause| self.key_fault(at, name, &cause))?;
            if let Some(argument) = &argument {
                self.check(at, argument)?;
            }
            arguments.extend(argument);
        }
        Ok(Entry { arg, long, at, arguments })
    }

    /// Checks one argument alone.
    fn check(&self, at: usize, argument: &OsString) -> Result<(), clap::Error> {
        match self.parse([argument]) {
            Err(error) if is_about_a_value(error.kind()) => Err(self.fault(Some(at), &one_line(&error))),
            _ => Ok(()),
        }
    }

    /// Checks all arguments together. The error names the line of the first argument at fault.
    fn check_together(&self, entries: &[Entry<'_>]) -> Result<(), clap::Error> {
        match self.parse(entries.iter().flat_map(|entry| &entry.arguments)) {
            Err(error) if error.kind() == ErrorKind::ArgumentConflict => {
                let named = match error.get(ContextKind::InvalidArg) {
                    Some(ContextValue::String(named)) => named.split(' ').next(),
                    _ => None,
                };
                let entry =
                    entries.iter().find(|entry| named.and_then(|named| named.strip_prefix("--")) == Some(entry.long));
                Err(self.fault(entry.map(|entry| entry.at), &one_line(&error)))
            }
            // A flag that is required by another one may be on the command line.
            _ => Ok(()),
        }
    }

    fn parse<'b>(&self, arguments: impl IntoIterator<Item = &'b OsString>) -> Result<ArgMatches, clap::Error> {
        self.command.clone().no_binary_name(true).try_get_matches_from(arguments)
    }

    /// Whether the command line has the flag, or one that excludes it.
    fn is_replaced(&self, arg: &Arg, given: &ArgMatches) -> bool {
        let is_given = |arg: &Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let excludes = |one: &Arg, other: &Arg| {
            self.command.get_arg_conflicts_with(one).iter().any(|excluded| excluded.get_id() == other.get_id())
        };
        let mut given = self.command.get_arguments().filter(|other| is_given(other));
        given.any(|other| other.get_id() == arg.get_id() || excludes(other, arg) || excludes(arg, other))
    }

    /// The flag that clap takes this for.
    fn suggestion(&self, long: &str) -> Option<String> {
        let error = self.parse([&format!("--{long}").into()]).err()?;
        let key = suggestion(&error)?.strip_prefix("--")?.split([' ', '=']).next()?;
        (!NOT_IN_A_FILE.contains(&key)).then(|| key.to_owned())
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
    }

    fn key_fault(&self, at: usize, key: &str, what: &dyn fmt::Display) -> clap::Error {
        self.fault(Some(at), &format_args!("{}: {what}", key.escape_debug()))
    }

    fn fault(&self, at: Option<usize>, what: &dyn fmt::Display) -> clap::Error {
        let line = at.map(|at| format!(":{}", self.line(at))).unwrap_or_default();
        clap::Error::raw(ErrorKind::InvalidValue, format_args!("{}{line}: {what}", self.path.display()))
    }
}

/// The argument for one value, or `None` for a flag that is switched off.
fn argument(arg: &Arg, long: &str, value: &DeValue<'_>) -> Result<Option<OsString>, String> {
    let takes_value = arg.get_action().takes_values();
    let may_lack_value = !takes_value || arg.get_num_args().is_some_and(|count| count.min_values() == 0);
    let text = match value {
        DeValue::Boolean(on) if may_lack_value => return Ok(on.then(|| format!("--{long}").into())),
        DeValue::Boolean(on) if arg.get_possible_values().iter().any(|value| value.matches("true", true)) => {
            on.to_string()
        }
        DeValue::String(text) if takes_value => text.to_string(),
        DeValue::Integer(number) if takes_value => match number.radix() {
            10 => number.as_str().to_owned(),
            _ => return Err("write the number with decimal digits".to_owned()),
        },
        DeValue::Float(number) if takes_value => number.as_str().to_owned(),
        other => return Err(format!("takes {}, not {}", expected(arg), kind(other))),
    };
    Ok(Some(format!("--{long}={text}").into()))
}

fn expected(arg: &Arg) -> String {
    let name = arg.get_value_names().and_then(|names| names.first()).map_or("value", |name| name.as_str());
    match arg.get_action() {
        ArgAction::Append => format!("a {name} or a list of them"),
        action if action.takes_values() => format!("one {name}"),
        _ => "true or false".to_owned(),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn is_about_a_value(kind: ErrorKind) -> bool {
    use ErrorKind::{
        InvalidUtf8, InvalidValue, NoEquals, TooFewValues, TooManyValues, ValueValidation, WrongNumberOfValues,
    };
    matches!(
        kind,
        InvalidUtf8 | InvalidValue | NoEquals | TooFewValues | TooManyValues | ValueValidation | WrongNumberOfValues
    )
}
