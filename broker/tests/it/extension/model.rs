//! Random clients with random HELLOs, beside a model of what each of them must hear.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use hpfeeds::wire::extension::{ClientFrame, ClientHello, Code, Flags, RefusedRange, VERSION};
use hpfeeds_broker::{Broker, Key};
use proptest::{collection::vec, prelude::*};
use tokio::{io::DuplexStream, time::timeout};

use crate::extension_client::{Answer, Got, Scripted, encoded, refused, stream_id, sub_ack};
use crate::property::cases;

const CLIENTS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// HELLO, on a new connection if there is none.
    Hello {
        client: usize,
        stream: u8,
        next: u64,
        flags: u8,
    },
    /// Messages in one segment: on an allowed channel, or on one of two others.
    Publish {
        client: usize,
        runs: Vec<(u8, u8)>,
    },
    Subscribe {
        client: usize,
        allowed: bool,
    },
    /// The client goes without a word.
    Drop {
        client: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS;
    prop_oneof![
        4 => (client(), 0..4u8, prop_oneof![0..5u64, 0..60u64, Just(u64::MAX - 1)], 0..4u8)
            .prop_map(|(client, stream, next, flags)| Step::Hello { client, stream, next, flags }),
        6 => (client(), vec((0..3u8, 1..5u8), 1..6)).prop_map(|(client, runs)| Step::Publish { client, runs }),
        2 => (client(), any::<bool>()).prop_map(|(client, allowed)| Step::Subscribe { client, allowed }),
        1 => client().prop_map(|client| Step::Drop { client }),
    ]
}

#[derive(Default)]
struct Model {
    /// The decided number of each stream, and the ranges that were refused.
    streams: BTreeMap<u8, (u64, Vec<RefusedRange>)>,
    clients: [Option<Client>; CLIENTS],
}

#[derive(Default)]
struct Client {
    flags: Flags,
    /// The stream that it holds, and the number of the next message.
    stream: Option<(u8, u64)>,
    /// The frames that it must hear next; its connection ends behind an ERROR.
    due: Vec<Got>,
}

impl Model {
    fn hello(&mut self, at: usize, stream: u8, next: u64, asked: Flags) {
        // A stream of which nothing is decided is forgotten with its connection.
        let mut known = false;
        let confirms = asked.contains(Flags::CONFIRM) && stream > 0;
        for client in self.clients.iter_mut().flatten() {
            if confirms && client.stream.is_some_and(|(held, _)| held == stream) {
                known = true;
            }
        }
        for (other, client) in self.clients.iter_mut().enumerate() {
            if let Some(client) = client.as_mut().filter(|_| other != at && confirms)
                && client.stream.is_some_and(|(held, _)| held == stream)
            {
                client.stream = None;
                client.due.push(Got::Error("The stream is used by another connection".to_owned()));
            }
        }
        let client = self.clients[at].get_or_insert_default();
        client.flags = asked & (Flags::CONFIRM | Flags::REPLIES);
        client.stream = None;
        if !confirms {
            client.flags = client.flags & Flags::REPLIES;
            client.due.push(Got::Hello(Answer { flags: client.flags, ..Answer::default() }));
            return;
        }
        let (decided, ranges) = self.streams.get(&stream).cloned().unwrap_or_default();
        let flags = if known || decided > 0 { client.flags | Flags::KNOWN } else { client.flags };
        let refused = ranges.into_iter().filter(|range| range.first + u64::from(range.count) > next).collect();
        client.due.push(Got::Hello(Answer { flags, decided, refused, ..Answer::default() }));
        client.stream = Some((stream, next.max(decided + 1)));
    }

    fn publish(&mut self, at: usize, runs: &[(u8, u8)]) {
        let Some(client) = &mut self.clients[at] else { return };
        let mut acked = None;
        let mut refusal: Option<(u64, u32, u8)> = None;
        let flush = |due: &mut Vec<Got>, refusal: &mut Option<(u64, u32, u8)>| {
            if let Some((first, count, channel)) = refusal.take() {
                due.push(refused("me", first, count, name(channel)));
            }
        };
        // Messages on one channel that follow each other are one batch.
        let mut batches: Vec<(u8, u8)> = Vec::new();
        for &(channel, count) in runs {
            match batches.last_mut().filter(|(last, _)| *last == channel) {
                Some((_, so_far)) => *so_far += count,
                None => batches.push((channel, count)),
            }
        }
        for (channel, count) in batches {
            let first = client.stream.map_or(0, |(_, next)| next);
            if channel > 0 && !client.flags.contains(Flags::REPLIES) {
                flush(&mut client.due, &mut refusal);
                client.due.extend(acked.map(Got::Ack));
                client
                    .due
                    .push(Got::Error(format!("Authkey not allowed to pub here. ident=me, chan={}", name(channel))));
                client.stream = None;
                return;
            }
            if client.stream.is_some() && first.checked_add(count.into()).is_none() {
                flush(&mut client.due, &mut refusal);
                client.due.extend(acked.map(Got::Ack));
                client.due.push(Got::Error("The stream has no numbers left: take a new stream id".to_owned()));
                client.stream = None;
                return;
            }
            if let Some((stream, next)) = &mut client.stream {
                *next += u64::from(count);
                acked = Some(*next - 1);
                let entry = self.streams.entry(*stream).or_default();
                entry.0 = *next - 1;
                if channel > 0 {
                    let range = RefusedRange { first, count: count.into(), code: Code::NOT_ALLOWED };
                    match entry.1.last_mut() {
                        Some(last) if last.first + u64::from(last.count) == first => last.count += range.count,
                        _ => entry.1.push(range),
                    }
                }
            }
            if channel > 0 {
                match &mut refusal {
                    // Without numbers all of a channel are neighbours.
                    Some((start, so_far, same))
                        if *same == channel && (first == 0 || *start + u64::from(*so_far) == first) =>
                    {
                        *so_far += u32::from(count);
                    }
                    other => {
                        flush(&mut client.due, other);
                        refusal = Some((first, count.into(), channel));
                    }
                }
            }
        }
        flush(&mut client.due, &mut refusal);
        client.due.extend(acked.map(Got::Ack));
    }

