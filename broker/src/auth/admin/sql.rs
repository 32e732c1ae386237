//! Changes of keys in a database, in one transaction.

use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;

use super::{
    change::{Change, Fields, Idents},
    format::nobodys_secret,
    listing::Listing,
};
use crate::auth::{
    AuthError,
    entry::Entry,
    remarks::Remarks,
    sql::{
        address::DatabaseAddress,
        connection::Connection,
        create::NewFile,
        database::Database,
        dialect::Dialect,
        kept,
        row::{Kept, Row, has_kept},
        table::Table,
    },
};

/// The longest time that connecting takes, and each statement.
const DEADLINE: Duration = Duration::from_secs(10);

/// The longest wait for another program that changes keys, in seconds: less than [`DEADLINE`].
const LOCK_SECONDS: u32 = 8;

/// The most keys that one INSERT adds: a round trip for each would take minutes over a long line.
const CHUNK: usize = 200;

/// A connection with a deadline for each statement, and errors that name the database.
struct Session<'a> {
    database: &'a Database,
    connection: Connection,
    /// Whether there is a table of old secrets, once a change is under way.
    has_kept: bool,
}

pub(super) async fn all(database: &Database) -> Result<Listing, AuthError> {
    let mut session = Session::open(database).await?;
    let dialect = session.dialect();
    let sql = database.table().select(dialect);
    let rows = session.rows(&sql, &[]).await?;
    let mut kept: HashMap<String, Vec<Kept>> = HashMap::new();
    if rows.first().is_some_and(has_kept) {
        for row in session.rows(&kept::select(dialect), &[]).await?.into_iter().filter_map(Kept::new) {
            kept.entry(row.ident.clone()).or_default().push(row);
        }
    }
    session.close().await;
    Ok(listing(database, rows, &kept))
}

fn listing(database: &Database, rows: Vec<Row>, kept: &HashMap<String, Vec<Kept>>) -> Listing {
    let (mut listing, mut remarks) = (Listing::default(), Remarks::default());
    for row in rows {
        let kept = row[0].as_ref().and_then(|ident| kept.get(ident)).map_or(&[][..], Vec::as_slice);
        listing.add(database.entry(row, kept, &mut remarks), database.table().lists(), &mut remarks);
    }
    listing.entries.sort_by(|a, b| a.ident.cmp(&b.ident));
    listing.remarks = remarks.into_lines();
    listing
}

pub(super) async fn get(database: &Database, ident: &str) -> Result<Option<Entry>, AuthError> {
    let mut session = Session::open(database).await?;
    let found = session.find(ident).await?;
    session.close().await;
    found.map(|(row, kept)| database.entry(row, &kept, &mut Remarks::default())).transpose()
}

/// Makes all of the changes or none: when the future is dropped, or fails, the connection is cut
/// and nothing has changed; a new file is removed.
///
/// `adds`: some change adds a key, for which the table is created, and a file.
pub(super) async fn apply(address: &DatabaseAddress, changes: &[Change], adds: bool) -> Result<(), AuthError> {
    let database = Database::new(address.clone());
    if let Some(file) = address.would_create() {
        let fail = |cause| database.error(&sqlx::Error::Io(cause));
        let new = NewFile::beside(file).map_err(fail)?;
        change(&Database::new(address.in_file(new.path())), changes, adds).await?;
        if new.put_in_place().map_err(fail)? {
            return Ok(());
        }
        // Another program has created it meanwhile, with what it holds now.
    }
    change(&database, changes, adds).await
}

async fn change(database: &Database, changes: &[Change], adds: bool) -> Result<(), AuthError> {
    let mut session = Session::open(database).await?;
    let outcome = session.apply(changes, adds).await;
    // SQLite takes back what has failed in a thread of its own: a program that ended now would
    // leave its journal behind.
    if outcome.is_ok() || session.dialect() == Dialect::Sqlite {
        session.close().await;
    }
    outcome
}

impl<'a> Session<'a> {
    async fn open(database: &'a Database) -> Result<Self, AuthError> {
        let connection = limited(database, database.connect()).await?;
        Ok(Self { database, connection, has_kept: false })
    }

