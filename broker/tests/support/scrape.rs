//! Asks the exporter, and takes its answer apart.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use hpfeeds_broker::{Broker, BrokerBuilder};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Peer, builder, publish, start, within};

pub(crate) fn exporting(builder: BrokerBuilder) -> BrokerBuilder {
    builder.exporter("127.0.0.1:0").unwrap()
}

/// A broker with an exporter at which one of everything has happened.
pub(crate) async fn lively() -> (Broker, Peer) {
    let broker = start(exporting(builder().auth_failure_delay(Duration::ZERO))).await;
    let mut subscriber = Peer::subscriber(&broker, &["a", "q\"\\\n"]).await;
    let mut alice = Peer::login(broker.local_addr(), "alice", "s3cret").await;
    for len in [5, 1024, 1025, 5000, 5] {
        alice.send(publish("alice", "a", vec![b'x'; len])).await;
        subscriber.next().await.unwrap();
    }
    alice.confirm().await;
    subscriber.send(publish("dev", "q\"\\\n", "quoted")).await;
    subscriber.next().await.unwrap();
    (broker, subscriber)
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// One request; `more` are further header lines.
pub(crate) async fn request(addr: SocketAddr, method: &str, path: &str, more: &str) -> Answer {
    let mut stream = within(TcpStream::connect(addr)).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\n{more}\r\n");
    within(stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

pub(crate) async fn get(broker: &Broker, path: &str) -> Answer {
    request(broker.exporter_addr().expect("an exporter"), "GET", path, "").await
}

pub(crate) async fn scrape(broker: &Broker) -> Exposed {
    let answer = get(broker, "/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    Exposed::parse(&answer.body)
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// The metrics that an exporter exposes.
#[derive(Debug, Default)]
pub(crate) struct Exposed {
    pub(crate) samples: Vec<Sample>,
    /// By metric.
    pub(crate) types: BTreeMap<String, String>,
    pub(crate) helps: BTreeMap<String, String>,
}

impl Exposed {
    /// Strict: what it does not expect is a failure.
    pub(crate) fn parse(text: &str) -> Self {
        let mut exposed = Self::default();
        let mut current = String::new();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(exposed.helps.insert(name.to_owned(), help.to_owned()).is_none(), "{name} comes twice");
                name.clone_into(&mut current);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, current);
                exposed.types.insert(name.to_owned(), kind.to_owned());
            } else if line != "# EOF" {
                let sample = sample(line);
                assert!(sample.name.starts_with(&current), "{line} is not among the samples of {current}");
                assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "{line} comes twice");
                exposed.samples.push(sample);
            }
        }
        exposed
    }

    /// The samples that a selector such as `name{label="value"}` finds.
    pub(crate) fn select(&self, selector: &str) -> Vec<&Sample> {
        let (name, labels) = match selector.split_once('{') {
            Some((name, labels)) => (name, parse_labels(labels).0),
            None => (selector, BTreeMap::new()),
        };
        let found = self.samples.iter().filter(|sample| {
            sample.name == name && labels.iter().all(|(name, value)| sample.labels.get(name) == Some(value))
        });
        found.collect()
    }

    /// The sum of what a selector finds; `None` when that is nothing.
    pub(crate) fn sum(&self, selector: &str) -> Option<f64> {
        let found = self.select(selector);
        (!found.is_empty()).then(|| found.iter().map(|sample| sample.value).sum())
    }
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).expect(line);
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(labels) => parse_labels(labels),
        None => (BTreeMap::new(), rest),
    };
    let value = rest.trim_start().parse().expect(line);
    Sample { name: name.to_owned(), labels, value }
}

/// Labels up to the closing brace, and what comes after that.
fn parse_labels(mut text: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().expect("the end of a value") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("an escaped character").1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        assert!(labels.insert(name.trim_start_matches(',').to_owned(), value).is_none());
        text = &rest[end + 1..];
        if let Some(rest) = text.strip_prefix('}') {
            return (labels, rest);
        }
    }
    panic!("no closing brace: {text}");
}
