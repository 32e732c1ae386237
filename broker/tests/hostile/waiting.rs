//! Clients that begin something and do not end it.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

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

/// Sends byte after byte for six seconds, unless the broker ends that. Returns what it has said.
async fn drip(mut stream: TcpStream, bytes: Vec<u8>) -> String {
    let (mut read, mut write) = stream.split();
    let dripping = async {
        for byte in bytes.chunks(1).take(24) {
            // The end is seen by who reads.
            let _ = write.write_all(byte).await;
            sleep(Duration::from_millis(250)).await;
        }
    };
    let mut said = Vec::new();
    tokio::select! {
        _ = within(read.read_to_end(&mut said)) => {}
        () = dripping => panic!("each byte gives it more time"),
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Each byte comes in time, but all of them do not.
#[tokio::test]
async fn byte_after_byte_in_the_handshake() {
    const CONNECTIONS: usize = 200;
    let mut target = Target::start(&["--handshake-timeout=2"]).await;
    // Neither of them is complete after six seconds.
    let auth = [AUTH, &[b'x'; 20]].concat();
    let hello = client_hello(&target.pki);
    let mut drips = JoinSet::new();
    for n in 0..CONNECTIONS {
        let [.., last] = (n / 60).to_be_bytes();
        for (tls, to, bytes) in [(false, target.plain, &auth), (true, target.tls, &hello)] {
            let (begun, bytes) = (Instant::now(), bytes.clone());
            let stream = dial([127, 1, 1, last], to).await;
            drips.spawn(async move { (tls, drip(stream, bytes).await, begun.elapsed()) });
        }
    }
    while let Some(ended) = drips.join_next().await {
        let (tls, said, took) = ended.unwrap();
        assert!(tls || said.ends_with("No AUTH within 2 s"), "{said:?}");
        // A deadline for each byte would end none of them before they do.
        let expected = Duration::from_millis(1500)..Duration::from_secs(5);
        assert!(expected.contains(&took), "{took:?}, with TLS: {tls}");
    }
    let bound = Bound { idle: CONNECTIONS, handshakes: CONNECTIONS, ..Bound::default() };
    target.survives(&format!("{} connections that send byte after byte", 2 * CONNECTIONS), bound).await;
    target.stops().await;
}

/// Nothing but TCP keepalive bounds the time that a message takes, as some sensors stream files into one: see
/// `docs/operating.md`. It may take memory, which has a bound.
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
    // The length that a header claims is not believed.
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
