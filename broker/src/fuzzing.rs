//! What fuzz targets look at and programs must not.

/// See `scan.rs`; with plain numbers.
#[allow(missing_docs, reason = "for fuzz targets")]
pub mod scan {
    use hpfeeds::wire::{FrameRef, Header, Limits};

    use crate::{metrics::Sizes, util::scan};

    #[must_use]
    pub fn run(bytes: &[u8], max: u32) -> Option<(usize, usize)> {
        let limits = Limits::new(max);
        let first = Header::parse(bytes, limits).ok()??;
        let body = scan::body(bytes, first)?;
        let Ok(FrameRef::Publish { .. }) = FrameRef::parse(first.opcode, body) else {
            return None;
        };
        let extent = scan::run(bytes, first, scan::names(body)?, limits, &mut Sizes::new(0));
        Some((extent.len, extent.messages as usize))
    }

    #[must_use]
    pub fn portion(bytes: &[u8], max: u32, messages: u64, len: u64) -> (usize, usize) {
        let extent = scan::portion(bytes, Limits::new(max), messages, len);
        (extent.len, extent.messages as usize)
    }

    #[must_use]
    pub fn contents(run: &[u8]) -> Vec<(String, usize)> {
        scan::contents(run)
            .map(|(channel, messages)| (channel.to_owned(), usize::try_from(messages).unwrap_or_default()))
            .collect()
    }

    #[must_use]
    pub fn boundaries(run: &[u8], position: usize) -> (usize, usize) {
        (scan::frame_start(run, position), scan::frame_end(run, position))
    }
}

/// The strings and files that operators write.
#[cfg(feature = "cli")]
#[allow(missing_docs, reason = "for fuzz targets")]
pub mod operator {
    use std::ffi::OsString;

    use crate::{auth, cli};

    /// What the broker says to arguments: nothing, or one line.
    pub fn arguments(arguments: Vec<OsString>) -> Result<(), String> {
        cli::Cli::read_from(arguments).map(drop).map_err(|error| cli::one_line(&error))
    }

    /// A file of keys: the idents that it lets in.
    pub fn json(text: &[u8]) -> Result<usize, String> {
        auth::json::parse(text, &mut auth::Remarks::default()).map(|keys| keys.len())
    }

    /// A list of channels in a database.
    pub fn list(text: Option<String>) -> Result<Vec<String>, String> {
        auth::sql::list(text).map(|list| list.channels)
    }
}
