//! Dispatch: the parsed command line to the function of its subcommand, in a tokio runtime where it
//! needs one.

use std::{env, io, process::ExitCode, time::Duration};

use tokio::runtime;
use tracing::Level;
use tracing_subscriber::{
    filter::Targets,
    layer::{Layer as _, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

#[cfg(feature = "demo")]
use crate::demo;
#[cfg(feature = "top")]
use crate::top;
use crate::{
    args::{Action, Cli},
    bench, completions, doctor,
    exit::{self, Failure},
    man, publish, sendfile,
    signals::supervise,
    subscribe,
};
#[cfg(unix)]
use crate::{
    delivery::spool_patience,
    spool::{
        self,
        args::{SpoolAction, SpoolArgs},
    },
};

/// Parses the command line, runs its action, and says how that ended.
pub(crate) fn main() -> ExitCode {
    match Cli::from_arguments() {
        Ok(cli) => exit::report(run(cli)),
        Err(error) if error.use_stderr() && doctor::is_for_nagios(env::args_os()) => doctor::unknown(&error).into(),
        Err(error) => exit::usage(&error),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    if cli.connection.debug {
        log_to_stderr();
    }
    let connection = cli.connection;
    match cli.action {
        Action::Completions(args) => completions::run(&args),
        Action::Man(args) => man::run(&args),
        #[cfg(unix)]
        Action::Spool(SpoolArgs { action: SpoolAction::Drain { dir, patience } }) => {
            let limit = spool_patience(&patience);
            in_runtime(supervise(async |stop| spool::drain(connection, &dir, &patience, stop).await, limit))
        }
        #[cfg(unix)]
        Action::Spool(args) => spool::look(&args.action),
        Action::Bench(args) => in_runtime(supervise(|stop| bench::run(args, stop), Duration::ZERO)),
        Action::Doctor(args) => in_runtime(supervise(|stop| doctor::run(connection, args, stop), Duration::ZERO)),
        #[cfg(feature = "top")]
        Action::Top(args) => in_runtime(supervise(|stop| top::run(connection, args, stop), Duration::ZERO)),
        #[cfg(not(feature = "top"))]
        Action::Top { .. } => Err(Failure::new("this build has no top: it lacks the feature `top` of hpfeeds-cli")),
        #[cfg(feature = "demo")]
        Action::Demo(args) => in_runtime(supervise(|stop| demo::run(args, stop), Duration::ZERO)),
        #[cfg(not(feature = "demo"))]
        Action::Demo { .. } => Err(Failure::new("this build has no demo: it lacks the feature `demo` of hpfeeds-cli")),
        Action::Subscribe(args) => in_runtime(supervise(|stop| subscribe::run(connection, args, stop), Duration::ZERO)),
        Action::Publish(args) => {
            let patience = args.spooling.patience(&args.patience);
            in_runtime(supervise(|stop| publish::run(connection, args, stop), patience))
        }
        Action::Sendfile(args) => {
            let patience = args.spooling.patience(&args.patience);
            in_runtime(supervise(|stop| sendfile::run(connection, args, stop), patience))
        }
    }
}

/// Runs something on this thread, and what it spawns on another one: the connection is served, and
/// signals are heard, while this thread waits for a slow pipe. At the end, threads that are stuck
/// in a read are not waited for.
fn in_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|cause| Failure::new(format!("cannot start: {cause}")))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

/// Logs what the library does, for `--debug`. The library is told no secret to log.
fn log_to_stderr() {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        // Without this, a closed stderr would be a panic.
        .log_internal_errors(false);
    let library = Targets::new().with_target("hpfeeds", Level::DEBUG);
    tracing_subscriber::registry().with(lines.with_filter(library)).init();
}