    async fn apply(&mut self, changes: &[Change], adds: bool) -> Result<(), AuthError> {
        let database = self.database;
        let (table, dialect) = (database.table(), self.dialect());
        // SQLite takes it back with the rest; PostgreSQL can lock only a table that is there, MySQL
        // takes nothing back.
        let in_transaction = dialect == Dialect::Sqlite;
        let keeps = changes.iter().any(keeps);
        if !in_transaction {
            self.create(table, adds, keeps).await?;
        }
        for change in changes {
            storable(dialect, change).map_err(|cause| database.place(&cause))?;
        }
        self.begin(table).await?;
        if in_transaction {
            self.create(table, adds, keeps).await?;
        }
        self.has_kept = self.rows(&kept::ask(dialect), &[]).await?.first().is_some_and(has_kept);
        let known = self.idents(table).await?;
        let mut idents = Idents { known };
        let mut added = Vec::new();
        for change in changes {
            let there = idents.admit(change).map_err(|cause| database.refused(&cause))?;
            match change {
                Change::Add(entry) if is_plain(entry) => added.push(entry),
                Change::Put(entry) if !there && is_plain(entry) => added.push(entry),
                change => {
                    // In the order they are given.
                    self.insert(table, &std::mem::take(&mut added)).await?;
                    self.one(table, change, there).await?;
                }
            }
        }
        self.insert(table, &added).await?;
        self.batch("COMMIT").await
    }

    fn dialect(&self) -> Dialect {
        self.connection.dialect()
    }

    async fn rows(&mut self, sql: &str, values: &[&str]) -> Result<Vec<Row>, AuthError> {
        limited(self.database, self.connection.rows(sql, values)).await
    }

    async fn change(&mut self, sql: &str, values: &[&str]) -> Result<(), AuthError> {
        limited(self.database, self.connection.change(sql, values)).await.map(drop)
    }

    async fn batch(&mut self, sql: &str) -> Result<(), AuthError> {
        limited(self.database, self.connection.batch(sql)).await
    }

    async fn close(self) {
        // All is done already.
        let _ = timeout(DEADLINE, self.connection.close()).await;
    }

