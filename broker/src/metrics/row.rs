//! A row of the exposition: one metric, and how its samples are read from a snapshot.

use std::{
    fmt::{self, Display},
    iter,
};

use hpfeeds::wire::Ident;

use crate::metrics::{
    channels::ChannelCounts,
    ident::IdentCounts,
    snapshot::Snapshot,
    text::{Kind, Text},
};

/// The label of clients that have not authenticated. No client can have an empty ident.
const UNAUTHENTICATED: &str = "";

/// One metric. The name is without `_total`.
pub(super) struct Row {
    kind: Kind,
    pub(super) name: &'static str,
    help: &'static str,
    read: Read,
}

/// How the samples of a metric are read from a snapshot.
pub(super) enum Read {
    /// One sample without labels.
    Single(fn(&Snapshot) -> Value),
    /// One sample without labels. Without a value the whole metric is left out.
    Known(fn(&Snapshot) -> Option<Value>),
    /// A sample for each ident that has a value.
    Idents(fn(&IdentCounts) -> Option<u64>),
    /// A sample for each ident that has a value, and the first for clients that have not
    /// authenticated.
    AllIdents(fn(&IdentCounts) -> Option<u64>),
    /// A sample for each pair of ident and channel that has a value.
    Channels(fn(&ChannelCounts) -> Option<Value>),
    /// Samples with other labels.
    Samples(fn(&Snapshot, &mut Text)),
}

/// The value of a sample.
pub(super) enum Value {
    Integer(u64),
    /// A gauge that many threads count up and down: read in between, the difference may be
    /// negative.
    Signed(i64),
    Seconds(f64),
}

use Read::{AllIdents, Channels, Idents, Known, Samples, Single};
use Value::{Integer, Seconds, Signed};

impl Row {
    pub(super) const fn new(kind: Kind, name: &'static str, help: &'static str, read: Read) -> Self {
        Self { kind, name, help, read }
    }

    pub(super) fn write(&self, snapshot: &Snapshot, text: &mut Text) {
        if let Known(read) = self.read
            && read(snapshot).is_none()
        {
            return;
        }
        text.metric(self.kind, self.name, self.help);
        match self.read {
            Single(read) => text.sample(&[], read(snapshot)),
            Known(read) => read(snapshot).into_iter().for_each(|value| text.sample(&[], value)),
            Idents(read) => idents(text, named(&snapshot.idents), read),
            AllIdents(read) => idents(text, all_idents(snapshot), read),
            Channels(read) => each_channel(snapshot, |labels, counts| {
                if let Some(value) = read(counts) {
                    text.sample(labels, value);
                }
            }),
            Samples(write) => write(snapshot, text),
        }
    }
}

pub(super) fn named(idents: &[(Ident, IdentCounts)]) -> impl Iterator<Item = (&str, &IdentCounts)> {
    idents.iter().map(|(ident, counts)| (ident.as_str(), counts))
}

pub(super) fn all_idents(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &IdentCounts)> {
    iter::once((UNAUTHENTICATED, &snapshot.unauthenticated)).chain(named(&snapshot.idents))
}

fn idents<'a>(
    text: &mut Text,
    idents: impl Iterator<Item = (&'a str, &'a IdentCounts)>,
    read: fn(&IdentCounts) -> Option<u64>,
) {
    for (ident, counts) in idents {
        if let Some(value) = read(counts) {
            text.sample(&[("ident", ident)], value);
        }
    }
}

pub(super) fn each_channel(snapshot: &Snapshot, mut each: impl FnMut(&[(&str, &str)], &ChannelCounts)) {
    for (ident, counts) in named(&snapshot.idents) {
        for (channel, counts) in &counts.channels {
            each(&[("ident", ident), ("chan", channel)], counts);
        }
    }
}

pub(super) fn integer(n: usize) -> Value {
    Integer(n as u64)
}

#[allow(clippy::cast_precision_loss, reason = "a sum of seconds needs no 16 digits")]
pub(super) fn seconds(nanos: u64) -> Value {
    Seconds(nanos as f64 / 1e9)
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Integer(value) => value.fmt(f),
            Signed(value) => value.fmt(f),
            Seconds(value) => value.fmt(f),
        }
    }
}
