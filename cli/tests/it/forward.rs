//! One broker forwarded to another: `hpfeeds subscribe --format ndjson | hpfeeds publish --ndjson`.

use std::process::Stdio;

use bytes::Bytes;

use crate::support::{Running, Scripted, TestBroker, bare_tool, message, read_frame};

/// The two tools of the pipe.
fn forward(from: u16, to: u16, channels: &[&str], more: &[&str]) -> (Running, Running) {
    let key = ["-i", "dev", "-s", "dev"];
    let (reader, writer) = std::io::pipe().unwrap();
    let (mut subscribe, mut publish) = (bare_tool(), bare_tool());
    subscribe.args(["subscribe", "--format", "ndjson", "-p", &from.to_string()]).args(key).args(channels);
    publish.args(["publish", "--ndjson", "-p", &to.to_string()]).args(key).args(more);
    let publish = Running::between(reader, &mut publish, Stdio::null());
    let subscribe = Running::between(Stdio::null(), &mut subscribe, writer);
    (subscribe, publish)
}

/// Payloads that could be changed on the way, and the longest that fits.
fn payloads(longest: usize) -> Vec<Bytes> {
    let all: Vec<u8> = (0..=255).collect();
    let mut payloads: Vec<Bytes> = (0..=255).map(|byte| Bytes::from(vec![byte])).collect();
    payloads.extend([
        all.clone().into(),
        Bytes::new(),
        "{\"payload\":\"\\\"\u{2028}\u{fc}\u{1f41d}\0\r\n\"}".into(),
        b"\xef\xbb\xbf text \xed\xa0\x80"[..].into(),
        vec![0; longest].into(),
        vec![0xff; longest].into(),
        all.iter().copied().cycle().take(longest).collect::<Vec<_>>().into(),
    ]);
    payloads
}

#[test]
fn every_payload_and_channel_arrives_as_it_was() {
    let (from, to) = (TestBroker::start(), TestBroker::start());
    let (long, unicode, odd) = (format!("odd.{}", "\u{fc}".repeat(125)), "odd.\u{1f41d}", "odd.\"\\\u{1b}\n");
    let channels = ["events", &long, unicode, odd];
    // The first ident is longer than the one that forwards: what fits there fits here.
    let longest = (1 << 20) - 1 - "sensor".len() - 1 - 255;
    let (mut subscribe, mut publish) = forward(from.port(), to.port(), &[unicode, "odd.*", "events"], &[]);
    subscribe.wait_for_stderr("subscribed to events");
    let mut peer = to.listen(&["*"]);
    let payloads = payloads(longest);
    let mut sent = Vec::new();
    for channel in channels {
        from.publish_as("sensor", channel, payloads.clone());
        sent.extend(payloads.iter().map(|payload| (channel.to_owned(), payload.clone())));
    }
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let (ident, channel, payload) = peer.next();
        if channel != "marker" {
            assert_eq!(ident, "dev");
            got.push((channel.to_string(), payload));
        }
    }
    assert!(got == sent);
    // The end of the first program is the end of the input of the second.
    subscribe.signal("INT");
    assert_eq!((subscribe.wait(), publish.wait()), (Some(0), Some(0)), "{}", publish.stderr());
    assert_eq!(publish.stderr(), "");
    assert!(peer.all().is_empty());
}

/// Ctrl-C reaches both programs while messages come: the second publishes everything that the
/// first has received by then.
#[test]
fn an_interrupted_pipe_loses_nothing_that_it_has_received() {
    const MESSAGES: usize = 5000;
    for signal in ["INT", "TERM"] {
        let to = TestBroker::start();
        let from = Scripted::authenticated(1, |_, stream| {
            use std::io::Write as _;
            read_frame(stream);
            let messages: Vec<_> = (0..MESSAGES).map(|n| message(n.to_string().as_bytes())).collect();
            stream.write_all(&messages.concat()).unwrap();
            // It unsubscribes, and has nothing more to say.
            while read_frame(stream).is_some() {}
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut peer = to.listen(&["events"]);
        let (mut subscribe, mut publish) = forward(from.port(), to.port(), &["events"], &[]);
        assert_eq!(peer.next().2, "0");
        subscribe.signal(signal);
        publish.signal(signal);
        assert_eq!((subscribe.wait(), publish.wait()), (Some(0), Some(0)), "{}", publish.stderr());
        let expected: Vec<_> = (1..MESSAGES).map(|n| n.to_string()).collect();
        assert!(peer.payloads() == expected, "{}", publish.stderr());
        from.done();
    }
}

/// The second broker goes away. Both programs say what they had, and did not hand over.
#[test]
fn a_pipe_whose_end_has_gone_says_what_is_lost() {
    const MESSAGES: usize = 3000;
    let to = Scripted::authenticated(1, |_, stream| {
        read_frame(stream).unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let from = Scripted::authenticated(1, move |_, stream| {
        use std::io::Write as _;
        read_frame(stream);
        // More than the pipe holds.
        stream.write_all(&message(&[b'x'; 1000]).repeat(MESSAGES)).unwrap();
    });
    let (mut subscribe, mut publish) = forward(from.port(), to.port(), &["events"], &[]);
    assert_eq!(publish.wait(), Some(1));
    let stderr = publish.stderr();
    assert!(stderr.contains("did not confirm that it read") || stderr.contains("not sent"), "{stderr}");
    assert!(stderr.contains(" of stdin w") || stderr.contains("stdin was read up to"), "{stderr}");
    assert_eq!(subscribe.wait(), Some(0));
    let stderr = subscribe.stderr();
    let lost = stderr.lines().last().unwrap().strip_prefix("hpfeeds: nobody reads the output any more: ").unwrap();
    let lost: usize = lost.strip_suffix(" messages were received and not printed").unwrap().parse().unwrap();
    assert!((1..MESSAGES).contains(&lost), "{stderr}");
    from.done();
    to.done();
}
