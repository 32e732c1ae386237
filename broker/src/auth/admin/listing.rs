//! The contents of a store: its keys, the ones that cannot be read, and remarks.

use crate::auth::{AuthError, entry::Entry, json::LISTS, remarks::Remarks};

/// The contents of a store.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// The keys that can be read, in the order of the idents.
    pub entries: Vec<Entry>,
    /// An error for each key that cannot be read: the store, the ident and the fault.
    pub faults: Vec<AuthError>,
    /// Entries that are probably not meant as they are written, such as `cowrie*` or an empty
    /// secret: at most 21 lines.
    pub remarks: Vec<String>,
}

impl Listing {
    pub(super) fn add(&mut self, entry: Result<Entry, AuthError>, lists: [&str; 2], remarks: &mut Remarks) {
        match entry {
            Ok(entry) => {
                entry.remark(lists, remarks);
                self.entries.push(entry);
            }
            Err(cause) => self.faults.push(cause),
        }
    }
}

/// Entries that are probably not meant as they are written, a line each: a `*` that stands for
/// itself, or an empty secret. At most 21 lines.
#[must_use]
pub fn remarks<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<String> {
    let mut remarks = Remarks::default();
    entries.into_iter().for_each(|entry| entry.remark(LISTS, &mut remarks));
    remarks.into_lines()
}
