//! Keys in MongoDB.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use hpfeeds::wire::Ident;
use mongodb::{
    Client, Collection,
    bson::{Bson, Document, doc},
    error::{Error, ErrorKind},
    options::ClientOptions,
};
use serde_json::Value;
use tokio::time::timeout;
use tracing::warn;

use super::{
    AuthError, AuthStore, Idents, Lookup,
    entry::{Entry, list_or_text},
    key::Key,
};

/// The longest time that a lookup takes: half of what the broker gives it by default.
const DEADLINE: Duration = Duration::from_secs(5);

/// The longest time that the driver looks for a server, so that its error comes before the
/// deadline.
const SELECTION: Duration = Duration::from_secs(4);

/// The most connections that one store opens to a server.
const CONNECTIONS: u32 = 4;

/// The most idents that are listed: more are of no use to a broker.
const MOST_IDENTS: i64 = 10_000;

const COLLECTION: &str = "auth_key";

/// A database of MongoDB that holds keys, such as `mongodb://broker:secret@db.example.org/hpfeeds`.
///
/// As in the Python broker, the text after the last slash is the database of the keys, and users
/// are looked for in `admin` unless `?authSource=…` says otherwise. `Display` and `Debug` show
/// neither user nor password.
#[derive(Clone, PartialEq, Eq)]
pub struct MongoAddress {
    /// For the driver: without the database.
    url: String,
    database: String,
    /// The address without user and password, for errors.
    name: String,
}

impl FromStr for MongoAddress {
    type Err = String;

    /// The error is one line that shows no password.
    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "not of the form mongodb://HOST/DATABASE";
        let (address, options) = text.split_once('?').map_or((text, ""), |(address, options)| (address, options));
        let escape = || "write the characters / ? # and @ of a password as %2F %3F %23 and %40".to_owned();
        // The text after a ? or / may be the end of a password, which must not be shown.
        if options.contains('@') {
            return Err(escape());
        }
        let (server, database) = address.rsplit_once('/').ok_or(FORM)?;
        let (scheme, rest) = server.split_once("://").ok_or(FORM)?;
        if database.contains('@') || rest.contains('/') {
            return Err(escape());
        }
        let hosts = rest.rsplit_once('@').map_or(rest, |(_user, hosts)| hosts);
        if !matches!(scheme, "mongodb" | "mongodb+srv") || hosts.is_empty() {
            return Err(FORM.to_owned());
        }
        if database.is_empty() {
            return Err(format!("{scheme}://{hosts}: the name of the database is missing"));
        }
        let name = format!("{scheme}://{hosts}/{database}");
        Ok(Self { url: format!("{server}/?{options}"), database: database.to_owned(), name })
    }
}

impl fmt::Display for MongoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for MongoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MongoAddress({})", self.name)
    }
}

/// Keys in the collection `auth_key(identifier, secret, publish, subscribe)`, as the Python broker
/// has them. Each lookup asks the database, so a change counts for the next connection, and for
/// live connections at the next [recheck](crate::builder::BrokerBuilder::recheck_keys).
///
/// The store keeps at most 4 connections to a server, and gives up on a lookup after 5 s. While the
/// database is away, lookups fail with the cause; when it is back, they work again.
pub struct MongoStore {
    name: String,
    keys: Collection<Document>,
}

impl MongoStore {
    /// Connects and asks once.
    ///
    /// A server that cannot be reached is no error: it is logged, and the first lookup tries again.
    /// A wrong option or password is one.
    pub async fn open(address: MongoAddress) -> Result<Self, AuthError> {
        let MongoAddress { url, database, name } = address;
        let fail = |cause: &Error| AuthError::new(format_args!("{name}: {}", one_line(cause)));
        let mut options = timeout(DEADLINE, ClientOptions::parse(&url))
            .await
            .map_err(|_| AuthError::new(format_args!("{name}: the name server did not answer in time")))?
            .map_err(|cause| fail(&cause))?;
        options.server_selection_timeout = Some(SELECTION);
        options.connect_timeout = Some(SELECTION);
        options.max_pool_size = Some(CONNECTIONS);
        let client = Client::with_options(options).map_err(|cause| fail(&cause))?;
        let keys = client.database(&database).collection(COLLECTION);
        match timeout(DEADLINE, keys.find_one(doc! {"identifier": ""})).await {
            Ok(Err(cause)) if matches!(*cause.kind, ErrorKind::Authentication { .. } | ErrorKind::Command(_)) => {
                return Err(fail(&cause));
            }
            Ok(Ok(_)) => {}
            Ok(Err(cause)) => {
                let cause = fail(&cause);
                warn!(%cause, "no key can be looked up until the database is there");
            }
            Err(_) => warn!(cause = name, "no key can be looked up until the database answers"),
        }
        Ok(Self { name, keys })
    }