    fn subscribe(&mut self, at: usize, allowed: bool) {
        let Some(client) = &mut self.clients[at] else { return };
        let (code, channel) = if allowed { (Code::DONE, "mine") } else { (Code::NOT_ALLOWED, "other") };
        if client.flags.contains(Flags::REPLIES) {
            client.due.push(sub_ack(code, channel));
        } else if !allowed {
            client.due.push(Got::Error("Authkey not allowed to sub here. ident=me, chan=other".to_owned()));
            client.stream = None;
        }
    }
}

fn name(channel: u8) -> &'static str {
    ["a", "x", "y"][usize::from(channel)]
}

/// Of the broker's HELLO, what the model knows.
fn known_part(got: Got) -> Got {
    match got {
        Got::Hello(Answer { flags, decided, refused, .. }) => {
            Got::Hello(Answer { flags, decided, refused, ..Answer::default() })
        }
        other => other,
    }
}

async fn play(steps: Vec<Step>) {
    let key = Key::new("me", "s").unwrap().publish(["a"]).unwrap().subscribe(["mine"]).unwrap();
    let broker = Broker::builder().without_endpoint().user(key).start().await.unwrap();
    let (mut model, mut clients) = (Model::default(), [const { None::<Scripted<DuplexStream>> }; CLIENTS]);
    for step in steps {
        match step.clone() {
            Step::Hello { client: at, stream, next, flags } => {
                let asked = Flags::from_bits(flags);
                let id = if stream == 0 { hpfeeds::wire::extension::StreamId::default() } else { stream_id(stream) };
                let hello = ClientHello { version: VERSION, flags: asked, stream: id, next, ..ClientHello::default() };
                let mut sent = Vec::new();
                if clients[at].is_none() {
                    let (ours, theirs) = tokio::io::duplex(1 << 20);
                    broker.serve(theirs, SocketAddr::from(([127, 0, 0, 1], 1)));
                    let mut client = Scripted::greeted(ours).await;
                    sent = client.auth("me", "s");
                    clients[at] = Some(client);
                }
                sent.extend(encoded(&ClientFrame::Hello(hello)));
                clients[at].as_mut().unwrap().send(&sent).await;
                model.hello(at, stream, next, asked);
            }
            Step::Publish { client: at, runs } => {
                let Some(client) = &mut clients[at] else { continue };
                let sent: Vec<_> = runs
                    .iter()
                    .flat_map(|(channel, count)| client.messages(name(*channel), 0..u64::from(*count)))
                    .collect();
                client.send(&sent).await;
                model.publish(at, &runs);
            }
            Step::Subscribe { client: at, allowed } => {
                let Some(client) = &mut clients[at] else { continue };
                client.subscribe(if allowed { "mine" } else { "other" }).await;
                model.subscribe(at, allowed);
            }
            Step::Drop { client: at } => {
                clients[at] = None;
                model.clients[at] = None;
            }
        }
        // Everybody hears what is due, and nothing else.
        for (at, slot) in clients.iter_mut().enumerate() {
            let Some(client) = slot else { continue };
            let due = std::mem::take(&mut model.clients[at].as_mut().unwrap().due);
            let ends = matches!(due.last(), Some(Got::Error(_)));
            let mut got = Vec::new();
            while let Ok(one) = timeout(Duration::from_millis(5), client.read_next()).await {
                if one == Got::End {
                    break;
                }
                got.push(known_part(one));
            }
            assert_eq!(got, due, "client {at} after {step:?}");
            if ends {
                *slot = None;
                model.clients[at] = None;
            }
        }
    }
    let names: BTreeSet<_> = model.streams.keys().collect();
    assert!(names.iter().all(|stream| **stream > 0));
    drop(clients);
    let _ = broker.shutdown().await;
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn clients_hear_what_the_model_says(steps in vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(steps));
    }
}
