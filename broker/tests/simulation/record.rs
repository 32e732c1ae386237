//! The record: what happened, as seen from both ends of the network: the checks work on this alone.

use std::{
    collections::BTreeMap,
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use hpfeeds::wire::{FrameRef, extension::BrokerFrame, extension::ClientFrame};

use crate::{
    net::{Corpse, Link},
    stream::{Counted, Sent},
    tap::{Seen, Side, Tap},
};

/// The longest message, in bytes.
pub(crate) const MAX_MESSAGE: u32 = 64 << 10;

/// A number for each thing that happens: what is smaller happened earlier.
pub(crate) type Moment = u64;

/// Everybody who takes part writes to it.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Record>>);

impl Log {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(crate) struct Record {
    pub(crate) step: u64,
    now: Moment,
    hash: u64,
    pub(crate) faults: Vec<String>,
    pub(crate) messages: BTreeMap<u64, Message>,
    /// Connections that the broker accepted, all its lives together.
    pub(crate) accepted: Vec<Accepted>,
    pub(crate) sessions: Vec<Session>,
    /// Both ends of a connection find each other by the client's address.
    links: BTreeMap<SocketAddr, Weak<Link>>,
    /// Connections of which one end was dropped.
    pub(crate) abandoned: Vec<Arc<Link>>,
    /// A machine crashes now, and what it has let go of meanwhile.
    pub(crate) crashing: bool,
    pub(crate) corpses: Vec<Corpse>,
    /// Which life of the broker it is.
    pub(crate) life: u32,
    /// Rights of each ident, and from which step on.
    pub(crate) rights: BTreeMap<String, Vec<(u64, Vec<String>)>>,
}

/// A message that somebody wanted to publish.
pub(crate) struct Message {
    pub(crate) session: usize,
    pub(crate) channel: String,
    /// The session took it.
    pub(crate) taken: bool,
    /// Written whole to a connection of the client's.
    pub(crate) sent: u32,
    /// Read whole by the broker; more than once when it was sent again.
    pub(crate) reads: Vec<Read>,
}

/// A message that was read.
pub(crate) struct Read {
    pub(crate) at: Moment,
    pub(crate) step: u64,
    /// The broker's connection.
    pub(crate) connection: usize,
    /// When the broker had certainly acted on it.
    pub(crate) acted: Option<Moment>,
    /// It was not decided when the broker ended the connection: some subscribers may have it, and
    /// it may be routed again.
    pub(crate) given_up: bool,
}

impl Message {
    /// Whether some life of the broker has certainly acted on it.
    pub(crate) fn is_acted(&self) -> bool {
        self.reads.iter().any(|read| read.acted.is_some())
    }
}

/// One session of a client.
pub(crate) struct Session {
    pub(crate) ident: String,
    pub(crate) name: String,
    pub(crate) received: Vec<u64>,
    /// The addresses of its connections, in their order.
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) ids: Vec<u64>,
    /// The broker offers the extension to it, and it wants confirmation.
    pub(crate) extended: bool,
    pub(crate) confirms: bool,
    pub(crate) sent: Sent,
    pub(crate) closed: Option<Closed>,
}

/// The answer of `close`, and the session of all its connections, for faults to quote.
#[derive(Debug)]
#[allow(dead_code, reason = "quoting is all that the text is for")]
pub(crate) struct Closed {
    pub(crate) unsent: u64,
    pub(crate) unconfirmed: u64,
    pub(crate) error: Option<String>,
}

/// A connection as the broker has it.
pub(crate) struct Accepted {
    pub(crate) life: u32,
    pub(crate) addr: SocketAddr,
    pub(crate) ident: Option<String>,
    pub(crate) subscriptions: Vec<Subscription>,
    /// Messages that were read, and those that were written whole, in their order.
    pub(crate) read: Vec<u64>,
    pub(crate) written: Vec<(u64, Moment, u64)>,
    /// Its messages, when it confirms them.
    pub(crate) counted: Counted,
    /// Messages that were read and perhaps not acted on; likewise what was subscribed to.
    unacted: Vec<u64>,
    unacted_subscriptions: Vec<usize>,
    /// The last time that more was read while it was in full service.
    pub(crate) served: Moment,
    ending: bool,
    /// The broker shuts down: what is acted on is known when it has read the end of the stream.
    stopping: bool,
    pub(crate) open: bool,
}

pub(crate) struct Subscription {
    pub(crate) pattern: String,
    pub(crate) read: Moment,
    pub(crate) acted: Option<Moment>,
    pub(crate) until: Option<Moment>,
}

impl Record {
    /// Something has happened: it gets a moment, and is part of the trace.
    pub(crate) fn mark(&mut self, what: u64, who: u64, how: u64) -> Moment {
        for value in [self.step, what, who, how] {
            self.hash = (self.hash ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        self.now += 1;
        self.now
    }

    pub(crate) fn fingerprint(&self) -> (u64, u64) {
        (self.now, self.hash)
    }

    pub(crate) fn fault(&mut self, text: &str) {
        // The first ones say enough.
        if self.faults.len() < 5 {
            self.faults.push(format!("step {}: {text}", self.step));
        }
    }

    pub(crate) fn link(&mut self, client: SocketAddr) -> Arc<Link> {
        if let Some(link) = self.links.get(&client).and_then(Weak::upgrade) {
            return link;
        }
        let link = Arc::new(Link::default());
        self.links.insert(client, Arc::downgrade(&link));
        link
    }

    /// The connections of a host that are open.
    pub(crate) fn links_of(&mut self, host: IpAddr) -> Vec<Arc<Link>> {
        self.links.retain(|_, link| link.strong_count() > 0);
        self.links.iter().filter(|(addr, _)| addr.ip() == host).filter_map(|(_, link)| link.upgrade()).collect()
    }

    pub(crate) fn open_session(&mut self, ident: &str, name: String, extended: bool, confirms: bool) -> usize {
        let (received, addrs, ids) = (Vec::new(), Vec::new(), Vec::new());
        let (ident, sent, closed) = (ident.to_owned(), Sent::default(), None);
        self.sessions.push(Session { ident, name, received, addrs, ids, extended, confirms, sent, closed });
        self.sessions.len() - 1
    }

    /// A new message, whose number is what its payload starts with.
    pub(crate) fn message(&mut self, session: usize, channel: &str) -> u64 {
        let id = ((session as u64) << 32) | self.sessions[session].ids.len() as u64;
        let channel = channel.to_owned();
        self.messages.insert(id, Message { session, channel, taken: false, sent: 0, reads: Vec::new() });
        self.sessions[session].ids.push(id);
        id
    }

    pub(crate) fn received(&mut self, session: usize, id: Option<u64>, ident: &str, channel: &str) {
        self.mark(1, session as u64, id.unwrap_or(u64::MAX));
        let known = id.and_then(|id| Some((id, self.messages.get(&id)?)));
        match known {
            Some((id, message))
                if message.channel == channel && self.sessions[message.session].ident == ident && message.taken =>
            {
                self.sessions[session].received.push(id);
            }
            _ => self.fault(&format!("session {session} got what nobody sent: {ident} on {channel}, {id:?}")),
        }
    }

    pub(crate) fn accept(&mut self, addr: SocketAddr) -> usize {
        let served = self.mark(2, 0, u64::from(addr.port()));
        self.accepted.push(Accepted {
            life: self.life,
            addr,
            ident: None,
            subscriptions: Vec::new(),
            read: Vec::new(),
            written: Vec::new(),
            counted: Counted::default(),
            unacted: Vec::new(),
            unacted_subscriptions: Vec::new(),
            served,
            ending: false,
            stopping: false,
            open: true,
        });
        self.accepted.len() - 1
    }

    /// The broker asks for more on a connection: it has acted on everything before.
    pub(crate) fn asked(&mut self, number: usize) {
        let connection = &mut self.accepted[number];
        if connection.ending || connection.stopping {
            return;
        }
        let idle = connection.unacted.is_empty() && connection.unacted_subscriptions.is_empty();
        // Which is often, and changes nothing.
        connection.served = self.now;
        if idle {
            return;
        }
        let now = self.mark(3, number as u64, 0);
        let connection = &mut self.accepted[number];
        connection.served = now;
        for index in connection.unacted_subscriptions.drain(..) {
            connection.subscriptions[index].acted = Some(now);
        }
        for id in mem::take(&mut connection.unacted) {
            self.act(id, number, now);
        }
    }

    /// The broker has acted on what it has read of this message on that connection.
    fn act(&mut self, id: u64, connection: usize, now: Moment) {
        let message = self.messages.get_mut(&id);
        let read = message.and_then(|message| message.reads.iter_mut().find(|read| read.connection == connection));
        if let Some(read) = read {
            read.acted.get_or_insert(now);
        }
    }

    /// The broker has read these bytes, or the end.
    pub(crate) fn broker_read(&mut self, number: usize, tap: &mut Tap, bytes: &[u8]) {
        let now = self.mark(4, number as u64, bytes.len() as u64);
        if bytes.is_empty() {
            // Also one that shuts down has then acted on everything, unless it has said otherwise before.
            if mem::take(&mut self.accepted[number].stopping) {
                self.asked(number);
            }
            self.accepted[number].ending = true;
        }
        let step = self.step;
        tap.pass(bytes, Side::Client, |frame| {
            let connection = &mut self.accepted[number];
            let frame = match frame {
                Seen::Base(frame) => frame,
                Seen::Client(ClientFrame::Hello(hello)) => return connection.counted.asked(hello),
                Seen::Client(_) | Seen::Broker(_) => return,
            };
            match frame {
                FrameRef::Auth { ident, .. } => connection.ident = Some((*ident).to_owned()),
                FrameRef::Subscribe { channel, .. } => {
                    connection.unacted_subscriptions.push(connection.subscriptions.len());
                    let pattern = (*channel).to_owned();
                    connection.subscriptions.push(Subscription { pattern, read: now, acted: None, until: None });
                }
                FrameRef::Unsubscribe { channel, .. } => {
                    let same = connection.subscriptions.iter_mut().filter(|entry| entry.pattern == *channel);
                    same.for_each(|entry| entry.until = entry.until.or(Some(now)));
                }
                FrameRef::Publish { payload, .. } => {
                    let id = id(payload);
                    let message = id.and_then(|id| Some((id, self.messages.get_mut(&id)?)));
                    let numbered = id.and_then(|id| connection.counted.count(id));
                    match message {
                        // Confirmed messages are sent again on another connection.
                        Some((id, message))
                            if message
                                .reads
                                .last()
                                .is_none_or(|read| numbered.is_some() && read.connection != number) =>
                        {
                            if numbered.is_some_and(|numbered| {
                                self.sessions[message.session].sent.number(id) != Some(numbered)
                            }) {
                                self.faults.push(format!("{id:x} has another number for the broker: {numbered:?}"));
                            }
                            message.reads.push(Read {
                                at: now,
                                step,
                                connection: number,
                                acted: None,
                                given_up: false,
                            });
                            connection.read.push(id);
                            connection.unacted.push(id);
                        }
                        _ => self.faults.push(format!("the broker read a message twice, or an unknown one: {id:?}")),
                    }
                }
                _ => {}
            }
        });
    }

    /// The broker has written these bytes, or its end.
    pub(crate) fn broker_wrote(&mut self, number: usize, tap: &mut Tap, bytes: &[u8]) {
        let now = self.mark(5, number as u64, bytes.len() as u64);
        let step = self.step;
        let connection = &mut self.accepted[number];
        connection.ending |= bytes.is_empty();
        let (mut acknowledged, mut decided, mut given_up) = (Vec::new(), None, Vec::new());
        tap.pass(bytes, Side::Broker, |frame| match frame {
            Seen::Base(FrameRef::Publish { payload, .. }) => {
                connection.written.push((id(payload).unwrap_or(u64::MAX), now, step));
            }
            Seen::Base(FrameRef::Error { message: b"The broker is shutting down; end your stream" }) => {}
            Seen::Base(FrameRef::Error { message }) => {
                connection.ending = true;
                if is_given_up(message) {
                    given_up.extend(connection.counted.waiting());
                }
            }
            Seen::Broker(BrokerFrame::Hello(hello)) => {
                connection.counted.answered(hello.decided);
                decided = Some((connection.counted.stream, hello.decided));
            }
            Seen::Broker(BrokerFrame::Ack { number }) => acknowledged.push(connection.counted.acknowledged(*number)),
            _ => {}
        });
        for id in given_up {
            let message = self.messages.get_mut(&id);
            if let Some(read) = message.and_then(|message| message.reads.last_mut()) {
                read.given_up = true;
            }
        }
        // The messages of the stream's former connections.
        if let Some((Some(stream), decided)) = decided {
            for former in 0..self.accepted.len() {
                if self.accepted[former].life == self.life && self.accepted[former].counted.stream == Some(stream) {
                    let settled = self.accepted[former].counted.settle(decided);
                    for id in settled {
                        self.act(id, former, now);
                    }
                }
            }
        }
        for acknowledged in acknowledged {
            match acknowledged {
                Ok(ids) => ids.into_iter().for_each(|id| self.act(id, number, now)),
                Err(fault) => self.faults.push(fault),
            }
        }
    }

    /// The broker begins to shut down: from here on it also reads what it does not act on, and says so.
    pub(crate) fn broker_stops(&mut self) {
        self.accepted.iter_mut().for_each(|connection| connection.stopping = true);
    }

    pub(crate) fn broker_closed(&mut self, number: usize) {
        self.mark(6, number as u64, 0);
        self.accepted[number].open = false;
        self.accepted[number].ending = true;
    }

    /// A client has written these bytes.
    pub(crate) fn client_wrote(&mut self, session: usize, tap: &mut Tap, bytes: &[u8]) {
        self.mark(7, session as u64, bytes.len() as u64);
        tap.pass(bytes, Side::Client, |frame| match frame {
            Seen::Client(ClientFrame::Hello(hello)) => self.sessions[session].sent.hello(hello),
            Seen::Base(FrameRef::Publish { payload, .. }) => {
                if let Some(id) = id(payload)
                    && let Some(message) = self.messages.get_mut(&id)
                {
                    message.sent += 1;
                    if let Err(fault) = self.sessions[session].sent.publish(id) {
                        self.faults.push(format!("session {session}: {fault}"));
                    }
                }
            }
            _ => {}
        });
    }

    /// A client has read these bytes.
    pub(crate) fn client_read(&mut self, session: usize, tap: &mut Tap, bytes: &[u8]) {
        tap.pass(bytes, Side::Broker, |frame| match frame {
            Seen::Broker(BrokerFrame::Hello(hello)) => self.sessions[session].sent.answered(hello.decided),
            Seen::Broker(BrokerFrame::Ack { number }) => self.sessions[session].sent.acknowledged(*number),
            _ => {}
        });
    }
}

/// The number that a payload starts with.
pub(crate) fn id(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Whether an ERROR ends a connection without what it waits with: a batch that some subscribers may
/// have, and for which others had no room. The client is told of nothing, and sends it again.
fn is_given_up(error: &[u8]) -> bool {
    error == b"The stream is used by another connection" || error.starts_with(b"Authentication failed for ")
}
