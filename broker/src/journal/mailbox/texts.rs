//! The texts of a mailbox: one cursor for each text that was ever subscribed, and a head that reads
//! the journal once for all that are attached.

use std::collections::BTreeMap;

use hpfeeds::wire::{Channel, extension::Position};

use super::window::Step;
use crate::routing::patterns::{covers, prefix, prefixes};

/// Texts of one mailbox.
pub(super) const MOST: usize = 1000;

/// A text that was subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    /// Everything up to here is delivered, or nobody's.
    pub(super) cursor: Position,
    /// Messages that are passed over are counted up to here.
    pub(super) counted: Position,
    attached: Option<Attached>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attached {
    /// Everything up to here was handed out before the head went back behind it.
    from: Position,
    /// The generation in which it was attached.
    since: u64,
}

/// All texts of a mailbox.
#[derive(Debug, Default)]
pub(super) struct Texts {
    all: BTreeMap<Channel, Text>,
    attached: usize,
    /// All attached texts have been looked at up to here.
    head: Position,
    generation: u64,
}

impl Texts {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Channel, &Text)> {
        self.all.iter()
    }

    /// The texts that cover a channel, or another text.
    fn covering<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a Text> {
        // A pattern is covered by itself, too, in the second part.
        let exact = if prefix(text).is_none() { self.all.get(text) } else { None };
        let mut pattern = String::new();
        exact.into_iter().chain(prefixes(text).filter_map(move |prefix| {
            pattern.clear();
            pattern.push_str(prefix);
            pattern.push('*');
            self.all.get(pattern.as_str())
        }))
    }

    /// Knows a text, and where it begins: at the cursor of the narrowest that covers it, or
    /// at `other`. `false` if there is no room.
    pub(super) fn add(&mut self, text: &Channel, other: Position) -> bool {
        if self.all.contains_key(text) {
            return true;
        }
        if self.all.len() >= MOST {
            return false;
        }
        // The widest come first.
        let cursor = self.covering(text).last().map_or(other, |text| text.cursor);
        self.all.insert(text.clone(), Text { cursor, counted: cursor, attached: None });
        true
    }

    /// Puts back what was stored.
    pub(super) fn restore(&mut self, text: Channel, cursor: Position, counted: Position) {
        self.all.insert(text, Text { cursor, counted, attached: None });
    }

    /// Sets everything to the beginning.
    pub(super) fn restart(&mut self) {
        for text in self.all.values_mut() {
            (text.cursor, text.counted) = (Position::NONE, Position::NONE);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self { generation: self.generation, ..Self::default() };
    }

    /// Attaches a text: from its cursor on, its messages are handed out.
    pub(super) fn attach(&mut self, text: &str) {
        let Some(&Text { cursor, attached: None, .. }) = self.all.get(text) else { return };
        self.go_back(cursor);
        self.attached += 1;
        self.generation += 1;
        let since = self.generation;
        if let Some(text) = self.all.get_mut(text) {
            text.attached = Some(Attached { from: cursor, since });
        }
    }

    /// Lets the head stand at a position at the latest. Nothing is handed out twice to a text that
    /// was before it.
    fn go_back(&mut self, to: Position) {
        if self.attached == 0 {
            self.head = to;
        } else if to < self.head {
            for attached in self.all.values_mut().filter_map(|text| text.attached.as_mut()) {
                attached.from = attached.from.max(self.head);
            }
            self.head = to;
        }
    }

    pub(super) fn detach(&mut self, text: &str) {
        if let Some(text) = self.all.get_mut(text)
            && text.attached.take().is_some()
        {
            self.attached -= 1;
        }
    }

    pub(super) fn detach_all(&mut self) {
        for text in self.all.values_mut() {
            text.attached = None;
        }
        self.attached = 0;
    }

    pub(super) fn is_attached(&self) -> bool {
        self.attached > 0
    }

    pub(super) fn head(&self) -> Position {
        self.head
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The position after which messages of a channel are to be handed out; `None` if no attached
    /// text covers it.
    pub(super) fn wanted_after(&self, channel: &str) -> Option<Position> {
        let from = self.covering(channel).filter_map(|text| text.attached).map(|attached| attached.from).min()?;
        Some(from.max(self.head))
    }

    /// The head goes on.
    pub(super) fn passed(&mut self, to: Position) {
        self.head = self.head.max(to);
    }

    /// Moves the cursors of texts that are attached, and were when this was handed out. Returns
    /// whether one has moved.
    pub(super) fn advance(&mut self, step: Step) -> bool {
        let mut has_moved = false;
        for text in self.all.values_mut() {
            if let Some(attached) = text.attached
                && attached.since <= step.generation
                && text.cursor < step.upto
            {
                text.cursor = step.upto;
                has_moved = true;
            }
        }
        has_moved
    }

    /// Counts messages of a channel that are passed over, from one position to another: those that
    /// were not counted before.
    pub(super) fn count(&mut self, channel: &str, first: Position, last: Position) -> u64 {
        let mut counted = Position::new(first.epoch, first.number - 1);
        for (name, text) in &mut self.all {
            if text.attached.is_some() && covers(name, channel) {
                counted = counted.max(text.counted);
                text.counted = text.counted.max(last);
            }
        }
        if counted < last { last.number - counted.number } else { 0 }
    }

    /// The positions after which messages of a channel were neither handed out nor counted, and
    /// after which they are not delivered; `None` if no text covers it.
    pub(super) fn open_after(&self, channel: &str) -> Option<(Position, Position)> {
        let sent = |text: &Text| {
            let sent = text.attached.map_or(text.cursor, |attached| attached.from.max(self.head));
            sent.max(text.counted)
        };
        let texts = self.covering(channel);
        texts.map(|text| (sent(text), text.cursor)).reduce(|one, two| (one.0.min(two.0), one.1.min(two.1)))
    }

    /// The lowest cursor.
    pub(super) fn lowest(&self) -> Option<Position> {
        self.all.values().map(|text| text.cursor).min()
    }

    /// Everything up to here is gone.
    pub(super) fn dropped(&mut self, last: Position) {
        for text in self.all.values_mut() {
            text.cursor = text.cursor.max(last);
            if let Some(attached) = &mut text.attached {
                attached.from = attached.from.max(last);
            }
        }
        if self.attached > 0 {
            self.head = self.head.max(last);
        }
    }

    /// Sets cursors: of one text, or of all. Attached ones go on from there.
    pub(super) fn set(&mut self, only: Option<&str>, to: impl Fn(Position) -> Position) {
        let is_meant = |name: &Channel| only.is_none_or(|only| *name == *only);
        let names: Vec<_> = self.all.keys().filter(|name| is_meant(name)).cloned().collect();
        for name in names {
            let Some(text) = self.all.get_mut(&name) else { continue };
            text.cursor = to(text.cursor);
            if text.attached.is_some() {
                self.detach(&name);
                self.attach(&name);
            }
        }
    }

    /// Whether some text covers a channel or a text.
    pub(super) fn cover(&self, text: &str) -> bool {
        self.covering(text).next().is_some()
    }
}
