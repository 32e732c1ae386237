//! Names and values of the environment variables that make a key.

use std::{ffi::OsStr, fmt, fs::File, io::Read as _, path::Path};

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
