//! The numbers of the messages that are confirmed, as counted at both ends of a connection.

use std::collections::{BTreeMap, VecDeque};

use hpfeeds::wire::extension::{ClientHello, Flags, StreamId, StreamNumbering};

/// The messages that a session has sent, on all its connections.
#[derive(Default)]
pub(crate) struct Sent {
    stream: Option<StreamId>,
    numbers: BTreeMap<u64, u64>,
    /// The session knows that everything up to here is decided.
    decided: u64,
    /// On this connection: the next number that it has offered, and what it counts once that is answered.
    offered: Option<u64>,
    counter: Option<StreamNumbering>,
    last: Option<u64>,
}

impl Sent {
    /// A connection begins.
    pub(crate) fn dialled(&mut self) {
        (self.offered, self.counter) = (None, None);
    }

    pub(crate) fn hello(&mut self, hello: &ClientHello<'_>) {
        if !hello.flags.contains(Flags::CONFIRM) {
            return;
        }
        if self.stream.replace(hello.stream).is_some_and(|stream| stream != hello.stream) {
            self.numbers.clear();
            self.decided = 0;
        }
        self.offered = Some(hello.next);
    }

    pub(crate) fn answered(&mut self, decided: u64) {
        if let Some(next) = self.offered {
            self.counter = StreamNumbering::new(next, decided);
            self.decided = self.decided.max(decided);
            // Undecided messages are sent again.
            self.last = None;
        }
    }

    pub(crate) fn acknowledged(&mut self, number: u64) {
        self.decided = self.decided.max(number);
    }

    /// The session has written this message, or what is wrong with that.
    pub(crate) fn publish(&mut self, id: u64) -> Result<(), String> {
        if self.last.replace(id).is_some_and(|last| last >= id) {
            return Err(format!("it has sent message {id:x} out of its place"));
        }
        if self.offered.is_none() {
            return Ok(());
        }
        let Some(number) = self.counter.as_mut().and_then(|counter| counter.count(1)) else {
            return Err(format!("it has sent message {id:x} before HELLO was answered"));
        };
        if number <= self.decided {
            return Err(format!("it has sent message {id:x} again, though it knew it to be decided"));
        }
        match self.numbers.insert(id, number) {
            Some(before) if before != number => Err(format!("message {id:x} was {before}, and is {number}")),
            _ => Ok(()),
        }
    }

    pub(crate) fn number(&self, id: u64) -> Option<u64> {
        self.numbers.get(&id).copied()
    }
}

/// The frames that the broker has read on a connection that confirms.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) stream: Option<StreamId>,
    offered: Option<u64>,
    counter: Option<StreamNumbering>,
    acknowledged: u64,
    /// Messages that were read and are not acknowledged.
    waiting: VecDeque<(u64, u64)>,
}

impl Counted {
    pub(crate) fn asked(&mut self, hello: &ClientHello<'_>) {
        if hello.flags.contains(Flags::CONFIRM) {
            (self.stream, self.offered) = (Some(hello.stream), Some(hello.next));
        }
    }

    pub(crate) fn answered(&mut self, decided: u64) {
        if let Some(next) = self.offered {
            self.counter = StreamNumbering::new(next, decided);
            self.acknowledged = decided;
        }
    }

    /// The number of a message that was read.
    pub(crate) fn count(&mut self, id: u64) -> Option<u64> {
        let number = self.counter.as_mut().and_then(|counter| counter.count(1))?;
        self.waiting.push_back((number, id));
        Some(number)
    }

    /// The messages that were read and are not acknowledged.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|(_, id)| *id)
    }

    /// The messages that an acknowledgement is about, or what is wrong with it.
    pub(crate) fn acknowledged(&mut self, number: u64) -> Result<Vec<u64>, String> {
        let read = self.counter.map_or(0, |counter| counter.next() - 1);
        let before = std::mem::replace(&mut self.acknowledged, number);
        if number <= before || number > read {
            return Err(format!("the broker has acknowledged {number} after {before}, and has read up to {read}"));
        }
        Ok(self.settle(number))
    }

    /// Takes the messages that are decided up to here.
    pub(crate) fn settle(&mut self, number: u64) -> Vec<u64> {
        let settled = self.waiting.iter().take_while(|(waiting, _)| *waiting <= number).count();
        self.waiting.drain(..settled).map(|(_, id)| id).collect()
    }
}
