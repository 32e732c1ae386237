//! Denials: what a connection does about a key, a message or a subscription that the broker
//! refuses.

use tokio::time::{Instant, sleep_until};

use super::{
    error_text::{DenialKind, text},
    state::{Complaint, Connection, End, Phase, RECENT},
};
use crate::{
    client::{
        error::{Cause, Error},
        event::SessionEvent,
    },
    wire::Channel,
};

impl Connection<'_> {
    /// The complaint that explains why the connection ends now.
    pub(super) fn recent_complaint(&self) -> Option<Error> {
        self.complaint
            .as_ref()
            .filter(|complaint| complaint.at.elapsed() < RECENT)
            .map(|complaint| complaint.cause.clone())
    }

    fn complain(&mut self, cause: &Error) {
        let grace = Instant::now() + self.shared.config.auth_grace;
        let until = self.reconnect.search_at().map_or(grace, |search| search.max(grace));
        self.hold = Some(Box::pin(sleep_until(until)));
        self.complaint = Some(Complaint { cause: cause.clone(), at: Instant::now() });
    }

    /// The broker sent ERROR.
    pub(super) fn refused(&mut self, message: &[u8]) -> Result<(), End> {
        let config = &self.shared.config;
        let message = text(message);
        tracing::warn!(addr = %config.addr, ?message, "the broker reported an error");
        match DenialKind::classify(&message, &config.ident) {
            DenialKind::Auth => Err(self.key_refused(message)),
            // Some brokers say the same of a wrong key, and nothing else can be meant yet.
            DenialKind::Access if !self.has_asked() => Err(self.key_refused(message)),
            DenialKind::Publish(channel) => {
                self.deny_message(channel, message);
                Ok(())
            }
            DenialKind::Subscribe(channel) => self.deny_subscription(channel, message),
            // Before the first message it can only be a subscription; with none in doubt, only a
            // message.
            DenialKind::Access if !self.outcome.published => self.deny_subscription(None, message),
            DenialKind::Access if self.suspects().is_empty() => {
                self.deny_message(None, message);
                Ok(())
            }
            DenialKind::Access => {
                let cause = Error::new(Cause::Broker { message: message.clone() });
                self.complain(&cause);
                self.reconnect.unexplained = Some(message);
                let suspects = self.suspects();
                Err(self.search(cause, suspects))
            }
            DenialKind::Shutdown if matches!(self.phase, Phase::Accepted) => {
                let cause = Error::new(Cause::Broker { message: message.clone() });
                self.part(Some(cause));
                self.shared.emit(SessionEvent::BrokerError { message });
                Ok(())
            }
            // Our end is on its way.
            DenialKind::Shutdown if matches!(self.phase, Phase::Closing | Phase::HalfClosed) => {
                self.shared.emit(SessionEvent::BrokerError { message });
                Ok(())
            }
            DenialKind::Shutdown | DenialKind::Other => {
                let cause = Error::new(Cause::Broker { message: message.clone() });
                self.complain(&cause);
                self.shared.emit(SessionEvent::BrokerError { message });
                // Whatever it means: this is no broker that has accepted the key.
                let unknown = matches!(self.phase, Phase::Greeting { .. } | Phase::Proving { .. });
                if unknown { Err(End::Failed(cause)) } else { Ok(()) }
            }
        }
    }

    /// The broker closed before it had accepted the key, or the subscription that it was asked for
    /// last.
    pub(super) fn closed_silently(&mut self, mut last: Vec<Channel>) -> End {
        let eof = Error::new(Cause::Eof { addr: self.shared.config.addr.clone() });
        if last.len() > 1 {
            return self.search(eof, last);
        }
        let Some(channel) = last.pop() else {
            let (addr, ident) = (self.shared.config.addr.clone(), self.shared.config.ident.clone());
            return self.rejected(Cause::Rejected { addr, ident, message: None });
        };
        // Once may be a restart of the broker; twice at the same channel is an answer.
        if self.reconnect.suspect.as_ref() != Some(&channel) {
            self.reconnect.suspect = Some(channel);
            return End::Failed(eof);
        }
        match self.deny_subscription(Some(channel), "the broker closed the connection".to_owned()) {
            Ok(()) => End::Failed(self.recent_complaint().unwrap_or(eof)),
            Err(end) => end,
        }
    }

    /// Whether the broker has had anything to refuse but the key.
    fn has_asked(&self) -> bool {
        let only_the_key = match &self.phase {
            Phase::Greeting { .. } => self.subscribed.is_empty(),
            Phase::Proving { last, .. } => last.is_empty() && self.subscribed.is_empty(),
            _ => false,
        };
        !only_the_key || self.outcome.published
    }

    fn key_refused(&mut self, message: String) -> End {
        let (addr, ident) = (self.shared.config.addr.clone(), self.shared.config.ident.clone());
        self.rejected(Cause::Rejected { addr, ident, message: Some(message) })
    }

    fn rejected(&mut self, cause: Cause) -> End {
        let cause = Error::new(cause);
        self.shared.emit(SessionEvent::AuthRejected { cause: cause.clone() });
        End::Failed(cause)
    }

    fn deny_message(&mut self, channel: Option<Channel>, message: String) {
        let cause = Error::new(Cause::PublishDenied { channel: channel.clone(), message });
        self.reconnect.denial.get_or_insert_with(|| cause.clone());
        match channel {
            Some(channel) => {
                self.outcome.repaired |= self.shared.outbox.quarantine(&channel, &cause, Instant::now());
                if let Some(spooling) = &self.reconnect.spooling {
                    spooling.denied(&channel);
                }
                self.reconnect.deny(self.shared, channel, cause.clone());
            }
            None => self.shared.emit(SessionEvent::PublishDenied { channel: None, discarded: 0, cause: cause.clone() }),
        }
        self.complain(&cause);
    }

    /// Takes a subscription out. When the broker did not say which one, and it can be one of
    /// several, the next connection asks for half of them.
    fn deny_subscription(&mut self, channel: Option<Channel>, message: String) -> Result<(), End> {
        // Thousands may be named one after the other: then nothing else is looked at.
        let mut suspects = if channel.is_some() { Vec::new() } else { self.suspects() };
        if channel.is_none() && suspects.is_empty() && self.subscribed.len() == 1 {
            // A broker that took its time, or has changed its mind: there is no other.
            suspects.extend(self.subscribed.keys().cloned());
        }
        let guilty = channel.or_else(|| if suspects.len() == 1 { suspects.pop() } else { None });
        let cause = Error::new(Cause::SubscribeDenied { channel: guilty.clone(), message });
        self.complain(&cause);
        let Some(channel) = guilty else {
            if suspects.is_empty() {
                // A right that was there has been taken away, or the broker needs longer than it
                // was given.
                self.reconnect.proven.clear();
                if let Some(age) = self.subscribed.values().map(|(sent, _)| sent.elapsed()).min() {
                    self.reconnect.refused_late(age);
                }
            }
            if self.subscribed.is_empty() {
                self.shared.emit(SessionEvent::SubscribeDenied { channel: None, cause });
                return Ok(());
            }
            return Err(self.search(cause, suspects));
        };
        if self.shared.unwant(&channel, &cause) {
            self.outcome.narrowed |= self.reconnect.taken_out.insert(channel.clone());
        }
        self.subscribed.remove(&channel);
        self.reconnect.proven.remove(&channel);
        self.reconnect.unexplained = None;
        // Of the others, nothing is known any more.
        self.reconnect.doubtful.clear();
        self.reconnect.group = 1;
        if let Phase::Proving { last, .. } = &mut self.phase {
            last.retain(|last| *last != channel);
        }
        self.shared.emit(SessionEvent::SubscribeDenied { channel: Some(channel), cause });
        Ok(())
    }

    /// Ends the connection; the next one asks for a part of the suspects. Where one in a thousand
    /// is refused, some twenty steps find it.
    fn search(&mut self, cause: Error, suspects: Vec<Channel>) -> End {
        let reconnect = &mut *self.reconnect;
        let fewer = reconnect.doubtful.is_empty() || suspects.len() < reconnect.doubtful.len();
        self.outcome.narrowed |= reconnect.careful && fewer && !suspects.is_empty();
        self.outcome.repaired |= !reconnect.careful;
        reconnect.careful = true;
        reconnect.doubtful = suspects.into_iter().collect();
        reconnect.group = 1;
        End::Failed(cause)
    }

    /// Subscriptions that the broker may have refused when it does not say which: those that it had
    /// no time to refuse yet.
    fn suspects(&self) -> Vec<Channel> {
        if let Phase::Proving { last, .. } = &self.phase {
            if !last.is_empty() {
                return last.clone();
            }
        }
        let grace = self.reconnect.grace(self.shared);
        let fresh = self.subscribed.iter().filter(|(_, (sent, _))| sent.elapsed() <= grace);
        fresh.map(|(channel, _)| channel).filter(|channel| !self.reconnect.proven.contains(*channel)).cloned().collect()
    }

    /// All subscriptions were asked for and none was refused: then it was a message that the broker
    /// refused before.
    pub(super) fn conclude(&mut self) {
        if let Some(message) = self.reconnect.unexplained.take() {
            self.deny_message(None, message);
        }
    }
}
