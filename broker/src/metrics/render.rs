//! All metrics, one after the other. `docs/metrics.md` explains them.

use std::{collections::HashSet, env::consts, sync::atomic::Ordering::Relaxed, time::Instant};

use hpfeeds::wire::Channel;

use super::{
    ChannelSeries, Latency, Metrics, Phase, Reason, STREAM, UNAUTHENTICATED,
    connection::{Category, IdentReport},
    process,
    sizes::BUCKETS,
    text::{
        Exposition,
        Kind::{Counter, Gauge, Histogram},
        Labels, Text,
    },
};
use crate::{context::BrokerContext, metrics::stats::Stats};

/// The bounds of message sizes, written as the Python broker writes them.
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

/// Everything that is known now, as text. Reads what is counted at the moment without stopping it, and forgets what
/// has not been used for a while.
pub(crate) fn render(context: &BrokerContext, exposition: Exposition) -> String {
    let mut text = Text::new(exposition);
    let metrics = &context.metrics;
    let stats = context.stats();
    let now = Instant::now();
    let idents: Vec<_> = {
        let mut table = metrics.idents();
        table.sweep(now);
        table.all().map(|(ident, series)| (ident.clone(), series.clone())).collect()
    };
    let mut reports: Vec<_> = idents.iter().map(|(ident, series)| (ident.as_str(), series.report(now))).collect();
    reports.sort_by_key(|(ident, _)| *ident);
    let nobody = metrics.nobody.report(now);
    let python = Python { text: &mut text, reports: &reports, nobody: &nobody };
    python.render(&stats);
    ours(&mut text, context, &stats);
    let help = "Messages that a subscriber did not get because it was slow.";
    by_ident(&mut text, &reports, "hpfeeds_broker_dropped_messages", help, |report| report.totals.dropped);
    unrouted(&mut text, &reports, metrics.channels.all_unrouted(now));
    handshakes(&mut text, metrics);
    process::render(&mut text);
    text.finish()
}

fn by_ident(
    text: &mut Text,
    reports: &[(&str, IdentReport)],
    name: &'static str,
    help: &str,
    value: impl Fn(&IdentReport) -> u64,
) {
    text.metric(Counter, name, help);
    for (ident, report) in reports {
        text.sample(&[("ident", ident)], value(report));
    }
}

/// What the Python broker exports too, under the same names.
struct Python<'a> {
    text: &'a mut Text,
    reports: &'a [(&'a str, IdentReport)],
    nobody: &'a IdentReport,
}

impl Python<'_> {
    fn render(self, stats: &Stats) {
        let Self { text, reports, nobody } = self;
        let help = "Connections that are open, authenticated or not.";
        text.single(Gauge, "hpfeeds_broker_client_connections", help, stats.connections);
        let help = "Connections that were accepted.";
        text.single(Counter, "hpfeeds_broker_connection_made", help, stats.accepted);
        let help = "Connections that authenticated.";
        by_ident(text, reports, "hpfeeds_broker_connection_ready", help, |report| report.ready);

        let help = "Connections that the broker ended because of what the client did, by category; the ident is empty \
                    when it has not authenticated, unless somebody else has proved to be that.";
        text.metric(Counter, "hpfeeds_broker_connection_error", help);
        for (ident, report) in
            [(UNAUTHENTICATED, nobody)].into_iter().chain(reports.iter().map(|(ident, all)| (*ident, all)))
        {
            for (category, count) in Category::ALL.iter().zip(report.errors).filter(|(_, count)| *count > 0) {
                text.sample(&[("ident", ident), ("category", category)], count);
            }
        }
        let help = "Connections that have ended; the ident is empty when they had not authenticated.";
        text.metric(Counter, "hpfeeds_broker_connection_lost", help);
        for (ident, report) in
            [(UNAUTHENTICATED, nobody)].into_iter().chain(reports.iter().map(|(ident, all)| (*ident, all)))
        {
            if report.lost > 0 {
                text.sample(&[("ident", ident)], report.lost);
            }
        }
        buffers(text, reports);
        channels(text, reports);

        let help = "Connections that are open and have authenticated, by ident and owner of the key.";
        text.metric(Gauge, "hpfeeds_client_authenticated_connections", help);
        for (ident, report) in reports {
            for (owner, count) in &report.owners {
                text.sample(&[("ident", ident), ("owner", owner)], count);
            }
        }
    }
}

