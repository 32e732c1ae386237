//! The report of a run: lines for a person, or one JSON object.

use std::{fmt, fs, num::NonZero, thread, time::Duration};

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use serde_json::Value;

use super::{check::Tally, histogram::Histogram, process::Measured, target::Target};
use crate::exit::Failure;

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) struct Report {
    workload: &'static str,
    parameters: Value,
    broker: String,
    /// From the first message or connection to the last.
    seconds: f64,
    #[serde(flatten)]
    pub(super) traffic: Option<Traffic>,
    pub(super) connections: Option<u64>,
    connections_per_second: Option<f64>,
    /// User and system time, over delivered messages.
    broker_cpu_ns_per_message: Option<f64>,
    broker_cpu_us_per_connection: Option<f64>,
    broker_cpu_seconds: Option<f64>,
    /// At the end.
    pub(super) broker_rss_bytes: Option<u64>,
    pub(super) rss_bytes_per_connection: Option<f64>,
    /// Of this process: how much the measuring itself takes.
    bench_cpu_ns_per_message: Option<f64>,
    bench_cpu_us_per_connection: Option<f64>,
    /// From when a message was due, or a connection begun.
    pub(super) latency_us: Option<Percentiles>,
    /// How late messages were handed to the system: what part of the latency is not the broker's.
    pub(super) late_us: Option<Percentiles>,
    machine: Machine,
}

#[derive(Debug, Serialize)]
pub(super) struct Traffic {
    /// By all publishers.
    messages: u64,
    /// To all subscribers.
    pub(super) delivered: u64,
    lost: u64,
    repeated: u64,
    /// Delivered.
    messages_per_second: f64,
    /// Of delivered frames.
    bytes_per_second: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p99_9: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    date: String,
}

impl Report {
    pub(super) fn new(workload: &'static str, parameters: Value, target: &Target, elapsed: Duration) -> Self {
        Self {
            workload,
            parameters,
            broker: target.addr.to_string(),
            seconds: elapsed.as_secs_f64(),
            traffic: None,
            connections: None,
            connections_per_second: None,
            broker_cpu_ns_per_message: None,
            broker_cpu_us_per_connection: None,
            broker_cpu_seconds: None,
            broker_rss_bytes: None,
            rss_bytes_per_connection: None,
            bench_cpu_ns_per_message: None,
            bench_cpu_us_per_connection: None,
            latency_us: None,
            late_us: None,
            machine: Machine::here(),
        }
    }

    pub(super) fn delivered(&mut self, traffic: Traffic, measured: Measured) {
        let each = |cpu: Option<Duration>| cpu.map(|cpu| each(cpu, traffic.delivered) * 1e9);
        self.broker_cpu_ns_per_message = each(measured.broker_cpu);
        self.bench_cpu_ns_per_message = each(measured.own_cpu);
        self.used(measured);
        self.traffic = Some(traffic);
    }

    pub(super) fn connected(&mut self, count: u64, measured: Measured) {
        let each = |cpu: Option<Duration>| cpu.map(|cpu| each(cpu, count) * 1e6);
        self.connections = Some(count);
        self.connections_per_second = Some(float(count) / self.seconds);
        self.broker_cpu_us_per_connection = each(measured.broker_cpu);
        self.bench_cpu_us_per_connection = each(measured.own_cpu);
        self.used(measured);
    }

    fn used(&mut self, measured: Measured) {
        self.broker_cpu_seconds = measured.broker_cpu.map(|cpu| cpu.as_secs_f64());
        self.broker_rss_bytes = measured.broker_rss;
    }

    /// A run in which something did not arrive, or arrived twice, has failed.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match &self.traffic {
            Some(Traffic { messages, lost, repeated, .. }) if lost + repeated > 0 => Err(Failure::new(format!(
                "of {messages} messages, {lost} were lost and {repeated} repeated or out of order"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn json(&self) -> Result<String, Failure> {
        let mut value = serde_json::to_value(self).map_err(|cause| Failure::new(cause.to_string()))?;
        if let Value::Object(fields) = &mut value {
            fields.retain(|_, value| !value.is_null());
        }
        Ok(format!("{value}\n"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: Option<String>| match text {
            Some(text) => writeln!(f, "{name:<18}{text}"),
            None => Ok(()),
        };
        line("workload", Some(self.workload.to_owned()))?;
        line("broker", Some(self.broker.clone()))?;
        line("machine", Some(self.machine.to_string()))?;
        line("seconds", Some(format!("{:.3}", self.seconds)))?;
        if let Some(traffic) = &self.traffic {
            line("published", Some(HumanCount(traffic.messages).to_string()))?;
            line("delivered", Some(traffic.to_string()))?;
            line("rate", Some(traffic.rate()))?;
        }
        line("connections", self.connections.map(|count| HumanCount(count).to_string()))?;
        line("rate", self.connections_per_second.map(|rate| format!("{rate:.0} connections/s")))?;
        line("broker CPU", self.broker_cpu_ns_per_message.map(|cpu| format!("{cpu:.0} ns per delivered message")))?;
        line("broker CPU", self.broker_cpu_us_per_connection.map(|cpu| format!("{cpu:.1} µs per connection")))?;
        line("broker memory", self.broker_rss_bytes.map(|rss| HumanBytes(rss).to_string()))?;
        line("each connection", self.rss_bytes_per_connection.map(|rss| format!("{rss:.0} bytes")))?;
        line("bench's own CPU", self.bench_cpu_ns_per_message.map(|cpu| format!("{cpu:.0} ns per delivered message")))?;
        line("bench's own CPU", self.bench_cpu_us_per_connection.map(|cpu| format!("{cpu:.1} µs per connection")))?;
        line("took", self.latency_us.map(|times| times.to_string()))?;
        line("sent late by", self.late_us.map(|times| times.to_string()))
    }
}

impl Traffic {
    pub(super) fn new(messages: u64, received: Tally, frame: usize, elapsed: Duration) -> Self {
        let rate = float(received.messages) / elapsed.as_secs_f64();
        Self {
            messages,
            delivered: received.messages,
            lost: received.lost,
            repeated: received.repeated,
            messages_per_second: rate,
            bytes_per_second: rate * float(frame as u64),
        }
    }

    fn rate(&self) -> String {
        format!("{:.0} messages/s, {:.1} MB/s", self.messages_per_second, self.bytes_per_second / 1e6)
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delivered, lost, repeated, .. } = self;
        write!(f, "{}, lost {lost}, repeated {repeated}", HumanCount(*delivered))
    }
}

impl Percentiles {
    pub(super) fn of(times: &Histogram) -> Self {
        let micros = |nanos| float(nanos) / 1000.0;
        let [p50, p90, p99, p99_9] = [500, 900, 990, 999].map(|part| micros(times.per_mille(part)));
        Self { p50, p90, p99, p99_9, max: micros(times.max()) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p99_9, max } = self;
        write!(f, "p50 {p50:.0}, p90 {p90:.0}, p99 {p99:.0}, p99.9 {p99_9:.0}, max {max:.0} µs")
    }
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        Self {
            cpu: model.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name.trim()).to_owned(),
            cores: thread::available_parallelism().map_or(0, NonZero::get),
            kernel: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, kernel, date } = self;
        write!(f, "{cpu}, {cores} cores, {kernel}, {date}")
    }
}

/// Seconds.
fn each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() / float(count.max(1))
}

pub(super) fn quotient(all: u64, count: u64) -> f64 {
    float(all) / float(count.max(1))
}

#[allow(clippy::cast_precision_loss, reason = "nobody reads more than sixteen digits")]
fn float(number: u64) -> f64 {
    number as f64
}
