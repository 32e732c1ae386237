//! A broker that means ill, and how much of the runtime it gets: counted in searches and turns, not
//! in time.

use std::{cell::Cell, io, rc::Rc, time::Duration};

use bytes::BytesMut;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::{LocalSet, spawn_local, yield_now},
    time::{Instant, sleep},
};

use crate::{
    BrokerAddr, ClientSession, Connector, SessionState, Transport,
    client::{connection::FRAME_BUDGET, queue::retain::SEARCHES},
    wire::{Frame, Limits, Nonce},
};

const ERRORS: usize = 5_000;

/// The first connection goes here; there is no second.
struct Pipe(Mutex<Option<DuplexStream>>);

impl Connector for Pipe {
    fn connect<'a>(&'a self, _addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let pipe = self.0.lock().take().map(|pipe| Box::new(pipe) as _);
        Box::pin(async { pipe.ok_or(io::ErrorKind::ConnectionRefused.into()) })
    }
}

/// A session that was accepted, and the broker's end of its connection, which takes so many bytes.
async fn connected(pipe: usize) -> (ClientSession, DuplexStream) {
    let (ours, mut theirs) = duplex(pipe);
    let info = Frame::Info { name: "peer".into(), nonce: Nonce::new([1, 2, 3, 4]) };
    send(&mut theirs, &[info]).await;
    let builder = ClientSession::builder(("broker.test", 1), "me", "secret");
    (builder.connector(Pipe(Mutex::new(Some(ours)))).connect().await.unwrap(), theirs)
}

async fn send(peer: &mut DuplexStream, frames: &[Frame]) {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes, Limits::default()).unwrap();
    }
    peer.write_all(&bytes).await.unwrap();
}

fn errors(text: impl Fn(usize) -> String) -> Vec<Frame> {
    (0..ERRORS).map(|n| Frame::Error { message: text(n).into() }).collect()
}

/// Counts the turns that another task of the same thread has while the session hears all this.
async fn turns(session: &ClientSession, peer: &mut DuplexStream, frames: &[Frame]) -> usize {
    let turns = Rc::new(Cell::new(0));
    let counted = turns.clone();
    let other = spawn_local(async move {
        loop {
            yield_now().await;
            counted.set(counted.get() + 1);
        }
    });
    send(peer, frames).await;
    // Heard when the last one is told.
    let mut events = session.shared().events.subscribe();
    send(peer, &[Frame::Error { message: "that was all".into() }]).await;
    loop {
        match events.recv().await {
            Ok(crate::SessionEvent::BrokerError { message }) if message == "that was all" => break,
            Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    other.abort();
    turns.get()
}

#[tokio::test(start_paused = true)]
async fn errors_without_end_let_others_run_and_search_the_queue_a_few_times() {
    let run = async {
        for text in
            ["Authkey not allowed to pub here. ident=me, chan=", "Authkey not allowed to sub here. ident=me, chan=", ""]
        {
            let (session, mut peer) = connected(8 << 20).await;
            // The broker reads nothing of what is published: the pipe is full, and the rest waits.
            for _ in 0..120_000 {
                if session.try_publish("good", vec![7; 100]).is_err() {
                    yield_now().await;
                }
            }
            let before = SEARCHES.get();
            let turns = turns(&session, &mut peer, &errors(|n| format!("{text}{n}"))).await;
            assert!(turns >= ERRORS / FRAME_BUDGET as usize, "{text}: others had {turns} turns");
            // Time stands still while the session has something to do.
            let searches = SEARCHES.get() - before;
            assert!(searches <= 2, "{text}: {searches} searches");
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn closing_ends_at_its_deadline_whatever_the_broker_says() {
    let (mut session, peer) = connected(1 << 20).await;
    while session.try_publish("good", vec![7; 100]).is_ok() {}
    let (mut reader, mut writer) = tokio::io::split(peer);
    let errors = errors(|n| format!("Authkey not allowed to pub here. ident=me, chan={n}"));
    let mut bytes = BytesMut::new();
    for frame in errors.iter().take(1000) {
        frame.encode(&mut bytes, Limits::default()).unwrap();
    }
    let talking = tokio::spawn(async move {
        while writer.write_all(&bytes).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let before = SEARCHES.get();
    let started = Instant::now();
    let closed = session.close().await;
    assert!(started.elapsed() < Duration::from_millis(5_100), "{:?}", started.elapsed());
    assert!(closed.unwrap_err().is_incomplete());
    assert_eq!(*session.state().borrow(), SessionState::Closed);
    // Four a second, and those between connections.
    let searches = SEARCHES.get() - before;
    assert!(searches < 30, "{searches} searches");
    talking.await.unwrap();
    drop(reader.read(&mut [0; 10]).await);
}

#[tokio::test(start_paused = true)]
async fn changed_subscriptions_do_not_pile_up_for_a_broker_that_reads_nothing() {
    // The pipe takes AUTH and little more.
    let (session, mut peer) = connected(64).await;
    for n in 0..10_000 {
        let channel = format!("channel-{n}");
        session.subscribe(&channel).unwrap();
        yield_now().await;
        session.unsubscribe(&channel).unwrap();
        yield_now().await;
    }
    session.subscribe("last").unwrap();
    // All that the broker is told, read at last.
    let mut told = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_secs(1), peer.read(&mut buf)).await {
        told.extend_from_slice(&buf[..n]);
    }
    assert!(told.ends_with(b"last"));
    assert!(told.len() < 1000, "{} bytes of control frames", told.len());
}
