//! The core of a mailbox: a pure state machine over batches, connections and time, with nothing
//! that waits.

use std::{collections::BTreeSet, time::Duration};

use hpfeeds::wire::{Channel, extension::Position};

use super::{
    super::batch::{Batch, Delivery},
    claims::{Claim, ClaimId, Claims},
    losses::Reason,
    probe::{Allowance, Probe},
    snapshot::Counts,
    spec::{Filter, MailboxSpec},
    texts::Texts,
    window::{End, Step, Window},
};
use crate::routing::patterns::covers;

/// Messages that are to be passed over.
const SKIPPED: usize = 1000;

/// A mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) spec: MailboxSpec,
    /// Nothing before it is wanted.
    pub(super) declared: Position,
    pub(super) texts: Texts,
    pub(crate) claims: Claims,
    pub(super) window: Window,
    pub(super) probe: Probe,
    pub(super) skipped: BTreeSet<Position>,
    pub(super) counts: Counts,
    /// When a connection was attached last, in milliseconds since 1970.
    pub(crate) seen_ms: i64,
    pub(super) is_expired: bool,
    /// Something has changed that is not stored yet.
    pub(crate) is_changed: bool,
}

/// The collector and the clock, as they are when messages are taken.
pub(crate) struct Taking<'a> {
    pub(crate) now: Duration,
    /// Older messages are passed over.
    pub(crate) oldest_ms: Option<i64>,
    /// Whether the collector's key allows a channel.
    pub(crate) allows: &'a dyn Fn(&str) -> bool,
}

/// Messages that were taken.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) deliveries: Vec<Delivery>,
    /// Messages that were passed over with `skip`.
    pub(crate) dead: Vec<Delivery>,
    bytes: u64,
}

impl Taken {
    /// Whether less than so many bytes were taken.
    #[cfg(test)]
    pub(crate) fn bytes_left(&self, most: u64) -> bool {
        self.bytes < most
    }
}

/// How far a batch was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Took {
    All,
    /// No more fits into what was asked for.
    Full,
    /// Nothing more is handed out before this time.
    Until(Duration),
}

/// A subscription that a mailbox has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mailbox keeps at most 1,000 texts: drop it, or subscribe to patterns")]
pub(crate) struct TooManyTexts;

/// A message that cannot be passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SkipError {
    #[error("no message is known on which the collector crashes: it is found after some crashes more")]
    NotStuck,
    #[error("1,000 messages are passed over already and still before the cursor")]
    TooMany,
}

impl Mailbox {
    /// A new mailbox: it wants what comes after a position.
    pub(crate) fn new(spec: MailboxSpec, declared: Position, unix_ms: i64) -> Self {
        Self {
            spec,
            declared,
            texts: Texts::default(),
            claims: Claims::default(),
            window: Window::default(),
            probe: Probe::default(),
            skipped: BTreeSet::new(),
            counts: Counts::default(),
            seen_ms: unix_ms,
            is_expired: false,
            is_changed: true,
        }
    }

    /// Whether messages of a channel are stored for it.
    pub(crate) fn wants(&self, channel: &str) -> bool {
        !self.is_expired && self.covers(channel)
    }

    fn covers(&self, channel: &str) -> bool {
        match &self.spec.filter {
            Filter::Declared(patterns) => patterns.iter().any(|pattern| pattern.matches(channel)),
            Filter::Auto => self.texts.cover(channel),
        }
    }

    /// The parts of a subscription that it covers: the collector gets these from the mailbox alone.
    pub(crate) fn parts(&self, text: &Channel) -> Vec<Channel> {
        let Filter::Declared(patterns) = &self.spec.filter else { return vec![text.clone()] };
        if patterns.iter().any(|pattern| covers(pattern.as_str(), text)) {
            return vec![text.clone()];
        }
        let inside = patterns.iter().filter(|pattern| covers(text, pattern.as_str()));
        inside.filter_map(|pattern| Channel::new(pattern.as_str()).ok()).collect()
    }

    /// A connection subscribes to a part. `end` is the newest position of the journal.
    pub(crate) fn subscribe(&mut self, claim: &Claim, part: &Channel, end: Position) -> Result<(), TooManyTexts> {
        if std::mem::take(&mut self.is_expired) {
            self.declared = end;
        }
        let start = if self.spec.filter == Filter::Auto { end } else { self.declared };
        if !self.texts.add(part, start) {
            return Err(TooManyTexts);
        }
        self.is_changed = true;
        let former = self.claims.owner();
        self.claims.subscribe(claim, part);
        if self.claims.owner() == former {
            if former == Some(claim.id) {
                self.texts.attach(part);
            }
            return Ok(());
        }
        if former.is_some() {
            self.let_go();
        }
        self.serve();
        Ok(())
    }

