//! The checks with messages: an echo through the broker in three sizes, and listening.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hpfeeds::{
    Channel,
    error_text::DenialKind,
    wire::publish_len,
    wire::{
        Frame, Opcode,
        extension::{Flags, StreamNumbering},
    },
};
use serde_json::{Value, json};
use tokio::time::Instant as Deadline;

use super::{
    auth::Session,
    channels::{self, Outcome},
    conversation::{Fault, Heard},
    report::Check,
    route::{Key, Route},
};
use crate::{
    exit::DENIED,
    words::{command, keys, shown, size, time, word},
};

const ECHO: &str = "echo";
const LISTEN: &str = "listen";

/// The payloads of the echo, in bytes; the largest message comes after them.
const SIZES: [usize; 2] = [1024, 64 * 1024];

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// The longest time of one message that makes progress: 1 MiB at 140 kbit/s.
const LONGEST: Duration = Duration::from_secs(60);

/// Publishers that are counted for themselves; a broker can make up any number of them.
const MAX_PUBLISHERS: usize = 1000;

/// Publishers that are shown.
const SHOWN: usize = 5;

/// The end of a message that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// It comes back.
    Return,
    /// The broker confirms it under this number.
    Number(u64),
}

/// How an echo ended that did not come.
enum Lost {
    /// Nothing moved for a while: where it is stuck.
    Stalled(Stall),
    /// It went on for too long.
    Slow,
    Denied(String),
    Said(String),
    Fault(Fault),
}

/// The place where a message is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stall {
    /// The peer's system acknowledges nothing: packets are lost.
    Path,
    /// The peer's system holds all that it takes, and the broker reads no more.
    Reader,
    /// The broker has all of it.
    Broker,
}

/// Publishes to a channel and waits for what comes back.
pub(super) async fn echo(route: &Route, key: &Key, session: Session, channel: &Channel) -> Vec<Check> {
    let name = shown(channel.as_bytes());
    let (outcomes, session) = channels::subscribe(route, key, session, std::slice::from_ref(channel)).await;
    let outcome = outcomes.into_iter().next().unwrap_or(Outcome::Granted);
    let (mut session, returns) = match (outcome, session) {
        (Outcome::Granted, Some(session)) => (session, true),
        // A sensor's key may often publish alone: the broker says that it has had the message.
        (Outcome::Denied(_), Some(session)) if session.has(Flags::CONFIRM) => (session, false),
        (outcome, _) => return vec![Check { name: ECHO, ..channels::refused(key, channel, &outcome) }],
    };
    let frame_limit = route.limits.of(Opcode::Publish);
    let limit =
        session.hello.as_ref().and_then(|hello| hello.largest).map_or(frame_limit, |theirs| theirs.min(frame_limit));
    let room = (limit as usize).saturating_sub(publish_len(&key.ident, channel, 0));
    let sizes = SIZES.into_iter().filter(|size| *size < room).chain([room]);
    let decided = session.hello.as_ref().map_or(0, |hello| hello.decided);
    let Some(mut numbering) = StreamNumbering::new(1, decided) else {
        return vec![Check::problem(ECHO, "the broker counts a stream that is new as ended", "update the broker")];
    };
    let (mut done, mut details) = (Vec::new(), Vec::<Value>::new());
    let (started, mut first) = (Instant::now(), None);
    let mut lost = None;
    for payload_len in sizes {
        let begun = Instant::now();
        let number = numbering.count(1).unwrap_or(u64::MAX);
        let proof = if returns { Proof::Return } else { Proof::Number(number) };
        match message(route, key, &mut session, channel, payload_len, proof).await {
            Ok(()) => {
                let elapsed = begun.elapsed();
                first.get_or_insert(elapsed);
                done.push(format!("{} {}", label(payload_len, room), time(elapsed)).replace(' ', "\u{a0}"));
                details.push(json!({"bytes": payload_len, "seconds": elapsed.as_secs_f64()}));
            }
            Err(why) => {
                lost = Some((payload_len, why));
                break;
            }
        }
    }
    let elapsed = started.elapsed();
    let mut checks = Vec::new();
    if !done.is_empty() {
        let how = if returns { "" } else { "confirmed, as this key may not subscribe there: " };
        let check = Check::passed(ECHO, format!("{name} · {how}{}", done.join(" · ")));
        let round_trip = first.map(|first| first.as_secs_f64());
        checks
            .push(check.with("channel", name.clone()).with("messages", details).with("round_trip_seconds", round_trip));
    }
    if let Some((bytes, why)) = lost {
        let check = failed(route, key, channel, &label(bytes, room), !done.is_empty(), &why);
        checks.push(check.with("channel", name).with("bytes", bytes));
    }
    checks.into_iter().map(|check| check.took(elapsed)).collect()
}

