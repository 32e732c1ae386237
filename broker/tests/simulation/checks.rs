//! Invariants of a simulation.

use std::collections::{BTreeMap, BTreeSet};

use hpfeeds_broker::Stats;

use crate::{
    record::{Accepted, Message, Moment, Read, Record},
    scenario::{FORBIDDEN, Scenario, covers},
};

/// Bytes of a batch and a queued frame at most, beside the messages: names, headers, the queue's overhead.
const OVERHEAD: usize = 1024;

/// How long the broker may take to act on a changed key, in steps.
const REKEY: u64 = 2;

/// The longest run that one read makes of messages, with what was there before.
fn run(scenario: &Scenario) -> u64 {
    (scenario.chunk + scenario.largest + OVERHEAD) as u64
}

/// Queues keep to their bound: beyond it, there is one batch for each connection.
pub(crate) fn memory(record: &mut Record, scenario: &Scenario, stats: &Stats) {
    let bound = scenario.max_buffered as u64 + stats.connections * run(scenario);
    if stats.buffered > bound {
        record.fault(&format!("{} bytes are queued, the bound is {bound}", stats.buffered));
    }
}

/// And each queue to its mark.
pub(crate) fn outboxes(record: &mut Record, scenario: &Scenario, metrics: &str) {
    for line in metrics.lines() {
        let Some((ident, bytes)) = line
            .strip_prefix("hpfeeds_broker_connection_send_buffer_size{ident=\"")
            .and_then(|rest| rest.split_once("\"} "))
        else {
            continue;
        };
        let open = record.accepted.iter().filter(|entry| entry.open && entry.ident.as_deref() == Some(ident)).count();
        let bound = open as u64 * (scenario.high_mark as u64 + run(scenario));
        if bytes.parse::<u64>().is_ok_and(|bytes| bytes > bound) {
            record.fault(&format!("{bytes} bytes are queued for {ident} on {open} connections, the bound is {bound}"));
        }
    }
}

/// One life of the broker, which has ended; how it counted itself, if it could still be asked.
pub(crate) fn life(record: &mut Record, stats: Option<&Stats>) {
    let mut faults = Vec::new();
    let (mut written, mut missing) = (0, 0);
    for connection in all(record) {
        written += connection.written.len() as u64;
        faults.extend(delivered(record, connection));
        missing += due(record, connection);
    }
    if let Some(stats) = stats {
        let (dropped, discarded) = (stats.dropped, stats.discarded);
        if stats.delivered != written {
            faults.push(format!("{written} messages were written, {} are counted as delivered", stats.delivered));
        }
        let most = all(record).map(|connection| wanted(record, connection)).sum::<u64>();
        if stats.delivered + dropped + discarded > most {
            faults.push(format!(
                "{most} deliveries were wanted: {} are counted, {dropped} as dropped, {discarded} as discarded",
                stats.delivered
            ));
        }
        if missing > dropped + discarded {
            faults.push(format!(
                "{missing} messages vanished: {dropped} are counted as dropped, {discarded} as discarded"
            ));
        }
        // One that was sent again is acted on once, but for those that were given up before. Some that were refused may
        // have been acted on in that way.
        let read =
            read(record, record.life).map(|(_, message)| 1 + given_up(record, message, record.life)).sum::<u64>();
        let acted = routed(record).count() as u64;
        if !(acted..=read).contains(&stats.received_messages) {
            let counted = stats.received_messages;
            faults.push(format!("{read} messages were read and {acted} acted on, {counted} are counted as received"));
        }
        let unrouted = stats.unrouted;
        let (least, certain) = (unwanted(record), certain(record));
        if unrouted < least || unrouted + certain > stats.received_messages {
            faults.push(format!(
                "{unrouted} messages are counted as unrouted: {least} were wanted by nobody, {certain} of {} by somebody",
                stats.received_messages
            ));
        }
        if stats.buffered > 0 || stats.connections > 0 {
            faults.push(format!("{} bytes, {} connections are left over", stats.buffered, stats.connections));
        }
    }
    for fault in faults {
        record.fault(&fault);
    }
}

/// How many deliveries of this life were of messages that the connection had got before.
pub(crate) fn repeated(record: &Record) -> u64 {
    let repeated = |connection: &Accepted| {
        let ids: BTreeSet<u64> = connection.written.iter().map(|(id, ..)| *id).collect();
        connection.written.len() - ids.len()
    };
    all(record).map(repeated).sum::<usize>() as u64
}

