//! `hpfeeds bench latency`: an open loop. When a message is due does not depend on how long earlier
//! ones took, and its time counts from then on, however late it was sent: a broker that stalls is
//! charged for all that it delays.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    args::LatencyArgs,
    barrier,
    batch::{Batch, END, Layout},
    histogram::Histogram,
    load::{self, Common, Event},
    process::{Meter, wake_punctually},
    progress::Progress,
    report::{Percentiles, Report},
    target::{Target, failed, why},
    throughput::traffic,
};
use crate::exit::Failure;

/// Bytes that are read or written at once.
const ROOM: usize = 256 * 1024;

/// When each message is due.
#[derive(Debug, Clone)]
struct Schedule {
    start: Arc<OnceLock<Instant>>,
    rate: u32,
    messages: u64,
}

pub(super) fn run(target: &Target, args: &LatencyArgs) -> Result<Report, Failure> {
    let layout = Arc::new(Layout::new(target.limits, &target.ident, &target.channel, args.size)?);
    let messages = u128::from(args.rate) * args.seconds.as_millis() / 1000;
    let messages = u64::try_from(messages).unwrap_or(u64::MAX).max(1);
    let schedule = Schedule { start: Arc::default(), rate: args.rate, messages };
    let (sender, events) = mpsc::channel();
    let progress = Progress::new(Some(messages * u64::from(args.subscribers)), None);
    let common = Common { layout: layout.clone(), publishers: 1, patience: target.patience, progress, events: sender };

    for _ in 0..args.subscribers {
        let (stream, schedule) = (target.subscriber()?, schedule.clone());
        common.spawn(move |common| receive(stream, common, &schedule));
    }
    let publisher = target.connect()?;
    barrier::all_subscribed(target, &layout, &events, args.subscribers)?;

    let meter = Meter::start(target.pid);
    let _ = schedule.start.set(meter.started);
    let (late, lateness) = mpsc::channel();
    common.spawn(move |common| {
        drop(late.send(publish(publisher, common, &schedule)?));
        Ok(Event::Published(0, vec![schedule.messages]))
    });
    let (mut received, mut times) = (Vec::new(), Histogram::new());
    load::collect(&events, &common.progress, args.subscribers as usize + 1, |event| {
        if let Event::Timed(result) = event {
            times.merge(&result.1);
            received.push(result.0);
        }
    })?;
    let measured = meter.stop();
    common.progress.end();

    let parameters = json!({
        "rate": args.rate,
        "subscribers": args.subscribers,
        "size": args.size,
        "seconds": args.seconds.as_secs_f64(),
    });
    let mut report = Report::new("latency", parameters, target, measured.elapsed);
    report.delivered(traffic(&[messages], &received, layout.len(), measured.elapsed), measured);
    report.latency_us = Some(Percentiles::of(&times));
    report.late_us = lateness.recv().ok().map(|late| Percentiles::of(&late));
    Ok(report)
}

impl Schedule {
    /// Nothing before the start.
    fn due(&self, number: u64) -> Option<Instant> {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.rate);
        Some(*self.start.get()? + Duration::from_nanos(u64::try_from(nanos).ok()?))
    }

    /// How many messages are due by now.
    fn due_by(&self, now: Instant) -> u64 {
        let Some(start) = self.start.get() else { return 0 };
        let elapsed = now.saturating_duration_since(*start);
        let count = elapsed.as_nanos() * u128::from(self.rate) / 1_000_000_000 + 1;
        u64::try_from(count).unwrap_or(u64::MAX).min(self.messages)
    }
}

/// Blocks in every read: nothing wakes up sooner.
fn receive(mut stream: TcpStream, common: &Common, schedule: &Schedule) -> Result<Event, Failure> {
    let (mut checker, mut times) = (common.checker(), Histogram::new());
    let mut buffer = vec![0; ROOM];
    while !checker.is_complete() {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Err(Failure::new("the broker closed the connection of a subscriber")),
            Ok(length) => length,
            // With what there is: the rest is lost.
            Err(cause) if matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
            Err(cause) => return Err(failed(&cause)),
        };
        let now = Instant::now();
        common.check(&mut checker, &buffer[..length], |number| {
            if let Some(due) = schedule.due(number) {
                times.record(now.saturating_duration_since(due));
            }
        })?;
    }
    Ok(Event::Timed(Box::new((checker, times))))
}

/// Returns how late each message was handed to the system.
fn publish(mut stream: TcpStream, common: &Common, schedule: &Schedule) -> Result<Histogram, Failure> {
    wake_punctually();
    let mut batch = Batch::new(&common.layout, ROOM);
    let mut late = Histogram::new();
    let mut sent = 0;
    while sent < schedule.messages {
        let now = Instant::now();
        let count = schedule.due_by(now).saturating_sub(sent).min(batch.capacity());
        if count == 0 {
            let due = schedule.due(sent).unwrap_or(now);
            thread::sleep(due.saturating_duration_since(now));
            continue;
        }
        for due in (sent..sent + count).filter_map(|number| schedule.due(number)) {
            late.record(now.saturating_duration_since(due));
        }
        stream.write_all(batch.numbered(0, sent, count)).map_err(|cause| why(&stream, &cause))?;
        sent += count;
    }
    stream.write_all(&common.layout.frame(END, sent)).map_err(|cause| why(&stream, &cause))?;
    Ok(late)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_due_exactly_from_its_time_on() {
        let start = Instant::now();
        let schedule = Schedule { start: Arc::new(start.into()), rate: 3, messages: 100 };
        for number in 0..10 {
            let due = schedule.due(number).unwrap() + Duration::from_nanos(1);
            assert_eq!(schedule.due_by(due), number + 1);
            assert_eq!(schedule.due_by(due.checked_sub(Duration::from_nanos(2)).unwrap().max(start)), number.max(1));
        }
        assert_eq!(schedule.due_by(start + Duration::from_secs(1000)), 100);
    }
}
