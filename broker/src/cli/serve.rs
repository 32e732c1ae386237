//! The broker as a program: runs a [`Broker`] until a signal ends it, and reloads at SIGHUP.

use std::{io, process::ExitCode};

use clap::CommandFactory as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    broker::Broker,
    cli::{
        arguments::{Cli, Command},
        output::{complain, hints},
        process::{Stop, keep_freed_memory, notify, print, reload},
        relay,
    },
    error::StartError,
};

/// Runs the program: reads the arguments, then runs a broker until a signal ends it.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if let Some(command) = &cli.command {
        let done = match command {
            Command::Keys(keys) => cli.runtime().map_err(Into::into).and_then(|runtime| runtime.block_on(keys.run())),
            Command::Relay(relay) => return relay::main(relay),
            Command::Mailbox(mailbox) => mailbox.run().map_err(Into::into),
            Command::Drain(drain) => drain.run().map_err(Into::into),
            Command::Journal(journal) => journal.run().map_err(Into::into),
            Command::Health(health) => health.run().map_err(Into::into),
            Command::Completions(completions) => completions.run(Cli::command()).map_err(Into::into),
            Command::Man(man) => man.run(Cli::command()).map_err(Into::into),
        };
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(cause) => {
                complain(cause);
                ExitCode::FAILURE
            }
        };
    }
    let log = match cli.logging.start() {
        Ok(log) => log,
        Err(cause) => {
            complain(format_args!("cannot log: {cause}"));
            return ExitCode::FAILURE;
        }
    };
    match serve(&cli) {
        Ok(code) => code,
        Err(cause) => {
            log.fatal(&*cause);
            // An option that makes no sense is the same fault as one that cannot be read.
            let usage = matches!(cause.downcast_ref(), Some(StartError::Option(_)));
            if usage { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn serve(cli: &Cli) -> Result<ExitCode, Box<dyn std::error::Error>> {
    keep_freed_memory();
    let runtime = cli.runtime()?;
    let done = if cli.config.check_config {
        runtime.block_on(check(cli))
    } else {
        // As many connections as the system allows; when that is too few, accepting waits and says
        // so.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        runtime.block_on(run(cli))
    };
    // A name that is still being resolved, say, is not waited for.
    runtime.shutdown_background();
    done
}

async fn check(cli: &Cli) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let addrs = cli.builder().await?.check().await?;
    let printed = print(|out| {
        writeln!(out, "configuration is valid")?;
        let mut addrs = addrs.into_iter();
        for (endpoint, addr) in cli.endpoints().iter().zip(&mut addrs) {
            writeln!(out, "would listen on {addr} ({endpoint})")?;
        }
        // Of the exporter and the dashboard, if they are there.
        if cli.exporter.is_there()
            && let Some(addr) = addrs.next()
        {
            writeln!(out, "metrics would be at http://{addr}/metrics")?;
        }
        addrs.try_for_each(|addr| writeln!(out, "the dashboard would be at {}", cli.dashboard.url(addr)))
    });
    // Without its output, the check has no use.
    printed.map_err(|cause| format!("the configuration is valid, but cannot print to stdout: {cause}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(cli: &Cli) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // Before anything is printed: a reader of that may signal at once.
    let mut stop = Stop::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    // A data folder that another broker uses may be waited for.
    let broker = tokio::select! {
        started = async { Ok::<_, Box<dyn std::error::Error>>(cli.builder().await?.start().await?) } => started?,
        (name, _) = stop.recv() => {
            tracing::info!("{name}: stopping before the start is done");
            return Ok(ExitCode::SUCCESS);
        }
    };
    if let Err(cause) = print(|out| announce(out, cli, &broker)) {
        // The log has the same. A full disk must not keep the sensors out.
        tracing::warn!(%cause, "cannot print to stdout");
    }
    notify(NotifyState::Ready);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), endpoints = ?broker.local_addrs(), "started");
    tokio::select! {
        (name, _) = stop.recv() => tracing::info!("{name}: stopping"),
        () = reload(&broker, &mut hangup) => {}
    }
    notify(NotifyState::Stopping);
    tokio::select! {
        _ = broker.shutdown() => Ok(ExitCode::SUCCESS),
        (name, code) = stop.recv() => {
            tracing::warn!("{name} again: ending at once");
            Ok(ExitCode::from(code))
        }
    }
}

fn announce(out: &mut dyn io::Write, cli: &Cli, broker: &Broker) -> io::Result<()> {
    for addr in broker.local_addrs() {
        writeln!(out, "listening on {addr}")?;
    }
    if let Some(addr) = broker.exporter_addr() {
        writeln!(out, "metrics at http://{addr}/metrics")?;
    }
    cli.dashboard.announce(out, broker)?;
    if cli.dev {
        out.write_all(hints(broker.local_addr()).as_bytes())?;
    }
    Ok(())
}
