//! The window of a connection: what a mailbox has handed to it and does not count as delivered yet.
//! A pure state machine over what was written and acknowledged when.

use std::{collections::VecDeque, time::Duration};

use hpfeeds::wire::extension::Position;

use super::spec::Redeliver;

/// The newest bytes that never count as delivered to a collector which acknowledges nothing: they
/// may stand in our kernel.
const KERNEL: u64 = 256 << 10;
/// Without a write for so long before a FIN, everything has arrived.
const QUIET: Duration = Duration::from_secs(10);
/// Pieces that are kept apart; of more, neighbours are taken together.
const PIECES: usize = 4096;
/// The pieces that are younger than this are the same age.
const MOMENT: Duration = Duration::from_millis(500);
const SMALL: u64 = 4096;

/// The way in which a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer has sent its FIN.
    Fin,
    /// A reset, a timeout, an error, or the broker's own end of the connection.
    Broken,
}

/// Some consecutive messages that were handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// The first message, and the last.
    pub(super) first: Position,
    pub(super) last: Position,
    /// When all of it is delivered, cursors go on to here.
    pub(super) upto: Position,
    /// Texts that were attached later were not looked at.
    pub(super) generation: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Where its last byte stands in all that was handed out on this connection.
    end: u64,
    written: Option<Duration>,
}

/// A step of the cursors: of texts that were attached at a generation or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) upto: Position,
    pub(super) generation: u64,
}

/// The window of one connection.
#[derive(Debug, Default)]
pub(super) struct Window {
    pieces: VecDeque<Piece>,
    /// Bytes that were handed out, and how many of these are written.
    handed: u64,
    written: u64,
    last_write: Option<Duration>,
}

