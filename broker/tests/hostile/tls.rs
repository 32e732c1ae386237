//! A TLS port under bytes that are not TLS, and under handshakes at will.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::rustls::{ClientConnection, pki_types::ServerName};

use crate::{
    pki::{Pki, TlsPeer},
    support::within,
    target::{ATTACKER, Bound, Target, count, dial, held, rest},
};

/// The first flight of a TLS client. An attacker can send it as often as he likes.
pub(crate) fn client_hello(pki: &Pki) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(pki.client(None), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// A handshake message of which all but the end comes: the broker has to keep it.
fn endless_hello() -> Vec<u8> {
    const RECORD: usize = 16 * 1024;
    let mut hello = Vec::new();
    // ClientHello, 65,535 bytes long.
    let mut body = vec![1, 0, 0xff, 0xff];
    body.resize(0xff00, 0);
    for part in body.chunks(RECORD) {
        let [.., a, b] = part.len().to_be_bytes();
        hello.extend([0x16, 3, 1, a, b]);
        hello.extend(part);
    }
    hello
}

#[tokio::test]
async fn the_wrong_protocol_at_a_port() {
    let mut target = Target::start(&["--handshake-timeout=1"]).await;
    let hello = client_hello(&target.pki);
    let mut broken = hello.clone();
    broken[20..60].fill(0xff);
    broken.truncate(hello.len() - 7);
    let auth = b"\0\0\0\x20\x02\x07mallory01234567890123456789";
    let all: [&[u8]; 9] = [
        auth,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\0\0\x16\x03\x01\0\0",
        b"\x15\x03\x01\0\x02\x02\x28",
        b"\x80\x2e\x01\x03\x01",
        &[0; 4096],
        &broken,
    ];
    for (n, bytes) in all.into_iter().enumerate() {
        let mut stream = dial([127, 1, 2, u8::try_from(n).unwrap()], target.tls).await;
        within(stream.write_all(bytes)).await.unwrap();
        // At most the alert of TLS.
        let said = rest(&mut stream).await;
        assert!(said.is_empty() || said[0] == 0x15, "{said:?}");
    }
    // The other way round.
    let mut stream = dial(ATTACKER, target.plain).await;
    within(stream.write_all(&hello)).await.unwrap();
    let said = rest(&mut stream).await;
    assert!(String::from_utf8_lossy(&said).contains("unknown opcode"), "{said:?}");
    target.survives("the wrong protocol", Bound { handshakes: 10, ..Bound::default() }).await;
    let log = target.stops().await;
    assert_eq!(count(&log, "INFO handshake failed"), 1);
    for (what, lines) in [("speaks hpfeeds without TLS", 1), ("speaks HTTP", 1), ("speaks SSH", 1)] {
        assert_eq!(count(&log, what), lines, "{what}");
    }
}

/// Makes the broker begin handshakes for some time, from many connections of some addresses. Returns how many it began.
async fn replay(target: &Target, addresses: u8, connections: usize, time: Duration) -> usize {
    let hello = Arc::new(client_hello(&target.pki));
    let begun = Arc::new(AtomicUsize::new(0));
    let (tls, until) = (target.tls, Instant::now() + time);
    let mut attackers = tokio::task::JoinSet::new();
    for address in 0..addresses {
        for _ in 0..connections {
            let (hello, begun) = (hello.clone(), begun.clone());
            attackers.spawn(async move {
                let mut answer = [0; 1];
                while Instant::now() < until {
                    let mut stream = dial([127, 1, 3, address], tls).await;
                    let _ = stream.write_all(&hello).await;
                    let answered = tokio::time::timeout_at(until.into(), stream.read(&mut answer)).await;
                    begun.fetch_add(usize::from(matches!(answered, Ok(Ok(1)))), Relaxed);
                    stream.set_zero_linger().unwrap();
                }
            });
        }
    }
    while attackers.join_next().await.is_some() {}
    begun.load(Relaxed)
}

/// A few hundred bytes, repeated, cost the broker a signature each time. See `HandshakeLimiter`.
#[tokio::test]
async fn tls_handshakes_at_will() {
    const SECONDS: usize = 3;
    let mut target = Target::start(&[]).await;
    let client = target.pki.client(None);
    let time = Duration::from_secs(SECONDS as u64);
    let cpu = target.cpu().await;
    let honest = async {
        let (mut best, mut worst) = (Duration::MAX, Duration::ZERO);
        let begun = Instant::now();
        while begun.elapsed() < time {
            let begun = Instant::now();
            TlsPeer::dev(target.tls, &client).await.settle().await;
            let took = begun.elapsed();
            (best, worst) = (best.min(took), worst.max(took));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (best, worst)
    };
    let (begun, (best, worst)) = tokio::join!(replay(&target, 1, 300, time), honest);
    let cpu = target.cpu().await - cpu;
    println!(
        "figures: TLS handshakes at will: {begun} begun in {SECONDS} s from one address, {cpu:.2} s of processor time, \
         an honest one took {worst:.0?} at most"
    );
    // 64 at once, and each keeps its place for half a second more.
    assert!((64..=64 * (2 * SECONDS + 2)).contains(&begun), "{begun}");
    assert!(best < Duration::from_secs(2), "an honest one took {best:?} at best");
    target.survives("TLS handshakes at will", Bound { handshakes: 300, ..Bound::default() }).await;
    target.stops().await;
}

/// A connection that waits for its turn costs nothing but itself; one that has it, what it has sent.
#[tokio::test]
async fn tls_handshakes_that_want_to_be_kept_in_memory() {
    let connections = held(2000);
    let mut target = Target::start(&["--handshake-timeout=60"]).await;
    let hello = endless_hello();
    let mut streams = Vec::new();
    for n in 0..connections {
        // Some addresses send more than they have turns.
        let [.., last] = (n % 20).to_be_bytes();
        let mut stream = dial([127, 1, 4, last], target.tls).await;
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(&hello)).await;
        streams.push(stream);
    }
    let held = target.exchange().await;
    println!("figures: {connections} endless TLS handshakes: an honest message took {held:.0?} meanwhile");
    for stream in &streams {
        stream.set_zero_linger().unwrap();
    }
    drop(streams);
    let bound = Bound { idle: connections, handshakes: 20 * 64, ..Bound::default() };
    target.survives(&format!("{connections} endless TLS handshakes"), bound).await;
    target.stops().await;
}
