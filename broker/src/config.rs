//! The configuration of a broker: its defaults, and the check of its options.

use std::{
    borrow::Cow,
    num::{NonZeroU16, NonZeroU64, NonZeroUsize},
    time::Duration,
};

use hpfeeds::wire::{Limits, MAX_NAME_LEN, extension};

use crate::{
    delivery::policy::{Rules, SlowPolicy},
    error::StartError,
    identity::quota::QuotaRules,
    journal::setup::Setup,
    limits::rate::Rate,
    net::{buffer_pool::MAX_CHUNK, socket::UNSENT},
};

/// The options of a broker, apart from its endpoints and keys. Sizes are in bytes, rates are per
/// second; a limit that is `None` is no limit.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) extensions: bool,
    /// In seconds.
    pub(crate) client_timeout: Option<NonZeroU16>,
    pub(crate) nonce_len: usize,
    pub(crate) limits: Limits,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: Option<NonZeroUsize>,
    pub(crate) max_connections_per_ident: Option<NonZeroUsize>,
    pub(crate) publish_rate: Option<NonZeroU64>,
    pub(crate) publish_bytes: Option<NonZeroU64>,
    pub(crate) deliver_rate: Option<NonZeroU64>,
    pub(crate) deliver_bytes: Option<NonZeroU64>,
    pub(crate) recheck_keys: Duration,
    pub(crate) max_subscriptions: usize,
    pub(crate) handshake_timeout: Duration,
    pub(crate) auth_timeout: Duration,
    pub(crate) auth_failure_delay: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) low_mark: usize,
    pub(crate) high_mark: Option<usize>,
    pub(crate) floor_rate: usize,
    pub(crate) floor_window: Option<Duration>,
    pub(crate) slow_policy: SlowPolicy,
    pub(crate) slow_deadline: Duration,
    pub(crate) max_buffered: usize,
    pub(crate) storage: Setup,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "hpfeeds".to_owned(),
            extensions: true,
            client_timeout: None,
            nonce_len: Self::MIN_NONCE,
            limits: Limits::default(),
            max_connections: 10_000,
            max_connections_per_address: None,
            max_connections_per_ident: None,
            publish_rate: None,
            publish_bytes: None,
            deliver_rate: None,
            deliver_bytes: None,
            recheck_keys: Duration::from_secs(5),
            max_subscriptions: 10_000,
            handshake_timeout: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(10),
            auth_failure_delay: Duration::from_millis(500),
            write_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
            low_mark: 1 << 20,
            high_mark: None,
            floor_rate: 64 * 1024,
            floor_window: None,
            slow_policy: SlowPolicy::Disconnect,
            slow_deadline: Duration::from_secs(60),
            max_buffered: 512 << 20,
            storage: Setup::default(),
        }
    }
}

impl Config {
    /// As many bytes as the Python broker sends.
    const MIN_NONCE: usize = 4;

    /// As many bytes as the frame INFO has room for beside the longest name.
    const MAX_NONCE: usize = 20;

    /// The default high mark in messages of the maximal size, as in the Python broker.
    const HIGH_MARK_MESSAGES: usize = 50;

    /// The least reserve in batches of the greatest length, which is a message and a read.
    const LONGEST_BATCHES: usize = 4;

    /// The default floor window: the time that so many steps take at the floor rate, within bounds.
    const WINDOW_STEPS: u32 = 3;
    const MIN_WINDOW: Duration = Duration::from_secs(1);
    const MAX_WINDOW: Duration = Duration::from_secs(10);

    /// The longest duration: ten years.
    const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

