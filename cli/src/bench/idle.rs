//! `hpfeeds bench idle`: connections that do nothing after AUTH, as those of quiet sensors.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    args::IdleArgs,
    barrier::{self, objection},
    batch::{END, Layout, STAMP},
    load::{self, Common, Event},
    process::{Usage, allow_connections},
    progress::Progress,
    report::{Report, quotient},
    target::{Target, failed},
    throughput::traffic,
};
use crate::exit::Failure;

/// How long the broker must have used next to no CPU time to count as settled.
const QUIET: Duration = Duration::from_millis(200);
const NEXT_TO_NONE: Duration = Duration::from_millis(2);

pub(super) fn run(target: &Target, args: &IdleArgs) -> Result<Report, Failure> {
    let count = args.connections;
    allow_connections(count.into()).map_err(Failure::new)?;
    let before = settled(target);
    let started = Instant::now();
    let progress = Progress::new(Some(count.into()), None);
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(target.connect()?);
        progress.add(1);
        progress.show();
    }
    let after = settled(target);
    progress.end();
    idle.iter().try_for_each(objection)?;

    let mut report = Report::new("idle", json!({ "connections": count }), target, started.elapsed());
    report.connections = Some(count.into());
    if let Some((before, after)) = before.zip(after) {
        report.broker_rss_bytes = Some(after.rss);
        report.rss_bytes_per_connection = Some(quotient(after.rss.saturating_sub(before.rss), count.into()));
    }
    prove(target, &mut idle, &mut report)?;
    Ok(report)
}

/// The broker's use once it has done what it was sent.
fn settled(target: &Target) -> Option<Usage> {
    let deadline = Instant::now() + target.patience;
    let mut last = target.usage()?;
    loop {
        thread::sleep(QUIET);
        let now = target.usage()?;
        if now.cpu_since(last) <= NEXT_TO_NONE || Instant::now() >= deadline {
            return Some(now);
        }
        last = now;
    }
}

/// That all of them were let in, and still are connected: each publishes a message, which must
/// arrive.
fn prove(target: &Target, idle: &mut [TcpStream], report: &mut Report) -> Result<(), Failure> {
    let layout = Arc::new(Layout::new(target.limits, &target.ident, &target.channel, STAMP)?);
    let (sender, events) = mpsc::channel();
    let publishers = u32::try_from(idle.len()).unwrap_or(u32::MAX);
    let progress = Progress::new(Some(publishers.into()), None);
    let common = Common { layout: layout.clone(), publishers, patience: target.patience, progress, events: sender };
    let results = load::receive(vec![target.subscriber()?], &common);
    barrier::all_subscribed(target, &layout, &events, 1)?;
    let started = Instant::now();
    for (id, stream) in (0..).zip(idle) {
        let frames = [layout.frame(id, 0), layout.frame(id | END, 1)].concat();
        stream.write_all(&frames).map_err(|cause| failed(&cause))?;
    }
    let mut received = Vec::new();
    load::collect(&events, &common.progress, results, |event| {
        if let Event::Received(part) = event {
            received.extend(part);
        }
    })?;
    common.progress.end();
    report.traffic = Some(traffic(&vec![1; publishers as usize], &received, layout.len(), started.elapsed()));
    Ok(())
}
