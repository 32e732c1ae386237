//! The losses of the random world: the oldest messages, and in a crash the newest and all that was not
//! stored.

use hpfeeds::wire::extension::Position;

use super::{Fault, Text, World, covers, pick, spec};
use crate::journal::{batch::Batch, mailbox::core::Mailbox, tests::sim_disk::Random};

impl World {
    pub(super) fn store(&mut self) {
        self.stored = (self.mailbox.encode(), self.model.clone());
        for text in self.stored.1.texts.values_mut() {
            text.handed = None;
        }
    }

    /// The oldest batches go.
    pub(super) fn drop_some(&mut self, random: &mut Random) {
        let count = pick(random, self.batches.len().min(6) + 1);
        let Some(last) = self.batches[..count].last().map(Batch::last) else { return };
        for batch in self.batches.drain(..count) {
            if self.fault != Some(Fault::DropsUncounted) {
                self.mailbox.lose(&batch);
            }
        }
        let left = self.messages.split_off(&Position::new(last.epoch, last.number + 1));
        for (position, channel) in std::mem::replace(&mut self.messages, left) {
            let is_covered = ["a.*", "d"].iter().any(|pattern| covers(pattern, &channel));
            let texts: Vec<_> = self.model.texts.iter().filter(|(name, _)| covers(name, &channel)).collect();
            let is_open = |text: &Text| !text.done.contains(&position);
            let is_coming =
                |text: &Text| is_open(text) && text.handed.as_ref().is_none_or(|handed| !handed.contains(&position));
            let is_lost = texts.iter().any(|(_, text)| is_coming(text))
                || (texts.is_empty() && !self.model.before.contains(&position));
            if is_covered && is_lost {
                *self.model.lost.entry(channel.clone()).or_default() += 1;
                self.lost += 1;
            } else if is_covered && texts.iter().any(|(_, text)| is_open(text)) {
                self.model.unrepeatable += 1;
            }
            for text in self.model.texts.values_mut() {
                text.done.insert(position);
            }
            self.model.before.insert(position);
        }
        self.mailbox.dropped(last);
        if self.fault != Some(Fault::DropsUnstored) {
            self.store();
        }
    }

    /// The broker is killed and started again; the newest messages may be gone.
    pub(super) fn crash(&mut self, random: &mut Random) {
        for _ in 0..random.below(3) {
            if let Some(batch) = self.batches.pop() {
                self.messages.split_off(&batch.first);
            }
        }
        let number = self.batches.last().map_or(self.next.number, |batch| batch.last().number + 1);
        self.next = Position::new(self.next.epoch + 1, number);
        self.connections.clear();
        self.owner = None;
        self.mailbox = Mailbox::decode(spec(), &self.stored.0).unwrap();
        self.model = self.stored.1.clone();
    }
}
