//! `hpfeeds bench connect`: each connection authenticates, half-closes, and is over when the broker
//! has closed it without an ERROR. With that, the broker has verified the key.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Instant,
};

use serde_json::json;

use super::{
    args::ConnectArgs,
    histogram::Histogram,
    process::Meter,
    progress::{Progress, TICK},
    report::{Percentiles, Report},
    target::Target,
    throughput::SECONDS,
};
use crate::exit::Failure;

/// The connections that are left to make.
#[derive(Debug, Clone)]
struct Work {
    target: Target,
    left: Arc<AtomicU64>,
    until: Option<Instant>,
    progress: Progress,
}

pub(super) fn run(target: &Target, args: &ConnectArgs) -> Result<Report, Failure> {
    let seconds = args.seconds.or(args.connections.is_none().then_some(SECONDS));
    let progress = Progress::new(args.connections, seconds);
    let meter = Meter::start(target.pid);
    let work = Work {
        target: target.clone(),
        left: Arc::new(args.connections.unwrap_or(u64::MAX).into()),
        until: seconds.map(|seconds| meter.started + seconds),
        progress: progress.clone(),
    };
    let (sender, results) = mpsc::channel();
    for _ in 0..args.concurrency {
        let (work, sender) = (work.clone(), sender.clone());
        thread::spawn(move || drop(sender.send(visits(&work))));
    }
    drop(sender);
    let times = collect(&results, &progress, args.concurrency)?;
    let measured = meter.stop();
    progress.end();

    let parameters = json!({
        "connections": args.connections,
        "concurrency": args.concurrency,
        "seconds": seconds.map(|seconds| seconds.as_secs_f64()),
    });
    let mut report = Report::new("connect", parameters, target, measured.elapsed);
    report.connected(progress.done(), measured);
    report.latency_us = Some(Percentiles::of(&times));
    Ok(report)
}

fn collect(
    results: &mpsc::Receiver<Result<Histogram, Failure>>,
    progress: &Progress,
    mut threads: u32,
) -> Result<Histogram, Failure> {
    let mut times = Histogram::new();
    while threads > 0 {
        progress.show();
        match results.recv_timeout(TICK) {
            Ok(part) => {
                times.merge(&part?);
                threads -= 1;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Failure::new("a thread of bench has ended")),
        }
    }
    Ok(times)
}

/// One after the other. How long they took.
fn visits(work: &Work) -> Result<Histogram, Failure> {
    let mut times = Histogram::new();
    loop {
        let now = Instant::now();
        let is_over = work.until.is_some_and(|until| now >= until);
        if is_over || work.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            return Ok(times);
        }
        work.target.visit()?;
        times.record(now.elapsed());
        work.progress.add(1);
    }
}
