//! Ctrl-C and SIGTERM: the first asks the action to end, the second ends the process.

use std::{
    fmt, io, process,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use crate::exit::{Failure, notice};

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
#[derive(Clone)]
pub(crate) struct Stop {
    signal: watch::Receiver<Option<(Signal, Instant)>>,
    last_words: Arc<OnceLock<LastWords>>,
}

/// The words for what an action that is stuck leaves undone, if anything.
type LastWords = Box<dyn Fn() -> Option<String> + Send + Sync>;

impl Stop {
    /// Waits until the user wants the action to end. Cancel safe.
    pub(crate) async fn requested(&mut self) -> Signal {
        self.wait().await.0
    }

    /// Whether the user wants the action to end.
    pub(crate) fn is_requested(&self) -> bool {
        self.signal.borrow().is_some()
    }

    /// Waits until the user has wanted the action to end for so long. Cancel safe.
    pub(crate) async fn requested_for(&mut self, long: Duration) -> Signal {
        let (signal, since) = self.wait().await;
        match since.checked_add(long) {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
        signal
    }

    /// Says what is left undone when the action has to be ended by force. The first call counts.
    pub(crate) fn last_words(&self, words: impl Fn() -> Option<String> + Send + Sync + 'static) {
        drop(self.last_words.set(Box::new(words)));
    }

    async fn wait(&mut self) -> (Signal, Instant) {
        match self.signal.wait_for(Option::is_some).await.map(|signal| *signal) {
            Ok(Some(signal)) => signal,
            // The task that asks for it has ended.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop").field("signal", &self.signal).finish_non_exhaustive()
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
    let last_words = Arc::<OnceLock<LastWords>>::default();
    let stop = Stop { signal: receiver, last_words: last_words.clone() };
    tokio::spawn(async move {
        let first = signals.next().await;
        sender.send_replace(Some((first, Instant::now())));
        let last = tokio::select! {
            again = signals.next() => again,
            () = sleep(patience.saturating_add(GRACE)) => first,
        };
        if let Some(words) = last_words.get().and_then(|words| words()) {
            notice(format_args!("ended by force: {words}"));
        }
        process::exit(last.exit_code().into());
    });
    action(stop).await
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