fn buffers(text: &mut Text, reports: &[(&str, IdentReport)]) {
    let open = |(_, report): &&(&str, IdentReport)| !report.owners.is_empty();
    let help = "Bytes that are queued for subscribers now.";
    text.metric(Gauge, "hpfeeds_broker_connection_send_buffer_size", help);
    for (ident, report) in reports.iter().filter(open) {
        text.sample(&[("ident", ident)], report.totals.queued);
    }
    let help =
        "Bytes that have been received but not acted on: the start of a message, or what a publisher waits with.";
    text.metric(Gauge, "hpfeeds_broker_connection_receive_buffer_size", help);
    for (ident, report) in reports.iter().filter(open) {
        text.sample(&[("ident", ident)], report.totals.unparsed);
    }
    let mut counter = |name, help, value: fn(&IdentReport) -> u64| by_ident(text, reports, name, help, value);
    counter(
        "hpfeeds_broker_connection_receive_buffer_fill",
        "Bytes received from clients after they had authenticated.",
        |report| report.totals.received,
    );
    counter(
        "hpfeeds_broker_connection_send_buffer_fill",
        "Bytes of payload that were queued for subscribers.",
        |report| report.totals.filled,
    );
    counter(
        "hpfeeds_broker_connection_send_buffer_drain",
        "Bytes written to clients after they had authenticated.",
        |report| report.totals.drained,
    );
    counter(
        "hpfeeds_broker_connection_send_buffer_deadline_start",
        "How often a slow subscriber reached its high mark and was given a deadline.",
        |report| report.deadlines,
    );
    counter(
        "hpfeeds_broker_connection_send_buffer_deadline_recover",
        "How often a slow subscriber recovered before its deadline.",
        |report| report.recoveries,
    );
}

fn channels(text: &mut Text, reports: &[(&str, IdentReport)]) {
    text.metric(Gauge, "hpfeeds_broker_subscriptions", "Subscriptions of open connections to a channel.");
    each_channel(reports, |labels, series| {
        if let Some(subscriptions) = series.subscriptions() {
            text.sample(labels, subscriptions);
        }
    });
    text.metric(Counter, "hpfeeds_broker_receive_publish_count", "Messages that were published to a channel.");
    each_channel(reports, |labels, series| {
        if let Some((counts, _)) = series.publishes() {
            text.sample(labels, counts.iter().sum::<u64>());
        }
    });
    let help = "Sizes of the payloads that were published to a channel, in bytes.";
    text.metric(Histogram, "hpfeeds_broker_receive_publish_size", help);
    each_channel(reports, |labels, series| {
        if let Some((counts, bytes)) = series.publishes() {
            text.buckets(labels, SIZES.into_iter(), &counts, bytes);
        }
    });
}

