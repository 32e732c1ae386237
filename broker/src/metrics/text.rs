//! The text encoder of the exposition formats of Prometheus and `OpenMetrics`.

use std::fmt::{Display, Write as _};

/// The exposition format of [`Broker::metrics`](crate::broker::Broker::metrics).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exposition {
    /// The text format of Prometheus, version 0.0.4. Every scraper reads it.
    #[default]
    Prometheus,
    /// `OpenMetrics` 1.0, for scrapers that ask for it.
    OpenMetrics,
}

impl Exposition {
    /// The value of the header `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Gauge,
    /// The names of its samples end with `_total`.
    Counter,
    /// Cumulative buckets, sum and count.
    Histogram,
}

pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// Encodes metrics one after the other.
#[derive(Debug)]
pub(crate) struct Text {
    exposition: Exposition,
    out: String,
    name: &'static str,
    kind: Kind,
}

impl Text {
    pub(super) fn new(exposition: Exposition) -> Self {
        Self { exposition, out: String::with_capacity(16 * 1024), name: "", kind: Kind::Gauge }
    }

    /// Starts a metric. All its samples must follow before the next metric. The name is without
    /// `_total`.
    pub(crate) fn metric(&mut self, kind: Kind, name: &'static str, help: &str) {
        (self.name, self.kind) = (name, kind);
        let suffix = match (self.exposition, kind) {
            // In this format the name of a counter is that of its samples.
            (Exposition::Prometheus, Kind::Counter) => "_total",
            _ => "",
        };
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}"));
    }

    /// A sample of a gauge or counter.
    pub(crate) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        self.write(suffix, labels, None, value);
    }

    /// The samples of a histogram. There is one count more than bounds: that of values above all
    /// bounds.
    pub(super) fn buckets(
        &mut self,
        labels: Labels<'_>,
        bounds: impl Iterator<Item = &'static str>,
        counts: &[u64],
        sum: impl Display,
    ) {
        let mut below = 0;
        for (bound, count) in bounds.chain(["+Inf"]).zip(counts) {
            below += count;
            self.write("_bucket", labels, Some(bound), below);
        }
        self.write("_count", labels, None, below);
        self.write("_sum", labels, None, sum);
    }

    pub(super) fn finish(mut self) -> String {
        if self.exposition == Exposition::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn write(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&'static str>, value: impl Display) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.out.push(separator);
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(&mut self.out, value);
            self.out.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.out.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.out, "{line}").expect("memory takes everything");
    }
}

/// Appends a label's value, which comes from the network and may hold any character.
fn escape(out: &mut String, value: &str) {
    for char in value.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(exposition: Exposition) -> String {
        let mut text = Text::new(exposition);
        text.metric(Kind::Counter, "a", "About a.");
        text.sample(&[("ident", "x\\y\"\n"), ("chan", "")], 7);
        text.metric(Kind::Gauge, "b", "About b.");
        text.sample(&[], 0.5);
        text.metric(Kind::Histogram, "c", "About c.");
        text.buckets(&[("d", "e")], ["1.0", "2.0"].into_iter(), &[1, 0, 2], 9);
        text.finish()
    }

    const SAMPLES: &str = r#"a_total{ident="x\\y\"\n",chan=""} 7
# HELP b About b.
# TYPE b gauge
b 0.5
# HELP c About c.
# TYPE c histogram
c_bucket{d="e",le="1.0"} 1
c_bucket{d="e",le="2.0"} 1
c_bucket{d="e",le="+Inf"} 3
c_count{d="e"} 3
c_sum{d="e"} 9
"#;

    #[test]
    fn both_formats_differ_in_the_names_of_counters_and_the_end() {
        let expected = format!("# HELP a_total About a.\n# TYPE a_total counter\n{SAMPLES}");
        assert_eq!(text(Exposition::Prometheus), expected);
        let expected = format!("# HELP a About a.\n# TYPE a counter\n{SAMPLES}# EOF\n");
        assert_eq!(text(Exposition::OpenMetrics), expected);
    }
}
