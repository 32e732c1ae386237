//! Fields of JSON payloads, by their paths: `peerIP`, `remote[0]`, `alert.src_ip`.

use serde_json::Value;

/// The longest path in bytes.
const MAX_PATH: usize = 200;

/// A path from the top of a JSON payload to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    text: Box<str>,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(Box<str>),
    Item(usize),
}

impl Path {
    /// Reads a path. The error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "a field is wanted, such as peerIP, remote[0] or alert.src_ip";
        if text.len() > MAX_PATH {
            return Err(WRONG);
        }
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (key, items) = part.split_at(part.find('[').unwrap_or(part.len()));
            if key.is_empty() {
                return Err(WRONG);
            }
            steps.push(Step::Key(key.into()));
            for item in items.split('[').skip(1) {
                let item = item.strip_suffix(']').and_then(|number| number.parse().ok());
                steps.push(Step::Item(item.ok_or(WRONG)?));
            }
        }
        Ok(Self { text: text.into(), steps })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The value there, if there is one. A key may hold the whole path, dots and all.
    pub(crate) fn find<'a>(&self, top: &'a Value) -> Option<&'a Value> {
        let whole = top.get(&*self.text);
        whole.or_else(|| {
            self.steps.iter().try_fold(top, |value, step| match step {
                Step::Key(key) => value.get(&**key),
                Step::Item(item) => value.get(item),
            })
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_found_by_their_paths() {
        let top = json!({"a": 1, "b": {"c": [2, {"d": 3}]}, "b.c": 4, "e": [[5]]});
        for (path, expected) in [
            ("a", Some(json!(1))),
            ("b.c", Some(json!(4))),
            ("b.c[0]", Some(json!(2))),
            ("b.c[1].d", Some(json!(3))),
            ("e[0][0]", Some(json!(5))),
            ("e[1]", None),
            ("a.b", None),
            ("b[0]", None),
            ("x", None),
        ] {
            assert_eq!(Path::parse(path).unwrap().find(&top), expected.as_ref(), "{path}");
        }
        assert_eq!(Path::parse("a").unwrap().find(&json!([1])), None);
    }

    #[test]
    fn a_wrong_path_is_refused() {
        let long = "a".repeat(MAX_PATH + 1);
        for path in ["", ".", "a.", "a[", "a[x]", "[0]", "a[0]b", "a[-1]", &long] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
    }
}
