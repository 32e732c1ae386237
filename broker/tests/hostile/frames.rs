//! Bytes that are no frame, and frames that a client may not send.

use std::time::Instant;

use hpfeeds::wire::{Digest, Frame, Secret};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    support::{Peer, bytes, publish, subscribe, within},
    target::{ATTACKER, Bound, Target, count, dial, login, periods, rest},
};

/// The longest frame of each opcode with the default limits.
const LIMITS: [(&str, u32); 6] = [
    ("ERROR", 5 + (1 << 20)),
    ("INFO", 5 + 256 + 20),
    ("AUTH", 5 + 256 + 20),
    ("PUBLISH", 5 + (1 << 20)),
    ("SUBSCRIBE", 5 + 256 + 255),
    ("UNSUBSCRIBE", 5 + 256 + 255),
];

fn header(length: u32, opcode: u8) -> Vec<u8> {
    [&length.to_be_bytes()[..], &[opcode]].concat()
}

fn frame(opcode: u8, body: &[u8]) -> Vec<u8> {
    [&header(5 + u32::try_from(body.len()).unwrap(), opcode), body].concat()
}

/// The bytes sent, and the ERROR of the broker, where that matters.
type Fault = (Vec<u8>, Option<String>);

/// Headers that no peer may send at any time. The broker does not wait for the rest of such a frame.
fn malformed() -> Vec<Fault> {
    let mut all = Vec::new();
    for opcode in 0..=u8::MAX {
        for length in 0..5 {
            let text = format!("frame length {length} is too short: a frame has at least 5 bytes");
            all.push((header(length, opcode), Some(text)));
        }
        let known = LIMITS.get(usize::from(opcode));
        for length in [known.map_or(5, |(_, limit)| limit + 1), u32::MAX] {
            let text = match known {
                Some((name, limit)) => {
                    format!("{name} frame of {length} bytes is too long: the limit is {limit} bytes")
                }
                None => format!("unknown opcode {opcode}"),
            };
            all.push((header(length, opcode), Some(text)));
        }
    }
    all
}

/// Frames that only a broker sends.
fn from_a_broker() -> [(&'static str, Vec<u8>); 2] {
    [("ERROR", frame(0, b"no")), ("INFO", frame(1, b"\x01xnonce"))]
}

/// Frames whose ERROR may be any.
fn somehow(sent: Vec<Vec<u8>>) -> impl Iterator<Item = Fault> {
    sent.into_iter().map(|sent| (sent, None))
}

/// AUTH with something wrong in it.
fn malformed_auth() -> Vec<Vec<u8>> {
    let digest = [7; 20];
    let with = |names: &[u8], digest: &[u8]| frame(2, &[names, digest].concat());
    vec![
        frame(2, b""),
        frame(2, b"\x05abc"),
        frame(2, b"\xff"),
        with(b"\0", &digest),
        with(b"\x01", &digest[..1]),
        with(b"\x07mallory", &digest[..19]),
        with(b"\x07mallory", &[7; 21]),
        with(b"\x02\xff\xfe", &digest),
        with(b"\x02\xc3\x28", &digest),
        with(b"\xff", &[b'x'; 255]),
    ]
}

/// Frames of a client that has authenticated, with something wrong in them.
fn malformed_session() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for body in [
        &b""[..],
        b"\x07",
        b"\x08mallory",
        b"\x07mallory",
        b"\x07mallory\x05chan",
        b"\x07mallory\xff",
        b"\0\x01c",
        b"\x07mallory\0payload",
        b"\x02\xff\xfe\x01c",
        b"\x07mallory\x02\xff\xfec",
        b"\x07mallory\x02\xc3\x28c",
    ] {
        all.push(frame(3, body));
    }
    for opcode in [4, 5] {
        for body in [&b""[..], b"\x09mallory", b"\x07mallory", b"\0c", b"\x02\xff\xfec", b"\x07mallory\xff"] {
            all.push(frame(opcode, body));
        }
        all.push(frame(opcode, &[&b"\x07mallory"[..], &[b'c'; 256]].concat()));
    }
    // Only once, and first.
    all.push(frame(2, &[&b"\x07mallory"[..], &[7; 20]].concat()));
    all
}

/// The text of the ERROR that what the broker has said ends with.
fn error(mut said: &[u8]) -> Option<String> {
    while let Some((length, rest)) = said.split_first_chunk() {
        let (body, next) = rest.split_at_checked(u32::from_be_bytes(*length) as usize - 4)?;
        if let [0, text @ ..] = body {
            return next.is_empty().then(|| String::from_utf8(text.to_vec()).expect("a text"));
        }
        said = next;
    }
    None
}

/// Sends something that ends the connection. Returns what the broker says about it.
async fn answer(mut stream: TcpStream, sent: &[u8]) -> String {
    within(stream.write_all(sent)).await.unwrap();
    let said = rest(&mut stream).await;
    error(&said).unwrap_or_else(|| panic!("no ERROR for {:?}: {said:?}", &sent[..sent.len().min(40)]))
}