fn label(bytes: usize, room: usize) -> String {
    if bytes == room { format!("largest ({})", size(bytes)) } else { size(bytes) }
}

/// A payload that no other is like, in text, so that a program that reads the channel can show it.
fn payload(len: usize) -> Bytes {
    let mut text = format!("hpfeeds doctor, a test that can be ignored: {:032x} ", fastrand::u128(..)).into_bytes();
    let pattern = (0_u32..).map(|at| b'a' + u8::try_from(at % 23).unwrap_or_default());
    text.extend(pattern.take(len.saturating_sub(text.len())));
    text.truncate(len);
    text.into()
}

/// Publishes one message, and waits for the proof that the broker has dealt with it.
async fn message(
    route: &Route,
    key: &Key,
    session: &mut Session,
    channel: &Channel,
    len: usize,
    proof: Proof,
) -> Result<(), Lost> {
    let sent = payload(len);
    let frame = Frame::Publish { ident: key.ident.clone(), channel: channel.clone(), payload: sent.clone() };
    let conversation = &mut session.conversation;
    if !conversation.say(&frame) {
        return Err(Lost::Fault(Fault::Malformed("the message is above the limit".to_owned())));
    }
    let longest = Deadline::now() + LONGEST;
    let (mut progress, mut since, mut look) = (None, Deadline::now(), Deadline::now());
    loop {
        let now = Deadline::now();
        if now >= longest {
            return Err(Lost::Slow);
        }
        // Not for each frame: others may publish to the channel, as fast as they like.
        if now >= look {
            look = now + TICK;
            let status = conversation.status();
            let unacknowledged = status.map(|status| status.unacknowledged);
            let current = (conversation.unwritten(), conversation.received(), unacknowledged);
            if progress != Some(current) {
                (progress, since) = (Some(current), now);
            }
            if now.duration_since(since) >= route.times.echo {
                let unanswered = status.is_some_and(|status| !status.unanswered.is_zero());
                let waits = conversation.unwritten() > 0 || unacknowledged.is_some_and(|bytes| bytes > 0);
                return Err(Lost::Stalled(match (unanswered, waits) {
                    (true, _) => Stall::Path,
                    (false, true) => Stall::Reader,
                    (false, false) => Stall::Broker,
                }));
            }
        }
        match conversation.next(look).await {
            Ok(Heard::Frame(Frame::Publish { channel: of, payload, .. }))
                if proof == Proof::Return && of == *channel && payload == sent =>
            {
                return Ok(());
            }
            Ok(Heard::Ack(number)) if matches!(proof, Proof::Number(wanted) if number >= wanted) => return Ok(()),
            Ok(Heard::Refused { code, text }) => {
                return Err(Lost::Denied(if text.is_empty() { code.to_string() } else { shown(text.as_bytes()) }));
            }
            Ok(Heard::Frame(Frame::Error { message })) => {
                let text = String::from_utf8_lossy(&message);
                return Err(match DenialKind::classify(&text, key.ident.as_str()) {
                    DenialKind::Publish(_) | DenialKind::Access => Lost::Denied(shown(&message)),
                    _ => Lost::Said(shown(&message)),
                });
            }
            Ok(_) | Err(Fault::TimedOut) => {}
            Err(fault) => return Err(Lost::Fault(fault)),
        }
    }
}

