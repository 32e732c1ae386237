//! The conditions of `subscribe --where`: a field, an operator and a value.

use std::str::FromStr;

use super::field::{Field, Looked};

/// A condition that a message meets or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    field: Field,
    test: Test,
    /// It is met when the test fails.
    is_negated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Equals(String),
    /// `*` stands for any characters, `?` for one.
    Like(String),
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let (field, rest) = Field::parse(given, &['=', '~', '!'])?;
        let (is_negated, rest) = rest.strip_prefix('!').map_or((false, rest), |rest| (true, rest));
        let test = if let Some(value) = rest.strip_prefix('=') {
            Test::Equals(value.to_owned())
        } else if let Some(glob) = rest.strip_prefix('~') {
            Test::Like(glob.to_owned())
        } else {
            let name = &field.name;
            return Err(format!(
                "there is no operator behind {name}: give {name}=VALUE, {name}!=VALUE, {name}~GLOB or {name}!~GLOB"
            ));
        };
        Ok(Self { field, test, is_negated })
    }
}

impl Condition {
    /// Whether a message meets it. One that has no such field only meets what is negated.
    pub(crate) fn is_met(&self, looked: &Looked<'_>) -> bool {
        let passes = self.field.of(looked).is_some_and(|value| match &self.test {
            Test::Equals(wanted) => *value.text() == *wanted.as_bytes(),
            Test::Like(glob) => is_like(&value.text(), glob.as_bytes()),
        });
        passes != self.is_negated
    }
}

/// Whether a glob stands for a text as a whole, in time that grows with the product of their lengths
/// at most.
fn is_like(text: &[u8], glob: &[u8]) -> bool {
    let (mut at, mut in_glob) = (0, 0);
    // The last star: the glob behind it, and the text that is tried for that.
    let mut star = None;
    while at < text.len() {
        match glob.get(in_glob) {
            Some(b'*') => {
                in_glob += 1;
                star = Some((in_glob, at));
            }
            Some(b'?') => {
                in_glob += 1;
                at = next_character(text, at);
            }
            Some(byte) if text.get(at) == Some(byte) => {
                in_glob += 1;
                at += 1;
            }
            _ => {
                let Some((behind, tried)) = star else { return false };
                star = Some((behind, tried + 1));
                (in_glob, at) = (behind, tried + 1);
            }
        }
    }
    glob.get(in_glob..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// The end of the character that begins there; of bytes that are not UTF-8, a byte counts.
fn next_character(text: &[u8], at: usize) -> usize {
    let is_continued = |byte: &&u8| (0x80..0xc0).contains(*byte);
    at + 1 + text.iter().skip(at + 1).take(3).take_while(is_continued).count()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::subscribe::field::tests::message;

    fn is_met(condition: &str, payload: &str) -> bool {
        condition.parse::<Condition>().unwrap().is_met(&Looked::at(&message(payload.as_bytes())))
    }

    #[test]
    fn operators_compare_the_field_as_text() {
        let payload = r#"{"ip":"192.0.2.1","port":22,"ok":true,"none":null,"list":["a", 1],"q":"a=b"}"#;
        for condition in [
            "ip=192.0.2.1",
            "ip~192.0.2.*",
            "ip!=192.0.2.2",
            "ip!~10.*",
            "port=22",
            "port!=22.0",
            "port~2?",
            "ok=true",
            "none=null",
            r#"list=["a",1]"#,
            "list[0]=a",
            "q=a=b",
            "ident~sensor-*",
            "channel=a.b",
            "payload~*192*",
            "missing!=x",
            "missing!~*",
            "ip~*",
        ] {
            assert!(is_met(condition, payload), "{condition}");
            // The other way round.
            let (at, operator) = condition.match_indices(['=', '~', '!']).next().unwrap();
            let opposite = match operator {
                "!" => condition.replacen('!', "", 1),
                _ => format!("{}!{}", &condition[..at], &condition[at..]),
            };
            assert!(!is_met(&opposite, payload), "{opposite}");
        }
        assert!(!is_met("ip=", payload) && is_met("ip=", r#"{"ip":""}"#));
    }

    #[test]
    fn payloads_that_are_no_json_meet_what_is_negated_alone() {
        for payload in ["", "ip=192.0.2.1", "{\"ip\":\"192.0.2.1\""] {
            assert!(!is_met("ip=192.0.2.1", payload) && !is_met("ip~*", payload));
            assert!(is_met("ip!=192.0.2.1", payload) && is_met("ip!~*", payload));
        }
    }

    #[test]
    fn a_glob_stands_for_all_of_a_text() {
        for (glob, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("*b*", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("?", "ü", true),
            ("?", "日", true),
            ("?", "ab", false),
            ("??", "a", false),
            ("a?c", "abc", true),
            ("*.example.*", "www.example.org", true),
        ] {
            assert_eq!(is_like(text.as_bytes(), glob.as_bytes()), expected, "{glob} {text}");
        }
        assert!(is_like(b"\xff\xfe", b"??") && is_like(b"\xffa", b"*a"));
        let (text, glob) = (vec![b'a'; 100_000], "*a".repeat(20) + "b");
        assert!(!is_like(&text, glob.as_bytes()));
    }

    #[test]
    fn a_condition_without_an_operator_says_which_there_are() {
        for text in ["ip", "ip!", "a.b[0]", "ip!x"] {
            let said = text.parse::<Condition>().unwrap_err();
            assert!(said.contains("no operator") && said.contains("!=VALUE"), "{text}: {said}");
        }
        assert!("=x".parse::<Condition>().unwrap_err().contains("empty"));
    }
}
