//! Rows of the two tables, as text.

/// The columns of [`Table::columns`](super::table::Table::columns), each of which may be NULL, and
/// whether there is a table of [`Kept`].
pub(crate) type Row = [Option<String>; 6];

/// A row of the table [`kept`](super::kept).
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) ident: String,
    pub(crate) secret: String,
    /// In seconds since 1970; `None` for the secret of a disabled key.
    pub(crate) ends: Option<u64>,
    /// The secret of the key that the row was written for.
    pub(crate) beside: String,
}

impl Kept {
    /// `None`: a column is NULL, or the time is no number.
    pub(crate) fn new(row: Row) -> Option<Self> {
        let [ident, secret, ends, beside, ..] = row;
        let ends = ends?;
        let ends = if ends.is_empty() { None } else { Some(ends.parse().ok()?) };
        Some(Self { ident: ident?, secret: secret?, ends, beside: beside? })
    }
}

/// Whether a row says that there is a table of [`Kept`].
pub(crate) fn has_kept(row: &Row) -> bool {
    matches!(row[5].as_deref(), Some("1" | "true"))
}
