//! Addresses of databases, as users of the Python broker write them.

use std::{fmt, path::Path, str::FromStr};

use url::Url;

use super::{driver, server::Server, table::Table};

/// A database that holds keys, such as
/// `database+postgresql://broker:secret@db.example.org/hpfeeds`.
///
/// - `sqlite` is the file `sqlite.db` in the working directory, and anything else that ends in
///   `.db`, `.sqlite` or `.sqlite3` a file; its table is
///   `authkeys(id, owner, ident, secret, pubchans, subchans)`.
/// - `database+postgresql://…` (or `postgres`), `database+mysql://…` (or `mariadb`) and
///   `database+sqlite:///FILE` (four slashes for an absolute path) have the table
///   `auth_keys(id, identifier, secret, publish, subscribe)`. The driver of `postgresql+asyncpg` and
///   the like is passed over, and so are options of its pool.
///
/// Lists of channels are JSON: text, or a column of such a type.
///
/// An address of a database whose feature (`sqlite`, `postgres`, `mysql`) is missing is an error that
/// names the feature.
///
/// `Display` and `Debug` show neither user nor password.
#[derive(Clone)]
pub struct DatabaseAddress {
    pub(super) server: Server,
    pub(crate) table: &'static Table,
    /// The address without user and password, for errors.
    name: String,
}

impl DatabaseAddress {
    /// The file that the Python broker uses when it is told nothing.
    const DEFAULT: &'static str = "sqlite.db";

    /// An SQLite file with the table of the Python broker. Both are created when they are absent.
    #[cfg(feature = "sqlite")]
    #[must_use]
    pub fn sqlite(path: impl Into<std::path::PathBuf>) -> Self {
        let path = path.into();
        let name = path.display().to_string();
        Self { server: Server::Sqlite { path, create: true }, table: &Table::AUTHKEYS, name }
    }

    fn new(server: Server, table: &'static Table, name: String) -> Result<Self, String> {
        driver::check(&server)?;
        Ok(Self { server, table, name })
    }

    fn file(path: &str, table: &'static Table, create: bool) -> Result<Self, String> {
        Self::new(Server::Sqlite { path: path.into(), create }, table, path.to_owned())
    }

    /// The file, when it is an SQLite database.
    #[cfg(feature = "cli")]
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.server {
            Server::Sqlite { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The file that opening it would create, as there is none yet.
    pub(crate) fn would_create(&self) -> Option<&Path> {
        match &self.server {
            Server::Sqlite { path, create: true } => Some(path.as_path()).filter(|file| !file.exists()),
            _ => None,
        }
    }

    /// The same; a file that is absent is created, or is an error.
    #[cfg(feature = "cli")]
    pub(crate) fn creating(&self, create: bool) -> Self {
        let mut address = self.clone();
        if let Server::Sqlite { create: creates, .. } = &mut address.server {
            *creates = create;
        }
        address
    }

    /// The same, in another file. Errors name it as before.
    pub(crate) fn in_file(&self, path: &Path) -> Self {
        let mut address = self.clone();
        if let Server::Sqlite { path: file, .. } = &mut address.server {
            path.clone_into(file);
        }
        address
    }

    /// Whether the tables of an SQLite file can be written.
    #[cfg(feature = "cli")]
    pub(super) fn writable(&self) -> std::io::Result<()> {
        match &self.server {
            Server::Sqlite { path, .. } => std::fs::OpenOptions::new().write(true).open(path).map(drop),
            Server::Postgres(_) | Server::MySql(_) => Ok(()),
        }
    }

    fn database(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("not of the form database+postgresql://HOST/NAME")?;
        let dialect = scheme.split_once('+').map_or(scheme, |(dialect, _driver)| dialect);
        match dialect {
            "sqlite" => sqlite_file(rest),
            "postgresql" | "postgres" => {
                let url = server(&format!("postgres://{rest}"), POSTGRES_OPTIONS)?;
                let name = place("postgresql", &url);
                Self::new(Server::Postgres(url), &Table::AUTH_KEYS, name)
            }
            "mysql" | "mariadb" => {
                let url = server(&format!("mysql://{rest}"), MYSQL_OPTIONS)?;
                let name = place("mysql", &url);
                if url.path().trim_start_matches('/').is_empty() {
                    return Err(format!("{name}: the name of the database is missing"));
                }
                Self::new(Server::MySql(url), &Table::AUTH_KEYS, name)
            }
            _ => Err(format!("unknown database {dialect:?}: use postgresql, mysql or sqlite")),
        }
    }
}

impl FromStr for DatabaseAddress {
    type Err = String;

    /// The error is one line that shows no password.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(database) = text.strip_prefix("database+") {
            return Self::database(database);
        }
        match text {
            "sqlite" => Self::file(Self::DEFAULT, &Table::AUTHKEYS, true),
            _ if [".db", ".sqlite", ".sqlite3"].iter().any(|end| text.ends_with(end)) => {
                Self::file(text, &Table::AUTHKEYS, true)
            }
            _ => Err("neither sqlite, nor a file that ends in .db, .sqlite or .sqlite3, nor database+…".to_owned()),
        }
    }
}

