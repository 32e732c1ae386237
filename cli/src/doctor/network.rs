//! The checks of the way to the broker: its addresses by DNS, and a TCP connection to each of them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use futures::future::join_all;
use hpfeeds::BrokerAddr;
use serde_json::{Value, json};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::report::Check;
use crate::words::{command, shown, time, word};

/// The addresses of a host that are tried at most.
const MAX_ADDRESSES: usize = 16;

/// The time after which a session tries the next address of a host as well.
const NEXT_ADDRESS: Duration = Duration::from_secs(1);

/// Looks the host up. No address at all is a problem.
pub(super) async fn resolve(addr: &BrokerAddr, wait: Duration) -> (Check, Vec<SocketAddr>) {
    const DNS: &str = "DNS";
    let host = shown(addr.host().as_bytes());
    if let Ok(ip) = addr.host().parse::<IpAddr>() {
        return (Check::passed(DNS, "not needed: an address is given"), vec![SocketAddr::new(ip, addr.port())]);
    }
    let started = Instant::now();
    let found = timeout(wait, lookup_host((addr.host(), addr.port()))).await;
    let elapsed = started.elapsed();
    let check = match found {
        Err(_elapsed) => Check::problem(
            DNS,
            format!("no answer about {host} in {}", time(wait)),
            "the name server does not answer: see /etc/resolv.conf, or give the address with --host",
        ),
        Ok(Err(cause)) if is_temporary(&cause) => Check::problem(
            DNS,
            format!("cannot look up {host} now: the name server failed"),
            "see /etc/resolv.conf and the network, or give the address with --host",
        )
        .with("cause", cause.to_string()),
        Ok(Err(cause)) => unknown(&host).with("cause", cause.to_string()),
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.collect();
            let of = |v4: bool| {
                let ips = addresses.iter().filter(|address| address.is_ipv4() == v4);
                ips.map(|address| address.ip().to_string()).collect::<Vec<_>>()
            };
            let (v4, v6) = (of(true), of(false));
            if addresses.is_empty() {
                return (unknown(&host).took(elapsed), addresses);
            }
            let listed = |kind: &str, ips: &[String]| match ips {
                [] => format!("no {kind}"),
                _ => format!("{kind} {}", some(ips)),
            };
            let summary = format!("{} · {} in {}", listed("A", &v4), listed("AAAA", &v6), time(elapsed));
            return (Check::passed(DNS, summary).with("a", v4).with("aaaa", v6).took(elapsed), addresses);
        }
    };
    (check.took(elapsed), Vec::new())
}

fn unknown(host: &str) -> Check {
    Check::problem(
        "DNS",
        format!("there is no address for {host}"),
        "check --host (or HPFEEDS_HOST) for a typing error",
    )
    .and(format!("ask yourself: {}", command(&["getent", "ahosts", &word(host)])))
}

/// The first of a list, and how many more there are.
fn some(all: &[String]) -> String {
    const SHOWN: usize = 4;
    match all.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{} and {more} more", all[..SHOWN].join(", ")),
        _ => all.join(", "),
    }
}

/// Whether a name server failed, and did not say that the name is unknown. The standard library
/// keeps only the words (`EAI_AGAIN`, `EAI_FAIL`).
fn is_temporary(cause: &io::Error) -> bool {
    let text = cause.to_string().to_lowercase();
    text.contains("temporary failure") || text.contains("non-recoverable failure") || text.contains("try again")
}

/// The outcome of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Yes(Duration),
    Refused,
    TimedOut,
    Unreachable,
    /// Anything else, by the kind of the system's error.
    Failed(io::ErrorKind),
}

impl Reached {
    fn of(cause: &io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable => {
                Self::Unreachable
            }
            kind => Self::Failed(kind),
        }
    }

    fn words(self, wait: Duration) -> String {
        match self {
            Self::Yes(elapsed) => time(elapsed),
            Self::Refused => "refused".to_owned(),
            Self::TimedOut => format!("no answer in {}", time(wait)),
            Self::Unreachable => "unreachable".to_owned(),
            Self::Failed(kind) => kind.to_string(),
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Yes(_) => "connected",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::Unreachable => "unreachable",
            Self::Failed(_) => "failed",
        }
    }
}

