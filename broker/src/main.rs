//! The broker as a program: reads its arguments, runs a [`Broker`](hpfeeds_broker::Broker) until it is told to stop.

mod cli;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use hpfeeds_broker::{Broker, StartError};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let cli = match cli::Cli::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if let Some(cli::Command::Keys(keys)) = &cli.command {
        return report(cli.runtime().map_err(Into::into).and_then(|runtime| runtime.block_on(keys.run())));
    }
    let level = if cli.debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(level)
        .with_target(false)
        .init();
    // As many connections as the system allows; when that is too few, accepting waits and says so.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    report(cli.runtime().map_err(Into::into).and_then(|runtime| runtime.block_on(run(&cli))))
}

fn report(result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("hpfeeds-broker: {cause}");
            // An option that makes no sense is the same fault as one that cannot be read.
            let usage = matches!(cause.downcast_ref(), Some(StartError::Option(_)));
            if usage { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(cli: &cli::Cli) -> Result<(), Box<dyn std::error::Error>> {
    // Before anything is printed: whoever reads that may signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let broker = cli.builder().await?.start().await?;
    match announce(cli, &broker) {
        // Nobody reads it, which is no reason to stop.
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => {}
        announced => announced?,
    }
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    broker.shutdown().await;
    Ok(())
}

fn announce(cli: &cli::Cli, broker: &Broker) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for addr in broker.local_addrs() {
        writeln!(out, "listening on {addr}")?;
    }
    if cli.dev {
        out.write_all(cli::hints(broker.local_addr()).as_bytes())?;
    }
    out.flush()
}
