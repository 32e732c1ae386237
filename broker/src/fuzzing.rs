//! Internals for fuzz targets, which programs must not use.

/// The strings and files that operators write.
#[cfg(all(feature = "cli", feature = "_sql"))]
#[allow(missing_docs, reason = "for fuzz targets")]
pub mod operator {
    use std::ffi::OsString;

    use crate::{auth, cli};

    /// The one-line error about arguments, if there is one.
    pub fn arguments(arguments: Vec<OsString>) -> Result<(), String> {
        cli::arguments::Cli::read_from(arguments).map(drop).map_err(|error| cli::output::one_line(&error))
    }

    /// A file of keys: the idents that it lets in.
    pub fn json(text: &[u8]) -> Result<usize, String> {
        auth::json::parse(text, &mut auth::remarks::Remarks::default()).map(|keys| keys.len())
    }

    /// A list of channels in a database.
    pub fn list(text: Option<String>) -> Result<Vec<String>, String> {
        auth::sql::database::list(text).map(|list| list.channels)
    }
}
