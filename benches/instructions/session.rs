//! Operations of a session that publishes: its broker is a task that counts bytes and acknowledges each
//! read, on a stream in memory, and all of it is one thread. A count has that task's share too, which is
//! small.

use std::{env, fs, io, mem, process, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{
    FutureExt as _, SinkExt as _, StreamExt as _,
    future::{BoxFuture, join_all},
};
use hpfeeds::{
    BrokerAddr, ClientSession, Connector, Spool, Transport,
    wire::{
        Codec, Frame, HEADER_LEN, Nonce,
        extension::{BrokerFrame, BrokerHello, ClientFrame, ExtensionHeader, VERSION, offer},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime,
};
use tokio_util::codec::Framed;

use crate::pipe::{Pipe, pipe};

/// Bytes of one read, as the broker reads.
const READ: usize = 256 << 10;
/// Messages of one count.
const BATCH: usize = 200;

const CHANNEL: &str = "cowrie.sessions";
const IDENT: &str = "sensor-17";

/// Publishes so many batches of messages with this payload.
pub(crate) fn run(operation: &str, count: usize, payload: &'static [u8]) {
    let (offers, receipts, spooled) = match operation {
        "publish" => (false, false, false),
        "publish-confirmed" => (true, false, false),
        "publish-spooled" => (true, false, true),
        "receipts" => (true, true, false),
        other => panic!("no operation {other:?}"),
    };
    let frame = HEADER_LEN + 1 + IDENT.len() + 1 + CHANNEL.len() + payload.len();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = ClientSession::builder(("peer", 10000), IDENT, "secret").connector(Peer { offers, frame });
        // Nothing is written to it while the peer confirms.
        let folder = env::temp_dir().join(format!("hpfeeds-instructions-{}", process::id()));
        let builder = if spooled { builder.spool(Spool::dir(&folder)) } else { builder };
        let mut session = builder.auth_grace(Duration::ZERO).connect().await.unwrap();
        let payload = Bytes::from_static(payload);
        for _ in 0..count {
            if receipts {
                for receipt in join_all((0..BATCH).map(|_| session.publish_confirmed(CHANNEL, payload.clone()))).await {
                    receipt.unwrap();
                }
            } else {
                for _ in 0..BATCH {
                    session.publish(CHANNEL, payload.clone()).await.unwrap();
                }
            }
        }
        let flushed = session.flush().await.unwrap();
        let (confirmed, rest) = (flushed.confirmed, flushed.unconfirmed);
        let all = u64::try_from(count * BATCH).unwrap();
        assert_eq!((confirmed, rest), if offers { (all, 0) } else { (0, all) });
        session.close().await.unwrap();
        if spooled {
            fs::remove_dir_all(folder).unwrap();
        }
    });
}

impl Transport for Pipe {}

struct Peer {
    /// It offers the extension.
    offers: bool,
    /// The length of each message on the wire.
    frame: usize,
}

impl Connector for Peer {
    fn connect<'a>(&'a self, _addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let (ours, theirs) = pipe();
        tokio::spawn(serve(theirs, self.offers, self.frame));
        async { Ok(Box::new(ours) as _) }.boxed()
    }
}

async fn serve(stream: Pipe, offers: bool, frame: usize) {
    let mut framed = Framed::new(stream, Codec::default());
    let name = if offers { offer("peer") } else { "peer".into() };
    framed.send(Frame::Info { name: name.into_owned(), nonce: Nonce::new([1, 2, 3, 4]) }).await.unwrap();
    assert!(matches!(framed.next().await, Some(Ok(Frame::Auth { .. }))));
    let mut parts = framed.into_parts();
    if offers {
        greet(&mut parts.io, &mut parts.read_buf).await;
    }
    let (mut total, mut acknowledged) = (parts.read_buf.len(), 0);
    let (mut buffer, mut ack) = (vec![0; READ], BytesMut::new());
    while let Ok(n @ 1..) = parts.io.read(&mut buffer).await {
        total += n;
        let whole = u64::try_from(total / frame).unwrap();
        if offers && mem::replace(&mut acknowledged, whole) < whole {
            ack.clear();
            BrokerFrame::Ack { number: whole }.encode(&mut ack).unwrap();
            if parts.io.write_all(&ack).await.is_err() {
                return;
            }
        }
    }
}

/// Reads HELLO, of which some may have been read already, and grants what it asks for.
async fn greet(stream: &mut Pipe, read: &mut BytesMut) {
    let hello = loop {
        if let Some(header) = ExtensionHeader::parse(read).unwrap()
            && let Some(body) = header.body(read)
        {
            let ClientFrame::Hello(hello) = ClientFrame::parse(header.opcode, body).unwrap() else {
                panic!("no HELLO")
            };
            let flags = hello.flags;
            drop(read.split_to(header.length));
            break BrokerHello { version: VERSION, flags, ..BrokerHello::default() };
        }
        assert_ne!(stream.read_buf(read).await.unwrap(), 0);
    };
    let mut answer = BytesMut::new();
    BrokerFrame::Hello(hello).encode(&mut answer).unwrap();
    stream.write_all(&answer).await.unwrap();
}
