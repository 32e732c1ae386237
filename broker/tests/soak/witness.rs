//! The witness: a subscriber of every channel.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures::StreamExt as _;
use hpfeeds::{ClientSession, SessionEvent};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    ledger::parse,
    process::{Process, SECRET},
    support::within,
};

/// A session that is subscribed to `*`. It is never disconnected, and what it hears of each run has no gap, no
/// repetition and no other order.
pub(crate) struct Witness {
    state: Arc<State>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    heard: AtomicU64,
    runs: Mutex<HashMap<u64, u64>>,
}

impl Witness {
    pub(crate) async fn start(process: &Process) -> Self {
        let mut session = ClientSession::connect(process.tcp, "witness", SECRET).await.unwrap();
        session.subscribe("*").unwrap();
        let mut exposed = process.scrape().await;
        while exposed.sum("hpfeeds_broker_subscriptions{ident=\"witness\"}") != Some(1.0) {
            exposed = process.scrape().await;
        }
        let (state, (stop, mut stopped)) = (Arc::<State>::default(), oneshot::channel());
        let task = tokio::spawn({
            let state = state.clone();
            async move {
                let mut events = session.events();
                loop {
                    tokio::select! {
                        message = session.next() => state.hear(&message.expect("it goes on").2),
                        event = events.next() => {
                            let gone = matches!(event, None | Some(SessionEvent::Disconnected { .. }));
                            assert!(!gone, "the witness was disconnected: {event:?}");
                        }
                        _ = &mut stopped => break,
                    }
                }
                session.close().await.unwrap();
            }
        });
        Self { state, stop, task }
    }

    /// How many messages so far.
    pub(crate) fn heard(&self) -> u64 {
        assert!(!self.task.is_finished(), "the witness has ended");
        self.state.heard.load(Relaxed)
    }

    /// How many of each run, since it was asked last.
    pub(crate) fn take(&mut self) -> HashMap<u64, u64> {
        std::mem::take(&mut self.state.runs.lock().unwrap())
    }

    pub(crate) async fn close(self) {
        self.stop.send(()).unwrap();
        within(self.task).await.unwrap();
    }
}

impl State {
    fn hear(&self, payload: &[u8]) {
        let (run, number) = parse(payload);
        let mut runs = self.runs.lock().unwrap();
        let next = runs.entry(run).or_default();
        assert_eq!(number, *next, "of run {run}");
        *next += 1;
        self.heard.fetch_add(1, Relaxed);
    }
}
