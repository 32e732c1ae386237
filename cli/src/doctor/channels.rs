//! The checks of channels: each is subscribed to, by SUBACK or by the broker's silence.

use std::time::Instant;

use hpfeeds::{
    Channel,
    error_text::DenialKind,
    wire::{
        Frame,
        extension::{Code, Flags},
    },
};
use tokio::time::Instant as Deadline;

use super::{
    auth::{self, Session},
    conversation::{Fault, Heard},
    report::Check,
    route::{Key, Route},
};
use crate::{
    exit::DENIED,
    words::{keys, shown, time, word},
};

const SUBSCRIBE: &str = "subscribe";

/// The outcome of one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Granted,
    /// The broker's words, or code.
    Denied(String),
    /// Anything else, in words.
    Failed(String),
}

/// Subscribes to channels. The session comes back if it is still good, with those that are granted.
pub(super) async fn subscribe(
    route: &Route,
    key: &Key,
    session: Session,
    channels: &[Channel],
) -> (Vec<Outcome>, Option<Session>) {
    if session.has(Flags::REPLIES) {
        by_reply(route, key, session, channels).await
    } else {
        by_silence(route, key, session, channels).await
    }
}

fn ask(session: &mut Session, key: &Key, channel: &Channel) {
    session.conversation.say(&Frame::Subscribe { ident: key.ident.clone(), channel: channel.clone() });
}

/// Each SUBSCRIBE has an answer, in their order.
async fn by_reply(
    route: &Route,
    key: &Key,
    mut session: Session,
    channels: &[Channel],
) -> (Vec<Outcome>, Option<Session>) {
    let mut outcomes = Vec::with_capacity(channels.len());
    for channel in channels {
        ask(&mut session, key, channel);
    }
    let wait = route.times.subscribe;
    let deadline = Deadline::now() + wait;
    while outcomes.len() < channels.len() {
        let why = match session.conversation.next(deadline).await {
            // They come in the order of the questions.
            Ok(Heard::SubAck { channel, .. }) if channel != channels[outcomes.len()].as_str() => {
                "the broker answers for another channel".to_owned()
            }
            Ok(Heard::SubAck { code: Code::DONE, .. }) => {
                outcomes.push(Outcome::Granted);
                continue;
            }
            Ok(Heard::SubAck { code, text, .. }) => {
                let words = if text.is_empty() { code.to_string() } else { shown(text.as_bytes()) };
                outcomes.push(if code == Code::NOT_ALLOWED { Outcome::Denied(words) } else { Outcome::Failed(words) });
                continue;
            }
            Ok(Heard::Frame(Frame::Error { message })) => format!("the broker says \"{}\"", shown(&message)),
            Ok(_) => continue,
            Err(fault) => fault.words(wait),
        };
        outcomes.resize(channels.len(), Outcome::Failed(why));
        return (outcomes, None);
    }
    (outcomes, Some(session))
}

/// All at once, which a broker that denies none takes in silence; otherwise each for itself, as a
/// denial ends the connection to many.
async fn by_silence(
    route: &Route,
    key: &Key,
    mut session: Session,
    channels: &[Channel],
) -> (Vec<Outcome>, Option<Session>) {
    for channel in channels {
        ask(&mut session, key, channel);
    }
    let first = denied(route, key, &mut session, None).await;
    match (first, channels) {
        (None, _) => return (vec![Outcome::Granted; channels.len()], Some(session)),
        (Some(why), [_]) => return (vec![why], None),
        (Some(_), _) => {}
    }
    let mut outcomes = Vec::with_capacity(channels.len());
    let mut current = None;
    for channel in channels {
        let mut session = match current.take() {
            Some(session) => session,
            None => match auth::again(route, key).await {
                Ok(session) => session,
                Err(why) => {
                    outcomes.push(Outcome::Failed(format!("no further connection: {why}")));
                    continue;
                }
            },
        };
        ask(&mut session, key, channel);
        if let Some(why) = denied(route, key, &mut session, Some(channel)).await {
            outcomes.push(why);
        } else {
            outcomes.push(Outcome::Granted);
            current = Some(session);
        }
    }
    // The connection of the last one that was granted, on which not all are subscribed to.
    (outcomes, None)
}

/// Waits for a denial, for as long as a broker may take that only denies.
async fn denied(route: &Route, key: &Key, session: &mut Session, channel: Option<&Channel>) -> Option<Outcome> {
    let wait = route.times.grace;
    let (deadline, longest) = (Deadline::now() + wait, Deadline::now() + route.times.subscribe);
    loop {
        match session.conversation.next_before_consent(deadline, longest).await {
            Err(Fault::TimedOut) => return None,
            Err(Fault::Closed) => {
                return Some(Outcome::Denied("the broker closed the connection without a word".to_owned()));
            }
            Err(fault) => return Some(Outcome::Failed(fault.words(wait))),
            Ok(Heard::Frame(Frame::Error { message })) => {
                let text = String::from_utf8_lossy(&message);
                let said = shown(&message);
                return Some(match DenialKind::classify(&text, key.ident.as_str()) {
                    DenialKind::Subscribe(_) | DenialKind::Access => Outcome::Denied(said),
                    _ => Outcome::Failed(format!("the broker says \"{said}\"")),
                });
            }
            // It is delivered, so it is granted.
            Ok(Heard::Frame(Frame::Publish { channel: of, .. })) if Some(&of) == channel => return None,
            Ok(_) => {}
        }
    }
}

/// The checks of channels: one for all that are granted, one for each other.
pub(super) async fn check(
    route: &Route,
    key: &Key,
    session: Session,
    channels: &[Channel],
) -> (Vec<Check>, Vec<Channel>, Option<Session>) {
    let started = Instant::now();
    let confirmed = session.has(Flags::REPLIES);
    let (outcomes, session) = subscribe(route, key, session, channels).await;
    let elapsed = started.elapsed();
    let mut granted = Vec::new();
    let mut checks = Vec::new();
    for (channel, outcome) in channels.iter().zip(outcomes) {
        match outcome {
            Outcome::Granted => granted.push(channel.clone()),
            other => checks.push(refused(key, channel, &other).took(elapsed)),
        }
    }
    if !granted.is_empty() {
        let names: Vec<_> = granted.iter().map(|channel| shown(channel.as_bytes())).collect();
        let how = if confirmed {
            format!("confirmed in {}", time(elapsed))
        } else {
            format!("no refusal in {}", time(route.times.grace))
        };
        let check = Check::passed(SUBSCRIBE, format!("{} · {how}", names.join(", ")));
        checks.insert(0, check.with("channels", names).with("confirmed", confirmed).took(elapsed));
    }
    (checks, granted, session)
}

/// The check of a channel that is not granted.
pub(super) fn refused(key: &Key, channel: &Channel, outcome: &Outcome) -> Check {
    let name = shown(channel.as_bytes());
    match outcome {
        Outcome::Granted => Check::passed(SUBSCRIBE, name),
        Outcome::Denied(words) => {
            let set = keys("set", key.ident.as_str(), &["--add-subscribe", &word(channel.as_str())]);
            Check::problem(SUBSCRIBE, format!("{name} denied: \"{words}\""), format!("on the broker: {set}"))
                .code(DENIED)
                .with("channel", name)
                .with("text", words.clone())
        }
        Outcome::Failed(words) => {
            Check::problem(SUBSCRIBE, format!("{name}: {words}"), "search the broker's log for this ident")
                .with("channel", name)
        }
    }
}