impl fmt::Display for DatabaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for DatabaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseAddress({})", self.name)
    }
}

impl PartialEq for DatabaseAddress {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && std::ptr::eq(self.table, other.table)
    }
}

impl Eq for DatabaseAddress {}

/// Translation of a parameter of an address: its name and value for the driver.
type Options = fn(name: &str, value: &str) -> Option<(&'static str, String)>;

/// Parameters under the names that the driver here knows.
const POSTGRES_OPTIONS: Options = |name, value| {
    let name = match name {
        "sslmode" | "ssl-mode" => "sslmode",
        "ssl" => return Some(("sslmode", if is_true(value) { "require" } else { "disable" }.to_owned())),
        "sslrootcert" | "ssl-root-cert" | "ssl-ca" => "sslrootcert",
        "sslcert" | "ssl-cert" => "sslcert",
        "sslkey" | "ssl-key" => "sslkey",
        "host" => "host",
        "port" => "port",
        "user" => "user",
        "password" => "password",
        "dbname" => "dbname",
        "application_name" => "application_name",
        "options" => "options",
        _ => return None,
    };
    Some((name, value.to_owned()))
};

const MYSQL_OPTIONS: Options = |name, value| {
    let name = match name {
        "ssl-mode" | "sslmode" | "ssl_mode" => "ssl-mode",
        "ssl" => return Some(("ssl-mode", if is_true(value) { "required" } else { "disabled" }.to_owned())),
        "ssl-ca" | "sslca" | "ssl_ca" => "ssl-ca",
        "ssl-cert" | "sslcert" | "ssl_cert" => "ssl-cert",
        "ssl-key" | "sslkey" | "ssl_key" => "ssl-key",
        "socket" | "unix_socket" => "socket",
        _ => return None,
    };
    Some((name, value.to_owned()))
};

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}

/// Options of Python's pools, and the character set, which is always UTF-8 here.
fn is_passed_over(name: &str) -> bool {
    name == "charset" || name == "min_size" || name == "max_size" || name.starts_with("pool_")
}

/// Checks an address and its parameters.
fn server(text: &str, options: Options) -> Result<Url, String> {
    const ESCAPE: &str = "write the characters / ? # and @ of a password as %2F %3F %23 and %40";
    let mut url = Url::parse(text).map_err(|cause| format!("{cause} in the address of the database ({ESCAPE})"))?;
    // The text after the host may be the end of a password, which must not be shown.
    let rest = [url.path(), url.query().unwrap_or_default(), url.fragment().unwrap_or_default()];
    if rest.iter().any(|part| part.contains('@')) || url.fragment().is_some() {
        return Err(format!("cannot tell the password from the rest of the address: {ESCAPE}"));
    }
    let given: Vec<_> = url.query_pairs().into_owned().collect();
    url.set_query(None);
    for (name, value) in given {
        if let Some((name, value)) = options(&name, &value) {
            url.query_pairs_mut().append_pair(name, &value);
        } else if !is_passed_over(&name) {
            return Err(format!("unknown parameter {name:?} in the address of the database"));
        }
    }
    Ok(url)
}

/// The address without user, password and parameters.
fn place(scheme: &str, url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}{}", url.path())
}

fn sqlite_file(rest: &str) -> Result<DatabaseAddress, String> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix('/').filter(|path| !path.is_empty());
    let Some(path) = path else {
        return Err("write database+sqlite:///FILE, with four slashes for an absolute path".to_owned());
    };
    for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
        if !is_passed_over(&name) {
            return Err(format!("unknown parameter {name:?} in the address of the database"));
        }
    }
    let path = percent_encoding::percent_decode_str(path).decode_utf8().map_err(|_| "the path is not UTF-8")?;
    if path == ":memory:" {
        return Err("a database in memory holds no keys: name a file".to_owned());
    }
    DatabaseAddress::file(&path, &Table::AUTH_KEYS, false)
}

