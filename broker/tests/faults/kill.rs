//! The broker is killed under load and started again at the same port, with several sessions and the command-line tool.
//! `tests/it/restart.rs` does it to one session, and says more exactly what is lost.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::StreamExt as _;
use hpfeeds::{Backoff, ClientSession, SessionEvent};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    sync::watch,
    task::JoinSet,
};

use crate::{
    Running, broker,
    support::{until, within},
    tool,
};

const SESSIONS: usize = 3;
const KILLS: usize = 5;

/// How much each session must receive after a restart: the load is on.
const UNDER_LOAD: u64 = 200;

/// Without the extension: with it, a message that was acknowledged and stood in the queue of a killed broker is lost and
/// not reported. The kill rounds know which those may be.
async fn start(port: u16) -> Running {
    Running::start(broker(&["--dev", &format!("--port={port}"), "--log-level=error", "--extensions=off"])).await
}

fn session(port: u16) -> ClientSession {
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(200));
    let builder = ClientSession::builder(("127.0.0.1", port), "dev", "dev").backoff(backoff);
    builder.auth_grace(Duration::from_millis(50)).start().unwrap()
}

fn parse(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().trim_matches(['<', '>']).parse().unwrap()
}

/// Counts of one session.
#[derive(Default)]
struct Seen {
    received: AtomicU64,
    /// The number of the last message, and one more.
    next: AtomicU64,
    published: AtomicU64,
    unconfirmed: AtomicU64,
}

/// Publishes to its own channel, to which it is subscribed, until it is told to stop; then receives what is under way.
async fn echo(port: u16, number: u64, seen: Arc<Seen>, mut stop: watch::Receiver<bool>) {
    let mut session = session(port);
    let mut events = session.events();
    let channel = format!("load.{number}");
    session.subscribe(&channel).unwrap();
    let publisher = session.publisher();
    let publishing = async {
        while !*stop.borrow_and_update() {
            let message = seen.published.fetch_add(1, SeqCst);
            publisher.publish(&channel, format!("<{message}>")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let done = AtomicBool::new(false);
    let receiving = async {
        while !(done.load(SeqCst) && seen.next.load(SeqCst) == seen.published.load(SeqCst)) {
            tokio::select! {
                message = session.next() => {
                    let number = parse(&message.unwrap().2);
                    let expected = seen.next.swap(number + 1, SeqCst);
                    assert!(number >= expected, "{number} where {expected} or later should be");
                    seen.received.fetch_add(1, SeqCst);
                }
                event = events.next() => if let Some(SessionEvent::Disconnected { unconfirmed, .. }) = event {
                    seen.unconfirmed.fetch_add(unconfirmed, SeqCst);
                },
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    };
    let publishing = async {
        publishing.await;
        done.store(true, SeqCst);
    };
    tokio::join!(publishing, receiving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_comes_back_and_what_is_lost_was_reported() {
    let mut running = start(0).await;
    let port = running.addr.port();
    let (stop, stopped) = watch::channel(false);
    let seen: Vec<_> = (0..SESSIONS).map(|_| Arc::<Seen>::default()).collect();
    let mut sessions = JoinSet::new();
    for (number, seen) in (0..).zip(&seen) {
        sessions.spawn(echo(port, number, seen.clone(), stopped.clone()));
    }
    // A subscriber that only listens, by a pattern; and the tool.
    let listener = session(port);
    listener.subscribe("load.*").unwrap();
    let mut listener = listener.map(|(_, channel, payload)| (channel, parse(&payload)));
    let mut tool = tool().map(|tool| {
        let mut command = Command::new(tool);
        command.args(["--host", "127.0.0.1", "-p", &port.to_string(), "-i", "dev", "-s", "dev", "-c", "load.0"]);
        command.arg("subscribe").kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        (BufReader::new(child.stdout.take().unwrap()).lines(), child)
    });
    let mut nexts = [0; SESSIONS];
    let mut heard = 0;
    for kill in 0..=KILLS {
        let before: Vec<_> = seen.iter().map(|seen| seen.received.load(SeqCst)).collect();
        let marks: Vec<_> = seen.iter().map(|seen| seen.published.load(SeqCst)).collect();
        until(|| seen.iter().zip(&before).all(|(seen, before)| seen.received.load(SeqCst) > before + UNDER_LOAD)).await;
        // Subscriptions are back: a message comes that was published after the restart; and in order, and once.
        let mut missing = SESSIONS;
        while missing > 0 {
            let (channel, number) = within(listener.next()).await.unwrap();
            let index: usize = channel.rsplit_once('.').unwrap().1.parse().unwrap();
            assert!(number >= nexts[index], "{channel}: {number} where {} or later should be", nexts[index]);
            missing -= usize::from(nexts[index] <= marks[index] && number >= marks[index]);
            (nexts[index], heard) = (number + 1, heard + 1);
        }
        if let Some((lines, _)) = &mut tool {
            let is_new = |line: &str| {
                let number = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
                number.is_some_and(|(number, _)| number.parse::<u64>().unwrap() >= marks[0])
            };
            while !is_new(&within(lines.next_line()).await.unwrap().expect("it goes on")) {}
        }
        if kill < KILLS {
            running.child.kill().await.unwrap();
            running = start(port).await;
        }
    }
    stop.send(true).unwrap();
    while let Some(ended) = within(sessions.join_next()).await {
        ended.unwrap();
    }
    for seen in &seen {
        let value = |counter: &AtomicU64| counter.load(SeqCst);
        let (published, received) = (value(&seen.published), value(&seen.received));
        let (lost, unconfirmed) = (published - received, value(&seen.unconfirmed));
        assert!(lost <= unconfirmed, "{lost} lost, but only {unconfirmed} reported");
        println!("{published} published, {received} received, {lost} lost of {unconfirmed} unconfirmed; {heard} heard");
    }
}
