//! The checks of the key: AUTH, by the broker's HELLO or by its silence, and the broker's version.

use std::time::{Duration, Instant};

use hpfeeds::{
    error_text::DenialKind,
    wire::{
        Frame,
        extension::{ClientFrame, ClientHello, Flags, Level, StreamId, VERSION},
    },
};
use tokio::time::Instant as Deadline;

use super::{
    conversation::{Conversation, Fault, Heard, Hello},
    opening::{self, Greeted},
    report::Check,
    route::{Key, Route},
};
use crate::{
    exit::REJECTED,
    words::{keys, shown, size, time},
};

const AUTH: &str = "AUTH";

/// How the tool names itself to a broker.
const SOFTWARE: &str = concat!("hpfeeds-doctor/", env!("CARGO_PKG_VERSION"));

/// The name of this project's broker before its version.
const BROKER: &str = "hpfeeds-broker/";

/// A connection whose key is accepted.
pub(super) struct Session {
    pub(super) conversation: Conversation,
    /// The broker's answer, where it offers the extension.
    pub(super) hello: Option<Hello>,
}

impl Session {
    /// Whether the broker has granted a flag of the extension.
    pub(super) fn has(&self, flag: Flags) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.flags.contains(flag))
    }
}

/// Why the key is not accepted.
pub(super) enum Rejection {
    /// ERROR: its text.
    Said(String),
    Fault(Fault),
}

/// Sends AUTH, and waits for the broker's answer or, where there is none, for silence.
pub(super) async fn authenticate(route: &Route, key: &Key, greeted: Greeted) -> Result<Session, Rejection> {
    let Greeted { mut conversation, nonce, extended } = greeted;
    conversation.extended = extended;
    conversation.say(&Frame::Auth { ident: key.ident.clone(), digest: key.secret.sign(&nonce) });
    if extended {
        let hello = ClientHello {
            version: VERSION,
            flags: Flags::CONFIRM | Flags::REPLIES,
            stream: StreamId::new(fastrand::u128(..).to_be_bytes()),
            next: 1,
            software: SOFTWARE,
            ..ClientHello::default()
        };
        conversation.say_extended(ClientFrame::Hello(hello));
    }
    let wait = if extended { route.times.auth } else { route.times.grace };
    let (deadline, longest) = (Deadline::now() + wait, Deadline::now() + route.times.auth);
    loop {
        match conversation.next_before_consent(deadline, longest).await {
            Ok(Heard::Hello(hello)) => return Ok(Session { conversation, hello: Some(hello) }),
            Ok(Heard::Frame(Frame::Error { message })) => {
                return Err(Rejection::Said(String::from_utf8_lossy(&message).into_owned()));
            }
            // Other frames are of no meaning here.
            Ok(_) => {}
            Err(Fault::TimedOut) if !extended => return Ok(Session { conversation, hello: None }),
            Err(fault) => return Err(Rejection::Fault(fault)),
        }
    }
}

/// The check of a key.
pub(super) async fn check(route: &Route, key: &Key, greeted: Greeted) -> (Vec<Check>, Option<Session>) {
    let (started, extended) = (Instant::now(), greeted.extended);
    let outcome = authenticate(route, key, greeted).await;
    let elapsed = started.elapsed();
    match outcome {
        Ok(session) => {
            let mut checks = vec![accepted(session.hello.as_ref(), route, elapsed).took(elapsed)];
            checks.extend(session.hello.as_ref().and_then(|hello| largest(hello, route)));
            checks.extend(session.hello.as_ref().and_then(version));
            (checks, Some(session))
        }
        Err(why) => (vec![rejected(route, key, &why, extended).took(elapsed)], None),
    }
}

fn accepted(hello: Option<&Hello>, route: &Route, elapsed: Duration) -> Check {
    let check = match hello {
        None => {
            let grace = time(route.times.grace);
            Check::passed(AUTH, format!("no refusal in {grace}: brokers without the extension say no more"))
        }
        Some(hello) => {
            let level = match hello.level {
                _ if !hello.flags.contains(Flags::CONFIRM) => "confirms nothing",
                Level::ROUTED => "confirms as routed",
                Level::STORED => "confirms as stored",
                _ => "confirms as replicated",
            };
            let largest = hello.largest.map_or_else(String::new, |largest| {
                // Without the header: as --max-message counts.
                format!(" · at most {} each", size(largest.saturating_sub(5) as usize))
            });
            Check::passed(AUTH, format!("accepted in {} · {level}{largest}", time(elapsed)))
        }
    };
    check.with("confirmed", hello.is_some())
}