#[cfg(all(test, feature = "sqlite", feature = "postgres", feature = "mysql"))]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn parse(text: &str) -> DatabaseAddress {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_python_users_are_understood() {
        for scheme in ["postgresql", "postgres", "postgresql+psycopg2", "postgresql+asyncpg", "postgresql+aiopg"] {
            let address = parse(&format!("database+{scheme}://u:p%40%2F@h:5433/d?ssl=true&min_size=1&max_size=5"));
            let Server::Postgres(url) = &address.server else { panic!("{address}") };
            let options = driver::postgres(url).unwrap();
            assert_eq!((options.get_host(), options.get_port()), ("h", 5433), "{scheme}");
            assert_eq!((options.get_username(), options.get_database()), ("u", Some("d")));
            assert_eq!(format!("{:?}", options.get_ssl_mode()), "Require");
            assert_eq!(address.to_string(), "postgresql://h:5433/d");
        }
        for scheme in ["mysql", "mysql+pymysql", "mysql+aiomysql", "mariadb", "mariadb+asyncmy"] {
            let address = parse(&format!("database+{scheme}://u:p@[::1]/d?charset=utf8mb4&unix_socket=/run/s"));
            assert!(matches!(address.server, Server::MySql(_)));
            assert_eq!(address.to_string(), "mysql://[::1]/d");
        }
    }

    #[test]
    fn a_socket_may_stand_for_a_host() {
        let address = parse("database+postgresql:///d?host=/run/postgresql");
        let Server::Postgres(url) = &address.server else { panic!("{address}") };
        assert_eq!(driver::postgres(url).unwrap().get_socket(), Some(&"/run/postgresql".into()));
    }

    #[test]
    fn slashes_tell_relative_from_absolute_files() {
        let cases = [
            ("sqlite", "sqlite.db", "authkeys"),
            ("/var/lib/keys.db", "/var/lib/keys.db", "authkeys"),
            ("keys.sqlite3", "keys.sqlite3", "authkeys"),
            ("database+sqlite:///keys.db", "keys.db", "auth_keys"),
            ("database+sqlite+aiosqlite:////var/my%20keys", "/var/my keys", "auth_keys"),
        ];
        for (text, path, table) in cases {
            let address = parse(text);
            assert_eq!((address.to_string().as_str(), address.table.name), (path, table), "{text}");
        }
    }

    #[test]
    fn every_fault_is_one_line_without_the_password() {
        let escape = "write the characters / ? # and @ of a password as %2F %3F %23 and %40";
        let cases = [
            ("database+oracle://u:hunter2@h/d", "unknown database \"oracle\": use postgresql, mysql or sqlite"),
            ("database+postgresql:u:hunter2@h", "not of the form database+postgresql://HOST/NAME"),
            ("database+postgresql://u:hunter2@h/d?hunt=1", "unknown parameter \"hunt\" in the address of the database"),
            ("database+postgresql://u:hunter2@h:port/d", "invalid port number in the address"),
            ("database+postgresql://u:hun/ter2@h/d", "invalid port number in the address"),
            ("database+postgresql://u:12/hunter2@h/d", escape),
            ("database+mysql://u:12?hunter2@h/d", escape),
            ("database+mysql://u:12#hunter2@h/d", escape),
            ("database+mysql://u:hunter2@h", "mysql://h: the name of the database is missing"),
            ("database+postgresql://u:hunter2@h/d?sslmode=maybe", "the address of the database: "),
            ("database+sqlite://keys.db", "write database+sqlite:///FILE"),
            ("database+sqlite:///", "write database+sqlite:///FILE"),
            ("database+sqlite:///:memory:", "a database in memory holds no keys"),
            ("database+sqlite:///k?mode=ro", "unknown parameter \"mode\""),
            ("keys", "neither sqlite, nor a file that ends in .db"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<DatabaseAddress>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("ter2") && !error.contains('\n'), "{text}: {error}");
        }
        let address = parse("database+postgresql://someone:hunter2@h/d?password=hunter2");
        let shown = format!("{address} {address:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("someone"), "{shown}");
    }
}

#[cfg(all(test, not(all(feature = "sqlite", feature = "postgres", feature = "mysql"))))]
mod missing {
    use super::*;

    #[test]
    fn database_without_its_driver_is_named_with_its_feature() {
        let addresses = [
            ("database+postgresql://u:hunter2@h/d", "PostgreSQL", "postgres", cfg!(feature = "postgres")),
            ("database+mariadb://u:hunter2@h/d", "MySQL", "mysql", cfg!(feature = "mysql")),
            ("database+sqlite:///keys", "SQLite", "sqlite", cfg!(feature = "sqlite")),
            ("sqlite", "SQLite", "sqlite", cfg!(feature = "sqlite")),
            ("keys.db", "SQLite", "sqlite", cfg!(feature = "sqlite")),
        ];
        for (text, name, feature, is_there) in addresses {
            let said = text.parse::<DatabaseAddress>().map(drop);
            let missing = format!("this hpfeeds-broker is built without {name}: build it with --features {feature}");
            assert_eq!(said, if is_there { Ok(()) } else { Err(missing) }, "{text}");
        }
    }
}
