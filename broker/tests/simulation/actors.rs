//! The actors: the real broker and real sessions.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use hpfeeds::{Backoff, ClientSession, Confirm, SessionEvent, SessionState, wire::Limits};
use hpfeeds_broker::{AuthStore, Broker, Key, Lookup, Stats};
use tokio::{
    select,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    net::{Dial, PORT, Stream, Undertaker},
    record::{Closed, Log, MAX_MESSAGE, id},
    scenario::{Actor, FORBIDDEN, Pace, Role, Scenario},
};

/// How long `close` may take.
const CLOSE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Faults and traffic.
    Storm,
    /// No more of either: everybody finds back.
    Calm,
    /// Everybody publishes a last time.
    Last,
    /// Everybody closes.
    Close,
}

/// The keys, which every life of the broker looks up in the same place.
#[derive(Clone, Default)]
pub(crate) struct Keys(Arc<Mutex<BTreeMap<String, Arc<Key>>>>);

impl Keys {
    pub(crate) fn set(&self, actor: &Actor, rights: Option<&[String]>) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rights) = rights else {
            keys.remove(&actor.ident);
            return;
        };
        let key = Key::new(&actor.ident, "secret").unwrap();
        let key = match actor.role {
            Role::Publisher { .. } => key.publish(rights),
            Role::Subscriber { .. } => key.subscribe(rights),
        };
        keys.insert(actor.ident.clone(), Arc::new(key.unwrap()));
    }
}

impl AuthStore for Keys {
    fn lookup<'a>(&'a self, ident: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            sleep(Duration::from_millis(3)).await;
            Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(ident).cloned())
        })
    }
}

/// The broker's machine.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) scenario: Rc<Scenario>,
    pub(crate) log: Log,
    pub(crate) keys: Keys,
    pub(crate) broker: Rc<RefCell<Option<Arc<Broker>>>>,
    /// The stats of the last one after its shutdown.
    pub(crate) last: Rc<RefCell<Option<Stats>>>,
    /// It is told to shut down.
    pub(crate) stop: Rc<Notify>,
}

impl Site {
    pub(crate) async fn run(self) -> turmoil::Result {
        let _undertaker = Undertaker(self.log.clone());
        let rules = &self.scenario;
        let broker = Broker::builder()
            .without_endpoint()
            .auth(self.keys.clone())
            .max_message(MAX_MESSAGE)
            .low_mark(rules.low_mark)
            .high_mark(rules.high_mark)
            .max_buffered(rules.max_buffered)
            .slow_policy(rules.policy)
            .floor_rate(1024)
            .floor_window(Duration::from_secs(1))
            .slow_deadline(Duration::from_secs(3))
            .handshake_timeout(Duration::from_secs(4))
            .auth_failure_delay(Duration::from_millis(200))
            .write_timeout(Duration::from_secs(2))
            .drain_timeout(Duration::from_secs(1))
            .extensions(rules.extensions)
            .start()
            .await?;
        let broker = Arc::new(broker);
        *self.broker.borrow_mut() = Some(broker.clone());
        let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
        let accepting = async {
            while let Ok((tcp, peer)) = listener.accept().await {
                broker.serve(Stream::accepted(tcp, peer, &self.log, rules.chunk), peer);
            }
        };
        // Orders for the life before.
        let _ = self.stop.notified().now_or_never();
        select! {
            biased;
            () = self.stop.notified() => {}
            () = accepting => {}
        }
        drop(listener);
        self.broker.borrow_mut().take();
        self.log.lock().broker_stops();
        if let Some(broker) = Arc::into_inner(broker) {
            match timeout(Duration::from_secs(4), broker.shutdown()).await {
                Ok(stats) => *self.last.borrow_mut() = Some(stats),
                Err(_) => self.log.lock().fault("the broker's shutdown hangs"),
            }
        }
        std::future::pending().await
    }
}

/// Of each ident the number of its session, and what that is doing.
pub(crate) type States = BTreeMap<String, (usize, watch::Receiver<SessionState>)>;

/// A machine with clients.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) scenario: Rc<Scenario>,
    pub(crate) log: Log,
    pub(crate) phase: watch::Receiver<Phase>,
    /// State of the sessions that this machine has now.
    pub(crate) states: Rc<RefCell<States>>,
    /// How often it was started.
    pub(crate) starts: Rc<RefCell<u64>>,
    pub(crate) host: usize,
}

impl Machine {
    pub(crate) async fn run(self) -> turmoil::Result {
        let _undertaker = Undertaker(self.log.clone());
        *self.starts.borrow_mut() += 1;
        let starts = *self.starts.borrow();
        let scenario = self.scenario.clone();
        let mut running = Vec::new();
        for (index, actor) in scenario.hosts[self.host].iter().enumerate() {
            let rng = scenario.seed ^ (starts << 48) ^ ((self.host as u64) << 40) ^ ((index as u64) << 32) ^ 0x9e37;
            let rng = fastrand::Rng::with_seed(rng);
            running.push(self.clone().act(actor.clone(), starts, rng));
        }
        futures::future::join_all(running).await;
        std::future::pending().await
    }