/// Faults in the messages that a connection got.
fn delivered(record: &Record, connection: &Accepted) -> Option<String> {
    let ident = connection.ident.as_deref().unwrap_or_default();
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    let mut last: BTreeMap<(bool, usize), u64> = BTreeMap::new();
    for (id, at, step) in &connection.written {
        let Some(message) = record.messages.get(id) else {
            return Some(format!("{ident} got a message that nobody sent"));
        };
        let reads: Vec<_> = reads(record, message, connection.life).filter(|read| read.at < *at).collect();
        let Some(read) = reads.first() else {
            return Some(format!("{ident} got a message that the broker had not read in this life"));
        };
        let (times, given_up) = (seen.entry(*id).or_default(), given_up(record, message, connection.life));
        *times += 1;
        if *times > 1 + given_up {
            return Some(format!("{ident} got message {id:x} {times} times on one connection"));
        }
        // Of a session that confirms, the order is that of all its connections.
        let source = if record.sessions[message.session].confirms { message.session } else { read.connection };
        if let Some(before) = last.insert((record.sessions[message.session].confirms, source), *id)
            && before >= *id
            && given_up == 0
        {
            return Some(format!("{ident} got message {id:x} after {before:x}"));
        }
        let wanted = connection.subscriptions.iter().any(|entry| {
            let in_time = |read: &&Read| {
                read.acted.is_none_or(|acted| acted > entry.read)
                    && entry.until.is_none_or(|until| until > read.at || read.acted.is_none_or(|acted| acted > until))
            };
            covers(&entry.pattern, &message.channel) && entry.read < *at && reads.iter().any(in_time)
        });
        if !wanted {
            return Some(format!("{ident} got a message on {:?}, to which it is not subscribed", message.channel));
        }
        if !might(record, ident, &message.channel, read.step.saturating_sub(REKEY), *step) {
            return Some(format!("{ident} got a message on {:?}, which it may not read", message.channel));
        }
    }
    None
}

/// Whether a key allowed a channel at any time from a step to another.
fn might(record: &Record, ident: &str, channel: &str, from: u64, to: u64) -> bool {
    let history = record.rights.get(ident).map(Vec::as_slice).unwrap_or_default();
    let ends = history.iter().skip(1).map(|(step, _)| *step).chain([u64::MAX]);
    let mut spans = history.iter().zip(ends);
    spans.any(|((begin, rights), end)| *begin <= to && end >= from && rights.iter().any(|right| covers(right, channel)))
}

/// Whether a key allowed a channel all the time.
fn always(record: &Record, ident: &str, channel: &str) -> bool {
    let history = record.rights.get(ident).map(Vec::as_slice).unwrap_or_default();
    history.iter().all(|(_, rights)| rights.iter().any(|right| covers(right, channel)))
}

/// How many messages a connection did not get that were certainly due to it: it had subscribed before they were read, and
/// was still served when they had been acted on.
fn due(record: &Record, connection: &Accepted) -> u64 {
    let got: BTreeSet<u64> = connection.written.iter().map(|(id, ..)| *id).collect();
    routed(record).filter(|(id, message)| !got.contains(id) && is_due(record, connection, message)).count() as u64
}

/// Whether a message was certainly due to a connection.
fn is_due(record: &Record, connection: &Accepted, message: &Message) -> bool {
    let Some(ident) = connection.ident.as_deref() else { return false };
    // All of its readings: which of them was the one that it was routed for, nobody knows.
    let reads: Vec<_> = reads(record, message, connection.life).collect();
    let is_in_time = |read: &&Read| {
        let acted = read.acted.unwrap_or(Moment::MAX);
        connection.served >= acted
            && connection.subscriptions.iter().any(|entry| {
                covers(&entry.pattern, &message.channel)
                    && entry.acted.is_some_and(|subscribed| subscribed < read.at)
                    && entry.until.is_none_or(|until| until > acted)
            })
    };
    !reads.is_empty() && reads.iter().all(is_in_time) && always(record, ident, &message.channel)
}

/// Whether a message may have been meant for a connection.
fn is_wanted(record: &Record, connection: &Accepted, message: &Message) -> bool {
    connection.subscriptions.iter().any(|entry| {
        let in_time = |read: &Read| read.acted.is_none_or(|acted| acted > entry.read);
        covers(&entry.pattern, &message.channel) && reads(record, message, connection.life).any(in_time)
    })
}

/// The messages that the broker has read in one of its lives, each once.
fn read(record: &Record, life: u32) -> impl Iterator<Item = (u64, &Message)> {
    let sources = record.accepted.iter().filter(move |entry| entry.life == life);
    let ids: BTreeSet<u64> = sources.flat_map(|entry| &entry.read).copied().collect();
    ids.into_iter().map(|id| (id, &record.messages[&id]))
}

/// When a message was read in one of the broker's lives.
fn reads<'a>(record: &'a Record, message: &'a Message, life: u32) -> impl Iterator<Item = &'a Read> {
    message.reads.iter().filter(move |read| record.accepted[read.connection].life == life)
}

