//! The check of the broker's certificate: whom it is trusted by, whom it names, how long it lasts.

use std::time::Duration;

use hpfeeds::{tls_probe::TlsFault, x509::Certificate};
use jiff::Timestamp;

use super::report::Check;
use crate::words::{days, shown};

const NAME: &str = "certificate";

/// How a broker gets another one.
const RENEW: &str = "renew it: the broker reads a new file by itself";

/// The expectations of a certificate: its name, and how long it should last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    /// The name that the certificate must have.
    pub(super) name: &'a str,
    /// Whether a file says whom to trust.
    pub(super) own_trust: bool,
    /// A certificate that expires within so many days is worth a warning.
    pub(super) warn_days: u32,
    /// The time of now.
    pub(super) now: Timestamp,
}

/// Judges the certificates that a broker presented, DER, its own first. `None` when the fault is not
/// about them.
pub(super) fn check(chain: &[Vec<u8>], fault: Option<&TlsFault>, expected: Expected<'_>) -> Option<Check> {
    let parsed: Vec<_> = chain.iter().map(|der| Certificate::parse(der)).collect();
    let own = parsed.first().copied().flatten();
    let check = match fault {
        None => valid(&parsed, expected),
        Some(fault) => wrong(fault, own.is_some_and(|own| own.is_self_issued), chain.len(), expected)?,
    };
    let check = check.with("chain", chain.len());
    let Some(own) = own else { return Some(check) };
    let left = own.not_after.saturating_sub(expected.now.as_second());
    let check = check.with("days_left", left.div_euclid(86_400)).with("self_signed", own.is_self_issued);
    Some(match Timestamp::from_second(own.not_after) {
        Ok(end) => check.with("not_after", end.to_string()),
        Err(_) => check,
    })
}

/// The check of a certificate that is trusted.
fn valid(chain: &[Option<Certificate<'_>>], expected: Expected<'_>) -> Check {
    let ends = chain.iter().enumerate().filter_map(|(at, cert)| Some((cert.as_ref()?.not_after, at)));
    // A link of the chain that expires earlier ends the trust as well.
    let Some((end, at)) = ends.min() else {
        return Check::passed(NAME, format!("trusted, for {}", shown(expected.name.as_bytes())));
    };
    let left = Duration::from_secs(u64::try_from(end.saturating_sub(expected.now.as_second())).unwrap_or_default());
    let date =
        Timestamp::from_second(end).map_or_else(|_| String::new(), |end| end.strftime(" (%Y-%m-%d)").to_string());
    let soon = left < Duration::from_secs(86_400) * expected.warn_days;
    match (soon, at) {
        (false, _) => {
            let name = shown(expected.name.as_bytes());
            Check::passed(NAME, format!("trusted, for {name}, expires in {}{date}", days(left)))
        }
        (true, 0) => Check::warning(NAME, format!("expires in {}{date}", days(left)), RENEW),
        (true, _) => Check::warning(
            NAME,
            format!("an intermediate certificate expires in {}{date}", days(left)),
            "renew the chain in the broker's file, which it reads by itself",
        ),
    }
}

/// The check of a certificate that is not trusted.
fn wrong(fault: &TlsFault, self_issued: bool, chain: usize, expected: Expected<'_>) -> Option<Check> {
    let now = expected.now.strftime("%Y-%m-%d %H:%M UTC");
    Some(match fault {
        TlsFault::Expired(ago) => Check::problem(NAME, format!("expired {} ago", days(*ago)), RENEW)
            .and(format!("if it has been renewed, see the clock here: it shows {now}")),
        TlsFault::NotYetValid(wait) => Check::problem(
            NAME,
            format!("is valid only in {}", days(*wait)),
            format!("see the clock here, which shows {now}; if it is right, wait or take another certificate"),
        ),
        TlsFault::Name(names) => Check::problem(
            NAME,
            format!("is for {}, not for \"{}\"", shown(names.as_bytes()), shown(expected.name.as_bytes())),
            "connect to a name that it has with --host, or say with --tls-name NAME that another is meant",
        ),
        TlsFault::Untrusted if self_issued => Check::problem(
            NAME,
            "is self-signed, and not trusted",
            "copy the certificate (not the key) from the broker, and give it with --tlscert FILE",
        ),
        TlsFault::Untrusted => {
            let whose = if expected.own_trust { "by none in the file of --tlscert" } else { "by none that is trusted" };
            let check = Check::problem(
                NAME,
                format!("is signed {whose}"),
                "give the certificate of its authority with --tlscert FILE",
            );
            if chain == 1 {
                check.and("or the broker leaves intermediates out: its file needs the whole chain")
            } else {
                check
            }
        }
        TlsFault::Certificate(words) => {
            Check::problem(NAME, format!("cannot be used: {}", shown(words.as_bytes())), "take another certificate")
        }
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;
    use crate::doctor::report::Status;

    /// A certificate that ends so many days after 2026-01-01.
    fn until(days: u64) -> Vec<u8> {
        let mut params = CertificateParams::new(["broker.example".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2026, 1, 1) + Duration::from_secs(days * 86_400);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn found(chain: &[Vec<u8>], fault: Option<&TlsFault>) -> Check {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        let expected = Expected { name: "broker.example", own_trust: false, warn_days: 14, now };
        check(chain, fault, expected).unwrap()
    }

    #[test]
    fn the_link_of_the_chain_that_expires_first_counts() {
        let check = found(&[until(90), until(400)], None);
        let summary = "trusted, for broker.example, expires in 90 days (2026-04-01)";
        assert_eq!((check.status, &*check.summary), (Status::Passed, summary));
        let check = found(&[until(13), until(400)], None);
        assert_eq!((check.status, &*check.summary), (Status::Warning, "expires in 13 days (2026-01-14)"));
        let check = found(&[until(90), until(5)], None);
        assert_eq!(check.summary, "an intermediate certificate expires in 5 days (2026-01-06)");
        assert_eq!(check.details["days_left"], 90);
        // The last day, and one that has passed: the verifier's clock was another.
        assert_eq!(found(&[until(14)], None).status, Status::Passed);
        assert_eq!(found(&[until(0)], None).summary, "expires in 0 min (2026-01-01)");
    }

    #[test]
    fn certificates_that_cannot_be_read_have_no_dates() {
        for chain in [&[][..], &[Vec::new()], &[vec![0x30; 100]]] {
            let check = found(chain, None);
            assert_eq!((check.status, &*check.summary), (Status::Passed, "trusted, for broker.example"));
            assert!(!check.details.contains_key("days_left"));
        }
        let check = found(&[vec![0x30; 100]], Some(&TlsFault::Untrusted));
        assert_eq!(check.summary, "is signed by none that is trusted");
        let hostile = TlsFault::Name("\u{1b}[2J\u{202e}".to_owned());
        assert_eq!(found(&[], Some(&hostile)).summary, r#"is for \u{1b}[2J\u{202e}, not for "broker.example""#);
    }
}