/// A connection over TCP: where to, and how long it took.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) address: SocketAddr,
    pub(super) stream: TcpStream,
    pub(super) elapsed: Duration,
}

/// Connects to all addresses at once. The connection to the first of them that answers is kept, as
/// a session would use it.
pub(super) async fn connect(addresses: &[SocketAddr], wait: Duration) -> (Vec<Check>, Option<Connected>) {
    let started = Instant::now();
    let left_out = addresses.len().saturating_sub(MAX_ADDRESSES);
    let tried = addresses.iter().take(MAX_ADDRESSES).map(|address| async move {
        let started = Instant::now();
        match timeout(wait, TcpStream::connect(address)).await {
            Err(_elapsed) => (*address, Reached::TimedOut, None),
            Ok(Err(cause)) => (*address, Reached::of(&cause), None),
            Ok(Ok(stream)) => (*address, Reached::Yes(started.elapsed()), Some(stream)),
        }
    });
    let mut results = join_all(tried).await;
    let kept = results.iter_mut().find_map(|(address, reached, stream)| match reached {
        Reached::Yes(elapsed) => stream.take().map(|stream| Connected { address: *address, stream, elapsed: *elapsed }),
        _ => None,
    });
    if let Some(kept) = &kept {
        // The next checks measure what the broker does, not what this system gathers.
        drop(kept.stream.set_nodelay(true));
    }
    let reached: Vec<_> = results.iter().map(|(address, reached, _)| (*address, *reached)).collect();
    let mut checks = judge(&reached, wait);
    if left_out > 0
        && let Some(check) = checks.first_mut()
    {
        check.summary.extend([" · ", &left_out.to_string(), " more not tried"]);
    }
    let elapsed = started.elapsed();
    (checks.into_iter().map(|check| check.took(elapsed)).collect(), kept)
}

/// The checks for what was reached.
fn judge(results: &[(SocketAddr, Reached)], wait: Duration) -> Vec<Check> {
    const TCP: &str = "TCP";
    let first = results.iter().position(|(_, reached)| matches!(reached, Reached::Yes(_)));
    // A session goes on to the next address at once when one refuses or is unreachable.
    let words: Vec<_> = results
        .iter()
        .map(|(address, reached)| {
            let harmless = first.is_some() && !matches!(reached, Reached::Yes(_) | Reached::TimedOut);
            format!("{} {}{}", address.ip(), reached.words(wait), if harmless { " (harmless)" } else { "" })
        })
        .collect();
    let summary = words.join(" · ");
    let details: Vec<Value> = results
        .iter()
        .map(|(address, reached)| {
            let seconds = if let Reached::Yes(elapsed) = reached { Some(elapsed.as_secs_f64()) } else { None };
            json!({"address": address.ip().to_string(), "result": reached.key(), "seconds": seconds})
        })
        .collect();
    let port = results.first().map_or(0, |(address, _)| address.port());
    let Some(first) = first else {
        let mut check = Check::problem(TCP, summary, advice(results, port));
        if results.iter().any(|(_, reached)| *reached == Reached::Refused) {
            check = check.and(format!("on the broker: {}", command(&["ss", "-ltn", &format!("'sport = :{port}'")])));
        }
        return vec![check.with("port", port).with("addresses", details)];
    };
    let slow: Vec<_> = results[..first].iter().filter(|(_, reached)| *reached == Reached::TimedOut).collect();
    let mut checks = Vec::new();
    if let Some((address, _)) = slow.first() {
        let cost = time(NEXT_ADDRESS * u32::try_from(slow.len()).unwrap_or(u32::MAX));
        checks.push(Check::warning(
            TCP,
            summary,
            format!(
                "each connection waits up to {cost} for {}, and clients in Python for minutes: take it out of DNS, or \
                 let packets through to it",
                address.ip()
            ),
        ));
    } else {
        checks.push(Check::passed(TCP, summary));
    }
    checks.into_iter().map(|check| check.with("port", port).with("addresses", details.clone())).collect()
}