    /// A connection wants a text from a position on: everything after it.
    pub(crate) fn seek(&mut self, id: ClaimId, part: &Channel, after: Position) {
        if self.claims.owner() == Some(id) {
            self.texts.set(Some(part), |_| after);
            self.is_changed = true;
        }
    }

    /// A connection subscribes to a part no longer.
    pub(crate) fn unsubscribe(&mut self, id: ClaimId, part: &Channel) {
        let is_owner = self.claims.owner() == Some(id);
        let is_left = self.claims.unsubscribe(id, part);
        if !is_owner {
            return;
        }
        if is_left {
            self.texts.detach(part);
        } else {
            self.let_go();
            self.serve();
        }
        self.is_changed = true;
    }

    /// A connection has ended. Returns the message that is passed over now, as the collector has
    /// crashed on it too often.
    pub(crate) fn end(&mut self, id: ClaimId, end: End, now: Duration) -> Option<Position> {
        let is_owner = self.claims.owner() == Some(id);
        let acknowledges = self.claims.acknowledges();
        self.claims.remove(id);
        if !is_owner {
            return None;
        }
        if !acknowledges {
            let steps = self.window.finish(end, self.spec.redeliver, now);
            self.advance(&steps);
        }
        self.probe.end(now);
        let is_too_often = self.spec.skip_after.is_some_and(|most| self.probe.crashes() >= most);
        let skipped = if is_too_often { self.skip().ok() } else { None };
        self.let_go();
        self.serve();
        self.is_changed = true;
        skipped
    }

    /// The owner gets nothing more: what counts as delivered is settled.
    fn let_go(&mut self) {
        if !self.claims.acknowledged() {
            let steps = self.window.settle(self.spec.redeliver);
            self.advance(&steps);
        }
        self.window = Window::default();
        self.texts.detach_all();
    }

    /// The owner, if there is one, goes on from the cursors.
    fn serve(&mut self) {
        self.probe.begin();
        self.claims.serve();
        for text in self.claims.texts() {
            self.texts.attach(text);
        }
    }

    fn advance(&mut self, steps: &[Step]) {
        for step in steps {
            if self.texts.advance(*step) {
                self.is_changed = true;
                self.probe.progress();
            }
        }
        self.forget_skipped();
    }

    fn forget_skipped(&mut self) {
        if !self.skipped.is_empty()
            && let Some(lowest) = self.texts.lowest()
        {
            self.skipped.retain(|position| *position > lowest);
        }
    }

    /// The position after which the owner reads on; `None` without an owner.
    pub(crate) fn head(&self) -> Option<Position> {
        self.texts.is_attached().then(|| self.texts.head())
    }

    /// Whether something may be handed out now, or when.
    pub(crate) fn retry_at(&mut self, now: Duration) -> Option<Duration> {
        match self.probe.allowance(now) {
            Allowance::Until(at) => Some(at),
            Allowance::All | Allowance::Some(..) => None,
        }
    }

