//! Remarks: oddities of a key store that are no faults. They are logged, and the key counts.

use std::fmt;

use tracing::warn;

/// The most lines that are kept. A file of thousands of keys may have the same mistake in each.
const SHOWN: usize = 20;

/// Lines that each name an ident and a field, and never a secret.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    lines: Vec<String>,
    /// The number of further remarks.
    more: usize,
}

impl Remarks {
    pub(crate) fn add(&mut self, line: fmt::Arguments<'_>) {
        if self.lines.len() < SHOWN {
            self.lines.push(line.to_string());
        } else {
            self.more += 1;
        }
    }

    /// Logs the remarks. `store`: the place that they are about.
    pub(crate) fn log(&self, store: &dyn fmt::Display) {
        for cause in &self.lines {
            warn!(store = %store, cause, "a key may not be what it was meant to be");
        }
        if self.more > 0 {
            warn!(store = %store, more = self.more, "further keys may not be what they were meant to be");
        }
    }

    #[cfg(any(feature = "cli", test))]
    pub(crate) fn into_lines(self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.lines.into_iter().chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_remarks_are_a_few_lines() {
        let mut remarks = Remarks::default();
        (0..1000).for_each(|n| remarks.add(format_args!("{n}")));
        let lines = remarks.into_lines();
        assert_eq!((lines.len(), lines[SHOWN].as_str()), (SHOWN + 1, "and 980 more"));
    }
}