fn each_channel(reports: &[(&str, IdentReport)], mut each: impl FnMut(Labels<'_>, &ChannelSeries)) {
    for (ident, report) in reports {
        for (chan, series) in &report.channels {
            each(&[("ident", ident), ("chan", chan)], series);
        }
    }
}

/// What the Python broker does not tell.
fn ours(text: &mut Text, context: &BrokerContext, stats: &Stats) {
    let metrics = &context.metrics;
    text.metric(Gauge, "hpfeeds_broker_build_info", "Always 1; which broker this is.");
    let version = env!("CARGO_PKG_VERSION");
    text.sample(&[("version", version), ("os", consts::OS), ("arch", consts::ARCH)], 1);

    text.metric(Gauge, "hpfeeds_broker_connections", "Connections that are open, by endpoint and how far they are.");
    let endpoints = metrics.endpoints.iter().map(|(addr, series)| (addr.to_string(), series));
    let streams = metrics.streams.get().map(|series| (STREAM.to_owned(), series));
    for (endpoint, series) in endpoints.chain(streams) {
        for ((_, state), count) in Phase::ALL.iter().zip(&series.phases) {
            text.sample(&[("endpoint", &endpoint), ("state", state)], count.load(Relaxed));
        }
    }
    let mut single = |kind, name, help, value: u64| text.single(kind, name, help, value);
    single(
        Gauge,
        "hpfeeds_broker_max_connections",
        "How many connections may be open at once.",
        context.config.max_connections as u64,
    );
    single(
        Counter,
        "hpfeeds_broker_rejected_connections",
        "Connections that were turned away, or had to give way before they had authenticated, as there were too many.",
        stats.rejected,
    );
    single(
        Counter,
        "hpfeeds_broker_throttled_connections",
        "Connections that had to wait because their address had failed to authenticate a moment before.",
        metrics.throttled.get(),
    );
    single(
        Counter,
        "hpfeeds_broker_refused_sessions",
        "Sessions that were ended because of a frame that is malformed or that the key does not allow.",
        stats.refused,
    );
    single(
        Counter,
        "hpfeeds_broker_slow_disconnects",
        "Subscribers that were disconnected because they stayed slow.",
        stats.slow_disconnects,
    );
    single(Counter, "hpfeeds_broker_received_messages", "Messages that were published.", stats.received_messages);
    single(
        Counter,
        "hpfeeds_broker_received_bytes",
        "Bytes on the wire of the messages that were published.",
        stats.received_bytes,
    );
    let counters = &context.delivery.counters;
    single(
        Counter,
        "hpfeeds_broker_forwarded_messages",
        "Messages that were queued for a subscriber, once for each.",
        counters.queued.get(),
    );
    single(
        Counter,
        "hpfeeds_broker_withdrawn_messages",
        "Forwarded messages that were not delivered: dropped as the oldest, or still queued when the connection ended.",
        counters.unqueued.get(),
    );
    single(
        Counter,
        "hpfeeds_broker_discarded_messages",
        "Messages that a subscriber did not get because its connection ended.",
        stats.discarded,
    );
    single(
        Counter,
        "hpfeeds_broker_sent_bytes",
        "Bytes written to clients after they had authenticated.",
        stats.sent_bytes,
    );
    single(
        Gauge,
        "hpfeeds_broker_queued_bytes",
        "Bytes that are queued for all subscribers, with the cost of keeping them.",
        stats.buffered,
    );
    single(
        Gauge,
        "hpfeeds_broker_queued_bytes_limit",
        "The most that is queued for all subscribers together.",
        context.config.max_buffered as u64,
    );
    single(
        Gauge,
        "hpfeeds_broker_tasks",
        "Tasks of the runtime that have not ended: one for each connection, and a few more.",
        context.runtime.metrics().num_alive_tasks() as u64,
    );
    let help = "Publishers that wait for subscribers now.";
    text.single(Gauge, "hpfeeds_broker_stalled_publishers", help, metrics.stalled.load(Relaxed));
    let help = "What publishers hold that wait: for subscribers, because of a limit, or for their turn.";
    text.single(Gauge, "hpfeeds_broker_waiting_bytes", help, context.pool.held() as u64);
    let help = "Time that publishers have waited for subscribers, all together; a wait counts once it is over.";
    let seconds = seconds(metrics.stalled_nanos.get());
    text.single(Counter, "hpfeeds_broker_publisher_stall_seconds", help, seconds);
}

/// A channel that has been published to is told from the start: what a counter begins with is no increase.
fn unrouted(text: &mut Text, reports: &[(&str, IdentReport)], counts: Vec<(Channel, u64)>) {
    let channels = reports.iter().flat_map(|(_, report)| &report.channels);
    let published: HashSet<_> =
        channels.filter(|(_, series)| series.publishes().is_some()).map(|(chan, _)| chan.clone()).collect();
    let help = "Messages that were published to a channel while nobody subscribed to it.";
    text.metric(Counter, "hpfeeds_broker_unrouted_messages", help);
    for (chan, count) in counts.into_iter().filter(|(chan, count)| *count > 0 || published.contains(chan)) {
        text.sample(&[("chan", &chan)], count);
    }
}

fn handshakes(text: &mut Text, metrics: &Metrics) {
    let help = "Connections that did not become a session, by reason.";
    text.metric(Counter, "hpfeeds_broker_handshake_failures", help);
    for ((_, reason), count) in Reason::ALL.iter().zip(&metrics.failures) {
        text.sample(&[("reason", reason)], count.get());
    }
    let help = "Time from a client's AUTH to the decision about it, in seconds.";
    text.metric(Histogram, "hpfeeds_broker_authentication_seconds", help);
    let Latency { counts, nanos } = &metrics.auth_seconds;
    let counts: Vec<_> = counts.iter().map(crate::metrics::counter::Counter::get).collect();
    let bounds = Latency::BOUNDS.iter().map(|(_, bound)| *bound);
    text.buckets(&[], bounds, &counts, seconds(nanos.get()));
}

#[allow(clippy::cast_precision_loss, reason = "it is shown, and nobody needs 16 digits")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
