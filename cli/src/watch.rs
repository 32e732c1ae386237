//! The watcher of a subscription: tells its session events on stderr, and decides which of them end
//! it.

use hpfeeds::{BrokerAddr, Channel, Error, SessionEvent};

use crate::{
    escape::Escaped,
    exit::{self, DENIED, Failure, notice},
};

/// The state of a session so far.
pub(crate) struct Watch {
    addr: BrokerAddr,
    /// Asked for and not denied.
    channels: Vec<Channel>,
    denied: bool,
    connected: bool,
    /// The key was rejected, and not accepted since then.
    rejected: bool,
    /// The notice that was said last: an outage is told once, not at every attempt.
    said: String,
}

impl Watch {
    pub(crate) fn new(addr: BrokerAddr, channels: Vec<Channel>) -> Self {
        Self { addr, channels, denied: false, connected: false, rejected: false, said: String::new() }
    }

    /// The broker has accepted the key at least once.
    pub(crate) fn was_connected(&self) -> bool {
        self.connected
    }

    pub(crate) fn addr(&self) -> &BrokerAddr {
        &self.addr
    }

    /// The exit code when nothing worse has happened.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        if self.denied { Err(Failure::silent(DENIED)) } else { Ok(()) }
    }

    /// Takes note of an event. An error ends the program.
    pub(crate) fn note(&mut self, event: SessionEvent) -> Result<(), Failure> {
        match event {
            SessionEvent::Connected { broker } => self.connected(&broker),
            SessionEvent::AuthRejected { cause } => return self.rejected(&cause),
            SessionEvent::SubscribeDenied { channel, cause } => return self.denied(channel.as_ref(), &cause),
            SessionEvent::Disconnected { cause, .. } => return self.disconnected(&cause),
            SessionEvent::Skipped { cause, .. } => self.say(cause.to_string()),
            SessionEvent::Gap { .. } => notice(Escaped(event.to_string().as_bytes())),
            SessionEvent::BrokerError { message } => {
                self.say(format!("the broker reported: {message:?}"));
            }
            SessionEvent::Closed { cause: Some(cause) } => return Err(self.failure(&cause)),
            _ => {}
        }
        Ok(())
    }

    fn connected(&mut self, broker: &str) {
        (self.connected, self.rejected) = (true, false);
        self.said.clear();
        notice(format_args!("connected to {}", Escaped(broker.as_bytes())));
    }

    /// The channels that are asked for and not denied.
    pub(crate) fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// The broker delivers a channel.
    pub(crate) fn subscribed(&self, channel: &Channel) {
        if self.channels.contains(channel) {
            notice(format_args!("subscribed to {}", Escaped(channel.as_bytes())));
        }
    }

    /// A key that was good may be rejected once: a broker that is being stopped, or whose key store
    /// is away, looks like that.
    fn rejected(&mut self, cause: &Error) -> Result<(), Failure> {
        if self.rejected || !self.connected {
            return Err(self.failure(cause));
        }
        self.rejected = true;
        self.say(cause.to_string());
        Ok(())
    }

    fn denied(&mut self, channel: Option<&Channel>, cause: &Error) -> Result<(), Failure> {
        self.denied = true;
        self.say(cause.to_string());
        if let Some(channel) = channel {
            self.channels.retain(|other| other != channel);
        }
        if self.channels.is_empty() { Err(Failure::silent(DENIED)) } else { Ok(()) }
    }

    fn disconnected(&mut self, cause: &Error) -> Result<(), Failure> {
        // Some brokers close the connection when they deny a channel; the session comes back
        // without it.
        if !self.connected && !cause.is_denied() {
            return Err(self.failure(cause));
        }
        self.say(cause.to_string());
        Ok(())
    }

    /// Says something, but not twice in a row.
    fn say(&mut self, text: String) {
        if self.said != text {
            notice(Escaped(text.as_bytes()));
            self.said = text;
        }
    }

    fn failure(&mut self, cause: &Error) -> Failure {
        self.say(cause.to_string());
        Failure::silent(exit::code(cause))
    }
}
