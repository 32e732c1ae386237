//! Clients that come over a stream that is no TCP connection.

use std::{
    io,
    net::SocketAddr,
    num::NonZero,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{SinkExt as _, StreamExt as _};
use hpfeeds::wire::{Codec, Frame, Nonce, Secret};
use hpfeeds_broker::{Broker, BrokerBuilder, Exposition, Key, StartError};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufStream, DuplexStream, ReadBuf, duplex},
    time::{Instant, sleep},
};
use tokio_util::codec::Framed;

use crate::support::{bytes, number, numbered, publish, subscribe, until, within};

fn peer_addr() -> SocketAddr {
    ([192, 0, 2, 1], 7).into()
}

async fn start(builder: BrokerBuilder) -> Broker {
    builder.without_endpoint().start().await.unwrap()
}

/// A client at the other end of a stream.
struct Peer<S>(Framed<S, Codec>);

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    async fn login(stream: S) -> Self {
        let mut framed = Framed::new(stream, Codec::default());
        let Some(Ok(Frame::Info { nonce, .. })) = within(framed.next()).await else { panic!("no INFO") };
        let mut peer = Self(framed);
        peer.send(Frame::Auth { ident: "dev".parse().unwrap(), digest: Secret::from("dev").sign(&nonce) }).await;
        peer
    }

    async fn send(&mut self, frame: Frame) {
        within(self.0.send(frame)).await.unwrap();
    }

    async fn next(&mut self) -> Option<Frame> {
        within(self.0.next()).await.map(Result::unwrap)
    }

    /// Subscribes, and returns once the broker has seen to it.
    async fn subscribed(mut self, channel: &str) -> Self {
        self.send(subscribe("dev", channel)).await;
        self.send(publish("dev", channel, "ready")).await;
        assert_eq!(self.next().await, Some(publish("dev", channel, "ready")));
        self
    }
}

/// A client in memory, whose pipe holds so many bytes.
async fn client(broker: &Broker, size: usize) -> Peer<DuplexStream> {
    let (ours, theirs) = duplex(size);
    broker.serve(theirs, peer_addr());
    Peer::login(ours).await
}

/// Heralding's client waits a second for INFO, and connects again at once after an ERROR.
#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_at_once_after_a_wrong_secret_has_info_half_a_second_later() {
    async fn greeted(broker: &Broker) -> (Framed<DuplexStream, Codec>, Nonce) {
        let (ours, theirs) = duplex(4096);
        broker.serve(theirs, peer_addr());
        let mut framed = Framed::new(ours, Codec::default());
        let Some(Ok(Frame::Info { nonce, .. })) = within(framed.next()).await else { panic!("no INFO") };
        (framed, nonce)
    }
    async fn fails((mut framed, nonce): (Framed<DuplexStream, Codec>, Nonce)) {
        let auth = Frame::Auth { ident: "dev".parse().unwrap(), digest: Secret::from("wrong").sign(&nonce) };
        framed.send(auth).await.unwrap();
        let error = Frame::Error { message: "Authentication failed for dev".into() };
        assert_eq!(within(framed.next()).await.unwrap().unwrap(), error);
    }
    let broker = start(Broker::dev_builder()).await;
    let (sensor, neighbour) = (greeted(&broker).await, greeted(&broker).await);
    fails(sensor).await;
    let begun = Instant::now();
    let neighbour = async {
        sleep(Duration::from_millis(250)).await;
        fails(neighbour).await;
    };
    let back = async {
        let greeted = greeted(&broker).await;
        (greeted, begun.elapsed())
    };
    // A failure behind the same address makes nobody wait longer who waits already.
    let ((), (sensor, waited)) = tokio::join!(neighbour, back);
    assert_eq!(waited.as_millis() / 10, 50, "{waited:?}");
    fails(sensor).await;
    assert_eq!(broker.stats().auth_failures, 3);
}

#[tokio::test]
async fn messages_pass_through_a_pipe_of_any_size_in_order() {
    let broker = start(Broker::dev_builder()).await;
    assert!(broker.is_ready());
    for size in [1, 7, 4096] {
        let mut subscriber = client(&broker, size).await.subscribed("c").await;
        let mut publisher = client(&broker, size).await;
        let sending = async {
            for n in 0..200 {
                publisher.send(publish("dev", "c", numbered(n, 300))).await;
            }
        };
        let receiving = async {
            for n in 0..200 {
                assert_eq!(number(&subscriber.next().await.unwrap()), n);
            }
        };
        tokio::join!(sending, receiving);
        // The end of its stream is answered with ours, once everything has been acted on.
        publisher.send(publish("dev", "c", numbered(200, 300))).await;
        within(publisher.0.get_mut().shutdown()).await.unwrap();
        assert_eq!(publisher.next().await, None);
        assert_eq!(number(&subscriber.next().await.unwrap()), 200);
        drop(subscriber);
        until(|| broker.stats().connections == 0).await;
    }
    let stats = broker.stats();
    assert_eq!((stats.accepted, stats.authenticated, stats.received_messages), (6, 6, 606));
    assert_eq!((stats.delivered, stats.buffered), (606, 0));
    broker.shutdown().await;
}

