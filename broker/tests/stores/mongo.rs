//! MongoDB. Debian has no packages of its server, so the driver talks to a stand-in here that knows as much of the wire
//! protocol (`OP_MSG` with `hello` and `find`) as a lookup needs. Things that only a real server does, such as authentication
//! and fail-over, is left to the driver.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use hpfeeds_broker::{AuthStore, MongoStore};
use mongodb::bson::{Bson, Document, deserialize_from_slice, doc, serialize_to_vec};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    suite,
    support::{Peer, subscribe, within},
};

/// Of a message: length, id, id that it answers, kind; then flags and the kind of the one section.
const HEADER: usize = 16;
const OP_MSG: i32 = 2013;

/// The documents by ident, which a test may change.
type Documents = Arc<Mutex<HashMap<String, Document>>>;

/// Serves documents until the test ends, and returns the address of the database.
async fn stand_in(documents: Vec<Document>) -> String {
    changing(documents).await.0
}

/// The same, with the documents.
async fn changing(documents: Vec<Document>) -> (String, Documents) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let by_ident = documents.into_iter().map(|document| (document.get_str("identifier").unwrap().to_owned(), document));
    let documents: Documents = Arc::new(Mutex::new(by_ident.collect()));
    let served = documents.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, served.clone()));
        }
    });
    (format!("mongodb://{addr}/keys"), documents)
}

async fn serve(mut stream: TcpStream, documents: Documents) {
    let mut header = [0; HEADER];
    // Until the driver hangs up.
    while stream.read_exact(&mut header).await.is_ok() {
        let [length, id, _, kind] = [0, 4, 8, 12].map(|at| i32::from_le_bytes(*header[at..].first_chunk().unwrap()));
        assert_eq!(kind, OP_MSG);
        let mut body = vec![0; usize::try_from(length).unwrap() - HEADER];
        stream.read_exact(&mut body).await.unwrap();
        let command: Document = deserialize_from_slice(&body[5..]).unwrap();
        let reply = serialize_to_vec(&answer(&command, &documents.lock().unwrap())).unwrap();
        let length = i32::try_from(HEADER + 5 + reply.len()).unwrap();
        let mut message: Vec<u8> = [length, 1, id, OP_MSG, 0].into_iter().flat_map(i32::to_le_bytes).collect();
        message.push(0);
        message.extend(reply);
        stream.write_all(&message).await.unwrap();
    }
}

fn answer(command: &Document, documents: &HashMap<String, Document>) -> Document {
    let (name, value) = command.iter().next().unwrap();
    match name.to_lowercase().as_str() {
        "hello" | "ismaster" => doc! {
            "ismaster": true, "isWritablePrimary": true, "helloOk": true, "maxBsonObjectSize": 16_777_216,
            "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "minWireVersion": 0,
            "maxWireVersion": 21, "ok": 1.0,
        },
        "find" => {
            assert_eq!((value, command.get_str("$db").unwrap()), (&Bson::from("auth_key"), "keys"));
            let found: Vec<_> = if let Ok(ident) = command.get_document("filter").unwrap().get_str("identifier") {
                documents.get(ident).cloned().into_iter().map(Bson::from).collect()
            } else {
                let all = command.get_document("projection").unwrap();
                assert_eq!((all, command.get_i64("limit").unwrap()), (&doc! {"_id": 0, "identifier": 1}, 10_000));
                documents.keys().map(|ident| Bson::from(doc! {"identifier": ident})).collect()
            };
            doc! {"cursor": {"id": 0_i64, "ns": "keys.auth_key", "firstBatch": found}, "ok": 1.0}
        }
        _ => doc! {"ok": 1.0},
    }
}

#[tokio::test]
async fn mongodb() {
    let documents = suite::entries().into_iter().map(|entry| {
        doc! {"identifier": entry.ident, "secret": entry.secret, "publish": entry.publish, "subscribe": entry.subscribe}
    });
    let address = stand_in(documents.collect()).await;
    let store = within(MongoStore::open(address.parse().unwrap())).await.unwrap();
    let mut idents = within(store.idents()).await.unwrap();
    idents.sort_unstable();
    let mut expected: Vec<_> = suite::entries().into_iter().map(|entry| entry.ident).collect();
    expected.sort_unstable();
    assert_eq!(idents, expected);
    suite::reads(Arc::new(store)).await;
}

#[tokio::test]
async fn a_document_that_is_wrong_is_named() {
    let cases = [
        (doc! {"publish": [], "subscribe": []}, "\"secret\" is missing"),
        (doc! {"secret": "hunter2", "publish": 5, "subscribe": []}, "\"publish\" must be a list of strings"),
        (doc! {"secret": 5, "publish": [], "subscribe": [1]}, "\"secret\" must be a string"),
    ];
    for (mut document, expected) in cases {
        document.insert("identifier", "bob");
        let address = stand_in(vec![document]).await;
        let store = within(MongoStore::open(address.parse().unwrap())).await.unwrap();
        let error = within(store.lookup("bob")).await.unwrap_err().to_string();
        assert_eq!(error, format!("{address}: collection auth_key: ident \"bob\": {expected}"));
    }
}

/// As with the Python broker, which looks for a channel in whatever is there.
#[tokio::test]
async fn one_string_and_a_list_with_a_number_are_lists() {
    for list in [Bson::from("private"), Bson::from("x, private"), Bson::Array(vec![1.into(), "private".into()])] {
        let document = doc! {"identifier": "bob", "secret": "s", "publish": ["private"], "subscribe": list};
        let store = within(MongoStore::open(stand_in(vec![document]).await.parse().unwrap())).await.unwrap();
        let broker = hpfeeds_broker::Broker::builder().auth(store).listen("127.0.0.1:0").unwrap();
        let broker = broker.start().await.unwrap();
        let mut bob = Peer::login(broker.local_addr(), "bob", "s").await;
        bob.send(subscribe("bob", "private")).await;
        bob.settle().await;
        bob.send(subscribe("bob", "priv")).await;
        bob.expect_error("Authkey not allowed to sub here. ident=bob, chan=priv").await;
    }
}

#[tokio::test]
async fn a_removed_document_ends_the_connections_of_its_ident() {
    let document =
        |ident: &str| doc! {"identifier": ident, "secret": "s", "publish": ["private"], "subscribe": ["private"]};
    let (address, documents) = changing(vec![document("bob"), document("eve")]).await;
    let store = within(MongoStore::open(address.parse().unwrap())).await.unwrap();
    let broker = hpfeeds_broker::Broker::builder().auth(store).listen("127.0.0.1:0").unwrap();
    let broker = broker.recheck_keys(Duration::from_millis(50)).start().await.unwrap();
    let mut bob = Peer::login(broker.local_addr(), "bob", "s").await;
    bob.settle().await;
    let mut eve = Peer::login(broker.local_addr(), "eve", "s").await;
    documents.lock().unwrap().remove("bob");
    bob.expect_error("Authentication failed for bob").await;
    Peer::login(broker.local_addr(), "bob", "s").await.expect_error("Authentication failed for bob").await;
    eve.settle().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_stops_nothing() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("mongodb://127.0.0.1:{port}/keys");
    let store = within(MongoStore::open(address.parse().unwrap())).await.unwrap();
    let error = within(store.lookup("bob")).await.unwrap_err().to_string();
    assert!(error.starts_with(&address) && error.contains("Connection refused"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}
