//! Who begins something and does not end it.

use std::time::{Duration, Instant};

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    pki::TlsPeer,
    support::within,
    target::{ATTACKER, Bound, MIB, Target, dial, login, rest, sleep},
    tls::client_hello,
};

/// The start of AUTH, and of a PUBLISH of 1 MiB.
const AUTH: &[u8] = b"\0\0\0\x20\x02\x07mal";
const LONG: &[u8] = b"\0\x10\0\x05\x03\x07mallory\x04slow";

async fn dials(count: usize, target: &Target, tls: bool) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for n in 0..count {
        let [.., last] = (n / 60).to_be_bytes();
        streams.push(dial([127, 1, 1, last], if tls { target.tls } else { target.plain }).await);
    }
    streams
}

#[tokio::test]
async fn a_header_and_then_silence() {
    const CONNECTIONS: usize = 500;
    let mut target = Target::start(&["--handshake-timeout=1"]).await;
    let mut streams = dials(CONNECTIONS, &target, false).await;
    for (n, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&AUTH[..n % (AUTH.len() + 1)]).await.unwrap();
    }
    for stream in &mut streams {
        let said = rest(stream).await;
        assert!(String::from_utf8_lossy(&said).ends_with("No AUTH within 1 s"), "{said:?}");
    }
    target
        .survives(
            &format!("{CONNECTIONS} connections that fall silent"),
            Bound { idle: CONNECTIONS, ..Bound::default() },
        )
        .await;
    target.stops().await;
}

#[tokio::test]
async fn byte_after_byte_in_the_handshake() {
    const CONNECTIONS: usize = 200;
    let mut target = Target::start(&["--handshake-timeout=2"]).await;
    let begun = Instant::now();
    let mut streams = dials(CONNECTIONS, &target, false).await;
    let mut secured = dials(CONNECTIONS, &target, true).await;
    let hello = client_hello(&target.pki);
    // Each byte comes in time, but all of them do not.
    for n in 0..AUTH.len() {
        for (stream, bytes) in
            streams.iter_mut().map(|stream| (stream, AUTH)).chain(secured.iter_mut().map(|stream| (stream, &*hello)))
        {
            let _ = stream.write_all(&bytes[n..=n]).await;
        }
        sleep(Duration::from_millis(250)).await;
    }
    for stream in streams.iter_mut().chain(&mut secured) {
        rest(stream).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "the deadline is not for each byte");
    let bound = Bound { idle: CONNECTIONS, handshakes: CONNECTIONS, ..Bound::default() };
    target.survives(&format!("{} connections that send byte after byte", 2 * CONNECTIONS), bound).await;
    target.stops().await;
}

/// Nothing but TCP keepalive bounds the time that a message takes, as some sensors stream files into one: see
/// `docs/operating.md`. What it may take is memory, and that has a bound.
#[tokio::test]
async fn byte_after_byte_in_the_middle_of_a_message() {
    const CONNECTIONS: usize = 100;
    let mut target = Target::start(&[]).await;
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        peers.push(login(ATTACKER, target.plain, "mallory", "stolen").await.framed.into_inner());
    }
    for peer in &mut peers {
        within(peer.write_all(LONG)).await.unwrap();
    }
    let unparsed = "hpfeeds_broker_connection_receive_buffer_size{ident=\"mallory\"}";
    target.reaches(unparsed, CONNECTIONS * LONG.len()).await;
    // What a header claims is not believed.
    let claimed = target.memory("VmRSS:");
    assert!(claimed < 48 * MIB, "{} MiB for {CONNECTIONS} headers", claimed / MIB);
    for n in 0..20 {
        for peer in &mut peers {
            within(peer.write_all(&[n])).await.unwrap();
        }
        target.exchange().await;
    }
    let rest = vec![b'x'; MIB - 1 - (LONG.len() - 5) - 20];
    for peer in &mut peers {
        within(peer.write_all(&rest)).await.unwrap();
    }
    target.reaches(unparsed, CONNECTIONS * (MIB + 4)).await;
    target.exchange().await;
    let held = target.memory("VmRSS:");
    assert!(held > CONNECTIONS * MIB, "all of that is there");
    drop(peers);
    target
        .survives(&format!("{CONNECTIONS} messages that never end"), Bound { active: CONNECTIONS, ..Bound::default() })
        .await;
    let left = target.memory("VmRSS:");
    assert!(left < held / 2, "{} MiB of {} are still there", left / MIB, held / MIB);
    target.stops().await;
}

#[tokio::test]
async fn tls_handshakes_that_never_end() {
    const CONNECTIONS: usize = 600;
    let mut target = Target::start(&["--handshake-timeout=2"]).await;
    let hello = client_hello(&target.pki);
    let mut streams = dials(CONNECTIONS, &target, true).await;
    for (n, stream) in streams.iter_mut().enumerate() {
        let _ = stream.write_all(&hello[..[0, 3, 5, 60, hello.len() - 1, hello.len()][n % 6]]).await;
    }
    // Their address has turns enough, and so have others.
    let begun = Instant::now();
    TlsPeer::dev(target.tls, &target.pki.client(None)).await.settle().await;
    let took = begun.elapsed();
    for stream in &mut streams {
        rest(stream).await;
    }
    println!("figures: {CONNECTIONS} TLS handshakes that never end: an honest one took {took:.0?} meanwhile");
    target.survives("TLS handshakes that never end", Bound { handshakes: CONNECTIONS, ..Bound::default() }).await;
    target.stops().await;
}
