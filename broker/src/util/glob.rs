//! Globs: texts in which a `*` stands for any characters, or none.

/// A pattern that a whole text matches or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Box<str>);

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    /// Takes at most as many steps as the product of both lengths.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        // Behind the last star, and where the text goes on that it does not stand for.
        let mut star = None;
        while t < text.len() {
            if pattern.get(p) == Some(&b'*') {
                p += 1;
                star = Some((p, t));
            } else if pattern.get(p) == text.get(t) {
                (p, t) = (p + 1, t + 1);
            } else if let Some((behind, from)) = star {
                // The star takes one byte more.
                (p, t) = (behind, from + 1);
                star = Some((behind, t));
            } else {
                return false;
            }
        }
        pattern.iter().skip(p).all(|byte| *byte == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a.b", true),
            ("cowrie.*", "cowrie.sessions", true),
            ("cowrie.*", "cowrie", false),
            ("sensor-*-b", "sensor-1-b-2-b", true),
            ("sensor-*-b", "sensor-1-b-2", false),
            ("*a*a*", "banana", true),
            ("**x**", "x", true),
            ("a", "A", false),
            ("é*", "été", true),
            ("a*", "a", true),
            ("a", "ab", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} {text}");
        }
        // Stars that match nearly: the number of steps has a bound.
        assert!(!Glob::new(&format!("{}b", "*a".repeat(100))).matches(&"a".repeat(255)));
    }
}
