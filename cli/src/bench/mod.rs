//! `hpfeeds bench`: measures a broker, with every byte verified.

pub(crate) mod args;
mod barrier;
mod batch;
mod check;
mod child;
mod connect;
mod histogram;
mod idle;
mod latency;
mod load;
mod process;
mod progress;
mod report;
mod target;
mod throughput;

use std::io::{self, Write as _};

use hpfeeds::{Ident, Limits, Secret};
use tokio::task::spawn_blocking;

use self::{
    args::{BenchArgs, Workload},
    child::{Broker, Needs},
    report::Report,
    target::Target,
};
use crate::{exit::Failure, signals::Stop};

/// The key's name on a broker that is started for the run.
const IDENT: &str = "bench";

pub(crate) async fn run(args: BenchArgs, mut stop: Stop) -> Result<(), Failure> {
    let (workload, json) = (args.workload.clone(), args.common.json);
    // The broker stays here, not with the work: a signal ends the work, and must end the broker
    // too.
    let (target, broker) = blocking(move || prepare(&args)).await?;
    let report = tokio::select! {
        report = blocking(move || measure(&target, &workload)) => report,
        signal = stop.requested() => Err(Failure::silent(signal.exit_code())),
    };
    drop(broker);
    let report = report?;
    let text = if json { report.json()? } else { report.to_string() };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|cause| Failure::new(format!("cannot write to stdout: {cause}")))?;
    report.verdict()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    spawn_blocking(work).await.unwrap_or_else(|panicked| Err(Failure::new(panicked.to_string())))
}

fn measure(target: &Target, workload: &Workload) -> Result<Report, Failure> {
    // Says what is wrong with the key before anything is measured, and lets the broker initialise
    // what it needs.
    target.visit()?;
    match workload {
        Workload::Throughput(args) => throughput::run(target, args),
        Workload::Latency(args) => latency::run(target, args),
        Workload::Idle(args) => idle::run(target, args),
        Workload::Connect(args) => connect::run(target, args),
    }
}

/// The given broker, or one that is started.
fn prepare(args: &BenchArgs) -> Result<(Target, Option<Broker>), Failure> {
    let (common, max_message) = (&args.common, args.max_message);
    let limits = Limits::new(max_message);
    let (patience, channel) = (common.timeout, common.channel());
    if let Some(given) = &args.given {
        let addr = target::resolve(given, patience)?;
        let ident = Ident::new(&given.ident).map_err(|cause| Failure::new(format!("the ident {cause}")))?;
        let target = Target { addr, pid: common.pid, ident, secret: given.secret.clone(), channel, limits, patience };
        return match (target.pid, target.usage()) {
            (Some(pid), None) => Err(Failure::new(format!("cannot read what the process {pid} uses from /proc"))),
            _ => Ok((target, None)),
        };
    }
    let secret = format!("{:032x}", fastrand::u128(..));
    let needs = Needs {
        ident: IDENT,
        secret: &secret,
        channel: &channel,
        connections: args.workload.connections(),
        max_message,
    };
    let broker = Broker::start(common.broker.as_deref(), &needs)?;
    let ident = Ident::new(IDENT).map_err(|cause| Failure::new(cause.to_string()))?;
    let (addr, pid) = (broker.addr(), Some(broker.pid()));
    let target = Target { addr, pid, ident, secret: Secret::from(secret), channel, limits, patience };
    Ok((target, Some(broker)))
}