    /// Takes of a batch, which is the next one after the head, what the owner is to get: about so
    /// many bytes in all.
    pub(crate) fn take(&mut self, batch: &Batch, with: &Taking<'_>, most: u64, taken: &mut Taken) -> Took {
        for (run, number, offset) in batch.runs() {
            let at = |number| Position::new(batch.first.epoch, number);
            let last = number + u64::from(run.messages) - 1;
            if at(last) <= self.texts.head() {
                continue;
            }
            let wanted = self.texts.wanted_after(&run.channel).filter(|after| *after < at(last));
            let Some(after) = wanted else {
                self.pass(at(last));
                continue;
            };
            let mut from = if after >= at(number) { after.number + 1 } else { number };
            let is_old = with.oldest_ms.is_some_and(|oldest| batch.unix_ms < oldest);
            if is_old || !(with.allows)(&run.channel) {
                let messages = self.texts.count(&run.channel, at(from), at(last));
                if is_old {
                    self.counts.losses.add(Reason::Retention, Some(&run.channel), messages);
                } else {
                    self.counts.denied += messages;
                }
                self.pass(at(last));
                continue;
            }
            while from <= last {
                if self.skipped.contains(&at(from)) {
                    if self.texts.count(&run.channel, at(from), at(from)) > 0 {
                        taken.dead.push(batch.part((run, number, offset), from, 1, u64::MAX));
                        self.counts.losses.add(Reason::Skipped, Some(&run.channel), 1);
                    }
                    self.pass(at(from));
                    from += 1;
                    continue;
                }
                let skipped = self.skipped.range(at(from)..=at(last)).next();
                let mut messages = skipped.map_or(last + 1, |position| position.number) - from;
                match self.probe.allowance(with.now) {
                    Allowance::Until(time) => return Took::Until(time),
                    Allowance::All => {}
                    Allowance::Some(most, good) => {
                        let known = if good >= at(from) { good.number + 1 - from } else { 0 };
                        messages = messages.min(known.saturating_add(most));
                    }
                }
                if taken.bytes >= most {
                    return Took::Full;
                }
                let part = batch.part((run, number, offset), from, messages, most - taken.bytes);
                let (upto, bytes) = (at(part.last()), part.frames.len() as u64);
                self.window.push(at(from), upto, self.texts.generation(), u64::from(part.messages), bytes);
                self.probe.sent(at(from), upto, with.now);
                self.texts.passed(upto);
                taken.bytes += bytes;
                from = upto.number + 1;
                taken.deliveries.push(part);
            }
        }
        Took::All
    }

    /// Messages that are not there: everything between two positions.
    pub(crate) fn lost(&mut self, after: Position, last: u64, dropped: bool) {
        let to = Position::new(after.epoch, last);
        let counted = after.max(self.texts.head()).max(self.counts.damaged);
        if counted < to {
            let from = if counted.epoch == to.epoch { counted.number } else { after.number };
            let reason = if dropped { Reason::Retention } else { Reason::Damage };
            self.counts.losses.add(reason, None, last.saturating_sub(from));
            self.counts.damaged = to;
            self.is_changed = true;
        }
        if to > self.texts.head() {
            self.pass(to);
        }
    }

    /// Everything up to here has been looked at.
    pub(crate) fn pass(&mut self, to: Position) {
        self.texts.passed(to);
        let generation = self.texts.generation();
        // Without anything on its way, the cursors go over it at once.
        if !self.window.pass(to, generation) && self.texts.advance(Step { upto: to, generation }) {
            self.is_changed = true;
            self.forget_skipped();
        }
    }

    /// So many bytes of what was handed to the owner are written to its socket.
    pub(crate) fn wrote(&mut self, id: ClaimId, bytes: u64, now: Duration) {
        if self.claims.owner() == Some(id) && !self.claims.acknowledges() {
            self.window.wrote(bytes, now);
            let steps = self.window.settle(self.spec.redeliver);
            self.advance(&steps);
        }
    }

    /// The owner has processed everything up to a position. `false` if that was not handed to it.
    pub(crate) fn consumed(&mut self, id: ClaimId, position: Position) -> bool {
        if self.claims.owner() != Some(id) {
            return false;
        }
        let Some(steps) = self.window.consumed(position) else { return false };
        self.advance(&steps);
        true
    }

    /// Passes over the message on which the collector crashes. Returns its position.
    pub(crate) fn skip(&mut self) -> Result<Position, SkipError> {
        let suspect = self.probe.suspect().ok_or(SkipError::NotStuck)?;
        if self.skipped.len() >= SKIPPED {
            return Err(SkipError::TooMany);
        }
        self.skipped.insert(suspect);
        self.probe.skipped();
        self.is_changed = true;
        Ok(suspect)
    }

    /// Sets all cursors back to a position; the owner goes on from there.
    pub(crate) fn rewind(&mut self, to: Position) {
        self.let_go();
        self.texts.set(None, |cursor| cursor.min(to));
        self.declared = self.declared.min(to);
        self.serve();
        self.is_changed = true;
    }

    /// Lets go what waits: it wants what comes after a position. Its connections keep their texts.
    pub(crate) fn drop_waiting(&mut self, end: Position) {
        if self.claims.owner().is_none() {
            self.forget(end);
            return;
        }
        self.let_go();
        self.texts.set(None, |_| end);
        self.skipped.clear();
        self.probe = Probe::default();
        self.declared = end;
        self.serve();
        self.is_changed = true;
    }

