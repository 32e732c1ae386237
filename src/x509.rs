//! The few fields of an X.509 certificate that TLS needs when a certificate is trusted for itself.
//!
//! webpki, which checks chains, reads version 3 only. Certificates of version 1 have no extensions;
//! a certificate that is trusted byte for byte needs no chain either. Trust is decided by files of
//! the user; a peer's certificate is read only to show its dates to a person.

/// The fields of a certificate. All slices are of the DER that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// Valid from here on, in seconds since 1970.
    pub not_before: i64,
    /// Valid up to here, in seconds since 1970.
    pub not_after: i64,
    /// The key that it is about.
    pub public_key: PublicKey<'a>,
    /// Whether it lists names of hosts (`subjectAltName`); then the common name says nothing about
    /// them.
    pub has_alt_names: bool,
    /// Whether it names itself as the one that signed it.
    pub is_self_issued: bool,
    /// The contents of the subject, a list of attributes.
    subject: &'a [u8],
}

/// A `SubjectPublicKeyInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey<'a> {
    /// All of it, DER.
    pub der: &'a [u8],
    /// The contents of its `AlgorithmIdentifier`.
    pub algorithm: &'a [u8],
    /// The key itself, the contents of its bit string.
    pub bits: &'a [u8],
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

impl<'a> Certificate<'a> {
    /// `None` when it is no certificate of version 1, 2 or 3.
    #[must_use]
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let mut body = Reader(Reader(Reader(der).take(SEQUENCE)?).take(SEQUENCE)?);
        body.take_if(VERSION);
        body.take(INTEGER)?;
        let _signature = body.take(SEQUENCE)?;
        let issuer = body.take(SEQUENCE)?;
        let mut validity = Reader(body.take(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        let subject = body.take(SEQUENCE)?;
        let public_key = PublicKey::read(&mut body)?;
        let mut has_alt_names = false;
        while !body.0.is_empty() {
            let (tag, contents) = body.next()?;
            if tag == EXTENSIONS {
                let mut extensions = Reader(Reader(contents).take(SEQUENCE)?);
                while !extensions.0.is_empty() {
                    has_alt_names |= Reader(extensions.take(SEQUENCE)?).take(OBJECT_ID)? == SUBJECT_ALT_NAME;
                }
            }
        }
        Some(Self { not_before, not_after, public_key, has_alt_names, is_self_issued: issuer == subject, subject })
    }

    /// The common names of the subject, of which there is rarely more than one.
    pub fn common_names(&self) -> impl Iterator<Item = &'a str> {
        let mut sets = Reader(self.subject);
        std::iter::from_fn(move || sets.take(SET)).filter_map(|set| {
            let mut attribute = Reader(Reader(set).take(SEQUENCE)?);
            if attribute.take(OBJECT_ID)? != COMMON_NAME {
                return None;
            }
            match attribute.next()? {
                (UTF8_STRING | PRINTABLE_STRING | TELETEX_STRING | IA5_STRING, name) => std::str::from_utf8(name).ok(),
                _ => None,
            }
        })
    }

    /// Whether a common name is that of a host (without regard to case; `*.` at its beginning
    /// stands for one label) or its IP address.
    #[must_use]
    pub fn is_named(&self, host: &str) -> bool {
        let ip = |name: &str| name.parse::<std::net::IpAddr>().ok();
        let host = host.strip_suffix('.').unwrap_or(host);
        self.common_names().any(|name| match (ip(host), name.strip_prefix("*.")) {
            (Some(host), _) => ip(name) == Some(host),
            (None, Some(domain)) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain))
            }
            (None, None) => name.eq_ignore_ascii_case(host),
        })
    }
}

impl<'a> PublicKey<'a> {
    /// `None` when it is none.
    #[must_use]
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        Self::read(&mut Reader(der))
    }

    fn read(from: &mut Reader<'a>) -> Option<Self> {
        let before = from.0;
        let mut info = Reader(from.take(SEQUENCE)?);
        let der = before.get(..before.len() - from.0.len())?;
        let algorithm = info.take(SEQUENCE)?;
        // First how many bits of the last byte do not count: keys are whole bytes.
        let (&0, bits) = info.take(BIT_STRING)?.split_first()? else {
            return None;
        };
        Some(Self { der, algorithm, bits })
    }
}

