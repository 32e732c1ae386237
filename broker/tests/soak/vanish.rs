//! Clients that go without a word.

use std::{
    env,
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::SinkExt;
use hpfeeds::wire::Frame;
use socket2::SockRef;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
    time::sleep,
};

use crate::{
    Context,
    flows::{join, publish_all, subscribed},
    ledger::message,
    process::SECRET,
    support::{Peer, subscribe, within},
};

/// Orders of a process that will be killed: address, run of its messages.
pub(crate) const CHILD: &str = "HPFEEDS_SOAK_CHILD";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// RST.
    Reset,
    /// FIN, or RST when something was not read.
    Close,
    /// The end of its stream, and then RST for whatever comes.
    HalfClose,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Reset, Self::Close, Self::HalfClose];

    async fn go(self, mut peer: Peer) {
        match self {
            Self::Reset => SockRef::from(peer.framed.get_ref()).set_linger(Some(Duration::ZERO)).unwrap(),
            Self::Close => {}
            // The broker may have cut it already.
            Self::HalfClose => _ = peer.framed.get_mut().shutdown().await,
        }
    }
}

/// Reads some of what it was to get, and goes.
pub(crate) async fn subscriber(context: Arc<Context>, way: Way) {
    let (reader, writer, channel) = (format!("s.{way:?}"), format!("p.{way:?}"), format!("vanish.{way:?}"));
    for turn in 0.. {
        if context.is_over().await {
            return;
        }
        let mut peer = context.process.login_narrow(&reader).await;
        join(&context, &mut peer, &channel, 0).await;
        // Less than the low mark: nobody waits for it.
        let (run, count, reads) = (context.ledger.open(), 100, turn % 20);
        let publishing = publish_all(&context, &writer, &channel, run, count, 8000);
        let reading = async move {
            // Its queue fills meanwhile.
            sleep(Duration::from_millis(turn % 10 * 20)).await;
            for _ in 0..reads {
                peer.next().await.expect("a message");
            }
            peer
        };
        if context.racing() {
            tokio::join!(publishing, async { way.go(reading.await).await });
            context.ledger.due(reads, count, reads);
        } else {
            let ((), peer) = tokio::join!(publishing, reading);
            way.go(peer).await;
            context.ledger.due(count, count, reads);
        }
    }
}

/// Goes amid its messages.
pub(crate) async fn publisher(context: Arc<Context>, way: Way) {
    let (ident, channel) = (format!("p.{way:?}"), format!("rude.{way:?}"));
    for turn in 0.. {
        if context.is_over().await {
            return;
        }
        let mut peer = context.process.login(&ident).await;
        let (run, count) = (context.ledger.open(), 10 + turn % 100);
        for number in 0..count {
            if number % 10 == 0 {
                context.pace(10).await;
            }
            peer.framed.feed(message(&ident, &channel, run, number, 2000)).await.unwrap();
        }
        within(SinkExt::<Frame>::flush(&mut peer.framed)).await.unwrap();
        // Half of a message is none.
        peer.send_raw(&[0, 0, 1, 0, 3, 9]).await;
        way.go(peer).await;
        // Bytes that were sent before an end of stream are taken, also when the sender is gone.
        context.ledger.published(run, if way == Way::Reset { 0 } else { count }, count);
    }
}

/// A process that subscribes and publishes, and is killed.
pub(crate) async fn killed(context: Arc<Context>) {
    while !context.is_over().await {
        let (load, run, count) = (context.ledger.open(), context.ledger.open(), 50);
        subscribed(&context, "s.child", "kill", 0).await;
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(CHILD, format!("{} {load}", context.process.tcp));
        let mut child = command.kill_on_drop(true).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(within(lines.next_line()).await.unwrap().as_deref(), Some("ready"));
        subscribed(&context, "s.child", "kill", 1).await;
        let publishing = publish_all(&context, "p.child", "kill", run, count, 1000);
        if context.racing() {
            let killing = async {
                sleep(Duration::from_millis(20)).await;
                child.kill().await.unwrap();
            };
            tokio::join!(publishing, killing);
            context.ledger.due(0, count, 0);
        } else {
            publishing.await;
            child.kill().await.unwrap();
            context.ledger.due(count, count, 0);
        }
        // It has been ended while it published.
        context.ledger.published(load, 0, u64::MAX);
    }
}

/// That process.
pub(crate) fn child(orders: &str) {
    let (addr, load) = orders.split_once(' ').unwrap();
    let (addr, load): (SocketAddr, u64) = (addr.parse().unwrap(), load.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut reader = Peer::login(addr, "s.child", SECRET).await;
        reader.send(subscribe("s.child", "kill")).await;
        let mut writer = Peer::login(addr, "p.child", SECRET).await;
        println!("ready");
        let start = Instant::now();
        for number in 0.. {
            // The parent that was to kill it is gone.
            if start.elapsed() > Duration::from_secs(60) {
                return;
            }
            writer.send(message("p.child", "killed", load, number, 300)).await;
            if number % 10 == 9 {
                sleep(Duration::from_millis(20)).await;
            }
        }
    });
}
