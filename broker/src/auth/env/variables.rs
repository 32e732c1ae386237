//! Names and values of the environment variables that make a key.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::Read as _,
    path::Path,
};

use hpfeeds::wire::Ident;

use crate::auth::{AuthError, text::utf8};

/// The longest secret that is read from a file, in bytes: a wrong path may lead to a device without
/// an end.
const MAX_SECRET: u64 = 64 * 1024;

const FIELDS: [&str; 5] = ["_SECRET_FILE", "_SECRET", "_OWNER", "_PUBCHANS", "_SUBCHANS"];

/// The ident and field that a variable is for.
pub(super) fn parts(name: &str) -> Option<(&str, &'static str)> {
    let rest = name.trim_start_matches('\u{FEFF}').strip_prefix("HPFEEDS_")?;
    FIELDS.iter().find_map(|field| Some((rest.strip_suffix(field).filter(|ident| !ident.is_empty())?, *field)))
}

/// Whether a variable names a file with a secret.
pub(super) fn is_file(name: &OsStr) -> bool {
    name.to_str().and_then(parts).is_some_and(|(_, field)| field == "_SECRET_FILE")
}

/// The idents that variables make known, in upper case as they stand there, in order.
pub(super) fn idents(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<Ident> {
    let known = variables.filter(|(_, value)| !value.is_empty()).filter_map(|(name, _)| {
        let (ident, field) = parts(name.to_str()?)?;
        // One that is not in upper case is never looked up.
        let counts = matches!(field, "_SECRET" | "_SECRET_FILE") && ident == ident.to_uppercase();
        Ident::new(ident).ok().filter(|_| counts)
    });
    let mut idents: Vec<_> = known.collect();
    idents.sort_unstable();
    idents.dedup();
    idents
}

/// The error of two sources for one secret.
pub(super) fn both(upper: &str) -> AuthError {
    AuthError::new(format_args!(
        "HPFEEDS_{upper}_SECRET and HPFEEDS_{upper}_SECRET_FILE are both set: one of them is the secret"
    ))
}

/// The secret in a file. The error names the variable and the path.
pub(super) fn read(variable: &str, path: &Path) -> Result<String, AuthError> {
    // A value that is no whole path may be the secret itself, put into the wrong variable.
    let shown = if path.is_absolute() { path.display().to_string() } else { "the file that it names".to_owned() };
    let fail = |cause: &dyn fmt::Display| AuthError::new(format_args!("{variable}: {shown}: {cause}"));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|cause| fail(&cause))?;
    file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(|cause| fail(&cause))?;
    if bytes.len() as u64 > MAX_SECRET {
        return Err(fail(&format_args!("is longer than a secret of {MAX_SECRET} bytes")));
    }
    let text = utf8(&bytes).map_err(|cause| fail(&cause))?;
    let text = std::str::from_utf8(text).map_err(|_| fail(&"is not UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(fail(&"is empty")),
        secret => Ok(secret.to_owned()),
    }
}

/// The channels of a list.
pub(super) fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|entry| !entry.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn variables_with_a_secret_make_idents_known() {
        let variables = [
            ("HPFEEDS_COWRIE_SECRET", "s"),
            ("HPFEEDS_COWRIE_SECRET_FILE", ""),
            ("HPFEEDS_A-1.B_SECRET_FILE", "/run/secrets/a"),
            ("HPFEEDS_EMPTY_SECRET", ""),
            ("HPFEEDS_LISTS_PUBCHANS", "a"),
            ("HPFEEDS_lower_SECRET", "s"),
            ("HPFEEDS__SECRET", "s"),
            ("HPFEEDS_SECRET", "s"),
            ("PATH", "/bin"),
        ];
        let found = idents(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        assert_eq!(found, ["A-1.B", "COWRIE"].map(|ident| Ident::new(ident).unwrap()));
    }
}