    /// The name in INFO, with the token of the extension where that is offered.
    pub(crate) fn greeting(&self) -> Cow<'_, str> {
        if self.extensions { extension::offer(&self.name) } else { Cow::Borrowed(&self.name) }
    }

    /// Whether the extension is offered. A name that is too long for the token offers nothing.
    pub(crate) fn offers_extension(&self) -> bool {
        extension::strip(&self.greeting()).1
    }

    pub(crate) fn rules(&self) -> Rules {
        let message = self.limits.max_message() as usize;
        Rules {
            low_mark: self.low_mark,
            high_mark: self.high_mark.unwrap_or(message.saturating_mul(Self::HIGH_MARK_MESSAGES).max(self.low_mark)),
            floor_rate: self.floor_rate,
            window: self.floor_window.unwrap_or_else(|| self.default_window()),
            policy: self.slow_policy,
            deadline: self.slow_deadline,
            max_buffered: self.max_buffered,
            reserve: (self.max_buffered / 4).max(Self::LONGEST_BATCHES * (message + MAX_CHUNK)),
        }
    }

    pub(crate) fn quota_rules(&self) -> QuotaRules {
        QuotaRules {
            max_connections: self.max_connections_per_ident.map_or(usize::MAX, NonZeroUsize::get),
            publish: rate(self.publish_rate, self.publish_bytes),
            deliver: rate(self.deliver_rate, self.deliver_bytes),
        }
    }

    /// The time of several of the steps in which the system takes what is written.
    fn default_window(&self) -> Duration {
        let steps = Duration::from_secs(u64::from(Self::WINDOW_STEPS * UNSENT))
            / u32::try_from(self.floor_rate).unwrap_or(u32::MAX).max(1);
        steps.clamp(Self::MIN_WINDOW, Self::MAX_WINDOW)
    }

    /// Shortens durations to ten years, so that they can be added to any time.
    pub(crate) fn capped(mut self) -> Self {
        for duration in [
            &mut self.handshake_timeout,
            &mut self.auth_timeout,
            &mut self.auth_failure_delay,
            &mut self.write_timeout,
            &mut self.drain_timeout,
            &mut self.slow_deadline,
            &mut self.recheck_keys,
        ] {
            *duration = (*duration).min(Self::NEVER);
        }
        self.floor_window = self.floor_window.map(|window| window.min(Self::NEVER));
        self
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        let fault = |text: String| Err(StartError::Option(text));
        if self.name.len() > MAX_NAME_LEN {
            return fault(format!("the broker name is {} bytes long: at most {MAX_NAME_LEN} fit", self.name.len()));
        }
        if extension::strip(&self.name).1 {
            let text = format!("the broker name {:?} ends in the token of the extension: leave that out", self.name);
            return fault(text);
        }
        if !(Self::MIN_NONCE..=Self::MAX_NONCE).contains(&self.nonce_len) {
            let (min, max) = (Self::MIN_NONCE, Self::MAX_NONCE);
            return fault(format!("the nonce has {} bytes: {min} to {max} are possible", self.nonce_len));
        }
        if self.max_connections == 0 {
            return fault("the maximum of connections is 0: nobody could connect".to_owned());
        }
        if self.limits.max_message() == 0 {
            return fault("the maximum message is 0 bytes: nothing could be published".to_owned());
        }
        if self.floor_rate == 0 {
            return fault("the floor rate is 0: a subscriber that never reads would stop its publishers".to_owned());
        }
        if self.floor_window == Some(Duration::ZERO) {
            return fault("the floor window is 0: no rate can be measured".to_owned());
        }
        if let Some(high) = self.high_mark.filter(|high| *high < self.low_mark) {
            return fault(format!("the high mark ({high} bytes) is below the low mark ({} bytes)", self.low_mark));
        }
        self.storage.check().map_err(StartError::Option)
    }
}

/// The rate of at most so many messages and bytes a second.
fn rate(messages: Option<NonZeroU64>, bytes: Option<NonZeroU64>) -> Rate {
    let [messages, bytes] = [messages, bytes].map(|limit| limit.map_or(u64::MAX, NonZeroU64::get));
    Rate { messages, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 50 messages of the maximal size for 60 seconds, and then the subscriber is disconnected.
    #[test]
    fn a_slow_subscriber_is_treated_as_by_the_python_broker() {
        let rules = Config::default().rules();
        assert_eq!((rules.high_mark, rules.deadline), (50 << 20, Duration::from_secs(60)));
        assert_eq!(rules.policy, SlowPolicy::Disconnect);
        let longer = Config { limits: Limits::new(10 << 20), ..Config::default() };
        assert_eq!(longer.rules().high_mark, 500 << 20);
    }
}