/// The check of a message that did not come back. `smaller`: one before it did.
fn failed(route: &Route, key: &Key, channel: &Channel, label: &str, smaller: bool, why: &Lost) -> Check {
    let wait = time(route.times.echo);
    match why {
        Lost::Stalled(Stall::Path) => {
            let ping = command(&["ping", "-M", "do", "-s", "1472", &route.address.ip().to_string()]);
            let summary = format!("{label} is lost on the way: no packet was acknowledged for {wait}");
            if smaller {
                Check::problem(ECHO, summary, "large packets get lost (MTU): lower the MTU of this interface or tunnel")
                    .and(format!("to see it: {ping}"))
            } else {
                Check::problem(ECHO, summary, "the network lets no packet through any more: see firewalls and links")
            }
        }
        Lost::Stalled(Stall::Reader) => Check::problem(
            ECHO,
            format!("{label} is stuck: the broker reads no more of it for {wait}"),
            "a slow subscriber holds publishers up, or the broker is stuck",
        )
        .and("on the broker: hpfeeds_broker_stalled_publishers, and its log for \"slow subscriber\""),
        Lost::Stalled(Stall::Broker) => Check::problem(
            ECHO,
            format!("{label} was sent, and did not come back in {wait}"),
            "the broker has it: see its log for this ident, and for messages that were dropped",
        ),
        Lost::Slow => Check::problem(
            ECHO,
            format!("{label} took longer than {}", time(LONGEST)),
            "the line is too slow for messages of this size",
        ),
        Lost::Denied(words) => {
            let set = keys("set", key.ident.as_str(), &["--add-publish", &word(channel.as_str())]);
            let summary = format!("publishing to {} denied: \"{words}\"", shown(channel.as_bytes()));
            Check::problem(ECHO, summary, format!("on the broker: {set}")).code(DENIED)
        }
        Lost::Said(words) => {
            Check::problem(ECHO, format!("{label}: the broker says \"{words}\""), "see the broker's log for this ident")
        }
        Lost::Fault(fault @ Fault::Closed) if smaller => Check::problem(
            ECHO,
            format!("{label}: {}", fault.words(route.times.echo)),
            "it may take shorter messages only: give its own limit with --max-message",
        ),
        Lost::Fault(fault) => Check::problem(
            ECHO,
            format!("{label}: {}", fault.words(route.times.echo)),
            "see the broker's log for this ident",
        ),
    }
}

/// Counts the messages of the channels that are subscribed to.
pub(super) async fn listen(session: &mut Session, long: Duration) -> Check {
    let started = Instant::now();
    let deadline = Deadline::now() + long;
    let mut publishers = HashMap::<(String, String), u64>::new();
    let (mut messages, mut others) = (0_u64, 0_u64);
    let ended = loop {
        match session.conversation.next(deadline).await {
            Ok(Heard::Frame(Frame::Publish { ident, channel, .. })) => {
                messages += 1;
                let of = (channel.as_str().to_owned(), ident.as_str().to_owned());
                if publishers.len() < MAX_PUBLISHERS || publishers.contains_key(&of) {
                    *publishers.entry(of).or_default() += 1;
                } else {
                    others += 1;
                }
            }
            Ok(Heard::Frame(Frame::Error { message })) => {
                break Some(format!("the broker says \"{}\"", shown(&message)));
            }
            Ok(_) => {}
            Err(Fault::TimedOut) => break None,
            Err(fault) => break Some(fault.words(long)),
        }
    };
    let elapsed = started.elapsed();
    let mut listed: Vec<_> = publishers.into_iter().collect();
    listed.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let count = crate::exit::messages(messages);
    let check = if let Some(why) = ended {
        let summary = format!("after {}, with {count}: {why}", time(elapsed));
        Check::problem(LISTEN, summary, "see the broker's log for this ident")
    } else if messages == 0 {
        Check::warning(
            LISTEN,
            format!("nothing arrived in {}", time(long)),
            "see whether sensors publish, and to this channel: run this as a sensor, on its machine",
        )
    } else {
        let mut parts: Vec<_> = listed
            .iter()
            .take(SHOWN)
            .map(|((channel, ident), count)| {
                format!("{} on {} {count}", shown(ident.as_bytes()), shown(channel.as_bytes()))
            })
            .collect();
        match listed.len().saturating_sub(SHOWN) {
            0 => {}
            more => parts.push(format!("{more} more")),
        }
        Check::passed(LISTEN, format!("{count} in {} · {}", time(long), parts.join(" · ")))
    };
    let publishers: Vec<Value> = listed
        .iter()
        .map(|((channel, ident), count)| {
            json!({"channel": shown(channel.as_bytes()), "ident": shown(ident.as_bytes()), "messages": count})
        })
        .collect();
    check.with("messages", messages).with("publishers", publishers).with("not_counted", others).took(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_text_of_the_wanted_length_and_differ() {
        for len in [0, 1, 50, 1024, 65_536] {
            let payload = payload(len);
            assert_eq!(payload.len(), len);
            assert!(payload.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' '));
        }
        assert_ne!(payload(1024), payload(1024));
    }
}
