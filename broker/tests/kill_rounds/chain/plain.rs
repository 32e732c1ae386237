//! The plain publisher: old peers that end their stream, and count it as taken when the relay ends its own.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use fastrand::Rng;
use futures::{SinkExt, StreamExt as _};
use hpfeeds::wire::{Codec, Frame, Secret};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::sleep};
use tokio_util::codec::Framed;

use super::written::Source;
use crate::{
    collector::within,
    event::{CHANNEL, SECRET, payload},
};

pub(super) const PLAIN: &str = "plain";

/// The numbers from here on are theirs.
pub(super) const FIRST: u64 = 1 << 40;

/// The state that driver and publisher share.
#[derive(Default)]
pub(super) struct Shared {
    /// Counted up before each kill of the relay: an end of stream that its death has made confirms nothing.
    pub(super) kills: AtomicU64,
    pub(super) draining: AtomicBool,
}

/// One connection after the other, until one that began when everything was up is confirmed.
pub(super) async fn publish(addr: SocketAddr, shared: Arc<Shared>, mut rng: Rng) -> Vec<Source> {
    let (mut sources, mut first) = (Vec::new(), FIRST);
    loop {
        let last = shared.draining.load(SeqCst);
        let kills = shared.kills.load(SeqCst);
        let count = rng.u64(1..100);
        let mut source = Source { ident: PLAIN, first, tried: 0, confirmed: Vec::new() };
        let result = within(connection(addr, &mut source, count, &mut rng)).await;
        let is_confirmed = result.is_ok() && shared.kills.load(SeqCst) == kills;
        if is_confirmed {
            source.confirmed = (first..first + count).collect();
        }
        first += source.tried;
        if source.tried > 0 {
            sources.push(source);
        }
        if last && is_confirmed {
            return sources;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn connection(addr: SocketAddr, source: &mut Source, count: u64, rng: &mut Rng) -> io::Result<()> {
    let broken = |what: &str| io::Error::other(what.to_owned());
    let mut framed = Framed::new(TcpStream::connect(addr).await?, Codec::default());
    let Some(Ok(Frame::Info { nonce, .. })) = framed.next().await else {
        return Err(broken("no INFO"));
    };
    let (ident, digest) = (PLAIN.parse().unwrap(), Secret::from(SECRET).sign(&nonce));
    framed.send(Frame::Auth { ident, digest }).await.map_err(io::Error::other)?;
    for number in source.first..source.first + count {
        let (ident, channel) = (PLAIN.parse().unwrap(), CHANNEL.parse().unwrap());
        source.tried += 1;
        framed.feed(Frame::Publish { ident, channel, payload: payload(number) }).await.map_err(io::Error::other)?;
        if rng.u8(..16) == 0 {
            SinkExt::<Frame>::flush(&mut framed).await.map_err(io::Error::other)?;
            sleep(Duration::from_millis(rng.u64(..5))).await;
        }
    }
    SinkExt::<Frame>::flush(&mut framed).await.map_err(io::Error::other)?;
    framed.get_mut().shutdown().await?;
    match framed.next().await {
        None => Ok(()),
        Some(_) => Err(broken("something else than the end of the stream")),
    }
}
