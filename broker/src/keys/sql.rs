//! Keys in a database.

use std::{fmt::Write as _, time::Duration};

use tokio::time::timeout;

use super::{Change, Entry, Fields, Idents, Listing};
use crate::{
    AuthError, DatabaseAddress,
    auth::{
        Remarks,
        sql::{
            Connection, Database, NewFile, Row,
            table::{Dialect, Table},
        },
    },
};

/// How long connecting, and each statement, may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long to wait for another program that changes keys, in seconds: less than [`DEADLINE`].
const LOCK_SECONDS: u32 = 8;

/// How many keys one INSERT adds: a round trip for each would take minutes over a long line.
const CHUNK: usize = 200;

/// A connection that gives up, with errors that name the database.
struct Session<'a> {
    database: &'a Database,
    connection: Connection,
}

pub(super) async fn all(database: &Database) -> Result<Listing, AuthError> {
    let mut session = Session::open(database).await?;
    let sql = database.table().select(session.dialect());
    let rows = session.rows(&sql, &[]).await?;
    session.close().await;
    Ok(listing(database, rows))
}

fn listing(database: &Database, rows: Vec<Row>) -> Listing {
    let (mut listing, mut remarks) = (Listing::default(), Remarks::default());
    for row in rows {
        listing.add(database.entry(row, &mut remarks), database.table().lists(), &mut remarks);
    }
    listing.entries.sort_by(|a, b| a.ident.cmp(&b.ident));
    listing.remarks = remarks.into_lines();
    listing
}

pub(super) async fn get(database: &Database, ident: &str) -> Result<Option<Entry>, AuthError> {
    let mut session = Session::open(database).await?;
    let (table, dialect) = (database.table(), session.dialect());
    let sql = table.select(dialect) + &table.of_ident(dialect, 1);
    let rows = session.rows(&sql, &vec![ident; Table::ident_binds(dialect)]).await?;
    session.close().await;
    rows.into_iter().next().map(|row| database.entry(row, &mut Remarks::default())).transpose()
}

/// When it is dropped, or fails, the connection is cut and nothing has changed; of a new file, nothing is left.
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
    // SQLite takes back what has failed in a thread of its own: a program that ended now would leave its journal behind.
    if outcome.is_ok() || session.dialect() == Dialect::Sqlite {
        session.close().await;
    }
    outcome
}

impl<'a> Session<'a> {
    async fn open(database: &'a Database) -> Result<Self, AuthError> {
        let connection = limited(database, database.connect()).await?;
        Ok(Self { database, connection })
    }

    async fn apply(&mut self, changes: &[Change], adds: bool) -> Result<(), AuthError> {
        let database = self.database;
        let (table, dialect) = (database.table(), self.dialect());
        // SQLite takes it back with the rest; PostgreSQL can lock only a table that is there, MySQL takes nothing back.
        let in_transaction = dialect == Dialect::Sqlite;
        if adds && !in_transaction {
            self.batch(&table.create(dialect)).await?;
        }
        for change in changes {
            storable(dialect, change).map_err(|cause| database.place(&cause))?;
        }
        self.begin(table).await?;
        if adds && in_transaction {
            self.batch(&table.create(dialect)).await?;
        }
        let known = self.idents(table).await?;
        let mut idents = Idents { known };
        let mut added = Vec::new();
        for change in changes {
            let there = idents.admit(change).map_err(|cause| database.refused(&cause))?;
            match change {
                Change::Add(entry) => added.push(entry),
                Change::Put(entry) if !there => added.push(entry),
                change => {
                    // In the order they are given.
                    self.insert(table, &std::mem::take(&mut added)).await?;
                    self.one(table, change).await?;
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

    /// Nobody else changes keys until the end of the transaction; brokers still read them.
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
                let sql = format!("SELECT CAST({lock} AS CHAR), NULL, NULL, NULL, NULL");
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

    /// A change of a key that is there.
    async fn one(&mut self, table: &Table, change: &Change) -> Result<(), AuthError> {
        let (ident, fields) = match change {
            Change::Add(_) => return Ok(()),
            Change::Put(entry) => (&entry.ident, all_fields(entry)),
            Change::Set { ident, fields } => (ident, fields.clone()),
            Change::Remove(ident) => {
                let dialect = self.dialect();
                let sql = format!("DELETE FROM {}{}", table.name, table.of_ident(dialect, 1));
                return self.change(&sql, &vec![ident.as_str(); Table::ident_binds(dialect)]).await;
            }
        };
        let columns = [
            (table.owner, fields.owner),
            (Some(table.secret), fields.secret),
            (Some(table.publish), fields.publish.as_deref().map(text)),
            (Some(table.subscribe), fields.subscribe.as_deref().map(text)),
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
    Fields { owner: Some(owner), secret: Some(secret), publish: Some(publish), subscribe: Some(subscribe) }
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

/// What is bound as the value of a column.
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
    fn what_is_bound_is_numbered_through() {
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