#[tokio::test]
async fn malformed_frames_before_authentication() {
    let mut target = Target::start(&[]).await;
    let begun = Instant::now();
    let mut connections = 0;
    let too_early = [frame(3, b"\x01a\x01bx"), frame(4, b"\x01ab"), frame(5, b"\x01ab")];
    let others = from_a_broker().map(|(_, sent)| sent).into_iter().chain(too_early);
    let others = others.map(|sent| (sent, Some("First message was not AUTH".to_owned())));
    for (sent, expected) in malformed().into_iter().chain(somehow(malformed_auth())).chain(others) {
        let text = answer(dial(ATTACKER, target.plain).await, &sent).await;
        assert!(text.len() < 200 && !text.contains("Authentication failed"), "{text}");
        assert!(!text.starts_with("No AUTH within"), "it has waited for the rest of {sent:?}");
        assert!(expected.as_ref().is_none_or(|expected| *expected == text), "{text} instead of {expected:?}");
        connections += 1;
    }
    assert_eq!(target.metric("hpfeeds_broker_handshake_failures_total").await, connections);
    target.survives(&format!("{connections} malformed beginnings"), Bound { idle: 10, ..Bound::default() }).await;
    // One line, and then how many there were in between.
    let lines = count(&target.stops().await, "handshake failed");
    assert!((1..=periods(begun)).contains(&lines), "{lines} lines for {connections} connections");
}

#[tokio::test]
async fn malformed_frames_after_authentication() {
    let mut target = Target::start(&[]).await;
    let mut connections = 0;
    let others = from_a_broker().map(|(name, sent)| (sent, Some(format!("{name} is not allowed from a client"))));
    // The opcode of HELLO is known where it was offered: something else is wrong with it.
    let known = |sent: &[u8], text: &str| sent.get(4) == Some(&0x80) && text.contains("HELLO");
    for (sent, expected) in malformed().into_iter().chain(somehow(malformed_session())).chain(others) {
        let peer = login(ATTACKER, target.plain, "mallory", "stolen").await;
        let text = answer(peer.framed.into_inner(), &sent).await;
        assert!(text.len() < 200, "{text}");
        let is_expected = expected.as_ref().is_none_or(|expected| *expected == text) || known(&sent, &text);
        assert!(is_expected, "{text} instead of {expected:?}");
        connections += 1;
    }
    assert_eq!(target.metric("hpfeeds_broker_refused_sessions_total").await, connections);
    target.survives(&format!("{connections} malformed frames"), Bound { active: 4, ..Bound::default() }).await;
    target.stops().await;
}

/// All in one segment with AUTH, which is right: what comes before the fault is acted on, and nothing after it.
#[tokio::test]
async fn malformed_frames_behind_good_ones() {
    let mut target = Target::start(&[]).await;
    let mut witness = login(ATTACKER, target.plain, "mallory", "stolen").await;
    witness.send(subscribe("mallory", "witness")).await;
    witness.settle().await;
    let faults = malformed_session();
    for (n, fault) in faults.iter().enumerate() {
        let peer = Peer::greeted(dial(ATTACKER, target.plain).await).await;
        let digest: Digest = Secret::from("stolen").sign(&peer.nonce);
        let auth = Frame::Auth { ident: "mallory".parse().unwrap(), digest };
        let good = publish("mallory", "witness", n.to_string());
        let sent = [&bytes([auth, good.clone()]), &fault[..], &bytes([publish("mallory", "witness", "too late")])];
        answer(peer.framed.into_inner(), &sent.concat()).await;
        assert_eq!(witness.next().await, Some(good));
    }
    witness.settle().await;
    drop(witness);
    target
        .survives(&format!("{} faults behind good frames", faults.len()), Bound { active: 4, ..Bound::default() })
        .await;
    target.stops().await;
}

/// Bytes that mean nothing, at each endpoint, cut anywhere.
#[tokio::test]
async fn noise() {
    const CONNECTIONS: usize = 600;
    let mut target = Target::start(&["--handshake-timeout=1"]).await;
    let begun = Instant::now();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for n in 0..CONNECTIONS {
        let mut noise = Vec::new();
        for _ in 0..=n % 97 {
            // A generator that is always the same (xorshift).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend(state.to_le_bytes());
        }
        if n % 4 == 0 {
            // A length that is believable, and so on.
            noise.splice(..4, [0, 0, 1, 4]);
        }
        let [.., a, b] = n.to_be_bytes();
        let to = [target.plain, target.tls][n % 2];
        let mut stream = dial([127, 1, a, b], to).await;
        let _ = within(stream.write_all(&noise)).await;
        if n % 3 == 0 {
            let _ = stream.shutdown().await;
        }
        if n % 5 == 0 {
            rest(&mut stream).await;
        }
    }
    target
        .survives(&format!("{CONNECTIONS} connections with noise"), Bound { idle: CONNECTIONS, ..Bound::default() })
        .await;
    let lines = count(&target.stops().await, "handshake failed");
    assert!((1..=100 * periods(begun)).contains(&lines), "{lines} lines");
}
