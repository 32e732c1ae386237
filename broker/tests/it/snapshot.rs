//! The dashboard's API over real HTTP: tokens, cookies, names, queries, and TLS.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, time::Duration};

use hpfeeds_broker::{Broker, BrokerBuilder, StartError};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    scrape::{Answer, request},
    support::{Peer, builder, publish, start, within},
};

/// A broker with a dashboard, and the tokens for `view` and `tail`.
pub(crate) async fn showing(builder: BrokerBuilder) -> (Broker, [String; 2], tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let builder = builder.dashboard("127.0.0.1:0").unwrap().dashboard_tokens(&path);
    let broker = start(builder.dashboard_host("broker.example")).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    let token = |scope| text.lines().find_map(|line| line.strip_prefix(scope)).unwrap().trim().to_owned();
    let tokens = [token("view"), token("tail")];
    (broker, tokens, folder)
}

pub(crate) fn addr(broker: &Broker) -> SocketAddr {
    broker.dashboard_addr().unwrap()
}

async fn get(broker: &Broker, path: &str, token: &str) -> Answer {
    let more = format!("Authorization: Bearer {token}\r\nConnection: close\r\n");
    request(addr(broker), "GET", path, &more).await
}

#[tokio::test]
async fn a_token_or_its_cookie_shows_the_snapshot() {
    let (broker, tokens, _folder) = showing(builder()).await;
    let mut alice = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    alice.send(publish("alice", "a", "x")).await;
    alice.confirm().await;
    for token in &tokens {
        let answer = get(&broker, "/api/v1/snapshot", token).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.head.contains("content-type: application/json\r\n"), "{}", answer.head);
        let json: Value = serde_json::from_str(&answer.body).unwrap();
        let rows = json["sensors"]["rows"].as_array().unwrap();
        assert!(rows.iter().any(|row| row["ident"] == "alice" && row["messages"] == 1), "{rows:?}");
        assert_eq!((&json["difference"], &json["books"]["copies"]), (&Value::from(0), &Value::from(0)));
    }
    let more = format!("Authorization: Bearer {}\r\nContent-Length: 0\r\nConnection: close\r\n", tokens[0]);
    let answer = request(addr(&broker), "POST", "/api/v1/login", &more).await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    let cookie = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().to_owned();
    assert!(cookie.ends_with("; path=/; httponly; samesite=strict"), "{cookie}");
    let more = format!("Cookie: {}\r\nConnection: close\r\n", cookie.split(';').next().unwrap());
    assert_eq!(request(addr(&broker), "GET", "/api/v1/snapshot", &more).await.status, 200);
    broker.shutdown().await;
}

#[tokio::test]
async fn nobody_else_sees_anything() {
    let (broker, tokens, _folder) = showing(builder()).await;
    let close = "Connection: close\r\n";
    for wrong in ["", "x", &tokens[0][1..]] {
        let answer = get(&broker, "/api/v1/snapshot", wrong).await;
        assert_eq!((answer.status, answer.body.contains("alice")), (401, false), "{}", answer.body);
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
    }
    assert_eq!(request(addr(&broker), "GET", "/api/v1/snapshot", close).await.status, 401);
    // A token in a query would be in logs and histories.
    let query = format!("/api/v1/snapshot?token={}", tokens[0]);
    assert_eq!(request(addr(&broker), "GET", &query, close).await.status, 401);
    let login = request(addr(&broker), "POST", "/api/v1/login", "Content-Length: 0\r\nConnection: close\r\n").await;
    assert_eq!((login.status, login.head.contains("set-cookie")), (401, false));
    assert_eq!(get(&broker, "/metrics", &tokens[0]).await.status, 404);
    let more = format!("Authorization: Bearer {}\r\nContent-Length: 0\r\n{close}", tokens[0]);
    let answer = request(addr(&broker), "POST", "/api/v1/snapshot", &more).await;
    assert_eq!((answer.status, answer.head.contains("allow: get, head\r\n")), (405, true));
    broker.shutdown().await;
}

#[tokio::test]
async fn a_name_of_another_site_is_refused() {
    let (broker, tokens, _folder) = showing(builder()).await;
    for (host, status) in [("broker.example:9", 200), ("localhost", 200), ("[::1]:3", 200), ("evil.example", 421)] {
        let mut stream = within(tokio::net::TcpStream::connect(addr(&broker))).await.unwrap();
        let head = format!("GET /api/v1/snapshot HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        let head = format!("{head}Authorization: Bearer {}\r\n\r\n", tokens[0]);
        within(stream.write_all(head.as_bytes())).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
        assert_eq!(answer.contains("alice"), status == 200, "{host}");
        let lower = answer.to_lowercase();
        for header in [
            "\r\ncontent-security-policy: default-src 'none'; script-src 'self'; ",
            "; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'\r\n",
            "x-frame-options: deny\r\n",
            "referrer-policy: no-referrer\r\n",
            "x-content-type-options: nosniff\r\n",
            "cache-control: no-store\r\n",
        ] {
            assert!(lower.contains(header), "{header}: {answer}");
        }
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn rows_are_chosen_by_the_server() {
    let (broker, tokens, _folder) = showing(builder().auth_failure_delay(Duration::ZERO)).await;
    Peer::login(broker.local_addr(), "alice", "x").await.expect_error("Authentication failed for alice").await;
    let answer = get(&broker, "/api/v1/snapshot?q=AL&state=never&limit=5&sort=-ident", &tokens[0]).await;
    let json: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(json["sensors"]["rows"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!((&json["sensors"]["total"], &json["sensors"]["matching"]), (&2.into(), &1.into()));
    assert_eq!(json["incidents"]["rows"][0]["kind"], "wrong-secret");
    let answer = get(&broker, "/api/v1/snapshot?order=x", &tokens[0]).await;
    assert_eq!((answer.status, answer.body.starts_with("the parameters are ")), (400, true));
    broker.shutdown().await;
}

#[tokio::test]
async fn the_dashboard_needs_tls_off_the_loopback_interface() {
    let error = builder().dashboard("0.0.0.0:0").unwrap().start().await.unwrap_err();
    assert!(matches!(&error, StartError::Option(text) if text.contains("give it a certificate")), "{error}");
    let pki = crate::pki::Pki::new();
    let (folder, endpoint) = (tempfile::tempdir().unwrap(), pki.endpoint());
    let path = folder.path().join("tokens");
    let broker = start(builder().dashboard_endpoint(endpoint).dashboard_tokens(&path)).await;
    let token = fs::read_to_string(&path).unwrap().lines().next().unwrap().replace("view ", "");
    let connector = tokio_rustls::TlsConnector::from(pki.client(None));
    let tcp = within(tokio::net::TcpStream::connect(addr(&broker))).await.unwrap();
    let mut tls = within(connector.connect("localhost".try_into().unwrap(), tcp)).await.unwrap();
    let mut answers = String::new();
    // Two requests on one connection, the second with a long answer.
    for close in ["", "Connection: close\r\n"] {
        let head = format!("GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
        within(tls.write_all(format!("{head}{close}\r\n").as_bytes())).await.unwrap();
    }
    within(tls.read_to_string(&mut answers)).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    broker.shutdown().await;
}
