//! The greeting of the extension: HELLO, and what its answer means for the stream.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    pin::Pin,
};

use tokio::time::{Instant, Sleep, sleep};

use super::{
    life::{HEARTBEAT, Life},
    state::{Connection, End, Extension, Phase},
};
use crate::{
    client::{
        driver::{
            addresses,
            desired::{Confirms, Shared},
        },
        error::{Cause, Error},
        queue::{
            in_flight::InFlight,
            unconfirmed::{Keeping, NeverSent},
        },
        receipt::Confirm,
    },
    wire::{
        Channel, EncodeError, Opcode,
        extension::{BrokerHello, ClientFrame, ClientHello, Code, Flags, StreamId, VERSION},
    },
};

/// How the session names itself.
const SOFTWARE: &str = concat!("hpfeeds-client/", env!("CARGO_PKG_VERSION"));

/// The largest message of a broker, in bytes with its names, is no smaller unless the broker is
/// broken: shorter frames than that hold hardly more than long names.
const LEAST_LARGEST: u32 = 256;

/// A broker that knows another stream of the same id so often in a row makes it up.
const MAX_RENEWED: u32 = 3;

/// An identifier that no other start of a program has: of 128 random bits, by the keys of the
/// standard library's hash maps, which the system's randomness makes.
pub(crate) fn new_stream() -> StreamId {
    let half = || RandomState::new().hash_one(0_u8).to_be_bytes();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&half());
    id[8..].copy_from_slice(&half());
    StreamId::new(id)
}

impl Extension {
    pub(super) fn new(confirm: Confirm) -> Self {
        let confirm = if confirm == Confirm::Off { Flags::default() } else { Flags::CONFIRM };
        Self {
            asked: Flags::REPLIES | Flags::HEARTBEAT | Flags::WINDOW | Flags::ORIGIN | confirm,
            granted: Flags::default(),
            asks: true,
            answered: false,
            unanswered: VecDeque::new(),
            window: 0,
            largest: u32::MAX,
            life: None,
            renewed: 0,
        }
    }
}