/// The advice when no address can be reached.
fn advice(results: &[(SocketAddr, Reached)], port: u16) -> String {
    let any = |wanted| results.iter().any(|(_, reached)| *reached == wanted);
    if any(Reached::Refused) {
        format!("the host answers, and nothing listens on port {port}: is it the right one, and does the broker run?")
    } else if any(Reached::TimedOut) {
        format!("packets get lost: is the host up, and does each firewall on the way let TCP port {port} through?")
    } else if any(Reached::Unreachable) {
        "there is no route to it: see the network of this machine (ip route), and the address".to_owned()
    } else {
        "see the network of this machine".to_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::doctor::report::Status;

    const WAIT: Duration = Duration::from_secs(3);
    const YES: Reached = Reached::Yes(Duration::from_millis(21));

    fn judged(results: &[(&str, Reached)]) -> Check {
        let results: Vec<_> =
            results.iter().map(|(ip, reached)| (SocketAddr::new(ip.parse().unwrap(), 20_001), *reached)).collect();
        let mut checks = judge(&results, WAIT);
        assert_eq!(checks.len(), 1);
        checks.remove(0)
    }

    #[test]
    fn one_address_that_works_makes_failures_of_others_harmless() {
        let check = judged(&[("192.0.2.10", YES), ("2001:db8::10", Reached::Unreachable)]);
        assert_eq!(check.status, Status::Passed);
        assert_eq!(check.summary, "192.0.2.10 21 ms · 2001:db8::10 unreachable (harmless)");
        // One that is never waited for.
        let check = judged(&[("192.0.2.10", YES), ("2001:db8::10", Reached::TimedOut)]);
        assert_eq!(
            (check.status, &*check.summary),
            (Status::Passed, "192.0.2.10 21 ms · 2001:db8::10 no answer in 3 s")
        );
    }

    #[test]
    fn an_address_that_each_connection_waits_for_is_a_warning() {
        let check = judged(&[("2001:db8::10", Reached::TimedOut), ("192.0.2.10", YES)]);
        assert_eq!(check.status, Status::Warning);
        assert!(check.advice[0].contains("up to 1 s for 2001:db8::10"), "{check:?}");
    }

    #[test]
    fn refusal_silence_and_no_route_are_told_apart() {
        for (reached, summary, advice) in [
            (Reached::Refused, "192.0.2.10 refused", "nothing listens on port 20001"),
            (Reached::TimedOut, "192.0.2.10 no answer in 3 s", "packets get lost"),
            (Reached::Unreachable, "192.0.2.10 unreachable", "no route"),
            (Reached::Failed(io::ErrorKind::PermissionDenied), "192.0.2.10 permission denied", "see the network"),
        ] {
            let check = judged(&[("192.0.2.10", reached)]);
            assert_eq!((check.status, &*check.summary), (Status::Problem, summary));
            assert!(check.advice[0].contains(advice), "{check:?}");
        }
        let check = judged(&[("192.0.2.10", Reached::TimedOut), ("192.0.2.11", Reached::Refused)]);
        assert!(check.advice[0].contains("nothing listens"), "{check:?}");
    }

    #[test]
    fn errors_of_the_system_have_a_kind() {
        for (kind, expected) in [
            (io::ErrorKind::ConnectionRefused, Reached::Refused),
            (io::ErrorKind::TimedOut, Reached::TimedOut),
            (io::ErrorKind::HostUnreachable, Reached::Unreachable),
            (io::ErrorKind::NetworkUnreachable, Reached::Unreachable),
            (io::ErrorKind::PermissionDenied, Reached::Failed(io::ErrorKind::PermissionDenied)),
        ] {
            assert_eq!(Reached::of(&kind.into()), expected);
        }
        assert!(is_temporary(&io::Error::other(
            "failed to lookup address information: Temporary failure in name resolution"
        )));
        assert!(!is_temporary(&io::Error::other("failed to lookup address information: Name or service not known")));
    }
}