    /// Begins a transaction and locks out other programs that change keys until its end; brokers
    /// still read them.
    async fn begin(&mut self, table: &Table) -> Result<(), AuthError> {
        match self.dialect() {
            Dialect::Sqlite => self.batch("BEGIN IMMEDIATE").await,
            Dialect::Postgres => {
                self.batch("BEGIN").await?;
                self.batch(&format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table.name)).await
            }
            Dialect::MySql => {
                // Freed when the connection ends. Locking the table would commit.
                let lock = format!("GET_LOCK(CONCAT(DATABASE(), '.{}'), {LOCK_SECONDS})", table.name);
                let sql = format!("SELECT CAST({lock} AS CHAR), NULL, NULL, NULL, NULL, NULL");
                let answer = self.rows(&sql, &[]).await?;
                if !matches!(&answer[..], [[Some(got), ..]] if got == "1") {
                    return Err(self.database.place(&"another program changes its keys, and does not end"));
                }
                self.batch("START TRANSACTION").await
            }
        }
    }

    async fn idents(&mut self, table: &Table) -> Result<std::collections::BTreeSet<String>, AuthError> {
        let sql = table.select(self.dialect());
        let rows = self.rows(&sql, &[]).await?;
        Ok(rows.into_iter().filter_map(|[ident, ..]| ident).collect())
    }

    async fn insert(&mut self, table: &Table, entries: &[&Entry]) -> Result<(), AuthError> {
        for chunk in entries.chunks(CHUNK) {
            let sql = insert(table, self.dialect(), chunk.len());
            let lists: Vec<_> = chunk.iter().map(|entry| (text(&entry.publish), text(&entry.subscribe))).collect();
            let mut values = Vec::new();
            for (entry, (publish, subscribe)) in chunk.iter().zip(&lists) {
                values.push(entry.ident.as_str());
                if table.owner.is_some() {
                    values.push(&entry.owner);
                }
                values.extend([&*entry.secret, publish, subscribe]);
            }
            self.change(&sql, &values).await?;
        }
        Ok(())
    }

    /// Creates the tables that are needed.
    async fn create(&mut self, table: &Table, adds: bool, keeps: bool) -> Result<(), AuthError> {
        let dialect = self.dialect();
        if adds {
            self.batch(&table.create(dialect)).await?;
        }
        if keeps {
            self.batch(&kept::create(dialect)).await?;
        }
        Ok(())
    }

    /// A change of a key that is there, or a new one with more than its columns hold.
    async fn one(&mut self, table: &Table, change: &Change, there: bool) -> Result<(), AuthError> {
        match change {
            Change::Add(entry) | Change::Put(entry) => {
                let secret = self.stored_secret(entry)?;
                if there {
                    self.update(table, &all_fields(entry), entry, &secret).await?;
                } else {
                    self.insert(table, &[&Entry { secret: secret.clone(), ..entry.clone() }]).await?;
                }
                self.keep(entry, &secret).await
            }
            Change::Set { ident, fields } => {
                let Some((mut row, kept)) = self.find(ident).await? else {
                    return Ok(());
                };
                // A field that is replaced may be faulty.
                let [_, _, secret, publish, subscribe, _] = &mut row;
                *publish = fields.publish.as_deref().map(text).or(publish.take());
                *subscribe = fields.subscribe.as_deref().map(text).or(subscribe.take());
                *secret = secret.take().or(fields.secret.clone());
                let before = self.database.entry(row, &kept, &mut Remarks::default())?;
                let after = fields.amend(before, SystemTime::now());
                let after = after.map_err(|cause| self.database.place(&format_args!("ident {ident:?}: {cause}")))?;
                let secret = self.stored_secret(&after)?;
                self.update(table, fields, &after, &secret).await?;
                if fields.touches_secret() { self.keep(&after, &secret).await } else { Ok(()) }
            }
            Change::Remove(ident) => {
                let dialect = self.dialect();
                self.forget(ident).await?;
                let sql = format!("DELETE FROM {}{}", table.name, table.of_ident(dialect, 1));
                self.change(&sql, &vec![ident.as_str(); Table::ident_binds(dialect)]).await
            }
        }
    }

    /// The row of an ident and what is kept beside it.
    async fn find(&mut self, ident: &str) -> Result<Option<(Row, Vec<Kept>)>, AuthError> {
        let (table, dialect) = (self.database.table(), self.dialect());
        let sql = table.select(dialect) + &table.of_ident(dialect, 1);
        let values = vec![ident; Table::ident_binds(dialect)];
        let Some(row) = self.rows(&sql, &values).await?.into_iter().next() else {
            return Ok(None);
        };
        let mut kept = Vec::new();
        if has_kept(&row) {
            let rows = self.rows(&(kept::select(dialect) + &kept::of_ident(dialect)), &values).await?;
            kept.extend(rows.into_iter().filter_map(Kept::new));
        }
        Ok(Some((row, kept)))
    }

    /// The secret for the column that every broker reads.
    fn stored_secret(&self, entry: &Entry) -> Result<String, AuthError> {
        if entry.disabled {
            return nobodys_secret().map_err(|cause| self.database.place(&cause));
        }
        Ok(entry.secret.clone())
    }

    async fn forget(&mut self, ident: &str) -> Result<(), AuthError> {
        if !self.has_kept {
            return Ok(());
        }
        let dialect = self.dialect();
        let sql = format!("DELETE FROM {}{}", kept::NAME, kept::of_ident(dialect));
        self.change(&sql, &vec![ident; Table::ident_binds(dialect)]).await
    }

    /// Writes what belongs to a key and has no column, in place of what was there.
    async fn keep(&mut self, entry: &Entry, beside: &str) -> Result<(), AuthError> {
        self.forget(&entry.ident).await?;
        let disabled = entry.disabled.then(|| (entry.secret.as_str(), String::new()));
        let old = entry.old_secrets.iter().map(|old| (old.secret.as_str(), old.seconds().to_string()));
        for (secret, ends) in disabled.into_iter().chain(old) {
            let sql = kept::insert(self.dialect());
            self.change(&sql, &[&entry.ident, secret, &ends, beside]).await?;
        }
        Ok(())
    }

    /// Writes the columns of the fields that are changed.
    async fn update(&mut self, table: &Table, fields: &Fields, entry: &Entry, secret: &str) -> Result<(), AuthError> {
        let ident = &entry.ident;
        let columns = [
            (table.owner, fields.owner.clone()),
            (Some(table.secret), fields.touches_secret().then(|| secret.to_owned())),
            (Some(table.publish), fields.touches_publish().then(|| text(&entry.publish))),
            (Some(table.subscribe), fields.touches_subscribe().then(|| text(&entry.subscribe))),
        ];
        let (columns, mut values): (Vec<_>, Vec<_>) =
            columns.into_iter().filter_map(|(column, value)| Some((column?, value?))).unzip();
        if columns.is_empty() {
            return Ok(());
        }
        let dialect = self.dialect();
        values.extend(vec![ident.clone(); Table::ident_binds(dialect)]);
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        self.change(&update(table, dialect, &columns), &values).await
    }
}

