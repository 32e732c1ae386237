//! The collector: a session that is subscribed all the time, and writes down each number that it gets.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{SinkExt as _, StreamExt as _};
use hpfeeds::{
    Backoff, ClientSession,
    wire::{Codec, Frame, Secret},
};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::codec::Framed;

use crate::event::{CHANNEL, COLLECTOR, MARKS, SECRET, number};

/// Nothing here takes that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it hangs")
}

/// A number that was delivered, and the broker's life in which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) number: u64,
    pub(crate) broker: u64,
}

pub(crate) struct Collector {
    heard: Arc<Mutex<Vec<Delivery>>>,
    mark: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Collector {
    pub(crate) fn start(addr: SocketAddr) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(50));
        let mut session = ClientSession::builder(addr, COLLECTOR, SECRET).backoff(backoff).start().unwrap();
        for channel in [CHANNEL, MARKS] {
            session.subscribe(channel).unwrap();
        }
        let heard = Arc::<Mutex<Vec<Delivery>>>::default();
        let (marked, mark) = watch::channel(0);
        let task = tokio::spawn({
            let heard = heard.clone();
            async move {
                while let Some((_, channel, payload)) = session.next().await {
                    if channel.as_str() == MARKS {
                        let new: u64 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
                        marked.send_modify(|mark| *mark = new.max(*mark));
                    } else {
                        let broker = *marked.borrow();
                        heard.lock().unwrap().push(Delivery { number: number(&payload), broker });
                    }
                }
            }
        });
        Self { heard, mark, task }
    }

    /// Publishes this mark until the session has it: then it has all that came before, and is subscribed.
    pub(crate) async fn hears(&mut self, addr: SocketAddr, mark: u64) {
        let marking = async {
            let mut framed = Framed::new(TcpStream::connect(addr).await.unwrap(), Codec::default());
            let Some(Ok(Frame::Info { nonce, .. })) = framed.next().await else {
                panic!("no INFO");
            };
            let (ident, digest) = (COLLECTOR.parse().unwrap(), Secret::from(SECRET).sign(&nonce));
            framed.send(Frame::Auth { ident, digest }).await.unwrap();
            loop {
                let (ident, channel) = (COLLECTOR.parse().unwrap(), MARKS.parse().unwrap());
                framed.send(Frame::Publish { ident, channel, payload: mark.to_string().into() }).await.unwrap();
                sleep(Duration::from_millis(10)).await;
            }
        };
        let heard = self.mark.wait_for(|heard| *heard >= mark);
        within(async {
            tokio::select! {
                heard = heard => drop(heard.expect("the collector goes on")),
                () = marking => {}
            }
        })
        .await;
        assert!(!self.task.is_finished(), "the collector has ended");
    }

    /// The deliveries since it was asked last.
    pub(crate) fn take(&self) -> Vec<Delivery> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}
