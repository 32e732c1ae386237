//! Operations of a whole broker: its clients are on streams in memory, and all of it is one thread. A count has the
//! clients' share too, which is small and the same for every broker.

use bytes::BytesMut;
use futures::{SinkExt as _, StreamExt as _};
use hpfeeds::wire::{
    Channel, Codec, Frame, HEADER_LEN, Ident, Limits, Secret, encode_publish,
    extension::{BrokerFrame, ClientFrame, ClientHello, ExtensionHeader, ExtensionOpcode, Flags, StreamId, VERSION},
};
use hpfeeds_broker::Broker;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime, task,
};
use tokio_util::codec::Framed;

use crate::pipe::{Pipe, pipe};

/// The messages that are written at once, but for `lone`.
const BATCH: usize = 200;

/// Publishes so many batches of messages with this payload, each after the one before has arrived.
pub(crate) fn run(operation: &str, count: usize, payload: &[u8]) {
    // Of a publisher that is confirmed, the work is the same.
    let (work, confirmed) = match operation.strip_suffix("-confirmed") {
        Some(work) => (work, true),
        None => (operation, false),
    };
    let (batch, subscribers, channels) = match work {
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
        if confirmed {
            greet(&mut publisher).await;
        }
        let mut input = BytesMut::new();
        for n in 0..batch {
            encode_publish(&mut input, Limits::default(), &ident, &names[n % channels], payload).unwrap();
        }
        let mut received = vec![0; input.len()];
        for n in 1..=count {
            publisher.write_all(&input).await.unwrap();
            for reader in &mut readers {
                reader.read_exact(&mut received).await.unwrap();
                assert_eq!(received, input);
            }
            if confirmed {
                // The broker sends one for each of its reads, of which a batch is mostly one.
                while acknowledged(&mut publisher).await < u64::try_from(n * batch).unwrap() {}
            }
        }
    });
}

/// A client that has authenticated and subscribed.
async fn client(broker: &Broker, ident: &Ident, channels: &[Channel]) -> Pipe {
    let (ours, theirs) = pipe();
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

/// Says HELLO for a stream that is to be confirmed, and waits for the answer.
async fn greet(publisher: &mut Pipe) {
    let hello = ClientHello {
        version: VERSION,
        flags: Flags::CONFIRM | Flags::REPLIES,
        stream: StreamId::new([7; 16]),
        next: 1,
        ..ClientHello::default()
    };
    let mut bytes = BytesMut::new();
    ClientFrame::Hello(hello).encode(&mut bytes).unwrap();
    publisher.write_all(&bytes).await.unwrap();
    let mut head = [0; HEADER_LEN];
    publisher.read_exact(&mut head).await.unwrap();
    let header = ExtensionHeader::parse(&head).unwrap().unwrap();
    let mut body = vec![0; header.length - HEADER_LEN];
    publisher.read_exact(&mut body).await.unwrap();
    let BrokerFrame::Hello(answer) = BrokerFrame::parse(header.opcode, &body).unwrap() else { panic!("no HELLO") };
    assert!(answer.flags.contains(Flags::CONFIRM) && answer.decided == 0);
}

/// The number of the next ACK.
async fn acknowledged(publisher: &mut Pipe) -> u64 {
    let mut frame = [0; HEADER_LEN + 8];
    publisher.read_exact(&mut frame).await.unwrap();
    let (head, number) = frame.split_last_chunk().unwrap();
    assert_eq!(head, [0, 0, 0, 13, ExtensionOpcode::Ack as u8]);
    u64::from_be_bytes(*number)
}
