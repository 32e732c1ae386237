//! The tables of keys, and the SQL about them.

use super::{
    dialect::{self, Dialect},
    kept,
};

/// A table of keys and the names of its columns.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Without it, the ident owns itself.
    pub(crate) owner: Option<&'static str>,
    pub(crate) ident: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) publish: &'static str,
    pub(crate) subscribe: &'static str,
}

impl Table {
    /// Of the Python broker's own SQLite file.
    pub(crate) const AUTHKEYS: Self = Self {
        name: "authkeys",
        owner: Some("owner"),
        ident: "ident",
        secret: "secret",
        publish: "pubchans",
        subscribe: "subchans",
    };

    /// Of every database that the Python broker reaches by an address.
    pub(crate) const AUTH_KEYS: Self = Self {
        name: "auth_keys",
        owner: None,
        ident: "identifier",
        secret: "secret",
        publish: "publish",
        subscribe: "subscribe",
    };

    /// The columns that are read, in the order of a [`Row`](super::row::Row).
    pub(crate) fn columns(&self) -> [&'static str; 5] {
        [self.ident, self.owner.unwrap_or(self.ident), self.secret, self.publish, self.subscribe]
    }

    /// The columns of the lists.
    pub(crate) fn lists(&self) -> [&'static str; 2] {
        [self.publish, self.subscribe]
    }

    /// All rows, their columns as text whatever their types.
    pub(crate) fn select(&self, dialect: Dialect) -> String {
        let columns = self.columns().map(|column| dialect.as_text(column));
        format!("SELECT {}, {} FROM {}", columns.join(", "), kept::is_there(dialect), self.name)
    }

    /// To be put after a statement: the rows of the ident that is bound at `number`, the first
    /// being 1.
    pub(crate) fn of_ident(&self, dialect: Dialect, number: usize) -> String {
        dialect::of_ident(self.ident, dialect, number)
    }

    /// How often the ident is bound there.
    pub(crate) fn ident_binds(dialect: Dialect) -> usize {
        if dialect == Dialect::MySql { 2 } else { 1 }
    }

    /// Creates it when it is absent.
    pub(crate) fn create(&self, dialect: Dialect) -> String {
        if self.owner.is_some() {
            // With the other tables of the Python broker, which creates all of them when one is
            // absent, and fails then.
            return "CREATE TABLE IF NOT EXISTS logs (id integer primary key autoincrement, data TEXT);
                CREATE TABLE IF NOT EXISTS stats (id integer primary key autoincrement, ak TEXT, uid TEXT, data TEXT);
                CREATE TABLE IF NOT EXISTS authkeys (id integer primary key autoincrement, owner TEXT, ident TEXT,
                    secret TEXT, pubchans TEXT, subchans TEXT);"
                .to_owned();
        }
        // An ident has up to 255 bytes; MySQL must not take two for the same.
        let (id, ident) = match dialect {
            Dialect::Sqlite => ("INTEGER PRIMARY KEY AUTOINCREMENT", "TEXT"),
            Dialect::Postgres => ("SERIAL PRIMARY KEY", "TEXT"),
            Dialect::MySql => {
                ("INTEGER PRIMARY KEY AUTO_INCREMENT", "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            }
        };
        let text = if dialect == Dialect::MySql { "LONGTEXT CHARACTER SET utf8mb4" } else { "TEXT" };
        format!(
            "CREATE TABLE IF NOT EXISTS {} (id {id}, {} {ident} NOT NULL UNIQUE, {} {text} NOT NULL, \
             {} {text} NOT NULL, {} {text} NOT NULL)",
            self.name, self.ident, self.secret, self.publish, self.subscribe
        )
    }
}