#[tokio::test]
async fn a_buffered_stream_is_flushed() {
    let broker = start(Broker::dev_builder()).await;
    let (ours, theirs) = duplex(64);
    broker.serve(BufStream::new(theirs), peer_addr());
    Peer::login(ours).await.subscribed("c").await;
    broker.shutdown().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_client_may_come_over_a_unix_socket() {
    let broker = start(Broker::dev_builder()).await;
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    broker.serve(theirs, peer_addr());
    let mut peer = Peer::login(ours).await.subscribed("c").await;
    let labels = r#"hpfeeds_broker_connections{endpoint="stream",state="session"}"#;
    let metrics = broker.metrics(Exposition::Prometheus);
    assert!(metrics.contains(&format!("{labels} 1")), "{metrics}");
    within(peer.0.get_mut().shutdown()).await.unwrap();
    assert_eq!(peer.next().await, None);
    broker.shutdown().await;
}

#[tokio::test]
async fn limits_are_those_of_all_connections() {
    let alice = Key::new("alice", "s3cret").unwrap();
    let broker =
        start(Broker::dev_builder().user(alice).max_connections(2).max_connections_per_address(NonZero::new(1))).await;
    let first = client(&broker, 4096).await.subscribed("c").await;
    let refusal = async |peer: [u8; 4]| {
        let (ours, theirs) = duplex(4096);
        broker.serve(theirs, (peer, 1).into());
        let mut framed = Framed::new(ours, Codec::default());
        let first = within(framed.next()).await.unwrap().unwrap();
        assert!(within(framed.next()).await.is_none());
        let Frame::Error { message } = first else { panic!("{first:?}") };
        String::from_utf8(message.to_vec()).unwrap()
    };
    assert_eq!(refusal([192, 0, 2, 1]).await, "Too many connections from your address");
    let (ours, theirs) = duplex(4096);
    broker.serve(theirs, ([192, 0, 2, 2], 1).into());
    let mut second = Framed::new(ours, Codec::default());
    assert!(matches!(within(second.next()).await, Some(Ok(Frame::Info { .. }))));
    // It has not authenticated, and gives way.
    let (_third, theirs) = duplex(4096);
    broker.serve(theirs, ([192, 0, 2, 3], 1).into());
    let message = "Too many connections".into();
    assert_eq!(within(second.next()).await.unwrap().unwrap(), Frame::Error { message });
    assert!(within(second.next()).await.is_none());
    let stats = broker.stats();
    assert_eq!((stats.connections, stats.accepted, stats.rejected), (2, 3, 2));
    drop(first);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_stream_that_takes_nothing_is_turned_away_without_waiting() {
    let broker = start(Broker::dev_builder().max_connections(1)).await;
    let _first = client(&broker, 4096).await.subscribed("c").await;
    let (ours, theirs) = duplex(1);
    broker.serve(theirs, peer_addr());
    // Its first byte fits. There is no room for more, and nobody who would wait for that.
    let mut framed = Framed::new(ours, Codec::default());
    assert!(!matches!(within(framed.next()).await, Some(Ok(_))));
    assert_eq!(broker.stats().rejected, 1);
    broker.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_reads_those_who_have_ended_and_tells_the_others() {
    let broker = start(Broker::dev_builder()).await;
    let mut subscriber = client(&broker, 64 * 1024).await.subscribed("c").await;
    let mut publisher = client(&broker, 4096).await.subscribed("p").await;
    let mut listener = client(&broker, 4096).await;
    let mut done = client(&broker, 4096).await.subscribed("d").await;
    // In the pipe before the broker can run again.
    let last = bytes((0..3).map(|n| publish("dev", "c", numbered(n, 8))));
    done.0.get_mut().write_all(&last).await.unwrap();
    done.0.get_mut().shutdown().await.unwrap();
    listener.send(subscribe("dev", "other")).await;
    let error = |text: &'static str| Some(Frame::Error { message: text.into() });
    let checking = async {
        assert_eq!(publisher.next().await, error("The broker is shutting down; end your stream"));
        assert_eq!(publisher.next().await, error("The broker is shutting down"));
        assert_eq!(publisher.next().await, None);
        assert_eq!(done.next().await, None);
        for n in 0..3 {
            assert_eq!(number(&subscriber.next().await.unwrap()), n);
        }
    };
    tokio::join!(broker.shutdown(), checking);
}

/// Notes whether it was shut down before it was dropped.
struct Watched {
    stream: DuplexStream,
    shut: Arc<AtomicBool>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut.store(true, Relaxed);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn only_an_end_that_confirms_shuts_the_stream_down() {
    for confirmed in [true, false] {
        let broker = start(Broker::dev_builder()).await;
        let (ours, theirs) = duplex(4096);
        let shut = Arc::new(AtomicBool::new(false));
        broker.serve(Watched { stream: theirs, shut: shut.clone() }, peer_addr());
        let mut peer = Peer::login(ours).await.subscribed("c").await;
        if confirmed {
            within(peer.0.get_mut().shutdown()).await.unwrap();
            assert_eq!(peer.next().await, None);
        } else {
            drop(broker);
            assert_eq!(peer.next().await, None);
        }
        assert_eq!(shut.load(Relaxed), confirmed);
    }
}

#[tokio::test]
async fn no_endpoint_is_a_fault_unless_it_is_meant() {
    assert!(matches!(Broker::dev_builder().start().await, Err(StartError::NoEndpoint)));
    let broker = start(Broker::dev_builder()).await;
    assert_eq!(broker.local_addrs(), []);
    broker.shutdown().await;
}

/// A client in memory at an address of its own, whose pipe holds 4 KiB.
async fn client_of(broker: &Broker, address: SocketAddr) -> Peer<DuplexStream> {
    let (ours, theirs) = duplex(4096);
    broker.serve(theirs, address);
    Peer::login(ours).await
}

/// None of them reads, and each has one message of its own, so that nothing is shared and no queue holds two.
#[tokio::test(start_paused = true)]
async fn stuck_subscribers_on_channels_of_their_own_keep_to_the_bound_and_a_healthy_one_loses_nothing() {
    const STUCK: usize = 1500;
    const PAYLOAD: usize = 100_000;
    const MAX_MESSAGE: u32 = 100_100;
    const BOUND: usize = 2 << 20;
    // At least four of the longest batches, a message and a read each; and the message that comes when the bound is reached.
    const RESERVE: usize = 4 * (MAX_MESSAGE as usize + (256 << 10));
    let builder = Broker::dev_builder().max_message(MAX_MESSAGE).max_buffered(BOUND).max_connections(2 * STUCK);
    let broker = start(builder).await;
    let mut stuck = Vec::new();
    for n in 0..STUCK {
        stuck.push(client(&broker, 4096).await.subscribed(&format!("c{n}")).await);
    }
    let mut healthy = client_of(&broker, ([198, 51, 100, 1], 7).into()).await.subscribed("healthy").await;
    let mut publisher = client_of(&broker, ([203, 0, 113, 1], 7).into()).await;
    let begun = tokio::time::Instant::now();
    let mut most = 0;
    for n in 0..STUCK {
        for channel in [&format!("c{n}"), "healthy"] {
            let frame = publish("dev", channel, vec![0; PAYLOAD]);
            // Publishers wait for a few seconds, and the clock stands still while anybody is at work.
            publisher.0.send(frame).await.unwrap();
            most = most.max(broker.stats().buffered);
        }
        let Some(Frame::Publish { channel, .. }) = healthy.0.next().await.map(Result::unwrap) else {
            panic!("message {n} has not come")
        };
        assert_eq!(channel, "healthy");
        most = most.max(broker.stats().buffered);
    }
    assert!(most <= (BOUND + RESERVE) as u64, "{most} bytes were queued");
    assert!(most > BOUND as u64, "{most}: it has not come to that");
    let waited = begun.elapsed();
    assert!(waited < std::time::Duration::from_secs(20), "publishers waited for {waited:?}");
    let stats = broker.stats();
    assert!(stats.dropped > STUCK as u64 / 2, "{stats:?}");
    drop(stuck);
    until(|| broker.stats().buffered == 0).await;
}

/// However much is queued for a subscriber that goes, others have their turns meanwhile.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_stuck_subscriber_takes_no_long_step() {
    const MESSAGES: u64 = 400_000;
    /// Messages between two turns of another task: a portion is 64 KiB and a piece more, and there is the piece that
    /// was being written; a piece is as long as a read, and a message is 13 bytes long.
    const PORTION: u64 = ((64 << 10) + 2 * (256 << 10)) / 13;
    let broker = start(Broker::dev_builder().low_mark(64 << 20).high_mark(64 << 20)).await;
    let mut stuck = client(&broker, 4096).await;
    for n in 0..16 {
        stuck = stuck.subscribed(&format!("c{n:02}")).await;
    }
    let mut publisher = client(&broker, 4096).await;
    let batch = bytes((0..MESSAGES).map(|n| publish("dev", &format!("c{:02}", n % 16), "")));
    publisher.0.get_mut().write_all(&batch).await.unwrap();
    publisher.0.get_mut().shutdown().await.unwrap();
    assert_eq!(publisher.next().await, None);
    drop(stuck);
    let (mut before, mut most) = (0, 0);
    while broker.stats().connections > 0 {
        tokio::task::yield_now().await;
        let now = broker.stats().discarded;
        most = most.max(now - before);
        before = now;
    }
    let stats = broker.stats();
    assert_eq!(stats.buffered, 0);
    assert!(stats.discarded > MESSAGES / 2, "{stats:?}");
    assert!(most <= PORTION, "{most} messages were counted in one step");
}