/// A warning when the broker takes less than what this side may send.
fn largest(hello: &Hello, route: &Route) -> Option<Check> {
    let (broker, own) = (hello.largest?.saturating_sub(5), route.limits.max_message());
    (broker < own).then(|| {
        Check::warning(
            "settings",
            format!("--max-message is {}, and the broker takes {}", size(own as usize), size(broker as usize)),
            format!("give --max-message {broker} here, or raise it at the broker"),
        )
    })
}

fn rejected(route: &Route, key: &Key, why: &Rejection, extended: bool) -> Check {
    let ident = key.ident.as_str();
    let show = format!("on the broker: {}", keys("show", ident, &[]));
    let wrong = |summary: String| {
        let check = Check::problem(AUTH, summary, show.clone()).code(REJECTED);
        match key.oddity {
            Some(oddity) => check.first(format!("the secret {oddity}: is that meant?")),
            None => check.and("its log says why, behind \"authentication failed\""),
        }
    };
    match why {
        Rejection::Said(text) => {
            let said = shown(text.as_bytes());
            match DenialKind::classify(text, ident) {
                DenialKind::Auth => wrong(format!("rejected: \"{said}\"")).with("text", said),
                DenialKind::Shutdown => {
                    Check::problem(AUTH, "the broker is shutting down", "try again when it has started")
                }
                _ => Check::problem(
                    AUTH,
                    format!("the broker says \"{said}\""),
                    "see the broker's log, and its limits of connections of one ident",
                )
                .with("text", said),
            }
        }
        // Some brokers refuse a key without a word.
        Rejection::Fault(Fault::Closed) => {
            wrong("closed without a word: most likely the ident or the secret".to_owned())
        }
        Rejection::Fault(fault) => {
            let wait = if extended { route.times.auth } else { route.times.grace };
            let advice = match fault {
                Fault::TimedOut => {
                    "the broker is stuck, or its key store is: see its log for \"cannot look up the key\""
                }
                _ => "see the broker's log",
            };
            Check::problem(AUTH, fault.words(wait), advice)
        }
    }
}

/// The check of the broker's version, which is never a problem.
fn version(hello: &Hello) -> Option<Check> {
    const NAME: &str = "version";
    let software = shown(hello.software.as_bytes());
    if software.is_empty() {
        return None;
    }
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = hello.software.strip_prefix(BROKER).and_then(numbers);
    let check = match (theirs, numbers(ours)) {
        (Some(theirs), Some(own)) if theirs < own => Check::warning(
            NAME,
            format!("{software} is older than this tool ({ours})"),
            "update the broker: the changelog says what it lacks",
        ),
        (Some(theirs), Some(own)) if theirs > own => Check::warning(
            NAME,
            format!("{software} is newer than this tool ({ours})"),
            "update this tool, which may not know all that the broker does",
        ),
        _ => Check::passed(NAME, software.clone()),
    };
    Some(check.with("software", software).with("tool", ours))
}

/// The three numbers of a version; what follows them is ignored.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let mut parts = version.split('.');
    let mut next = || {
        let part = parts.next()?;
        let end = part.find(|char: char| !char.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().ok()
    };
    Some([next()?, next()?, next()?])
}

/// One more connection with the key; or why there is none.
pub(super) async fn again(route: &Route, key: &Key) -> Result<Session, String> {
    let greeted = opening::again(route).await?;
    authenticate(route, key, greeted).await.map_err(|why| match why {
        Rejection::Said(text) => format!("\"{}\"", shown(text.as_bytes())),
        Rejection::Fault(fault) => fault.words(route.times.auth),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    fn hello(software: &str) -> Hello {
        Hello { flags: Flags::CONFIRM, level: Level::ROUTED, software: software.to_owned(), largest: None, decided: 0 }
    }

    #[test]
    fn versions_that_differ_are_warnings() {
        let ours = env!("CARGO_PKG_VERSION");
        for (software, expected) in [
            (format!("hpfeeds-broker/{ours}"), Some(Status::Passed)),
            (format!("hpfeeds-broker/{ours}-rc.1"), Some(Status::Passed)),
            ("hpfeeds-broker/0.0.9".to_owned(), Some(Status::Warning)),
            ("hpfeeds-broker/999.0.0".to_owned(), Some(Status::Warning)),
            ("hpfeeds-broker/99999999999999999999.0.0".to_owned(), Some(Status::Passed)),
            ("other/0.0.1".to_owned(), Some(Status::Passed)),
            (String::new(), None),
        ] {
            assert_eq!(version(&hello(&software)).map(|check| check.status), expected, "{software}");
        }
        let check = version(&hello("x\u{1b}[2J\u{202e}")).unwrap();
        assert_eq!(check.summary, r"x\u{1b}[2J\u{202e}");
    }
}
