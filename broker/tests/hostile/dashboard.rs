//! The dashboard under strangers, pages that are not read, and TLS handshakes at will.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    pki::Pki,
    scrape,
    support::{publish, within},
    target::{ATTACKER, Bound, MIB, Target, dial, login},
    tls::client_hello,
};

const TIME: Duration = Duration::from_secs(2);

/// The address and the token for everything, as the broker has printed them.
async fn dashboard(target: &mut Target) -> (SocketAddr, String) {
    let line = target.next_line().await;
    let (_, rest) = line.split_once("://").expect(&line);
    let (addr, token) = rest.split_once("/#token=").expect(&line);
    (addr.parse().unwrap(), token.to_owned())
}

/// A page's stream, of which the head is read.
async fn page(addr: SocketAddr, query: &str, token: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = within(socket.connect(addr)).await.unwrap();
    let head =
        format!("GET /api/v1/stream?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    within(stream.write_all(head.as_bytes())).await.unwrap();
    let mut start = [0; 12];
    within(stream.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    stream
}

/// Asks for the scope with a token, until the answer comes: strangers push newcomers out.
async fn scope(addr: SocketAddr, token: &str) -> String {
    let mut stream = within(TcpStream::connect(addr)).await.unwrap();
    let head = format!(
        "GET /api/v1/scope HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = String::new();
    let _ = within(stream.read_to_string(&mut answer)).await;
    answer
}

/// Wrong tokens, heads without an end, heads that are too long, and connections that say nothing.
#[tokio::test]
async fn strangers_at_the_dashboard() {
    let mut target = Target::start(&["--dashboard", "127.0.0.1:0"]).await;
    let (addr, token) = dashboard(&mut target).await;
    let mut open = page(addr, "", &token).await;
    let until = Instant::now() + TIME;
    let mut attackers = JoinSet::new();
    for n in 0..16 {
        attackers.spawn(async move {
            let long = "x".repeat(20_000);
            let heads = [
                "POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n",
                "GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
                &long,
                "",
            ];
            let (mut held, mut count) = (Vec::new(), n);
            while Instant::now() < until {
                let mut stream = dial(ATTACKER, addr).await;
                let _ = stream.write_all(heads[count % heads.len()].as_bytes()).await;
                held.push(stream);
                if held.len() > 20 {
                    held.clear();
                }
                count += 1;
                tokio::task::yield_now().await;
            }
            count
        });
    }
    let mut worst = Duration::ZERO;
    while Instant::now() < until {
        worst = worst.max(target.exchange().await);
    }
    let mut count = 0;
    while let Some(more) = attackers.join_next().await {
        count += more.unwrap();
    }
    // The page has gone through it, and newcomers find their way in again.
    assert!(within(open.read(&mut [0; 1000])).await.unwrap() > 0);
    within(async { while !scope(addr, &token).await.ends_with("\r\n\r\n{\"scope\":\"tail\"}") {} }).await;
    println!("figures: {count} strangers at the dashboard in {TIME:?}: an honest message took {worst:.0?} at most");
    drop(open);
    target.survives("strangers at the dashboard", Bound { metrics: 16 * MIB, ..Bound::default() }).await;
    target.stops().await;
}

/// As many pages as there may be, which tail what is published at full speed and read none of it.
#[tokio::test]
async fn pages_that_are_not_read() {
    let mut target = Target::start(&["--dashboard", "127.0.0.1:0"]).await;
    let (addr, token) = dashboard(&mut target).await;
    let mut pages = Vec::new();
    for _ in 0..8 {
        pages.push(page(addr, "tail=1&field=a%3D*", &token).await);
    }
    let mut mallory = login(ATTACKER, target.plain, "mallory", "stolen").await;
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(120), "]".repeat(120));
    let (mut worst, until) = (Duration::ZERO, Instant::now() + TIME);
    while Instant::now() < until {
        for n in 0..20 {
            mallory.send(publish("mallory", &format!("c{n}"), deep.clone())).await;
            mallory.send(publish("mallory", "long", vec![b'x'; 100_000])).await;
        }
        worst = worst.max(target.exchange().await);
    }
    mallory.confirm().await;
    println!("figures: pages that are not read: an honest message took {worst:.0?} at most");
    let metrics = scrape::request(target.exporter, "GET", "/metrics", "").await;
    assert!(metrics.body.contains("hpfeeds_broker_stalled_publishers 0"), "no publisher waits for a page");
    drop(pages);
    // Each has a sample of a mebibyte, what is made of it, and an event of 800 KiB.
    target.survives("pages that are not read", Bound { active: 2, metrics: 8 * 6 * MIB, ..Bound::default() }).await;
    target.stops().await;
}

/// Handshakes at will on a dashboard that is not on the loopback interface, or could be.
#[tokio::test]
async fn tls_handshakes_at_the_dashboard() {
    let pki = Pki::new();
    let path = |name: &str| pki.path(name).to_str().unwrap().to_owned();
    let endpoint = format!("tls:interface=127.0.0.1:port=0:cert={}:key={}", path("cert.pem"), path("key.pem"));
    let mut target = Target::start(&["--dashboard", &endpoint]).await;
    let (addr, _) = dashboard(&mut target).await;
    let (hello, begun) = (client_hello(&pki), Instant::now());
    let mut attackers = JoinSet::new();
    for _ in 0..16 {
        let hello = hello.clone();
        attackers.spawn(async move {
            let mut answered = 0;
            while begun.elapsed() < TIME {
                let mut stream = dial(ATTACKER, addr).await;
                let _ = stream.write_all(&hello).await;
                answered += usize::from(matches!(within(stream.read(&mut [0; 100])).await, Ok(1..)));
            }
            answered
        });
    }
    let mut worst = Duration::ZERO;
    while begun.elapsed() < TIME {
        worst = worst.max(target.exchange().await);
    }
    let mut answered = 0;
    while let Some(more) = attackers.join_next().await {
        answered += more.unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "it is a small number")]
    let rate = answered as f64 / seconds;
    println!("figures: {rate:.0} TLS handshakes a second at the dashboard: an honest message took {worst:.0?} at most");
    assert!(answered > 0 && rate <= 81.0, "{answered} handshakes in {seconds} s");
    target.survives("TLS handshakes at the dashboard", Bound { handshakes: 32, ..Bound::default() }).await;
    target.stops().await;
}