impl Window {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Messages that are not delivered yet.
    pub(super) fn messages(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.messages).sum()
    }

    /// Adds messages that are handed out.
    pub(super) fn push(&mut self, first: Position, last: Position, generation: u64, messages: u64, bytes: u64) {
        self.handed += bytes;
        let piece = Piece { first, last, upto: last, generation, messages, bytes, end: self.handed, written: None };
        match self.pieces.back_mut() {
            // Without a gap: whatever is acknowledged in between was handed out with it.
            Some(back) if back.written.is_none() && back.bytes + bytes <= SMALL && follows(back, &piece) => {
                *back = join(back, &piece);
            }
            _ => self.pieces.push_back(piece),
        }
        if self.pieces.len() > PIECES {
            self.compact();
        }
    }

    /// Goes over messages that nobody wants. `false` if nothing is in the window that would carry
    /// the cursors over them.
    pub(super) fn pass(&mut self, upto: Position, generation: u64) -> bool {
        let Some(back) = self.pieces.back_mut() else { return false };
        if back.generation == generation {
            back.upto = back.upto.max(upto);
        } else {
            let (first, last) = (upto, upto);
            let end = self.handed;
            let written = back.written;
            self.pieces.push_back(Piece { first, last, upto, generation, messages: 0, bytes: 0, end, written });
        }
        true
    }

    /// So many bytes more are written to the socket.
    pub(super) fn wrote(&mut self, bytes: u64, now: Duration) {
        self.written = (self.written + bytes).min(self.handed);
        if bytes > 0 {
            self.last_write = Some(now);
        }
        let start = self.pieces.partition_point(|piece| piece.written.is_some());
        let mut at = start;
        while let Some(piece) = self.pieces.get_mut(at)
            && piece.end <= self.written
        {
            piece.written = Some(now);
            at += 1;
        }
        self.merge(start);
    }

    /// Takes small pieces that were written at about the same time together.
    fn merge(&mut self, from: usize) {
        let mut at = from.max(1);
        while at < self.pieces.len() {
            let (one, two) = (self.pieces[at - 1], self.pieces[at]);
            let are_small = one.bytes + two.bytes <= SMALL && joins(&one, &two);
            let moment = match (one.written, two.written) {
                (Some(one), Some(two)) => two.saturating_sub(one) < MOMENT,
                _ => false,
            };
            if are_small && moment {
                // Not the time of the second: the first one would never be old.
                self.pieces[at - 1] = Piece { written: one.written.max(two.written), ..join(&one, &two) };
                self.pieces.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Halves the number of pieces: more is sent again then, not less.
    fn compact(&mut self) {
        let mut compacted: VecDeque<Piece> = VecDeque::with_capacity(self.pieces.len());
        let mut is_second = false;
        for piece in self.pieces.drain(..) {
            match compacted.back_mut() {
                Some(back) if is_second && joins(back, &piece) => {
                    // Written when the second is.
                    *back = Piece { written: piece.written, ..join(back, &piece) };
                    is_second = false;
                }
                _ => {
                    compacted.push_back(piece);
                    is_second = true;
                }
            }
        }
        self.pieces = compacted;
    }

    /// The pieces that a living collector has which acknowledges nothing: all but the newest bytes of
    /// the window, as its kernel may hold them unread.
    pub(super) fn settle(&mut self, redeliver: Redeliver) -> Vec<Step> {
        let bound = redeliver.bytes.max(KERNEL);
        let written = self.written;
        self.take(|piece| piece.written.is_some() && written - piece.end >= bound)
    }

    /// As [`settle`](Self::settle), at the end of the connection.
    pub(super) fn finish(&mut self, end: End, redeliver: Redeliver, now: Duration) -> Vec<Step> {
        let (written, is_all) = (self.written, self.written == self.handed);
        let is_quiet = self.last_write.is_none_or(|at| now >= at + QUIET);
        if end == End::Broken {
            return self.settle(redeliver);
        }
        if is_all && is_quiet {
            return self.take(|_| true);
        }
        self.take(|piece| {
            let behind = written.saturating_sub(piece.end);
            let is_old = piece.written.is_some_and(|at| now >= at + redeliver.time) || behind >= redeliver.bytes;
            piece.written.is_some() && behind >= KERNEL && is_old
        })
    }

    /// The collector says that it has processed everything up to a position. `None` if it was not
    /// handed out, or is delivered already.
    pub(super) fn consumed(&mut self, position: Position) -> Option<Vec<Step>> {
        // The first: the same position may stand here twice, when a text was attached that is behind.
        let is_inside = |piece: &Piece| piece.messages > 0 && (piece.first..=piece.last).contains(&position);
        let at = self.pieces.iter().position(is_inside)?;
        let mut steps: Vec<_> = self.pieces.drain(..at).map(|piece| step(&piece)).collect();
        if let Some(front) = self.pieces.front_mut() {
            if position == front.last {
                steps.push(step(front));
                self.pieces.pop_front();
                steps.extend(self.take(|piece| piece.messages == 0));
            } else {
                let left = front.last.number - position.number;
                steps.push(Step { upto: position, generation: front.generation });
                front.first = Position::new(position.epoch, position.number + 1);
                front.messages = front.messages.min(left);
            }
        }
        Some(steps)
    }

    fn take(&mut self, is_delivered: impl Fn(&Piece) -> bool) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        while let Some(piece) = self.pieces.front().filter(|piece| is_delivered(piece)) {
            match steps.last_mut() {
                Some(last) if last.generation == piece.generation => last.upto = last.upto.max(piece.upto),
                _ => steps.push(step(piece)),
            }
            self.pieces.pop_front();
        }
        steps
    }
}

fn step(piece: &Piece) -> Step {
    Step { upto: piece.upto, generation: piece.generation }
}

/// Whether the second begins where the first ends.
fn follows(one: &Piece, two: &Piece) -> bool {
    one.messages > 0 && joins(one, two) && one.last.number + 1 == two.first.number
}

/// Whether two neighbours can be one: of one pass over the journal.
fn joins(one: &Piece, two: &Piece) -> bool {
    one.generation == two.generation && one.first.epoch == two.last.epoch && one.upto < two.first
}

fn join(one: &Piece, two: &Piece) -> Piece {
    Piece {
        first: one.first,
        last: two.last,
        upto: two.upto,
        generation: two.generation,
        messages: one.messages + two.messages,
        bytes: one.bytes + two.bytes,
        end: two.end,
        written: None,
    }
}
