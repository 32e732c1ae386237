//! The presence record of one ident: times, gaps and rates of the last seven days, and its state.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;

use super::rounded::Rounded;
use crate::metrics::connection::ConnectionCounters;

/// A day in seconds.
pub(crate) const DAY: u32 = 24 * 60 * 60;

/// The days whose gaps and rates are known, of which the first is today.
pub(super) const DAYS: usize = 7;

/// Silence up to so many seconds is never worth a word.
const SHORT_GAP: u32 = 10 * 60;

/// So many messages in a minute are never a flood.
const LEAST_FLOOD: u32 = 600;

/// The longest name of a program in bytes.
const MAX_SOFTWARE: usize = 40;

/// The state of an ident. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum State {
    /// It has no connection, and had one: something for the operator of the host or the network.
    Gone,
    /// It is connected, and publishes nothing for longer than ten minutes and than twice its longest
    /// gap of seven days: something for the operator of the honeypot.
    Silent,
    /// It publishes more than ten times its usual rate.
    Flood,
    /// There is a key, and there has been no connection in thirty days.
    Never,
    /// It is known for less than a day: what is usual is not known.
    Learning,
    /// All is as usual.
    Ok,
}

#[cfg(feature = "dashboard")]
impl State {
    /// All states, the worst first, with their names.
    pub(crate) const ALL: [(Self, &str); 6] = [
        (Self::Gone, "gone"),
        (Self::Silent, "silent"),
        (Self::Flood, "flood"),
        (Self::Never, "never"),
        (Self::Learning, "learning"),
        (Self::Ok, "ok"),
    ];
}

/// Why a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    Closed,
    Refused,
    Broken,
    Slow,
    Evicted,
    Revoked,
    Lifeless,
    Fenced,
    Unstored,
    Shutdown,
    /// The task of the connection was cut.
    Cut,
}

impl Departure {
    const ALL: [(Self, &str); 11] = [
        (Self::Closed, "closed"),
        (Self::Refused, "refused"),
        (Self::Broken, "broken"),
        (Self::Slow, "slow"),
        (Self::Evicted, "evicted"),
        (Self::Revoked, "revoked"),
        (Self::Lifeless, "lifeless"),
        (Self::Fenced, "fenced"),
        (Self::Unstored, "unstored"),
        (Self::Shutdown, "shutdown"),
        (Self::Cut, "cut"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(reason, _)| *reason)
    }
}

/// Times of an ident in seconds since 1970; zero for one that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamps {
    /// The first connection on record.
    pub(crate) first: u32,
    pub(crate) published: u32,
    pub(crate) connected: u32,
    pub(crate) left: u32,
}

/// The record of one ident.
#[derive(Debug)]
pub(crate) struct Record {
    /// Open connections.
    lines: Vec<Arc<ConnectionCounters>>,
    /// The messages of these that have been seen.
    seen: u64,
    software: Option<Box<str>>,
    /// The peer of the latest connection.
    ip: Option<IpAddr>,
    port: u16,
    stamps: Stamps,
    /// For how many seconds it has been connected without publishing.
    quiet: u32,
    /// The minute since 1970 that `current` counts the messages of, and those of the minute before.
    minute: u32,
    current: u32,
    previous: u32,
    /// The day since 1970 that comes first in the lists.
    day: u16,
    /// The longest gap of each day in seconds, and the messages of its busiest minute.
    gaps: [Rounded; DAYS],
    peaks: [Rounded; DAYS],
    reason: Option<Departure>,
    subscribes: bool,
}

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) stamps: Stamps,
    pub(super) quiet: u32,
    pub(super) day: u16,
    pub(super) gaps: [u32; DAYS],
    pub(super) peaks: [u32; DAYS],
    pub(super) reason: Option<Departure>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) software: Option<String>,
    pub(super) subscribes: bool,
}

