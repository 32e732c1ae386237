//! The top sources: addresses in the fields of JSON payloads, with how many messages name them.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::fields::Path;

/// The fields in which honeypots name the peer: the first that a payload has with an address counts.
const FIELDS: [&str; 14] = [
    // cowrie and kippo
    "peerIP",
    // dionaea.connections, dionaea.capture
    "remote_host",
    "saddr",
    // conpot, glastopf
    "remote[0]",
    "source[0]",
    // amun, p0f, opencanary
    "attackerIP",
    "client_ip",
    "src_host",
    // heralding, snort, shockpot; suricata, agave; beeswarm; honeytrap; elastichoney
    "source_ip",
    "src_ip",
    "attacker_ip",
    "source-ip",
    "source",
    "remote_ip",
];

/// The most addresses that are counted at once, and the most that are shown.
const MAX_SOURCES: usize = 4096;
const SHOWN: usize = 20;

/// The fields of sources: those that are known, behind those that the options add.
#[derive(Debug, Clone)]
pub(crate) struct SourceFields(Arc<[Path]>);

impl SourceFields {
    /// With further fields. The error names the one that is none.
    pub(crate) fn with(more: &[String]) -> Result<Self, String> {
        let known = FIELDS.iter().map(|field| (*field).to_owned());
        let all = more.iter().cloned().chain(known);
        let parsed = all.map(|field| Path::parse(&field).map_err(|fault| format!("{field:?}: {fault}")));
        parsed.collect::<Result<Vec<_>, _>>().map(|fields| Self(fields.into()))
    }

    /// The first field with an address, and the address.
    fn find(&self, payload: &Value) -> Option<(usize, IpAddr)> {
        let address = |path: &Path| path.find(payload)?.as_str()?.trim().parse::<IpAddr>().ok();
        self.0.iter().enumerate().find_map(|(at, path)| Some((at, address(path)?.to_canonical())))
    }
}

/// Counts of addresses. When there are too many, those with the fewest messages are forgotten.
#[derive(Debug)]
pub(crate) struct Sources {
    fields: SourceFields,
    counts: HashMap<(IpAddr, usize), u64>,
}

/// The addresses that most messages name.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TopSources<'a> {
    /// The fields that are looked at.
    fields: Vec<&'a str>,
    sources: Vec<TopSource<'a>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct TopSource<'a> {
    source: IpAddr,
    field: &'a str,
    messages: u64,
}

impl Sources {
    pub(crate) fn new(fields: SourceFields) -> Self {
        Self { fields, counts: HashMap::new() }
    }

    /// Counts a message.
    pub(crate) fn add(&mut self, payload: &Value) {
        let Some((field, address)) = self.fields.find(payload) else { return };
        let source = (address, field);
        if self.counts.len() >= MAX_SOURCES && !self.counts.contains_key(&source) {
            return self.forget();
        }
        *self.counts.entry(source).or_default() += 1;
    }

    /// Makes room: takes the median from each count. Addresses that come often stay, and half of all go,
    /// so that this is rare.
    fn forget(&mut self) {
        let mut counts: Vec<_> = self.counts.values().copied().collect();
        let middle = counts.len() / 2;
        let (_, median, _) = counts.select_nth_unstable(middle);
        let median = *median;
        self.counts.retain(|_, count| {
            *count = count.saturating_sub(median);
            *count > 0
        });
    }

    /// The top sources.
    pub(crate) fn top(&self) -> TopSources<'_> {
        let mut all: Vec<_> = self.counts.iter().collect();
        all.sort_unstable_by_key(|(source, count)| (Reverse(**count), **source));
        let fields: Vec<_> = self.fields.0.iter().map(Path::as_str).collect();
        let row = |((source, field), messages): (&(IpAddr, usize), &u64)| TopSource {
            source: *source,
            field: fields.get(*field).copied().unwrap_or_default(),
            messages: *messages,
        };
        let sources = all.into_iter().take(SHOWN).map(row).collect();
        TopSources { fields, sources }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use serde_json::json;

    use super::*;

    fn top(sources: &Sources) -> Vec<(String, &str, u64)> {
        sources.top().sources.into_iter().map(|row| (row.source.to_string(), row.field, row.messages)).collect()
    }

    #[test]
    fn payloads_of_honeypots_name_their_sources() {
        let mut sources = Sources::new(SourceFields::with(&["who.address".to_owned()]).unwrap());
        for payload in [
            json!({"peerIP": "192.0.2.1", "hostIP": "10.0.0.1"}),
            json!({"remote_host": "::ffff:192.0.2.1", "local_host": "10.0.0.1"}),
            json!({"remote": ["192.0.2.2", 4711]}),
            json!({"source": ["192.0.2.2", 4711]}),
            json!({"source": "2001:db8::1"}),
            json!({"peerIP": "192.0.2.1"}),
            json!({"who": {"address": "192.0.2.3"}, "peerIP": "192.0.2.1"}),
            json!({"peerIP": "no address", "saddr": "192.0.2.4"}),
            json!({"peerIP": 7}),
            json!([1]),
            json!("192.0.2.1"),
        ] {
            sources.add(&payload);
        }
        let of = |source: &str, field, count| (source.to_owned(), field, count);
        let expected = [
            of("192.0.2.1", "peerIP", 2),
            of("192.0.2.1", "remote_host", 1),
            of("192.0.2.2", "remote[0]", 1),
            of("192.0.2.2", "source[0]", 1),
            of("192.0.2.3", "who.address", 1),
            of("192.0.2.4", "saddr", 1),
            of("2001:db8::1", "source", 1),
        ];
        assert_eq!(top(&sources), expected);
        assert_eq!(sources.top().fields[..2], ["who.address", "peerIP"]);
        assert!(SourceFields::with(&["a.".to_owned()]).unwrap_err().starts_with("\"a.\": a field is wanted"));
    }

    #[test]
    fn an_address_that_comes_often_is_kept_among_strangers() {
        let mut sources = Sources::new(SourceFields::with(&[]).unwrap());
        for n in 0..20_000_u32 {
            sources.add(&json!({"peerIP": IpAddr::from(n.to_be_bytes()).to_string()}));
            if n % 4 == 0 {
                sources.add(&json!({"peerIP": "192.0.2.1"}));
            }
            assert!(sources.counts.len() <= MAX_SOURCES);
        }
        let top = top(&sources);
        assert_eq!((&*top[0].0, top.len()), ("192.0.2.1", SHOWN));
        assert!((4_900..=5_000).contains(&top[0].2), "{top:?}");
    }
}