    /// Forgets cursors and texts: it wants what comes after a position. Its connections subscribe
    /// anew.
    pub(crate) fn forget(&mut self, end: Position) {
        self.window = Window::default();
        self.claims.clear();
        self.texts.clear();
        self.skipped.clear();
        self.probe = Probe::default();
        self.declared = end;
        self.is_changed = true;
    }

    /// Forgets as [`forget`](Self::forget), if nobody was attached for too long. Returns whether it
    /// did.
    pub(crate) fn expire(&mut self, oldest_seen_ms: i64, end: Position) -> bool {
        if self.is_expired || self.claims.owner().is_some() || self.seen_ms >= oldest_seen_ms {
            return false;
        }
        let lowest = self.lowest();
        self.counts.losses.add(Reason::Expired, None, end.number.saturating_sub(lowest.number));
        self.forget(end);
        self.is_expired = true;
        true
    }

    /// The lowest position after which something may be wanted.
    pub(crate) fn lowest(&self) -> Position {
        match &self.spec.filter {
            Filter::Auto => self.texts.lowest().unwrap_or(self.declared),
            Filter::Declared(patterns) => {
                let is_subscribed = patterns.iter().all(|pattern| self.texts.cover(pattern.as_str()));
                let lowest = self.texts.lowest();
                if is_subscribed {
                    lowest.unwrap_or(self.declared)
                } else {
                    lowest.unwrap_or(self.declared).min(self.declared)
                }
            }
        }
    }

    /// The position after which it wants messages of a channel; `None` for a channel that it does
    /// not want.
    pub(crate) fn open_after(&self, channel: &str) -> Option<Position> {
        let open = || self.texts.open_after(channel).map_or(self.declared, |(_, delivered)| delivered);
        self.wants(channel).then(open)
    }

    /// Whether some message up to a position may be wanted.
    pub(crate) fn wants_until(&self, last: Position) -> bool {
        let has_any = !self.is_expired && (self.spec.filter != Filter::Auto || self.texts.len() > 0);
        has_any && self.lowest() < last
    }

    /// Counts what is lost with a batch that will be dropped.
    pub(crate) fn lose(&mut self, batch: &Batch) {
        for (run, number, _) in batch.runs() {
            if !self.wants(&run.channel) {
                continue;
            }
            let last = number + u64::from(run.messages) - 1;
            let after = |position: Position| match position.epoch.cmp(&batch.first.epoch) {
                std::cmp::Ordering::Less => last + 1 - number,
                std::cmp::Ordering::Equal => (last + 1).saturating_sub(number.max(position.number + 1)),
                std::cmp::Ordering::Greater => 0,
            };
            let (sent, delivered) = self.texts.open_after(&run.channel).unwrap_or((self.declared, self.declared));
            let gone = after(sent);
            self.counts.losses.add(Reason::Retention, Some(&run.channel), gone);
            self.counts.unrepeatable += after(delivered).saturating_sub(gone);
        }
    }

    /// Everything up to a position is gone, and counted.
    pub(crate) fn dropped(&mut self, last: Position) {
        self.texts.dropped(last);
        self.declared = self.declared.max(last);
        self.counts.damaged = self.counts.damaged.max(last);
        self.forget_skipped();
        self.is_changed = true;
    }

    /// Lost messages of which the collector was not told yet, and why most of them are lost. It is
    /// told now.
    pub(crate) fn tell(&mut self) -> Option<(u64, Reason)> {
        let of = |reason| self.counts.losses.of(reason);
        let all: u64 = Reason::ALL.into_iter().map(of).sum();
        let untold = all.saturating_sub(self.counts.told);
        self.counts.told = all;
        let reason = Reason::ALL.into_iter().max_by_key(|reason| of(*reason))?;
        if untold == 0 {
            return None;
        }
        self.is_changed = true;
        Some((untold, reason))
    }

    /// The highest of its positions.
    pub(crate) fn highest(&self) -> Position {
        self.texts.iter().map(|(_, text)| text.cursor).max().unwrap_or_default().max(self.declared)
    }

    /// Begins at the oldest message, as its journal is gone.
    pub(crate) fn restart(&mut self) {
        self.texts.restart();
        self.declared = Position::NONE;
        self.counts.damaged = Position::NONE;
        self.skipped.clear();
        self.is_changed = true;
    }
}