async fn limited<T>(database: &Database, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, AuthError> {
    match timeout(DEADLINE, work).await {
        Ok(done) => done.map_err(|cause| database.error(&cause)),
        Err(_) => Err(database.silent(DEADLINE)),
    }
}

/// PostgreSQL has no text with a zero in it, and does not say in which key there is one.
fn storable(dialect: Dialect, change: &Change) -> Result<(), String> {
    let (ident, secret) = match change {
        Change::Add(entry) | Change::Put(entry) => (&entry.ident, Some(&entry.secret)),
        Change::Set { ident, fields } => (ident, fields.secret.as_ref()),
        Change::Remove(ident) => (ident, None),
    };
    let zero = |text: &String| text.contains('\0');
    match dialect {
        Dialect::Postgres if zero(ident) => Err(format!("ident {ident:?} holds a zero byte")),
        Dialect::Postgres if secret.is_some_and(zero) => {
            Err(format!("the secret of ident {ident:?} holds a zero byte"))
        }
        _ => Ok(()),
    }
}

fn all_fields(entry: &Entry) -> Fields {
    let Entry { owner, secret, publish, subscribe, .. } = entry.clone();
    let (publish, subscribe) = (Some(publish), Some(subscribe));
    Fields { owner: Some(owner), secret: Some(secret), publish, subscribe, ..Fields::default() }
}

/// Whether the columns of a key say everything of it.
fn is_plain(entry: &Entry) -> bool {
    !entry.disabled && entry.old_secrets.is_empty()
}

/// Whether a change needs the table of old secrets.
fn keeps(change: &Change) -> bool {
    match change {
        Change::Add(entry) | Change::Put(entry) => !is_plain(entry),
        Change::Set { fields, .. } => {
            fields.disabled == Some(true) || fields.grace.is_some_and(|grace| !grace.is_zero())
        }
        Change::Remove(_) => false,
    }
}

/// A list as JSON.
fn text(list: &[String]) -> String {
    serde_json::Value::from(list).to_string()
}

/// Adds rows: ident, owner where there is one, secret, publish, subscribe, for each.
fn insert(table: &Table, dialect: Dialect, rows: usize) -> String {
    let mut columns = table.columns().to_vec();
    columns.dedup();
    let mut sql = format!("INSERT INTO {} ({}) VALUES ", table.name, columns.join(", "));
    for row in 0..rows {
        let number = row * columns.len() + 1;
        let values = columns.iter().zip(number..).map(|(column, number)| value(table, dialect, column, number));
        let values: Vec<_> = values.collect();
        let comma = if row == 0 { "" } else { ", " };
        let _ = write!(sql, "{comma}({})", values.join(", "));
    }
    sql
}

/// Sets columns of the ident that is bound after their values.
fn update(table: &Table, dialect: Dialect, columns: &[&str]) -> String {
    let values = columns.iter().zip(1..);
    let values: Vec<_> =
        values.map(|(column, number)| format!("{column} = {}", value(table, dialect, column, number))).collect();
    format!("UPDATE {} SET {}{}", table.name, values.join(", "), table.of_ident(dialect, columns.len() + 1))
}

/// The placeholder of a column's value.
fn value(table: &Table, dialect: Dialect, column: &str, number: usize) -> String {
    match dialect {
        Dialect::Sqlite => format!("?{number}"),
        // By itself, text does not become JSON; JSON becomes text.
        Dialect::Postgres if column == table.publish || column == table.subscribe => format!("CAST(${number} AS JSON)"),
        Dialect::Postgres => format!("${number}"),
        Dialect::MySql => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_values_are_numbered_through() {
        assert_eq!(
            insert(&Table::AUTH_KEYS, Dialect::Postgres, 2),
            "INSERT INTO auth_keys (identifier, secret, publish, subscribe) VALUES \
             ($1, $2, CAST($3 AS JSON), CAST($4 AS JSON)), ($5, $6, CAST($7 AS JSON), CAST($8 AS JSON))"
        );
        assert_eq!(
            update(&Table::AUTHKEYS, Dialect::Sqlite, &["owner", "secret"]),
            "UPDATE authkeys SET owner = ?1, secret = ?2 WHERE ident = ?3"
        );
    }
}
