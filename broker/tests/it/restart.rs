//! The broker's process is killed and started again, ten times, under a session that publishes without a pause.
//!
//! It does not offer the extension: what was on its way when a connection broke is lost then, and the session says so.

use std::{
    io::{BufRead as _, BufReader},
    pin::pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use hpfeeds::{Backoff, ClientSession, SessionState};
use tokio::time::timeout;

const RESTARTS: usize = 10;

/// How much must have arrived after a restart before the next kill: the load is on.
const UNDER_LOAD: u64 = 5_000;

/// A bound for what takes milliseconds: reached only when something hangs.
const SOON: Duration = Duration::from_secs(60);

struct Process {
    child: Child,
    port: u16,
}

impl Process {
    /// Returns when the broker listens.
    fn start(port: u16) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"))
            .args(["--auth=env", "--extensions=off", "-e", &format!("tcp:interface=127.0.0.1:port={port}")])
            .envs([("HPFEEDS_ME_SECRET", "x"), ("HPFEEDS_ME_PUBCHANS", "load"), ("HPFEEDS_ME_SUBCHANS", "load")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit_once(':').unwrap().1.parse().unwrap();
        Self { child, port }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The session subscribes to its own channel. TCP keeps SUBSCRIBE before what follows it, so every message that is
/// written to a living broker comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_restarts_under_load_lose_only_what_was_on_the_broken_connection() {
    let mut broker = Process::start(0);
    let mut session = ClientSession::builder(("127.0.0.1", broker.port), "me", "x")
        .backoff(Backoff::new(Duration::from_millis(50), Duration::from_millis(200)))
        .auth_grace(Duration::from_millis(50))
        .connect()
        .await
        .unwrap();
    session.subscribe("load").unwrap();

    let (accepted, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let load = tokio::spawn({
        let (publisher, accepted, stop) = (session.publisher(), accepted.clone(), stop.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                // One publisher task, so this is also the number of the message. It counts from here on: the task may be
                // held up between the end of `publish` and the next line for as long as a restart takes.
                let n = accepted.fetch_add(1, Ordering::SeqCst);
                publisher.publish("load", format!("{n:0200}")).await.unwrap();
            }
        }
    });

    let mut received: Vec<u64> = Vec::new();
    let mut restarted_at = vec![0];
    for _ in 0..RESTARTS {
        let from = *restarted_at.last().unwrap();
        receive(&mut session, &mut received, from + UNDER_LOAD).await;
        broker.kill();
        lost(&mut session, &mut received).await;
        broker = Process::start(broker.port);
        restarted_at.push(accepted.load(Ordering::SeqCst));
    }
    receive(&mut session, &mut received, restarted_at[RESTARTS] + UNDER_LOAD).await;
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    let total = accepted.load(Ordering::SeqCst);
    receive(&mut session, &mut received, total - 1).await;
    // It speaks of the last connection, on which nothing was lost.
    session.close().await.unwrap();

    let gaps: Vec<_> =
        received.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|pair| (pair[0], pair[1])).collect();
    for &(before, after) in &gaps {
        assert!(after > before, "{after} came after {before}: out of order or twice");
        // Every missing message had been accepted before a restart was complete, and not before the one before it.
        let restart = restarted_at.partition_point(|&accepted| accepted <= before);
        assert!(
            restarted_at.get(restart).is_some_and(|&accepted| after <= accepted),
            "{}..{after} were accepted after the restart at {:?} and lost",
            before + 1,
            restarted_at.get(restart - 1),
        );
    }
    assert!(gaps.len() <= RESTARTS, "{gaps:?}");
    assert_eq!(received.last(), Some(&(total - 1)));
    let lost = total - received.len() as u64 - received[0];
    assert!(lost <= session.unconfirmed(), "{lost} were lost, and only {} told", session.unconfirmed());
    println!("{total} messages, {} restarts, {lost} lost on broken connections in {} gaps", RESTARTS, gaps.len());
}

/// Receives until the session knows that its connection is gone. It must be read for that: the dead broker's system
/// still holds messages for a session that is not, and its end stands behind them. Until then one more write is
/// accepted, and lost.
async fn lost(session: &mut ClientSession, received: &mut Vec<u64>) {
    let mut state = session.state();
    let mut gone = pin!(state.wait_for(|state| *state != SessionState::Connected));
    loop {
        tokio::select! {
            biased;
            state = &mut gone => return drop(state.unwrap()),
            message = timeout(SOON, session.next()) => received.push(number(&message.unwrap().unwrap().2)),
        }
    }
}

fn number(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

/// Receives until the message with this number, or a later one, is there.
async fn receive(session: &mut ClientSession, received: &mut Vec<u64>, until: u64) {
    while received.last().is_none_or(|&last| last < until) {
        let (_, _, payload) = timeout(SOON, session.next()).await.unwrap().unwrap();
        received.push(number(&payload));
    }
}
