//! The settling of an uplink: what becomes of messages that the parent has decided.

use std::time::Duration;

use hpfeeds::wire::{Channel, extension::Code};
use tokio::time::Instant;
use tracing::{error, warn};

use super::Uplink;
use crate::relay::{
    piece::Piece,
    queue::{Fate, Outgoing},
};

/// The shortest time between two lines about refused messages.
const TELL_AGAIN: Duration = Duration::from_secs(10);

impl Uplink {
    /// Takes note of everything that is decided.
    pub(super) fn settle(&mut self) {
        let mut has_any = false;
        while let Some((outgoing, fate)) = self.queue.settle() {
            (self.is_dirty, has_any) = (true, true);
            match (fate, outgoing.aside.clone()) {
                (Fate::Accepted, aside) => {
                    let messages = u64::from(outgoing.piece.messages);
                    self.has_renewed = false;
                    self.figures.change(|figures| figures.delivered += messages);
                    match aside {
                        Some(channel) => self.sent_aside(&outgoing, &channel),
                        None => self.accepted_channels(&outgoing),
                    }
                }
                (Fate::Refused(Some(Code::NOT_ALLOWED)), None) => self.set_aside(&outgoing.piece),
                (Fate::Refused(Some(Code::NOT_ALLOWED)), Some(_)) => self.denied_aside(),
                (Fate::Refused(code), aside) => {
                    self.refused(&outgoing.piece, code);
                    if let Some(channel) = aside {
                        self.sent_aside(&outgoing, &channel);
                    }
                }
            }
        }
        self.drained();
        if has_any {
            self.figure();
        }
    }

    /// Accepted messages open their channels.
    fn accepted_channels(&mut self, outgoing: &Outgoing) {
        if self.asides.is_empty() {
            return;
        }
        let open: Vec<Channel> = self.asides.keys().cloned().collect();
        for channel in open {
            if outgoing.piece.frames().any(|(_, own)| *own == *channel) {
                self.open(&channel);
            }
        }
    }

    fn set_aside(&mut self, piece: &Piece) {
        for (index, (_, channel)) in (0..).zip(piece.frames()) {
            if let Ok(channel) = Channel::new(channel) {
                self.deny(&channel).add(piece.position(index));
            }
        }
    }

    /// Passes over a message that a parent without the extension would end the connection for.
    pub(super) fn pass(&mut self, piece: &Piece, largest: usize) {
        if piece.frames.len() > largest {
            // Read again, it counts once.
            if piece.first > self.passed {
                self.passed = piece.first;
                self.refused(piece, None);
            }
        } else {
            self.set_aside(piece);
        }
    }

    /// Counts messages that the parent never takes.
    fn refused(&mut self, piece: &Piece, code: Option<Code>) {
        let messages = u64::from(piece.messages);
        self.figures.change(|figures| match code {
            None => figures.refused.too_long += messages,
            Some(Code::FULL) => figures.refused.share += messages,
            Some(_) => figures.refused.other += messages,
        });
        let now = Instant::now();
        if self.told_at.is_some_and(|at| now < at + TELL_AGAIN) {
            return;
        }
        self.told_at = Some(now);
        let ident = &self.ident;
        for (frame, channel) in piece.frames().take(1) {
            let bytes = frame.len();
            match code {
                None => warn!(%ident, channel, bytes, "a message is longer than the parent takes: it is dropped"),
                Some(Code::FULL) => {
                    warn!(%ident, channel, "the ident's share at the parent is full: delivered there, not stored");
                }
                Some(Code(code)) => warn!(%ident, channel, code, bytes, "the parent refuses a message for good"),
            }
        }
    }

    /// Counts messages that were gone before they were sent.
    pub(super) fn lose(&mut self, messages: u64, dropped: bool) {
        let why = if dropped { "dropped for room or age" } else { "damaged on disk" };
        error!(ident = %self.ident, messages, "messages were {why} before they were sent to the parent, at most so many");
        self.figures.change(|figures| figures.lost += messages);
    }
}
