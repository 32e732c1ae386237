//! Ctrl-C and SIGTERM: the first asks the action to end, the second ends the process.

use std::{io, process, time::Duration};

use tokio::{sync::watch, time::sleep};

use crate::exit::Failure;

/// How long an action may take to end after it was asked to, on top of the deadlines it keeps
/// itself. It can be stuck in a write to a pipe that nobody reads.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// The exit code as a shell counts it: 128 plus the signal's number.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 128 + 2,
            Self::Terminate => 128 + 15,
        }
    }
}

/// Tells an action to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<Option<Signal>>);

impl Stop {
    /// Waits until the user wants the action to end. Cancel safe.
    pub(crate) async fn requested(&mut self) -> Signal {
        match self.0.wait_for(Option::is_some).await.map(|signal| *signal) {
            Ok(Some(signal)) => signal,
            // The task that asks for it has ended.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// Runs an action to its end, which a signal brings about sooner.
///
/// `patience`: how long the action may take to end when it is asked to.
///
/// The action stays on this thread, which may block: it is no worker of the runtime. A task of its
/// own listens to signals, and ends the process when the action is stuck.
pub(crate) async fn supervise<F>(action: impl FnOnce(Stop) -> F, patience: Duration) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let mut signals = Signals::install().map_err(|cause| Failure::new(format!("cannot handle signals: {cause}")))?;
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let first = signals.next().await;
        sender.send_replace(Some(first));
        let last = tokio::select! {
            again = signals.next() => again,
            () = sleep(patience.saturating_add(GRACE)) => first,
        };
        process::exit(last.exit_code().into());
    });
    action(Stop(receiver)).await
}

/// SIGHUP, which does not end the process while somebody listens to it.
pub(crate) struct Hangup(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

impl Hangup {
    /// Listens, if it is wanted: otherwise SIGHUP does what it always does.
    pub(crate) fn listen(wanted: bool) -> Result<Self, Failure> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let signal = wanted.then(|| signal(SignalKind::hangup())).transpose();
            signal.map(Self).map_err(|cause| Failure::new(format!("cannot handle signals: {cause}")))
        }
        #[cfg(not(unix))]
        {
            let _ = wanted;
            Ok(Self())
        }
    }

    /// Waits for the next one, for ever if none is listened to. Cancel safe.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[allow(clippy::unnecessary_wraps, reason = "it can fail elsewhere")]
    fn install() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Signal::Interrupt,
            Err(_) => std::future::pending().await,
        }
    }
}