    async fn idents(&self) -> Result<Vec<Ident>, AuthError> {
        let fail = |cause: &dyn fmt::Display| AuthError::new(format_args!("{}: {cause}", self.name));
        let listing = async {
            let documents = self.keys.find(doc! {}).projection(doc! {"_id": 0, "identifier": 1}).limit(MOST_IDENTS);
            documents.await?.try_collect::<Vec<_>>().await
        };
        let found = timeout(DEADLINE, listing).await;
        let found = found
            .map_err(|_| fail(&format_args!("the database did not answer within {} s", DEADLINE.as_secs())))?
            .map_err(|cause| fail(&one_line(&cause)))?;
        // One that no client can have is none.
        Ok(found.iter().filter_map(|found| Ident::new(found.get_str("identifier").ok()?).ok()).collect())
    }

    async fn key(&self, ident: &str) -> Result<Option<Arc<Key>>, AuthError> {
        let fail = |cause: &dyn fmt::Display| AuthError::new(format_args!("{}: {cause}", self.name));
        let found = timeout(DEADLINE, self.keys.find_one(doc! {"identifier": ident})).await;
        let found = found
            .map_err(|_| fail(&format_args!("the database did not answer within {} s", DEADLINE.as_secs())))?
            .map_err(|cause| fail(&one_line(&cause)))?;
        let Some(document) = found else {
            return Ok(None);
        };
        let key = entry(ident, &document).and_then(|entry| entry.key(["publish", "subscribe"]));
        let key = key.map_err(|cause| fail(&format_args!("collection {COLLECTION}: ident {ident:?}: {cause}")))?;
        Ok(Some(Arc::new(key)))
    }
}

impl fmt::Debug for MongoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoStore").field("name", &self.name).finish_non_exhaustive()
    }
}

impl AuthStore for MongoStore {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(self.key(ident))
    }

    fn idents(&self) -> Idents<'_> {
        Box::pin(self.idents())
    }
}

fn entry(ident: &str, document: &Document) -> Result<Entry, String> {
    let field = |name: &str| document.get(name).ok_or_else(|| format!("{name:?} is missing"));
    let list = |name: &str| {
        let value = match field(name)? {
            Bson::Array(entries) => entries.iter().map(Bson::as_str).collect(),
            Bson::String(text) => Value::from(text.as_str()),
            _ => return Err(format!("{name:?} must be a list of strings")),
        };
        list_or_text(&value).map(|list| list.channels).map_err(|cause| format!("{name:?} {cause}"))
    };
    let secret = match field("secret")? {
        Bson::String(secret) => secret.clone(),
        _ => return Err("\"secret\" must be a string".to_owned()),
    };
    let ident = ident.to_owned();
    let (publish, subscribe) = (list("publish")?, list("subscribe")?);
    Ok(Entry { owner: ident.clone(), ident, secret, publish, subscribe, ..Entry::default() })
}

fn one_line(cause: &Error) -> String {
    let text = match &*cause.kind {
        ErrorKind::Authentication { message, .. }
        | ErrorKind::ServerSelection { message, .. }
        | ErrorKind::InvalidArgument { message, .. }
        | ErrorKind::DnsResolve { message, .. } => message.clone(),
        ErrorKind::Command(cause) => cause.message.clone(),
        ErrorKind::Io(cause) => format!("cannot reach the database: {cause}"),
        kind => kind.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_told_apart_from_the_server() {
        let address: MongoAddress = "mongodb://u:hunter2@a:1,b:2/keys?authSource=x".parse().unwrap();
        assert_eq!((address.database.as_str(), address.to_string().as_str()), ("keys", "mongodb://a:1,b:2/keys"));
        assert_eq!(address.url, "mongodb://u:hunter2@a:1,b:2/?authSource=x");
        assert!(!format!("{address:?}").contains("hunter2"));
    }

    #[test]
    fn every_fault_is_one_line_without_the_password() {
        let cases = [
            ("mongo", "not of the form"),
            ("mongodb://u:hunter2@h", "not of the form"),
            ("mongo://u:hunter2@h/d", "not of the form"),
            ("mongodb://u:hunter2@h/", "mongodb://h: the name of the database is missing"),
            ("mongodb://u:hun/ter2@h/d", "write the characters"),
            ("mongodb://u:hun?ter2@h/d", "write the characters"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<MongoAddress>().unwrap_err();
            assert!(error.contains(expected) && !error.contains("ter2"), "{text}: {error}");
        }
    }
}