impl Connection<'_> {
    /// The time that the broker has for its answer.
    pub(super) fn greeting_deadline(shared: &Shared) -> Pin<Box<Sleep>> {
        Box::pin(sleep(shared.config.handshake_timeout))
    }

    /// Gives up a message that was numbered for a broker that takes longer ones, once everything
    /// before it is decided: HELLO says that the stream goes on behind it.
    pub(super) fn pass_over_longer(&mut self) -> bool {
        let in_flight = &mut self.reconnect.in_flight;
        let Some(largest) = self.extension.as_ref().filter(|extension| !extension.asks).map(|it| it.largest) else {
            return false;
        };
        if !matches!(self.phase, Phase::Accepted)
            || !in_flight.holds()
            || in_flight.has_next(false)
            || in_flight.unconfirmed.waiting().0 > 0
        {
            return false;
        }
        let cause = Error::new(Cause::TooLong { limit: largest });
        let (room, number) = in_flight.give_up_held(&cause);
        // The next one may be as long.
        in_flight.hold_longer(largest);
        while in_flight.settle().1 {}
        self.shared.outbox.release(room);
        if let Some(number) = number {
            self.reconnect.tell_refused(number, 1, None);
        }
        self.shared.refused(None, 1, &cause);
        self.change_stream();
        true
    }

    /// Changes the stream on this connection, once nothing of the one before is unconfirmed or being
    /// written: says HELLO again, and holds messages until that is answered.
    pub(super) fn change_stream(&mut self) {
        if let Some(extension) = &mut self.extension {
            (extension.asks, extension.renewed) = (true, 0);
            self.phase = Phase::Greeting { deadline: Self::greeting_deadline(self.shared) };
            self.say_hello();
        }
    }

    /// HELLO, behind AUTH or in place of an earlier one.
    pub(super) fn say_hello(&mut self) {
        let window = self.window();
        let Some(extension) = &mut self.extension else {
            return;
        };
        extension.window = window;
        let unconfirmed = &self.reconnect.in_flight.unconfirmed;
        let hello = ClientHello {
            version: VERSION,
            flags: extension.asked,
            heartbeat: HEARTBEAT,
            stream: unconfirmed.stream(),
            next: unconfirmed.next(),
            software: SOFTWARE,
            window: Some(window),
        };
        self.push_frame(ClientFrame::Hello(hello));
    }

    /// The broker has answered HELLO: the key is good.
    pub(super) fn greeted(&mut self, hello: &BrokerHello<'_>) -> Result<(), End> {
        let addr = &self.shared.config.addr;
        let Some(extension) = self.extension.as_mut().filter(|extension| extension.asks) else {
            let what = "it sent HELLO once more".to_owned();
            return Err(End::Failed(Error::new(Cause::Unexpected { addr: addr.clone(), what })));
        };
        if let Some(largest) = hello.largest_message.filter(|largest| *largest < LEAST_LARGEST) {
            // What is stored, and longer, would be given up.
            let what = format!("it takes no message longer than {largest} bytes; it must take {LEAST_LARGEST}");
            return Err(End::Failed(Error::new(Cause::Unexpected { addr: addr.clone(), what })));
        }
        extension.granted = hello.flags & extension.asked;
        let confirms = extension.granted.contains(Flags::CONFIRM).then_some(hello.level);
        if let Confirm::Required(required) = self.shared.config.confirm {
            if confirms.is_none_or(|level| level < required) {
                let cause = Cause::LevelTooLow { addr: addr.clone(), required, offered: confirms };
                return Err(End::Failed(Error::new(cause)));
            }
        }
        let takes = self.reconnect.is_direct(self.shared);
        let in_flight = &mut self.reconnect.in_flight;
        let again = match confirms {
            None => {
                in_flight.unconfirmed.keep(Keeping::Nothing);
                in_flight.unconfirmed.take_back()
            }
            Some(level) => {
                in_flight.unconfirmed.note_decided_before(hello.decided);
                if hello.decided <= in_flight.unconfirmed.sent() {
                    for range in &hello.refused {
                        let cause = refusal(range.code, None, "");
                        // The part above `decided` comes once more.
                        let below = hello.decided.saturating_add(1).saturating_sub(range.first);
                        let count = range.count.min(u32::try_from(below).unwrap_or(u32::MAX));
                        let known = in_flight.unconfirmed.refuse(range.first, count, &cause).unwrap_or_default();
                        if let Some(spooling) = &self.reconnect.spooling {
                            // The last of them are news.
                            let first = range.first + u64::from(count) - known;
                            spooling.refused(in_flight, first, known, Some(range.code));
                        }
                        self.shared.refused(None, known, &cause);
                        self.reconnect.denial.get_or_insert(cause);
                    }
                }
                in_flight.unconfirmed.keep(Keeping::Acks(level));
                match in_flight.unconfirmed.resume(hello.decided) {
                    Ok(again) => again,
                    Err(NeverSent) => return self.renew(),
                }
            }
        };
        in_flight.put_back(again);
        let largest = hello.largest_message.unwrap_or(u32::MAX);
        extension.largest = largest;
        if self.shared.outbox.set_largest(largest) {
            if takes {
                self.shared.outbox.take(in_flight);
            }
            discard_longer(self.shared, in_flight, largest);
            in_flight.hold_longer(largest);
        }
        in_flight.drop_decided();
        self.shared.set_confirms(if confirms.is_some() { Confirms::Yes } else { Confirms::No });
        (extension.asks, extension.answered) = (false, true);
        if extension.life.is_none() {
            extension.life =
                Life::new(extension.granted, hello.heartbeat, extension.window, self.shared.inbox.pushed());
            if extension.granted.contains(Flags::HEARTBEAT) {
                self.transport.hears_heartbeats();
            }
        }
        addresses::answered(addr);
        self.reconnect.tell_accepted(Some((hello, confirms)));
        if matches!(self.phase, Phase::Greeting { .. }) {
            if self.outcome.accepted.is_some() {
                self.phase = Phase::Accepted;
            } else {
                self.accept();
            }
        }
        Ok(())
    }

    /// The broker knows another stream of this id: a new one begins, and everything is sent again.
    fn renew(&mut self) -> Result<(), End> {
        let addr = &self.shared.config.addr;
        let Some(extension) = self.extension.as_mut().filter(|extension| extension.renewed < MAX_RENEWED) else {
            let what = "it knows each new stream already".to_owned();
            return Err(End::Failed(Error::new(Cause::Unexpected { addr: addr.clone(), what })));
        };
        extension.renewed += 1;
        self.reconnect.in_flight.unconfirmed.renew(new_stream());
        self.say_hello();
        if let Phase::Greeting { deadline } = &mut self.phase {
            deadline.as_mut().reset(Instant::now() + self.shared.config.handshake_timeout);
        }
        Ok(())
    }
}

/// Takes messages out of the queue that are longer than the broker takes: it would end each
/// connection that brings one. Messages with a number were sent to a broker that takes them.
fn discard_longer(shared: &Shared, in_flight: &mut InFlight, limit: u32) {
    let mut cause = None;
    let removed = in_flight.retain(|_, length| {
        (length > limit as usize).then(|| {
            let longer = EncodeError::TooLong { opcode: Opcode::Publish, length, limit };
            cause.get_or_insert_with(|| Error::from(longer)).clone()
        })
    });
    shared.outbox.release(removed.room);
    if let Some(cause) = cause {
        shared.discarded(removed.messages, &cause);
    }
}

/// Why a message was refused.
pub(super) fn refusal(code: Code, channel: Option<Channel>, text: &str) -> Error {
    let message = match (text, code) {
        ("", Code::NOT_ALLOWED) => "not allowed".to_owned(),
        ("", Code::FULL) => "delivered to those who are connected, and not stored: the share is full".to_owned(),
        ("", code) => format!("code {}", code.0),
        (text, _) => text.to_owned(),
    };
    Error::new(if code == Code::FULL {
        Cause::NotStored { channel, message }
    } else {
        Cause::PublishDenied { channel, message }
    })
}