    async fn act(self, actor: Actor, starts: u64, rng: fastrand::Rng) {
        let (name, extended) = (format!("{}#{starts}", actor.ident), self.scenario.extensions);
        let number = self.log.lock().open_session(&actor.ident, name, extended, extended && actor.confirms);
        let mut session = ClientSession::builder(("broker", PORT), &actor.ident, "secret")
            .limits(Limits::new(MAX_MESSAGE))
            .send_queue(MAX_MESSAGE as usize * 2)
            .receive_queue(8 * 1024)
            .backoff(Backoff::new(Duration::from_millis(100), Duration::from_secs(2)))
            .handshake_timeout(Duration::from_secs(3))
            .auth_grace(Duration::from_millis(250))
            .close_timeout(CLOSE)
            .confirm(if actor.confirms { Confirm::IfOffered } else { Confirm::Off })
            .connector(Dial { session: number, log: self.log.clone(), chunk: self.scenario.chunk })
            .start()
            .unwrap();
        self.states.borrow_mut().insert(actor.ident.clone(), (number, session.state()));
        match &actor.role {
            Role::Publisher { rogue } => self.publish(&session, number, &actor.rights, *rogue, rng).await,
            Role::Subscriber { channels, pace } => self.subscribe(&mut session, number, channels, *pace, rng).await,
        }
        let begun = Instant::now();
        let outcome = session.close().await;
        let mut record = self.log.lock();
        if begun.elapsed() > CLOSE + Duration::from_millis(100) {
            record.fault(&format!("{}: close took {:?}", actor.ident, begun.elapsed()));
        }
        let error = outcome.err();
        let unsent = error.as_ref().map_or(0, hpfeeds::Error::unsent);
        let unconfirmed = session.unconfirmed();
        let error = error.map(|error| error.to_string());
        record.mark(9, unsent, unconfirmed);
        record.sessions[number].closed = Some(Closed { unsent, unconfirmed, error });
    }

    async fn publish(
        &self,
        session: &ClientSession,
        number: usize,
        rights: &[String],
        rogue: bool,
        mut rng: fastrand::Rng,
    ) {
        let mut phase = self.phase.clone();
        loop {
            let pause = sleep(Duration::from_millis(rng.u64(5..800)));
            select! {
                biased;
                _ = phase.wait_for(|phase| *phase > Phase::Storm) => break,
                () = pause => {}
            }
            for _ in 0..rng.usize(1..12) {
                let forbidden = rogue && rng.u8(..) < 10;
                let channel = if forbidden { FORBIDDEN } else { &rights[rng.usize(..rights.len())] };
                self.say(session, number, channel, rng.usize(8..8 + self.scenario.largest));
            }
        }
        let _ = phase.wait_for(|phase| *phase >= Phase::Last).await;
        for channel in rights {
            self.say(session, number, channel, 16);
        }
        let _ = phase.wait_for(|phase| *phase == Phase::Close).await;
        // It goes on until the end.
        for channel in rights {
            self.say(session, number, channel, 100);
        }
    }

    fn say(&self, session: &ClientSession, number: usize, channel: &str, len: usize) {
        let id = self.log.lock().message(number, channel);
        let mut payload = id.to_be_bytes().to_vec();
        payload.resize(len, b'x');
        // Before it is there: somebody may get it at once.
        let taken = |taken| self.log.lock().messages.get_mut(&id).unwrap().taken = taken;
        taken(true);
        if session.try_publish(channel, payload).is_err() {
            taken(false);
        }
    }

    async fn subscribe(
        &self,
        session: &mut ClientSession,
        number: usize,
        channels: &[String],
        pace: Pace,
        mut rng: fastrand::Rng,
    ) {
        let mut phase = self.phase.clone();
        for channel in channels {
            session.subscribe(channel).unwrap();
        }
        let mut events = session.events();
        let mut again = false;
        loop {
            let now = *phase.borrow();
            if now > Phase::Storm && !again {
                again = true;
                // A right that was taken away for a while takes a subscription with it. Every other one comes back.
                if self.log.lock().rights[&**session.ident()].len() > 1 {
                    for channel in channels.iter().filter(|channel| *channel != FORBIDDEN) {
                        session.subscribe(channel).unwrap();
                    }
                }
            }
            if now == Phase::Close {
                return;
            }
            let reads = pace != Pace::Stuck && (pace == Pace::Fast || now > Phase::Storm || rng.bool());
            let pause = sleep(Duration::from_millis(if reads { 60_000 } else { rng.u64(1..2000) }));
            select! {
                biased;
                _ = phase.changed() => {}
                // A channel that was refused while its key lacked it may hear of that long after the key has it back.
                Some(event) = events.next(), if again => {
                    if let SessionEvent::SubscribeDenied { channel: Some(channel), .. } = event
                        && *channel != *FORBIDDEN
                        && self.log.lock().rights[&**session.ident()].len() > 1
                    {
                        session.subscribe(channel).unwrap();
                    }
                }
                message = session.read(), if reads => {
                    let Some((ident, channel, payload)) = message else {
                        self.log.lock().fault(&format!("session {number} has ended by itself"));
                        return;
                    };
                    self.log.lock().received(number, id(&payload), &ident, &channel);
                }
                () = pause => {}
            }
            if now == Phase::Storm && rng.u8(..) < 4 {
                let channel = &channels[rng.usize(..channels.len())];
                session.unsubscribe(channel).unwrap();
                sleep(Duration::from_millis(rng.u64(1..500))).await;
                session.subscribe(channel).unwrap();
            }
        }
    }
}
