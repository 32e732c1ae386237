//! The connections that claim a mailbox, oldest first, of which one owns it.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hpfeeds::wire::Channel;

/// A connection's number: larger ones are newer.
pub(crate) type ClaimId = u64;

/// A connection as a mailbox sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: ClaimId,
    pub(crate) address: IpAddr,
    /// It sends CONSUMED; otherwise only what was written to it when can tell.
    pub(crate) acknowledges: bool,
}

/// The number that no connection has.
const NOBODY: ClaimId = ClaimId::MAX;

/// The connections of one mailbox.
#[derive(Debug)]
pub(crate) struct Claims {
    /// In the order in which they have subscribed.
    all: Vec<(Claim, BTreeSet<Channel>)>,
    /// Shared with the publishers, who ask which connection gets messages from here alone.
    owner: Arc<AtomicU64>,
    /// Of the owner before the last change.
    acknowledged: bool,
}

impl Default for Claims {
    fn default() -> Self {
        Self { all: Vec::new(), owner: Arc::new(AtomicU64::new(NOBODY)), acknowledged: false }
    }
}

impl Claims {
    pub(crate) fn owner(&self) -> Option<ClaimId> {
        Some(self.owner.load(Ordering::Acquire)).filter(|id| *id != NOBODY)
    }

    fn set_owner(&self, owner: Option<ClaimId>) {
        self.owner.store(owner.unwrap_or(NOBODY), Ordering::Release);
    }

    /// The number of the owner, as it changes.
    pub(crate) fn shared_owner(&self) -> Arc<AtomicU64> {
        self.owner.clone()
    }

    /// No connection claims it any more.
    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.set_owner(None);
        self.acknowledged = false;
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn owning(&self) -> Option<&(Claim, BTreeSet<Channel>)> {
        let owner = self.owner()?;
        self.all.iter().find(|(claim, _)| claim.id == owner)
    }

    /// Whether the owner acknowledges.
    pub(super) fn acknowledges(&self) -> bool {
        self.owning().is_some_and(|(claim, _)| claim.acknowledges)
    }

    /// Whether the owner that was served last does.
    pub(super) fn acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// From now on the owner is served.
    pub(super) fn serve(&mut self) {
        self.acknowledged = self.acknowledges();
    }

    /// The owner's texts.
    pub(super) fn texts(&self) -> impl Iterator<Item = &Channel> {
        self.owning().into_iter().flat_map(|(_, texts)| texts)
    }

    /// The address of the owner.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.owning().map(|(claim, _)| claim.address)
    }

    /// A connection subscribes. The first becomes the owner, and so does a new one from the owner's
    /// address.
    pub(super) fn subscribe(&mut self, claim: &Claim, text: &Channel) {
        if let Some((_, texts)) = self.all.iter_mut().find(|(other, _)| other.id == claim.id) {
            texts.insert(text.clone());
            return;
        }
        let takes_over = self.address().is_none_or(|address| address == claim.address);
        self.all.push((*claim, BTreeSet::from([text.clone()])));
        if takes_over {
            self.set_owner(Some(claim.id));
        }
    }

    /// A connection subscribes no longer. Without any text left it claims nothing, and `false` is
    /// returned.
    pub(super) fn unsubscribe(&mut self, id: ClaimId, text: &Channel) -> bool {
        let Some((_, texts)) = self.all.iter_mut().find(|(claim, _)| claim.id == id) else { return false };
        texts.remove(text);
        let is_left = !texts.is_empty();
        if !is_left {
            self.remove(id);
        }
        is_left
    }

    /// A connection has ended. The next oldest takes over from the owner.
    pub(super) fn remove(&mut self, id: ClaimId) {
        self.all.retain(|(claim, _)| claim.id != id);
        if self.owner() == Some(id) {
            self.set_owner(self.all.first().map(|(claim, _)| claim.id));
        }
    }
}
