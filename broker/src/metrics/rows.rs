//! The table of all metrics. `docs/metrics.md` explains them.

use std::{collections::HashSet, env::consts};

use crate::metrics::{
    category::Category,
    endpoints::Phase,
    latency::LatencyCounts,
    row::{
        Read::{AllIdents, Channels, Idents, Known, Samples, Single},
        Row,
        Value::{Integer, Seconds, Signed},
        all_idents, each_channel, integer, named, seconds,
    },
    sizes::BUCKETS,
    snapshot::Snapshot,
    text::{
        Kind::{Counter, Gauge, Histogram},
        Text,
    },
};

/// The bounds of payload sizes in bytes, written as the Python broker writes them.
const SIZES: [&str; BUCKETS - 1] = [
    "1024.0",
    "2048.0",
    "4096.0",
    "8192.0",
    "16384.0",
    "32768.0",
    "65536.0",
    "131072.0",
    "262144.0",
    "524288.0",
    "1.048576e+06",
    "2.097152e+06",
    "4.194304e+06",
];

/// All metrics, in the order of the exposition.
pub(super) const ROWS: &[Row] = &[
    // The metrics of the Python broker, under the same names.
    Row::new(
        Gauge,
        "hpfeeds_broker_client_connections",
        "Connections that are open, authenticated or not.",
        Single(|s| integer(s.levels.connections)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_connection_made",
        "Connections that were accepted.",
        Single(|s| Integer(s.totals.accepted)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_connection_ready",
        "Connections that authenticated.",
        Idents(|ident| Some(ident.ready)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_connection_error",
        "Connections that the broker ended because of what the client did, and denials that the extension \
         answers without ending them, by category; the ident is empty when it has not authenticated, unless \
         somebody else has proved to be that.",
        Samples(errors),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_connection_lost",
        "Connections that have ended; the ident is empty when they had not authenticated.",
        AllIdents(|ident| Some(ident.lost).filter(|lost| *lost > 0)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_connection_send_buffer_size",
        "Bytes that are queued for subscribers now.",
        Idents(|ident| ident.is_connected().then_some(ident.totals.queued)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_connection_receive_buffer_size",
        "Bytes that have been received but not acted on: the start of a message, or what a publisher waits with.",
        Idents(|ident| ident.is_connected().then_some(ident.totals.unparsed)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_connection_receive_buffer_fill",
        "Bytes received from clients after they had authenticated.",
        Idents(|ident| Some(ident.totals.received)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_connection_send_buffer_fill",
        "Bytes of payload that were queued for subscribers.",
        Idents(|ident| Some(ident.totals.filled)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_connection_send_buffer_drain",
        "Bytes written to clients after they had authenticated.",
        Idents(|ident| Some(ident.totals.drained)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_connection_send_buffer_deadline_start",
        "How often a slow subscriber reached its high mark and was given a deadline.",
        Idents(|ident| Some(ident.deadlines)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_connection_send_buffer_deadline_recover",
        "How often a slow subscriber recovered before its deadline.",
        Idents(|ident| Some(ident.recoveries)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_subscriptions",
        "Subscriptions of open connections to a channel.",
        Channels(|channel| channel.subscriptions.map(Signed)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_receive_publish_count",
        "Messages that were published to a channel.",
        Channels(|channel| channel.published().map(Integer)),
    ),
    Row::new(
        Histogram,
        "hpfeeds_broker_receive_publish_size",
        "Sizes of the payloads that were published to a channel, in bytes.",
        Samples(sizes),
    ),
    Row::new(
        Gauge,
        "hpfeeds_client_authenticated_connections",
        "Connections that are open and have authenticated, by ident and owner of the key.",
        Samples(owners),
    ),
    // The metrics that the Python broker does not have.
    Row::new(Gauge, "hpfeeds_broker_build_info", "Always 1; which broker this is.", Samples(build_info)),
    Row::new(
        Gauge,
        "hpfeeds_broker_connections",
        "Connections that are open, by endpoint and how far they are.",
        Samples(endpoints),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_max_connections",
        "How many connections may be open at once.",
        Single(|s| integer(s.levels.max_connections)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_rejected_connections",
        "Connections that were turned away, or had to give way before they had authenticated, as there were \
         too many.",
        Single(|s| Integer(s.totals.rejected)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_throttled_connections",
        "Connections that had to wait because their address had failed to authenticate a moment before.",
        Single(|s| Integer(s.totals.throttled)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_refused_sessions",
        "Sessions that were ended because of a frame that is malformed or that the key does not allow.",
        Single(|s| Integer(s.totals.refused)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_extension_connections",
        "Connections that are open and speak the extension hpx/1.",
        Single(|s| integer(s.levels.extended)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_streams",
        "Streams whose progress is known: those that are published now, and the last ones that were.",
        Single(|s| integer(s.levels.streams)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_refused_messages",
        "Messages that were refused without ending the connection, by reason.",
        Samples(refused),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_fenced_connections",
        "Connections that were ended because another one uses their stream.",
        Single(|s| Integer(s.totals.fenced)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_silent_disconnects",
        "Connections that were ended because nothing came from the client for too long.",
        Single(|s| Integer(s.totals.silent)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_slow_disconnects",
        "Subscribers that were disconnected because they stayed slow.",
        Single(|s| Integer(s.totals.slow_disconnects)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_received_messages",
        "Messages that were published.",
        Single(|s| Integer(s.totals.received_messages)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_received_bytes",
        "Bytes on the wire of the messages that were published.",
        Single(|s| Integer(s.totals.received_bytes)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_forwarded_messages",
        "Messages that were queued for a subscriber, once for each, or written to a collector from its mailbox.",
        Single(|s| Integer(s.totals.queued + s.totals.mailed)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_withdrawn_messages",
        "Forwarded messages that were not delivered: dropped as the oldest, or still queued when the \
         connection ended.",
        Single(|s| Integer(s.totals.unqueued)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_discarded_messages",
        "Messages that a subscriber did not get because its connection ended.",
        Single(|s| Integer(s.totals.discarded)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_sent_bytes",
        "Bytes written to clients after they had authenticated.",
        Single(|s| Integer(s.totals.sent_bytes)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_queued_bytes",
        "Bytes that are queued for all subscribers, with the cost of keeping them.",
        Single(|s| integer(s.levels.queued_bytes)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_queued_bytes_limit",
        "The most that is queued for all subscribers together.",
        Single(|s| integer(s.levels.max_queued_bytes)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_tasks",
        "Tasks of the runtime that have not ended: one for each connection, and a few more.",
        Single(|s| integer(s.levels.tasks)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_stalled_publishers",
        "Publishers that wait for subscribers now.",
        Single(|s| Signed(s.stalls.now)),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_waiting_bytes",
        "What publishers hold that wait: for subscribers, because of a limit, or for their turn.",
        Single(|s| integer(s.levels.waiting_bytes)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_publisher_stall_seconds",
        "Time that publishers have waited for subscribers, all together; a wait counts once it is over.",
        Single(|s| seconds(s.stalls.nanos)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_dropped_messages",
        "Messages that a subscriber did not get because it was slow.",
        Idents(|ident| Some(ident.totals.dropped)),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_unrouted_messages",
        "Messages that were published to a channel while nobody subscribed to it.",
        Samples(unrouted),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_last_publish_timestamp_seconds",
        "When an ident published its last message, in seconds since 1970.",
        Samples(last_publish),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_last_connection_timestamp_seconds",
        "When an ident was last connected, in seconds since 1970; now, while it is.",
        Samples(last_connection),
    ),
    Row::new(
        Gauge,
        "hpfeeds_broker_certificate_expiry_timestamp_seconds",
        "When the certificate of an endpoint expires, in seconds since 1970.",
        Samples(certificates),
    ),
    Row::new(
        Counter,
        "hpfeeds_broker_handshake_failures",
        "Connections that did not become a session, by reason.",
        Samples(failures),
    ),
    Row::new(
        Histogram,
        "hpfeeds_broker_authentication_seconds",
        "Time from a client's AUTH to the decision about it, in seconds.",
        Samples(authentication),
    ),
    // The metrics that every client library of Prometheus has.
    Row::new(
        Gauge,
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        Known(|s| s.process.started.map(Seconds)),
    ),
    Row::new(
        Counter,
        "process_cpu_seconds",
        "Total user and system CPU time spent in seconds.",
        Known(|s| s.process.cpu_seconds.map(Seconds)),
    ),
    Row::new(
        Gauge,
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        Known(|s| s.process.resident_bytes.map(Integer)),
    ),
    Row::new(
        Gauge,
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        Known(|s| s.process.virtual_bytes.map(Integer)),
    ),
    Row::new(Gauge, "process_open_fds", "Number of open file descriptors.", Known(|s| s.process.open_fds.map(Integer))),
    Row::new(
        Gauge,
        "process_max_fds",
        "Maximum number of open file descriptors.",
        Known(|s| s.process.max_fds.map(Integer)),
    ),
];

fn errors(snapshot: &Snapshot, text: &mut Text) {
    for (ident, counts) in all_idents(snapshot) {
        for (category, count) in Category::ALL.iter().zip(counts.errors).filter(|(_, count)| *count > 0) {
            text.sample(&[("ident", ident), ("category", category)], count);
        }
    }
}

fn sizes(snapshot: &Snapshot, text: &mut Text) {
    each_channel(snapshot, |labels, counts| {
        if counts.published().is_some() {
            text.buckets(labels, SIZES.into_iter(), &counts.sizes, counts.bytes);
        }
    });
}

fn owners(snapshot: &Snapshot, text: &mut Text) {
    for (ident, counts) in named(&snapshot.idents) {
        for (owner, count) in &counts.owners {
            text.sample(&[("ident", ident), ("owner", owner)], count);
        }
    }
}

fn build_info(_: &Snapshot, text: &mut Text) {
    let version = env!("CARGO_PKG_VERSION");
    text.sample(&[("version", version), ("os", consts::OS), ("arch", consts::ARCH)], 1);
}

fn endpoints(snapshot: &Snapshot, text: &mut Text) {
    for counts in &snapshot.endpoints {
        for (state, count) in Phase::ALL.iter().zip(counts.phases) {
            text.sample(&[("endpoint", &counts.endpoint), ("state", state)], count);
        }
    }
}

/// A published channel has a sample from the start on, of zero: the first value of a counter is no
/// increase.
fn unrouted(snapshot: &Snapshot, text: &mut Text) {
    let channels = snapshot.idents.iter().flat_map(|(_, counts)| &counts.channels);
    let published: HashSet<_> =
        channels.filter(|(_, counts)| counts.published().is_some()).map(|(channel, _)| channel).collect();
    for (channel, count) in &snapshot.unrouted {
        if *count > 0 || published.contains(channel) {
            text.sample(&[("chan", channel)], count);
        }
    }
}

fn last_publish(snapshot: &Snapshot, text: &mut Text) {
    for (ident, published, _) in &snapshot.seen {
        if let Some(published) = published {
            text.sample(&[("ident", ident)], published);
        }
    }
}

fn last_connection(snapshot: &Snapshot, text: &mut Text) {
    for (ident, _, connected) in &snapshot.seen {
        text.sample(&[("ident", ident)], connected);
    }
}

fn certificates(snapshot: &Snapshot, text: &mut Text) {
    for (endpoint, expires) in &snapshot.certificates {
        text.sample(&[("endpoint", &endpoint.to_string())], expires);
    }
}

fn failures(snapshot: &Snapshot, text: &mut Text) {
    for (reason, count) in snapshot.totals.failures.by_reason() {
        text.sample(&[("reason", reason)], count);
    }
}

fn refused(snapshot: &Snapshot, text: &mut Text) {
    text.sample(&[("reason", "not-allowed")], snapshot.totals.denied);
}

fn authentication(snapshot: &Snapshot, text: &mut Text) {
    let LatencyCounts { counts, nanos } = &snapshot.authentication;
    let bounds = LatencyCounts::BOUNDS.iter().map(|(_, bound)| *bound);
    text.buckets(&[], bounds, counts, seconds(*nanos));
}
