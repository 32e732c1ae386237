//! The quota of an account: how many connections it may have, and what they may publish and receive
//! together.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use crate::{
    limits::rate::{Limiter, Rate},
    util::collections::shrink,
};

/// The limits of every account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuotaRules {
    pub(crate) max_connections: usize,
    pub(crate) publish: Rate,
    pub(crate) deliver: Rate,
}

/// Whose quota it is: an ident's own, or that of an account name. The two may be the same words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    Ident(&'a str),
    Account(&'a str),
}

/// The name of an account: what is kept for it, for each ident or the keys that share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Account {
    name: Arc<str>,
    /// An account name, and not an ident.
    shared: bool,
}

impl Account {
    #[cfg(test)]
    pub(crate) fn for_test(ident: &str) -> Self {
        Self { name: ident.into(), shared: false }
    }
}

/// The quota of all connections of one owner.
#[derive(Debug)]
pub(crate) struct Quota {
    name: Arc<str>,
    /// That of an account name, not of an ident.
    shared: bool,
    /// Changes under the lock of the table only.
    connections: AtomicUsize,
    /// Limits the messages that they publish.
    pub(crate) publish: Option<Limiter>,
    /// Limits the messages that are delivered to them.
    pub(crate) deliver: Option<Limiter>,
}

/// The quotas of the owners that have connections, or had some and are in debt still.
#[derive(Debug)]
pub(super) struct QuotaTable {
    rules: QuotaRules,
    idents: HashMap<Arc<str>, Arc<Quota>>,
    accounts: HashMap<Arc<str>, Arc<Quota>>,
    /// The number of quotas at which it is worth looking for those whose debts are over.
    sweep_at: usize,
}

impl QuotaTable {
    pub(super) fn new(rules: QuotaRules) -> Self {
        Self { rules, idents: HashMap::new(), accounts: HashMap::new(), sweep_at: 0 }
    }

    /// Counts one more connection; `None` when its owner has as many as it may.
    pub(super) fn connect(&mut self, owner: Owner<'_>, now: Instant) -> Option<Arc<Quota>> {
        if self.len() >= self.sweep_at {
            for quotas in [&mut self.idents, &mut self.accounts] {
                quotas.retain(|_, quota| quota.is_needed(now));
            }
            self.sweep_at = 2 * self.len() + 64;
        }
        let quota = self.get(owner, now);
        if quota.connections.load(Relaxed) >= self.rules.max_connections {
            return None;
        }
        quota.connections.fetch_add(1, Relaxed);
        Some(quota)
    }

    /// Takes a connection off. A quota in debt stays: coming back would be a way around the limits.
    pub(super) fn disconnect(&mut self, quota: &Quota, now: Instant) {
        quota.connections.fetch_sub(1, Relaxed);
        if !quota.is_needed(now) {
            let quotas = if quota.shared { &mut self.accounts } else { &mut self.idents };
            quotas.remove(&*quota.name);
            shrink(quotas);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.idents.len() + self.accounts.len()
    }

    fn get(&mut self, owner: Owner<'_>, now: Instant) -> Arc<Quota> {
        let (quotas, name, shared) = match owner {
            Owner::Ident(name) => (&mut self.idents, name, false),
            Owner::Account(name) => (&mut self.accounts, name, true),
        };
        if let Some(quota) = quotas.get(name) {
            return quota.clone();
        }
        let (publish, deliver) = (self.rules.publish.limiter(now), self.rules.deliver.limiter(now));
        let quota = Arc::new(Quota { name: name.into(), shared, connections: AtomicUsize::new(0), publish, deliver });
        quotas.insert(quota.name.clone(), quota.clone());
        quota
    }
}

impl Quota {
    /// The name of the account.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether a mailbox that is declared for an ident belongs to this account, one of whose idents is
    /// `own`: it is that one, or another spelling of an account that knows several.
    pub(crate) fn has_mailbox_of(&self, declared: &str, own: &str) -> bool {
        declared == own || declared == &*self.name || (self.shared && declared.eq_ignore_ascii_case(&self.name))
    }

    pub(crate) fn account(&self) -> Account {
        Account { name: self.name.clone(), shared: self.shared }
    }

    fn is_needed(&self, now: Instant) -> bool {
        let in_debt = |limiter: &Option<Limiter>| limiter.as_ref().is_some_and(|limiter| !limiter.is_full(now));
        self.connections.load(Relaxed) > 0 || in_debt(&self.publish) || in_debt(&self.deliver)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use std::time::Duration;

    use super::*;

    const RULES: QuotaRules = QuotaRules { max_connections: 2, publish: Rate::UNLIMITED, deliver: Rate::UNLIMITED };

    #[test]
    fn mailbox_of_an_ident_is_that_of_all_spellings_of_its_account_and_of_no_other() {
        let (mut quotas, now) = (QuotaTable::new(RULES), Instant::now());
        let spelled = quotas.connect(Owner::Account("BOB"), now).unwrap();
        let own = quotas.connect(Owner::Ident("Bob"), now).unwrap();
        let found =
            |quota: &Quota, own| ["bob", "Bob", "BOB", "eve"].map(|declared| quota.has_mailbox_of(declared, own));
        assert_eq!(found(&spelled, "bOb"), [true, true, true, false]);
        assert_eq!(found(&own, "Bob"), [false, true, false, false]);
    }

    #[test]
    fn account_and_ident_of_the_same_name_have_quotas_of_their_own() {
        let (mut quotas, now) = (QuotaTable::new(RULES), Instant::now());
        let [one, two] = [(); 2].map(|()| quotas.connect(Owner::Account("bob"), now).unwrap());
        assert!(Arc::ptr_eq(&one, &two) && quotas.connect(Owner::Account("bob"), now).is_none());
        let ident = quotas.connect(Owner::Ident("bob"), now).unwrap();
        assert!(!Arc::ptr_eq(&one, &ident));
        assert_eq!(quotas.len(), 2);
        for quota in [one, two, ident] {
            quotas.disconnect(&quota, now);
        }
        assert_eq!(quotas.len(), 0);
    }

    #[test]
    fn debt_outlives_the_connections_and_no_longer() {
        let rules = QuotaRules { publish: Rate { messages: 1, bytes: 1 }, ..RULES };
        let (mut quotas, now) = (QuotaTable::new(rules), Instant::now());
        let quota = quotas.connect(Owner::Ident("bob"), now).unwrap();
        let _ = quota.publish.as_ref().unwrap().reserve(1, 1000, now);
        quotas.disconnect(&quota, now);
        assert_eq!(quotas.len(), 1);
        let again = quotas.connect(Owner::Ident("bob"), now).unwrap();
        assert!(Arc::ptr_eq(&quota, &again) && !again.publish.as_ref().unwrap().is_full(now));
        quotas.disconnect(&again, now);
        // A sweep finds it later, when others come.
        let later = now + Duration::from_secs(1001);
        assert!(!quota.is_needed(later));
        quotas.sweep_at = 0;
        let _other = quotas.connect(Owner::Ident("eve"), later).unwrap();
        assert_eq!(quotas.len(), 1);
    }
}