impl Record {
    /// A record that begins now.
    pub(crate) fn new(now: u32) -> Self {
        let stamps = Stamps { first: now, published: 0, connected: 0, left: 0 };
        let none = [Rounded::default(); DAYS];
        Self {
            lines: Vec::new(),
            seen: 0,
            software: None,
            ip: None,
            port: 0,
            stamps,
            quiet: 0,
            minute: now / 60,
            current: 0,
            previous: 0,
            day: day(now),
            gaps: none,
            peaks: none,
            reason: None,
            subscribes: false,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.lines.is_empty()
    }

    pub(crate) fn connections(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn stamps(&self) -> Stamps {
        self.stamps
    }

    /// When it was last there, if it is not now.
    pub(crate) fn left_at(&self) -> u32 {
        self.stamps.left.max(self.stamps.first)
    }

    pub(crate) fn reason(&self) -> Option<&'static str> {
        self.reason.map(Departure::name)
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.ip.map(|ip| SocketAddr::new(ip, self.port))
    }

    pub(crate) fn software(&self) -> Option<&str> {
        self.software.as_deref()
    }

    /// Whether it has subscribed to something, and published nothing.
    pub(crate) fn is_consumer(&self) -> bool {
        self.subscribes && self.stamps.published == 0
    }

    pub(crate) fn has_subscribed(&self) -> bool {
        self.subscribes
    }

    /// For how many seconds it has been connected without publishing.
    pub(crate) fn quiet(&self) -> u32 {
        self.quiet
    }

    /// The longest gap of seven days in seconds.
    pub(crate) fn usual_gap(&self) -> u32 {
        self.gaps.iter().map(|gap| gap.get()).max().unwrap_or_default()
    }

    /// Messages in the busiest minute of a usual day: the median of the days before today that are on
    /// record.
    pub(crate) fn usual_rate(&self) -> u32 {
        let days = self.day.saturating_sub(day(self.stamps.first));
        let known = usize::from(days).min(DAYS - 1);
        let mut peaks: Vec<_> = self.peaks.iter().skip(1).take(known).map(|peak| peak.get()).collect();
        peaks.sort_unstable();
        peaks.get(peaks.len() / 2).copied().unwrap_or_default()
    }

    /// Messages in the last minute.
    pub(crate) fn rate(&self, now: u32) -> u32 {
        match (now / 60).saturating_sub(self.minute) {
            // A part of the minute before still counts.
            0 => self.current.saturating_add(part(self.previous, 60 - now % 60)),
            1 => part(self.current, 60 - now % 60),
            _ => 0,
        }
    }

    /// The state, and since when in seconds since 1970.
    pub(crate) fn state(&self, now: u32) -> (State, u32) {
        let Stamps { first, published, connected, left } = self.stamps;
        if !self.is_connected() {
            return (State::Gone, left.max(first));
        }
        if self.is_consumer() {
            return (State::Ok, connected);
        }
        if now < first.saturating_add(DAY) {
            return (State::Learning, first);
        }
        if self.quiet > SHORT_GAP.max(self.usual_gap().saturating_mul(2)) {
            return (State::Silent, if published > 0 { published } else { connected });
        }
        if self.rate(now) > LEAST_FLOOD.max(self.usual_rate().saturating_mul(10)) {
            return (State::Flood, self.minute * 60);
        }
        (State::Ok, connected)
    }

    pub(super) fn arrive(&mut self, peer: SocketAddr, counters: Arc<ConnectionCounters>, now: u32) {
        self.stamps.connected = now;
        (self.ip, self.port) = (Some(peer.ip().to_canonical()), peer.port());
        self.lines.push(counters);
    }

    /// Whether a connection is among its own.
    pub(super) fn has(&self, counters: &Arc<ConnectionCounters>) -> bool {
        self.lines.iter().any(|line| Arc::ptr_eq(line, counters))
    }

    /// A connection has ended. `false` when it is not among its own.
    pub(super) fn leave(&mut self, counters: &Arc<ConnectionCounters>, reason: Departure, now: u32) -> bool {
        let Some(index) = self.lines.iter().position(|line| Arc::ptr_eq(line, counters)) else {
            return false;
        };
        self.look(now, 0);
        let line = self.lines.swap_remove(index);
        self.seen = self.seen.wrapping_sub(line.published());
        (self.stamps.left, self.reason) = (now, Some(reason));
        true
    }

    /// Looks at what has been published in the seconds that have passed.
    pub(super) fn look(&mut self, now: u32, passed: u32) {
        self.turn_to(day(now));
        let published: u64 = self.lines.iter().map(|line| line.published()).fold(0, u64::wrapping_add);
        let new = published.wrapping_sub(self.seen);
        self.seen = published;
        if new == 0 {
            self.quiet = self.quiet.saturating_add(passed);
            return;
        }
        self.gaps[0].raise(std::mem::take(&mut self.quiet));
        self.stamps.published = now;
        match (now / 60).saturating_sub(self.minute) {
            0 => {}
            1 => self.previous = std::mem::take(&mut self.current),
            _ => (self.previous, self.current) = (0, 0),
        }
        self.minute = now / 60;
        self.current = self.current.saturating_add(u32::try_from(new).unwrap_or(u32::MAX));
        self.peaks[0].raise(self.current);
    }

    /// Begins a new day, if it is one.
    fn turn_to(&mut self, today: u16) {
        let passed = usize::from(today.saturating_sub(self.day)).min(DAYS);
        if passed > 0 {
            self.day = today;
            for list in [&mut self.gaps, &mut self.peaks] {
                list.rotate_right(passed);
                list[..passed].fill(Rounded::default());
            }
        }
    }

    pub(super) fn name(&mut self, software: &str) {
        let mut end = software.len().min(MAX_SOFTWARE);
        while !software.is_char_boundary(end) {
            end -= 1;
        }
        self.software = software.get(..end).filter(|name| !name.is_empty()).map(Into::into);
    }

    pub(super) fn subscribe(&mut self) {
        self.subscribes = true;
    }

    /// The record to store. Of an ident that is connected, it says that it was there until now.
    pub(super) fn store(&self, now: u32) -> Stored {
        let mut stored = Stored {
            stamps: self.stamps,
            quiet: self.quiet,
            day: self.day,
            gaps: self.gaps.map(Rounded::get),
            peaks: self.peaks.map(Rounded::get),
            reason: self.reason,
            peer: self.peer(),
            software: self.software.as_deref().map(str::to_owned),
            subscribes: self.subscribes,
        };
        if self.is_connected() {
            (stored.stamps.left, stored.reason) = (now, Some(Departure::Shutdown));
        }
        stored
    }

    pub(super) fn restore(stored: &Stored) -> Self {
        let mut record = Self::new(stored.stamps.first);
        record.stamps = stored.stamps;
        (record.quiet, record.day) = (stored.quiet, stored.day);
        (record.gaps, record.peaks) = (stored.gaps.map(Rounded::of), stored.peaks.map(Rounded::of));
        (record.reason, record.subscribes) = (stored.reason, stored.subscribes);
        record.ip = stored.peer.map(|peer| peer.ip());
        record.port = stored.peer.map_or(0, |peer| peer.port());
        record.name(stored.software.as_deref().unwrap_or_default());
        record
    }
}

/// The day since 1970.
fn day(now: u32) -> u16 {
    u16::try_from(now / DAY).unwrap_or(u16::MAX)
}

/// The part of a minute's messages that falls on so many of its seconds.
fn part(messages: u32, seconds: u32) -> u32 {
    u32::try_from(u64::from(messages) * u64::from(seconds) / 60).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::metrics::session::SessionMetrics;

    const START: u32 = 20_000 * DAY;

    /// A connected ident that is known for ten days.
    fn known() -> (Record, SessionMetrics) {
        let (mut record, session) = (Record::new(START - 10 * DAY), SessionMetrics::for_test("sensor"));
        record.arrive(([192, 0, 2, 1], 5).into(), session.counters().clone(), START - 10 * DAY);
        (record, session)
    }

    /// One second after the other, in which so many messages come.
    fn pass(record: &mut Record, session: &SessionMetrics, from: u32, seconds: u32, messages: impl Fn(u32) -> u32) {
        for second in from..from + seconds {
            session.published(messages(second - from));
            record.look(second, 1);
        }
    }

    #[test]
    fn a_sensor_is_silent_after_twice_its_longest_gap() {
        let (mut record, session) = known();
        // A message every quarter of an hour.
        pass(&mut record, &session, START, 3 * 900 + 1, |second| u32::from(second % 900 == 0));
        assert_eq!(record.usual_gap(), 899);
        assert_eq!(record.state(START + 2700), (State::Ok, START - 10 * DAY));
        pass(&mut record, &session, START + 2701, 1798, |_| 0);
        assert_eq!(record.state(START + 4499).0, State::Ok);
        pass(&mut record, &session, START + 4499, 1, |_| 0);
        assert_eq!(record.state(START + 4500), (State::Silent, START + 2700));
        // Away, it is not silent, and the time does not count.
        assert!(record.leave(session.counters(), Departure::Broken, START + 4500));
        assert_eq!(record.state(START + 9000), (State::Gone, START + 4500));
        assert_eq!((record.quiet(), record.reason()), (1799, Some("broken")));
        // A week later the gap is forgotten.
        record.turn_to(day(START + 7 * DAY));
        assert_eq!(record.usual_gap(), 0);
    }

    #[test]
    fn a_sensor_floods_at_ten_times_its_usual_rate() {
        let (mut record, session) = known();
        for today in 0..6 {
            // Two messages a second, and on one day a flood of a hundred.
            let rate = if today == 3 { 100 } else { 2 };
            pass(&mut record, &session, START + today * DAY, 60, |_| rate);
        }
        let now = START + 6 * DAY;
        pass(&mut record, &session, now, 60, |_| 20);
        assert_eq!((record.usual_rate(), record.rate(now + 59)), (120, 1200));
        assert_eq!(record.state(now + 59).0, State::Ok, "ten times as many are not more than that");
        session.published(1);
        record.look(now + 59, 0);
        assert_eq!(record.state(now + 59), (State::Flood, now));
        // It is over when the minute is.
        assert_eq!((record.rate(now + 90), record.rate(now + 120)), (600, 0));
        assert_eq!(record.state(now + 120).0, State::Ok);
    }

    #[test]
    fn what_is_usual_is_learnt_for_a_day() {
        let (mut record, session) = (Record::new(START), SessionMetrics::for_test("sensor"));
        record.arrive(([192, 0, 2, 1], 5).into(), session.counters().clone(), START);
        pass(&mut record, &session, START, 700, |_| 0);
        assert_eq!(record.state(START + DAY - 1), (State::Learning, START));
        assert_eq!(record.state(START + DAY), (State::Silent, START));
        // A consumer is not silent.
        record.subscribe();
        assert_eq!(record.state(START + DAY), (State::Ok, START));
    }

    #[test]
    fn messages_of_all_connections_count_and_none_twice() {
        let (mut record, one) = known();
        let two = SessionMetrics::for_test("sensor");
        record.arrive(([192, 0, 2, 2], 6).into(), two.counters().clone(), START);
        one.published(5);
        two.published(7);
        record.look(START, 1);
        one.published(1);
        assert!(record.leave(one.counters(), Departure::Closed, START + 1));
        assert!(!record.leave(one.counters(), Departure::Closed, START + 1));
        two.published(1);
        record.look(START + 2, 1);
        assert_eq!((record.current, record.connections()), (14, 1));
    }

    #[test]
    fn names_are_cut_between_characters() {
        let mut record = Record::new(START);
        record.name(&"é".repeat(30));
        assert_eq!(record.software().unwrap().len(), MAX_SOFTWARE);
        record.name("");
        assert_eq!(record.software(), None);
        assert!(
            Departure::ALL
                .iter()
                .enumerate()
                .all(|(at, (reason, name))| { *reason as usize == at && Departure::named(name) == Some(*reason) })
        );
    }
}
