//! The exporter, attacked as a web server is. It belongs to a private network, which nobody should rely on.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    scrape,
    support::within,
    target::{ATTACKER, Bound, MIB, Target, count, dial, rest},
};

/// Sends something, and reads the answer to its end, as a text.
async fn ask(target: &Target, request: &[u8]) -> String {
    let mut stream = dial(ATTACKER, target.exporter).await;
    let _ = within(stream.write_all(request)).await;
    String::from_utf8_lossy(&rest(&mut stream).await).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn requests_that_are_wrong() {
    let mut target = Target::start(&[]).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
        let answer = ask(&target, format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert_eq!(status(&answer), "405", "{method}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(MIB));
    let headers = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Y: z\r\n".repeat(100_000));
    let huge = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(MIB));
    for request in [&long, &headers, &huge] {
        let answer = ask(&target, request.as_bytes()).await;
        // A client that goes on sending may not see it.
        assert!(answer.is_empty() || status(&answer).starts_with('4'), "{answer}");
    }
    for path in ["/", "//metrics", "/metrics/../etc/passwd", "/%6detrics", "/METRICS", "*", "http://x/healthz/.."] {
        let answer = ask(&target, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert!(["400", "404"].contains(&status(&answer)), "{path}: {answer}");
    }
    for garbage in [
        &b"\0\0\0\x05\x02"[..],
        b"\x16\x03\x01\x02\0\x01",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n\xff",
    ] {
        let answer = {
            let mut stream = dial(ATTACKER, target.exporter).await;
            stream.write_all(garbage).await.unwrap();
            stream.shutdown().await.unwrap();
            String::from_utf8_lossy(&rest(&mut stream).await).into_owned()
        };
        assert!(
            answer.is_empty() || status(&answer).starts_with('4') || status(&answer) == "505",
            "{garbage:?}: {answer}"
        );
    }
    // One answer a connection, however many are asked for. A body that is announced is not waited for.
    let pipelined = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    assert_eq!(ask(&target, pipelined.as_bytes()).await.matches("HTTP/1.1").count(), 1);
    let smuggled = b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n";
    assert!(ask(&target, smuggled).await.matches("HTTP/1.1").count() <= 1);
    target.survives("wrong requests to the exporter", Bound { metrics: 16 * MIB, ..Bound::default() }).await;
    // Started, stopping, stopped, and the honest pairs.
    let lines = target.stops().await;
    assert_eq!(lines.len() - count(&lines, "connected"), 3, "{lines:#?}");
}

/// More connections than there is room for, none of which asks for anything, or not to the end.
#[tokio::test]
async fn connections_that_ask_for_nothing() {
    const CONNECTIONS: usize = 500;
    let mut target = Target::start(&[]).await;
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut worst = Duration::ZERO;
    for n in 0..CONNECTIONS {
        let mut stream = dial(ATTACKER, target.exporter).await;
        let _ = stream.write_all(&b"GET /metrics HTTP/1.1\r\nX-Slow: "[..n % 32]).await;
        streams.push(stream);
        if n % 50 == 0 {
            // The oldest gives way.
            let begun = Instant::now();
            assert_eq!(scrape::request(target.exporter, "GET", "/metrics", "").await.status, 200);
            worst = worst.max(begun.elapsed());
        }
    }
    // All but eight have been cut off already, without a deadline, the first of which would be that of 5 s.
    let begun = Instant::now();
    let (mut cut, mut byte) = (0, [0; 1]);
    for stream in &mut streams[..CONNECTIONS - 16] {
        cut += usize::from(matches!(within(stream.read(&mut byte)).await, Ok(0) | Err(_)));
    }
    assert_eq!(cut, CONNECTIONS - 16);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "they gave way after {took:?}");
    assert!(worst < Duration::from_secs(2), "a scrape took {worst:?}");
    // Everything together has 10 s.
    for stream in &mut streams[CONNECTIONS - 16..] {
        rest(stream).await;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "the last were cut off after {took:?}");
    println!("figures: {CONNECTIONS} connections that ask the exporter for nothing: a scrape took {worst:.0?} at most");
    drop(streams);
    target
        .survives("connections that ask the exporter for nothing", Bound { metrics: 16 * MIB, ..Bound::default() })
        .await;
    target.stops().await;
}

/// Scrapes without end, of which nobody reads the answer, while there is much to print.
#[tokio::test]
async fn scrapes_without_end() {
    const TIME: Duration = Duration::from_secs(2);
    let mut target = Target::start(&[]).await;
    let mut peer = crate::target::login(ATTACKER, target.plain, "mallory", "stolen").await;
    for n in 0..1000 {
        peer.send(crate::support::publish("mallory", &format!("{n:0>200}"), "x")).await;
    }
    peer.confirm().await;
    let (exporter, until) = (target.exporter, Instant::now() + TIME);
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        attackers.spawn(async move {
            let mut count = 0;
            while Instant::now() < until {
                let mut stream = dial(ATTACKER, exporter).await;
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
                let _ = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 1])).await;
                count += 1;
            }
            count
        });
    }
    let (mut worst, mut count) = (Duration::ZERO, 0);
    while Instant::now() < until {
        worst = worst.max(target.exchange().await);
    }
    while let Some(more) = attackers.join_next().await {
        count += more.unwrap();
    }
    println!("figures: {count} scrapes in {TIME:?}: an honest message took {worst:.0?} at most");
    target.survives("scrapes without end", Bound { metrics: 64 * MIB, ..Bound::default() }).await;
    target.stops().await;
}