/// How often a message was given up in one of the broker's lives before it was read again: as often it may have been
/// delivered once more.
fn given_up(record: &Record, message: &Message, life: u32) -> u64 {
    let mut reads = reads(record, message, life).collect::<Vec<_>>();
    reads.pop();
    reads.iter().filter(|read| read.given_up).count() as u64
}

/// The messages of this life that were certainly routed: acted on, and not refused.
fn routed(record: &Record) -> impl Iterator<Item = (u64, &Message)> {
    read(record, record.life).filter(|(_, message)| {
        let session = &record.sessions[message.session];
        let acted = reads(record, message, record.life).any(|read| read.acted.is_some());
        acted && !(session.extended && refused(record, &session.ident, &message.channel))
    })
}

/// How many messages of this life were acted on that nobody can have been meant to get.
fn unwanted(record: &Record) -> u64 {
    let nobody = |message| !all(record).any(|connection| is_wanted(record, connection, message));
    routed(record).filter(|(_, message)| nobody(message)).count() as u64
}

/// How many messages of this life somebody was certainly to get.
fn certain(record: &Record) -> u64 {
    let somebody = |message| all(record).any(|connection| is_due(record, connection, message));
    routed(record).filter(|(_, message)| somebody(message)).count() as u64
}

/// The connections of this life.
fn all(record: &Record) -> impl Iterator<Item = &Accepted> {
    record.accepted.iter().filter(|entry| entry.life == record.life)
}

/// How many messages a connection may have been meant to get: those that were read while it was there, on what it has ever
/// subscribed to.
fn wanted(record: &Record, connection: &Accepted) -> u64 {
    let wanted = read(record, connection.life).filter(|(_, message)| is_wanted(record, connection, message));
    wanted.map(|(_, message)| 1 + given_up(record, message, connection.life)).sum()
}

/// Events that the sessions of clients got.
pub(crate) fn sessions(record: &mut Record) {
    let mut faults = Vec::new();
    let mut written: BTreeMap<_, &[_]> = BTreeMap::new();
    for connection in &record.accepted {
        written.insert(connection.addr, &connection.written);
    }
    for session in &record.sessions {
        let name = &session.name;
        let ids = session.ids.iter().map(|id| &record.messages[id]);
        if !session.confirms && ids.clone().any(|message| message.sent > 1) {
            faults.push(format!("{name} has sent a message twice"));
        }
        if ids.clone().any(|message| !message.reads.is_empty() && message.sent == 0) {
            faults.push(format!("{name} has sent a message that was not written whole"));
        }
        if let Some(closed) = &session.closed {
            // Channels that the broker refuses are told by name.
            let told = ids.filter(|message| message.taken && !refused(record, &session.ident, &message.channel));
            let (mut unsent, mut lost) = (0, 0);
            for message in told {
                match message {
                    Message { sent: 0, .. } => unsent += 1,
                    message if !message.is_acted() => lost += 1,
                    _ => {}
                }
            }
            let taken = session.ids.iter().filter(|id| record.messages[*id].taken).count() as u64;
            let sent = session.ids.iter().filter(|id| record.messages[*id].sent > 0).count() as u64;
            if closed.unsent + sent > taken || closed.unconfirmed > sent {
                faults.push(format!("{name}: of {taken} messages {sent} were sent, and close said {closed:?}"));
            }
            if unsent > closed.unsent {
                faults.push(format!("{name}: {unsent} messages were left behind, and close said {closed:?}"));
            }
            if closed.unsent == 0 && lost > closed.unconfirmed {
                faults.push(format!("{name}: the broker has not acted on {lost} messages, and close said {closed:?}"));
            }
        }
        // Of each connection it gets the messages from the first to some other, without a gap.
        // Where a message was published again, it may be of either: these are all the places to which it can have come.
        let mut places = BTreeSet::from([0]);
        for addr in &session.addrs {
            let sent = written.get(addr).copied().unwrap_or_default();
            for place in places.clone() {
                let same = session.received[place..].iter().zip(sent).take_while(|(got, (id, ..))| *got == id);
                places.extend(place..=place + same.count());
            }
        }
        let place = places.last().copied().unwrap_or_default();
        if let Some(id) = session.received.get(place) {
            faults.push(format!("{name} has got message {id:x} out of its place"));
        }
    }
    for fault in faults {
        record.fault(&fault);
    }
}

/// Whether the broker may have refused a message: the key was there, but did not allow the channel.
fn refused(record: &Record, ident: &str, channel: &str) -> bool {
    let history = record.rights.get(ident).map(Vec::as_slice).unwrap_or_default();
    channel == FORBIDDEN
        || history.iter().any(|(_, rights)| !rights.is_empty() && !rights.iter().any(|right| covers(right, channel)))
}
