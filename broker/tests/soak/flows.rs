//! Clients that know exactly what they were to get.

use std::{ops::Range, sync::Arc, time::Duration};

use futures::StreamExt as _;
use hpfeeds::{ClientSession, SessionBuilder, TlsOptions, wire::Frame};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Context,
    ledger::{message, parse, payload},
    process::{DEADLINE, HIGH_MARK, SECRET},
    support::{PATIENCE, Peer, subscribe, unsubscribe, within},
};

/// How many messages are sent at once.
const BURST: u64 = 10;

/// The length of messages of which some hundred fill a queue, and how many of them do not reach the high mark.
const LONG: usize = 16_000;
const HARMLESS: u64 = HIGH_MARK / (LONG as u64 + 100);

/// Subscribes, and returns once the broker has seen to it. `others` of the same ident are subscribed already.
pub(crate) async fn join(context: &Context, peer: &mut Peer, channel: &str, others: u32) {
    let ident = peer.ident.clone();
    subscribed(context, &ident, channel, others).await;
    peer.send(subscribe(&ident, channel)).await;
    subscribed(context, &ident, channel, others + 1).await;
}

/// Waits until so many connections of an ident are subscribed to a channel: those before may not have ended yet, and would
/// get what nobody expects.
pub(crate) async fn subscribed(context: &Context, ident: &str, channel: &str, count: u32) {
    let selector = format!("hpfeeds_broker_subscriptions{{ident=\"{ident}\",chan=\"{channel}\"}}");
    let all = async {
        while (context.process.scrape().await.sum(&selector).unwrap_or(0.0) - f64::from(count)).abs() > 0.5 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    within(all).await;
}

/// Publishes a run, and returns once the broker has taken all of it.
pub(crate) async fn publish_all(context: &Context, ident: &str, channel: &str, run: u64, count: u64, len: usize) {
    let mut peer = context.process.login(ident).await;
    publish(context, &mut peer, channel, run, 0..count, len).await;
    confirm(context, peer, run, count).await;
}

async fn confirm(context: &Context, mut peer: Peer, run: u64, count: u64) {
    context.ledger.published(run, count, count);
    peer.finish().await;
    // A slow subscriber holds it up for a while.
    assert_eq!(timeout(2 * PATIENCE, peer.framed.next()).await.expect("it hangs").map(Result::unwrap), None);
}

async fn publish(context: &Context, peer: &mut Peer, channel: &str, run: u64, numbers: Range<u64>, len: usize) {
    let ident = peer.ident.clone();
    for number in numbers {
        if number % BURST == 0 {
            context.pace(10).await;
        }
        peer.send(message(&ident, channel, run, number, len)).await;
    }
}

/// Receives the messages `from..to` of a run, and nothing else.
async fn receive(peer: &mut Peer, run: u64, from: u64, to: u64) {
    for number in from..to {
        match peer.next().await {
            Some(Frame::Publish { payload, .. }) => assert_eq!(parse(&payload), (run, number)),
            other => panic!("{number} of {to} should come, not {other:?}"),
        }
    }
}

/// Two subscribers and a publisher, again and again. One half-closes, and is answered when it has got everything.
pub(crate) async fn raw(context: Arc<Context>, slot: usize) {
    let (reader, writer, channel) = (format!("s.flow-{slot}"), format!("p.flow-{slot}"), format!("flow.{slot}.x"));
    while !context.is_over().await {
        let mut first = context.process.login(&reader).await;
        join(&context, &mut first, &channel, 0).await;
        let mut second = context.process.login(&reader).await;
        let pattern = format!("flow.{slot}.*");
        second.send(subscribe(&reader, &pattern)).await;
        second.send(unsubscribe(&reader, &pattern)).await;
        join(&context, &mut second, &channel, 1).await;
        let (run, count) = (context.ledger.open(), 200);
        let publishing = publish_all(&context, &writer, &channel, run, count, 1 + 100 * slot);
        tokio::join!(publishing, receive(&mut first, run, 0, count), receive(&mut second, run, 0, count));
        context.ledger.due(2 * count, 2 * count, 2 * count);
        first.confirm().await;
        drop(second);
    }
}

/// The same with sessions, over TCP or TLS.
pub(crate) async fn session(context: Arc<Context>, name: &str, tls: bool) {
    let channel = format!("flow.{name}");
    while !context.is_over().await {
        let mut reader = builder(&context, &format!("s.{name}"), tls).connect().await.unwrap();
        subscribed(&context, &format!("s.{name}"), &channel, 0).await;
        reader.subscribe(&channel).unwrap();
        subscribed(&context, &format!("s.{name}"), &channel, 1).await;
        let (run, count) = (context.ledger.open(), 300);
        let publishing = async {
            let mut writer = builder(&context, &format!("p.{name}"), tls).connect().await.unwrap();
            for number in 0..count {
                if number % BURST == 0 {
                    context.pace(10).await;
                }
                writer.publish(&channel, payload(run, number, 500)).await.unwrap();
            }
            context.ledger.published(run, count, count);
            // It has been confirmed.
            writer.close().await.unwrap();
        };
        let receiving = async {
            for number in 0..count {
                let (_, _, payload) = within(reader.next()).await.unwrap();
                assert_eq!(parse(&payload), (run, number));
            }
        };
        tokio::join!(publishing, receiving);
        context.ledger.due(count, count, count);
        reader.close().await.unwrap();
    }
}

fn builder(context: &Context, ident: &str, tls: bool) -> SessionBuilder {
    if !tls {
        return ClientSession::builder(context.process.tcp, ident, SECRET);
    }
    let options = TlsOptions::new().ca_file(context.process.ca());
    ClientSession::builder(("localhost", context.process.tls.port()), ident, SECRET).tls(options)
}

/// A subscriber that is slower than its publisher, but not too slow: it gets everything.
pub(crate) async fn slow(context: Arc<Context>) {
    while !context.is_over().await {
        let mut peer = context.process.login_narrow("s.slow").await;
        join(&context, &mut peer, "slow", 0).await;
        let (run, count) = (context.ledger.open(), 300);
        let reading = async {
            for number in 0..count {
                receive(&mut peer, run, number, number + 1).await;
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::join!(publish_all(&context, "p.slow", "slow", run, count, LONG), reading);
        context.ledger.due(count, count, count);
        peer.confirm().await;
    }
}

/// A subscriber that reads nothing, until the broker has ended it.
pub(crate) async fn stuck(context: Arc<Context>) {
    while !context.is_over().await {
        let mut peer = context.process.login_narrow("s.stuck").await;
        join(&context, &mut peer, "stuck", 0).await;
        // More than its high mark and all buffers hold.
        let (run, count) = (context.ledger.open(), 400);
        let mut publisher = context.process.login("p.stuck").await;
        publish(&context, &mut publisher, "stuck", run, 0..HARMLESS, LONG).await;
        let before = Instant::now();
        publish(&context, &mut publisher, "stuck", run, HARMLESS..count, LONG).await;
        confirm(&context, publisher, run, count).await;
        // A message after its deadline has no subscriber: then the sums have bounds.
        let surely = if before.elapsed() < DEADLINE { count } else { 0 };
        sleep(DEADLINE + Duration::from_secs(1)).await;
        let mut got = 0;
        while let Some(Ok(Frame::Publish { .. })) = within(peer.framed.next()).await {
            got += 1;
        }
        context.ledger.due(surely.max(got), count, got);
    }
}
