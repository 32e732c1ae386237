//! The dashboard's page and its stream of events over real sockets: changes, messages, limits, and the end.

use std::time::Duration;

use hpfeeds_broker::{Broker, BrokerBuilder, Key};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    pki::Pki,
    scrape::request,
    snapshot::{addr, showing},
    support::{Peer, builder, publish, until, within},
};

/// A page's stream. HTTP/1.0, so that the events come as they are.
pub(crate) struct Page {
    stream: TcpStream,
    text: String,
}

impl Page {
    /// Asks for a stream with a token.
    async fn ask(broker: &Broker, query: &str, token: &str) -> Self {
        Self::ask_with(broker, query, &format!("Authorization: Bearer {token}\r\n")).await
    }

    async fn ask_with(broker: &Broker, query: &str, more: &str) -> Self {
        let mut stream = within(TcpStream::connect(addr(broker))).await.unwrap();
        let head = format!("GET /api/v1/stream?{query} HTTP/1.0\r\nHost: {}\r\n{more}\r\n", addr(broker));
        within(stream.write_all(head.as_bytes())).await.unwrap();
        Self { stream, text: String::new() }
    }

    /// Text up to an end, which is taken out with it.
    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.text.find(end) {
                let rest = self.text.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.text, rest));
            }
            let mut bytes = vec![0; 64 * 1024];
            match within(self.stream.read(&mut bytes)).await.unwrap() {
                0 => return None,
                n => self.text.push_str(std::str::from_utf8(&bytes[..n]).unwrap()),
            }
        }
    }

    /// Asks, and takes the head and the snapshot.
    pub(crate) async fn open(broker: &Broker, query: &str, token: &str) -> (Self, Value) {
        let mut page = Self::ask(broker, query, token).await;
        let head = page.until("\r\n\r\n").await.unwrap().to_lowercase();
        assert!(head.starts_with("http/1.0 200 ok\r\n"), "{head}");
        for header in
            ["content-type: text/event-stream\r\n", "x-accel-buffering: no\r\n", "cache-control: no-store\r\n"]
        {
            assert!(head.contains(header), "{header}: {head}");
        }
        assert_eq!(page.until("\n\n").await.as_deref(), Some("retry: 1000\n\n"));
        let (name, snapshot) = page.next().await.unwrap();
        assert_eq!(name, "snapshot");
        (page, snapshot)
    }

    /// The next event.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            let event = self.until("\n\n").await?;
            if event.starts_with(':') {
                continue;
            }
            let (name, data) = event.trim_end().split_once('\n').unwrap();
            let (name, data) = (name.strip_prefix("event: ").unwrap(), data.strip_prefix("data: ").unwrap());
            return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
        }
    }

    /// The next event of a kind in which something holds.
    pub(crate) async fn find(&mut self, name: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        within(async {
            loop {
                let (of, data) = self.next().await.expect("the stream has ended");
                if of == name && holds(&data) {
                    return data;
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_page_sees_a_sensor_come_and_go() {
    let (broker, tokens, _folder) = showing(builder()).await;
    until(|| broker.snapshot().sensors.total == 2).await;
    let (mut page, snapshot) = Page::open(&broker, "limit=2000", &tokens[0]).await;
    assert_eq!((&snapshot["connections"], &snapshot["sensors"]["total"]), (&0.into(), &2.into()));
    let mut alice = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    alice.send(publish("alice", "a", "x")).await;
    let row = |change: &Value| {
        let rows = change["lists"]["sensors"]["rows"].as_array().cloned().unwrap_or_default();
        rows.into_iter().find(|row| row["ident"] == "alice")
    };
    let change = page.find("change", |change| row(change).is_some_and(|row| row["messages"] == 1)).await;
    assert_eq!(row(&change).unwrap()["state"], "learning");
    assert!(change["at"].as_u64() > snapshot["at"].as_u64() && change["set"].get("name").is_none(), "{change}");
    drop(alice);
    let change = page.find("change", |change| row(change).is_some_and(|row| row["state"] == "gone")).await;
    assert_eq!(change["set"]["states"]["gone"], 1);
    let order = change["lists"]["sensors"]["order"].as_array().unwrap();
    assert_eq!(order, &["alice", "dev"], "the worst comes first");
    drop(page);
    broker.shutdown().await;
}

#[tokio::test]
async fn the_tail_shows_what_passes_its_filters() {
    let (broker, [view, tail], _folder) = showing(builder()).await;
    let mut denied = Page::ask(&broker, "tail=1", &view).await;
    assert!(denied.until("\r\n\r\n").await.unwrap().starts_with("HTTP/1.0 403 "));
    let query = "tail=1&channel=cowrie.*&ident=de*&field=peerIP%3D192.0.2.*&list=";
    let (mut page, snapshot) = Page::open(&broker, query, &tail).await;
    assert_eq!(snapshot["sensors"]["rows"], Value::Array(Vec::new()));
    let mut dev = Peer::dev(&broker).await;
    let payload = r#"{"peerIP": "192.0.2.1", "input": "</script>\u202e<img src=x onerror=alert(1)>"}"#;
    for (channel, payload) in [
        ("cowrie.sessions", payload),
        ("cowrie.sessions", r#"{"peerIP": "198.51.100.1"}"#),
        ("cowrie.sessions", "not JSON"),
        ("dionaea", payload),
    ] {
        dev.send(publish("dev", channel, payload)).await;
    }
    dev.confirm().await;
    let event = page.find("tail", |_| true).await;
    let rows = event["messages"].as_array().unwrap();
    assert_eq!((rows.len(), &event["shown"]), (1, &1.into()), "{event}");
    assert!(event["rate"].as_u64().is_some_and(|rate| rate > 0), "{event}");
    let row = &rows[0];
    assert_eq!(
        (&row["ident"], &row["channel"], &row["encoding"]),
        (&"dev".into(), &"cowrie.sessions".into(), &"json".into())
    );
    assert_eq!((&row["payload"], &row["size"], &row["cut"]), (&payload.into(), &payload.len().into(), &false.into()));
    let event = page.find("sources", |_| true).await;
    let expected = serde_json::json!([{"source": "192.0.2.1", "field": "peerIP", "messages": 1}]);
    assert_eq!(event["sources"], expected);
    drop(page);
    broker.shutdown().await;
}

#[tokio::test]
async fn long_payloads_are_cut_and_bytes_are_encoded() {
    let (broker, [_, tail], _folder) = showing(builder()).await;
    let (mut page, _) = Page::open(&broker, "tail=1&list=", &tail).await;
    let mut dev = Peer::dev(&broker).await;
    dev.send(publish("dev", "long", vec![b'x'; 100_000])).await;
    dev.send(publish("dev", "binary", vec![0xff, 0x00])).await;
    dev.confirm().await;
    let mut rows = Vec::new();
    while rows.len() < 2 {
        rows.extend(page.find("tail", |_| true).await["messages"].as_array().unwrap().clone());
    }
    let [long, binary] = &*rows else { panic!("{} rows", rows.len()) };
    let text = long["payload"].as_str().unwrap();
    assert_eq!((text.len(), &long["size"], &long["cut"]), (16 * 1024, &100_000.into(), &true.into()));
    assert_eq!((&binary["encoding"], &binary["payload"]), (&"base64".into(), &"/wA=".into()));
    drop(page);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_page_that_does_not_read_paces_no_publisher() {
    let (broker, [_, tail], _folder) = showing(builder()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = within(socket.connect(addr(&broker))).await.unwrap();
    let head = format!("GET /api/v1/stream?tail=1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {tail}\r\n\r\n");
    within(stream.write_all(head.as_bytes())).await.unwrap();
    within(stream.readable()).await.unwrap();
    let mut dev = Peer::dev(&broker).await;
    for _ in 0..200 {
        dev.send(publish("dev", "a", vec![b'x'; 100_000])).await;
    }
    dev.confirm().await;
    until(|| broker.stats().received_messages >= 200).await;
    assert_eq!(broker.snapshot().difference, 0);
    // It is over with the broker, too.
    timeout(Duration::from_secs(10), broker.shutdown()).await.unwrap();
}

#[tokio::test]
async fn pages_are_told_that_the_broker_stops() {
    let (broker, tokens, _folder) = showing(builder()).await;
    let (mut page, _) = Page::open(&broker, "", &tokens[0]).await;
    let stopping = tokio::spawn(broker.shutdown());
    let gone = page.find("gone", |_| true).await;
    assert_eq!(gone, serde_json::json!({"reason": "shutdown"}));
    assert_eq!(page.next().await, None);
    within(stopping).await.unwrap();
}

#[tokio::test]
async fn streams_have_a_limit_and_outlive_connections_without_one() {
    let (broker, tokens, _folder) = showing(builder()).await;
    let mut pages = Vec::new();
    for _ in 0..8 {
        pages.push(Page::open(&broker, "", &tokens[0]).await.0);
    }
    let mut refused = Page::ask(&broker, "", &tokens[0]).await;
    let head = refused.until("\r\n\r\n").await.unwrap().to_lowercase();
    assert!(head.starts_with("http/1.0 503 ") && head.contains("retry-after: 10\r\n"), "{head}");
    // Strangers that say nothing push one another out, and neither the pages nor the next request.
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(within(TcpStream::connect(addr(&broker))).await.unwrap());
    }
    let more = format!("Authorization: Bearer {}\r\nConnection: close\r\n", tokens[0]);
    assert_eq!(request(addr(&broker), "GET", "/api/v1/scope", &more).await.body, r#"{"scope":"view"}"#);
    let closed = within(strangers[0].read(&mut [0])).await;
    assert!(!matches!(closed, Ok(1..)), "{closed:?}");
    let alice = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    for page in &mut pages {
        page.find("change", |change| change["set"]["connections"] == 1).await;
    }
    drop(alice);
    // A page that is closed makes room for another.
    drop(pages);
    within(async {
        while !Page::ask(&broker, "", &tokens[0]).await.until("\r\n").await.unwrap().contains(" 200 ") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    broker.shutdown().await;
}

#[tokio::test]
async fn a_cookie_opens_the_page_and_is_given_back() {
    let (broker, tokens, _folder) = showing(builder()).await;
    let close = "Content-Length: 0\r\nConnection: close\r\n";
    for (path, kind) in [("/", "text/html"), ("/dashboard.css", "text/css"), ("/dashboard.js", "text/javascript")] {
        let answer = request(addr(&broker), "GET", path, close).await;
        assert_eq!((answer.status, answer.body.contains(&tokens[0])), (200, false));
        assert!(answer.head.contains(&format!("\r\ncontent-type: {kind}; charset=utf-8\r\n")), "{}", answer.head);
        assert_eq!(request(addr(&broker), "HEAD", path, close).await.body, "");
        assert_eq!(request(addr(&broker), "POST", path, close).await.status, 405);
    }
    let more = format!("Authorization: Bearer {}\r\n{close}", tokens[1]);
    let login = request(addr(&broker), "POST", "/api/v1/login", &more).await;
    let cookie = login.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().to_owned();
    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let mut page = Page::ask_with(&broker, "tail=1", &cookie).await;
    assert!(page.until("\r\n\r\n").await.unwrap().starts_with("HTTP/1.0 200 "));
    let scope = request(addr(&broker), "GET", "/api/v1/scope", &format!("{cookie}{close}")).await;
    assert_eq!(scope.body, r#"{"scope":"tail"}"#);
    // Another site's page, which a browser sends with the cookie if it is on another port of the same host.
    for foreign in ["Sec-Fetch-Site: same-site\r\n", "Sec-Fetch-Site: cross-site\r\n", "Origin: http://localhost:1\r\n"]
    {
        for (method, path) in [("GET", "/api/v1/stream"), ("GET", "/api/v1/snapshot"), ("POST", "/api/v1/logout")] {
            let answer = request(addr(&broker), method, path, &format!("{cookie}{foreign}{close}")).await;
            assert_eq!((answer.status, answer.head.contains("set-cookie")), (403, false), "{path}");
        }
        let login = request(addr(&broker), "POST", "/api/v1/login", &format!("{foreign}{more}")).await;
        assert_eq!((login.status, login.head.contains("set-cookie")), (403, false));
    }
    assert_eq!(request(addr(&broker), "POST", "/api/v1/logout", close).await.status, 401);
    let logout = request(addr(&broker), "POST", "/api/v1/logout", &format!("{cookie}{close}")).await;
    assert_eq!((logout.status, logout.head.contains("; max-age=0")), (204, true), "{}", logout.head);
    drop(page);
    broker.shutdown().await;
}

#[tokio::test]
async fn two_thousand_rows_arrive_whole_at_a_slow_reader_over_tls() {
    let pki = Pki::new();
    let folder = tempfile::tempdir().unwrap();
    let keys = (0..2000).map(|n| Key::new(format!("sensor-{n:04}"), "s").unwrap());
    let builder = keys.fold(builder(), BrokerBuilder::user).dashboard_endpoint(pki.endpoint());
    let broker = builder.dashboard_tokens(folder.path().join("tokens")).start().await.unwrap();
    let token = broker.new_dashboard_token().unwrap().to_owned();
    until(|| broker.snapshot().sensors.total == 2002).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let tcp = within(socket.connect(addr(&broker))).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(pki.client(None));
    let mut tls = within(connector.connect("localhost".try_into().unwrap(), tcp)).await.unwrap();
    let head = format!("Host: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    within(tls.write_all(format!("GET /api/v1/stream?limit=2000 HTTP/1.0\r\n{head}").as_bytes())).await.unwrap();
    let (mut text, mut bytes) = (Vec::new(), [0; 1000]);
    while !text.ends_with(b"\n\n") || text.len() < 100_000 {
        let n = within(tls.read(&mut bytes)).await.unwrap();
        assert!(n > 0, "the stream has ended after {} bytes", text.len());
        text.extend_from_slice(&bytes[..n]);
        tokio::task::yield_now().await;
    }
    let text = String::from_utf8(text).unwrap();
    let (_, data) = text.split_once("\ndata: ").unwrap();
    let snapshot: Value = serde_json::from_str(data.lines().next().unwrap()).unwrap();
    let rows = snapshot["sensors"]["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &snapshot["states"]["never"]), (2000, &2002.into()));
    drop(tls);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_token_that_is_replaced_lets_nobody_in() {
    let (broker, [old, _], folder) = showing(builder()).await;
    let (mut page, _) = Page::open(&broker, "", &old).await;
    let new = "0123456789abcdef";
    std::fs::write(folder.path().join("tokens"), format!("view {new}\ntail {new}x\n")).unwrap();
    broker.reload().await.unwrap();
    within(async { while page.next().await.is_some() {} }).await;
    for (token, status) in [(&*old, 401), (new, 200)] {
        let more = format!("Authorization: Bearer {token}\r\nConnection: close\r\n");
        assert_eq!(request(addr(&broker), "GET", "/api/v1/snapshot", &more).await.status, status);
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn hostile_heads_are_refused_and_nothing_breaks() {
    let (broker, tokens, _folder) = showing(builder()).await;
    let token = &tokens[0];
    let long = "x".repeat(20_000);
    let many = "X: y\r\n".repeat(200);
    for head in [
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
        format!("GET /api/v1/stream?q=%ff HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"),
        format!("GET /api/v1/snapshot?limit=x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"),
        format!("GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}{token}\r\n\r\n"),
        "CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(),
        "POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_owned(),
    ] {
        let mut stream = within(TcpStream::connect(addr(&broker))).await.unwrap();
        within(stream.write_all(head.as_bytes())).await.unwrap();
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        // A reset is an answer, too.
        let _ = within(stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8(answer).unwrap();
        let start = &head[..head.len().min(80)];
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{start:?}: {answer}");
        assert!(!answer.contains(token) && !answer.contains("alice"), "{start:?}: {answer}");
    }
    let more = format!("Authorization: Bearer {token}\r\nConnection: close\r\n");
    assert_eq!(request(addr(&broker), "GET", "/api/v1/snapshot", &more).await.status, 200);
    broker.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_lives_longer_than_a_connection_without_one() {
    let (broker, tokens, _folder) = showing(builder()).await;
    let (mut page, _) = Page::open(&broker, "list=", &tokens[0]).await;
    let mut idle = TcpStream::connect(addr(&broker)).await.unwrap();
    let opened = tokio::time::Instant::now();
    // Time passes as nobody does anything.
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert!(opened.elapsed() <= Duration::from_secs(66), "{:?}", opened.elapsed());
    let mut comments = 0;
    while opened.elapsed() < Duration::from_secs(200) {
        comments += usize::from(page.until("\n\n").await.unwrap() == ":\n\n");
    }
    assert!(comments >= 10, "{comments}");
    drop(broker);
    assert_eq!(page.until("\n\n").await, None);
}
