//! Operations of a whole broker: its clients are on streams in memory, and all of it is one thread. A count has the
//! clients' share too, which is small and the same for every broker.

use bytes::BytesMut;
use futures::{SinkExt as _, StreamExt as _};
use hpfeeds::wire::{Channel, Codec, Frame, Ident, Limits, Secret, encode_publish};
use hpfeeds_broker::Broker;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    runtime, task,
};
use tokio_util::codec::Framed;

/// The room of each stream, in bytes: more than a batch.
const ROOM: usize = 1 << 20;

/// The messages that are written at once, but for `lone`.
const BATCH: usize = 200;

/// Publishes so many batches of messages with this payload, each after the one before has arrived.
pub(crate) fn run(operation: &str, count: usize, payload: &[u8]) {
    let (batch, subscribers, channels) = match operation {
        "lone" => (1, 1, 1),
        "batch" => (BATCH, 1, 1),
        "eight-channels" => (BATCH, 1, 8),
        "ten-subscribers" => (BATCH, 10, 1),
        other => panic!("no operation {other:?}"),
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = Broker::dev_builder().without_endpoint().start().await.unwrap();
        let ident = Ident::new("dev").unwrap();
        let names: Vec<_> = (0..channels).map(|n| Channel::new(format!("cowrie.sessions{n}")).unwrap()).collect();
        let mut readers = Vec::new();
        for _ in 0..subscribers {
            readers.push(client(&broker, &ident, &names).await);
        }
        let mut publisher = client(&broker, &ident, &[]).await;
        let mut input = BytesMut::new();
        for n in 0..batch {
            encode_publish(&mut input, Limits::default(), &ident, &names[n % channels], payload).unwrap();
        }
        let mut received = vec![0; input.len()];
        for _ in 0..count {
            publisher.write_all(&input).await.unwrap();
            for reader in &mut readers {
                reader.read_exact(&mut received).await.unwrap();
                assert_eq!(received, input);
            }
        }
    });
}

/// A client that has authenticated and subscribed.
async fn client(broker: &Broker, ident: &Ident, channels: &[Channel]) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(ROOM);
    broker.serve(theirs, ([127, 0, 0, 1], 1).into());
    let mut framed = Framed::new(ours, Codec::default());
    let Some(Ok(Frame::Info { nonce, .. })) = framed.next().await else { panic!("no INFO") };
    let digest = Secret::new("dev").sign(&nonce);
    framed.send(Frame::Auth { ident: ident.clone(), digest }).await.unwrap();
    for channel in channels {
        framed.send(Frame::Subscribe { ident: ident.clone(), channel: channel.clone() }).await.unwrap();
    }
    // One thread: the broker has done all that it can when the others have had their turns.
    for _ in 0..100 {
        task::yield_now().await;
    }
    framed.into_inner()
}