/// The DER that is left to be read: values of DER, one after the other.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next value: its tag and contents.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // So many bytes of length follow; four are 4 GiB.
            0x81..=0x84 => {
                let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (len.iter().try_fold(0usize, |len, byte| Some(len.checked_mul(256)? | usize::from(*byte)))?, rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, contents))
    }

    fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (tag, contents) = self.next()?;
        (tag == wanted).then_some(contents)
    }

    fn take_if(&mut self, wanted: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&wanted) { self.take(wanted) } else { None }
    }

    /// Seconds since 1970. Both forms end in `Z`, and have seconds.
    fn time(&mut self) -> Option<i64> {
        let (tag, text) = self.next()?;
        let digits = text.strip_suffix(b"Z").filter(|text| text.iter().all(u8::is_ascii_digit))?;
        let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
        let (year, rest) = match (tag, digits.len()) {
            (UTC_TIME, 12) => {
                let year = number(&digits[..2]);
                (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
            }
            (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
            _ => return None,
        };
        let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
        Some(((days(year, month, day)? * 24 + hour) * 60 + minute) * 60 + second)
    }
}

/// Days from 1970 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let before = BEFORE.get(usize::try_from(month - 1).ok()?)?;
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // The leap day of a year has passed from March on.
    let full = if month > 2 { year } else { year - 1 };
    Some((year - 1970) * 365 + leaps(full) - leaps(1969) + before + day - 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use proptest::{arbitrary::any, collection::vec, prop_assert, proptest};

    use super::*;

    /// `openssl x509 -req -signkey`: version 1. P-256, for the common name `*.Example.org`, from
    /// 1999-12-31 23:59:59 to 2050-03-01 00:00:00.
    const VERSION_1: &[u8] = include_bytes!("../tests/support/certificates/x509-version-1.der");

    #[test]
    fn a_certificate_of_version_1_is_read() {
        let cert = Certificate::parse(VERSION_1).unwrap();
        assert_eq!((cert.not_before, cert.not_after), (946_684_799, 2_529_705_600));
        assert_eq!((cert.common_names().collect::<Vec<_>>(), cert.has_alt_names), (vec!["*.Example.org"], false));
        let key = cert.public_key;
        assert_eq!((key.bits.len(), key.bits[0], PublicKey::parse(key.der)), (65, 4, Some(key)));
        for (host, named) in [
            ("a.example.org", true),
            ("A.EXAMPLE.org.", true),
            ("example.org", false),
            (".example.org", false),
            ("a.b.example.org", false),
            ("*.example.org", true),
            ("192.0.2.1", false),
        ] {
            assert_eq!(cert.is_named(host), named, "{host}");
        }
    }

    #[test]
    fn days_are_counted_from_1970() {
        for (year, month, day, expected) in
            [(1970, 1, 1, 0), (1969, 12, 31, -1), (2000, 2, 29, 11_016), (2000, 3, 1, 11_017), (2100, 3, 1, 47_541)]
        {
            assert_eq!(days(year, month, day), Some(expected), "{year}-{month}-{day}");
        }
        assert_eq!((days(2000, 0, 1), days(2000, 13, 1)), (None, None));
    }

    #[test]
    fn a_certificate_that_is_cut_short_is_none() {
        for len in 0..VERSION_1.len() {
            assert_eq!(Certificate::parse(&VERSION_1[..len]), None, "{len}");
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_do_no_harm(at in 0..VERSION_1.len(), byte: u8, tail in vec(any::<u8>(), 0..64)) {
            let mut bytes = VERSION_1.to_vec();
            bytes[at] = byte;
            bytes.extend(tail);
            if let Some(cert) = Certificate::parse(&bytes) {
                prop_assert!(cert.common_names().count() <= bytes.len());
            }
        }
    }
}
