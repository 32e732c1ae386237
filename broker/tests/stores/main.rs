//! The stores of keys: one suite for all of them, on real databases.
//!
//! `scripts/services run -- cargo test` starts PostgreSQL and MariaDB. Without them their tests say that they are
//! skipped; with `HPFEEDS_TEST_REQUIRE=1` that is a failure.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod databases;
mod faults;
mod files;
#[cfg(feature = "mongodb")]
mod mongo;
mod outage;
#[path = "../../../tests/support/skip.rs"]
mod skip;
mod suite;
#[path = "../support/mod.rs"]
mod support;

use std::{env, sync::Arc};

use databases::Scratch;
use hpfeeds_broker::{
    EnvStore, JsonStore, MemoryStore, SqlStore,
    keys::{Change, Keys},
};
use suite::UnderTest;

#[tokio::test]
async fn memory() {
    let entries = suite::entries();
    let keys = entries.iter().map(|entry| {
        let key = hpfeeds_broker::Key::new(&entry.ident, &entry.secret).unwrap().owner(&entry.owner);
        key.publish(&entry.publish).unwrap().subscribe(&entry.subscribe).unwrap()
    });
    let store: MemoryStore = keys.collect();
    suite::reads(Arc::new(store)).await;
}

#[tokio::test]
async fn environment() {
    let entries = suite::entries();
    let store = EnvStore::with(move |name| {
        let entry = entries.iter().find_map(|entry| {
            let field = name.strip_prefix(&format!("HPFEEDS_{}_", entry.ident.to_uppercase()))?;
            let value = match field {
                "SECRET" => &entry.secret,
                "OWNER" => &entry.owner,
                "PUBCHANS" => &entry.publish.join(","),
                "SUBCHANS" => &entry.subscribe.join(","),
                _ => return None,
            };
            Some(value.clone())
        });
        entry.ok_or(env::VarError::NotPresent)
    });
    let store = Arc::new(store);
    suite::known(store.clone()).await;
    suite::concurrent(store).await;
}

#[tokio::test]
async fn json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.json");
    let keys = Keys::json(&path);
    keys.apply(&suite::entries().into_iter().map(Change::Add).collect::<Vec<_>>()).await.unwrap();
    let store = Arc::new(JsonStore::open(&path).unwrap());
    suite::run(UnderTest { store, keys, raw: None }).await;
}

async fn sql(scratch: Scratch) {
    let keys = Keys::sql(scratch.address());
    keys.apply(&suite::entries().into_iter().map(Change::Add).collect::<Vec<_>>()).await.unwrap();
    let store = Arc::new(SqlStore::open(scratch.address()).await.unwrap());
    suite::run(UnderTest { store, keys, raw: Some(scratch) }).await;
}

#[tokio::test]
async fn sqlite() {
    sql(Scratch::sqlite("")).await;
}

#[tokio::test]
async fn database_sqlite() {
    sql(Scratch::sqlite("database+sqlite:///")).await;
}

#[tokio::test]
async fn database_postgresql() {
    if let Some(scratch) = Scratch::postgres().await {
        sql(scratch).await;
    }
}

#[tokio::test]
async fn database_mysql() {
    if let Some(scratch) = Scratch::mysql().await {
        sql(scratch).await;
    }
}
