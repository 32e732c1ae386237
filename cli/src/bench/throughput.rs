//! `hpfeeds bench throughput`: as many messages as get through, from all publishers to all
//! subscribers.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use serde_json::json;

use super::{
    args::ThroughputArgs,
    barrier,
    batch::Layout,
    check::{Checker, Tally},
    load::{self, Common, Event},
    process::{Meter, allow_connections},
    progress::Progress,
    report::{Report, Traffic},
    target::Target,
};
use crate::exit::Failure;

/// How long to publish when nothing is said.
pub(super) const SECONDS: Duration = Duration::from_secs(5);

pub(super) fn run(target: &Target, args: &ThroughputArgs) -> Result<Report, Failure> {
    allow_connections(u64::from(args.publishers) + u64::from(args.subscribers)).map_err(Failure::new)?;
    let seconds = args.seconds.or(args.messages.is_none().then_some(SECONDS));
    let expected = args.messages.map(|messages| messages * u64::from(args.subscribers));
    let layout = Arc::new(Layout::new(target.limits, &target.ident, &target.channel, args.size)?);
    let (sender, events) = mpsc::channel();
    let common = Common {
        layout: layout.clone(),
        publishers: args.publishers,
        patience: target.patience,
        progress: Progress::new(expected, seconds),
        events: sender,
    };

    let subscribers = (0..args.subscribers).map(|_| target.subscriber()).collect::<Result<_, _>>()?;
    let publishers = (0..args.publishers).map(|_| target.connect()).collect::<Result<_, _>>()?;
    let mut results = load::receive(subscribers, &common);
    barrier::all_subscribed(target, &layout, &events, args.subscribers)?;

    let meter = Meter::start(target.pid);
    results += load::publish(publishers, args.messages, seconds.map(|seconds| meter.started + seconds), &common);
    let (mut sent, mut received) = (vec![0; args.publishers as usize], Vec::new());
    load::collect(&events, &common.progress, results, |event| match event {
        Event::Published(first, part) => {
            let first = first as usize;
            sent[first..first + part.len()].copy_from_slice(&part);
        }
        Event::Received(part) => received.extend(part),
        _ => {}
    })?;
    let measured = meter.stop();
    common.progress.end();

    let parameters = json!({
        "publishers": args.publishers,
        "subscribers": args.subscribers,
        "size": args.size,
        "messages": args.messages,
        "seconds": seconds.map(|seconds| seconds.as_secs_f64()),
    });
    let mut report = Report::new("throughput", parameters, target, measured.elapsed);
    report.delivered(traffic(&sent, &received, layout.len(), measured.elapsed), measured);
    Ok(report)
}

/// Adds up what all subscribers have received.
pub(super) fn traffic(sent: &[u64], received: &[Checker], frame: usize, elapsed: Duration) -> Traffic {
    let mut sum = Tally::default();
    for tally in received.iter().map(|checker| checker.finish(sent)) {
        sum.messages += tally.messages;
        sum.lost += tally.lost;
        sum.repeated += tally.repeated;
    }
    Traffic::new(sent.iter().sum(), sum, frame, elapsed)
}
