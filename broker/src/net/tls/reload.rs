//! Replacing certificates while the broker runs.

use std::{
    fs, mem,
    path::Path,
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{Certificate, TlsError};
use crate::{net::endpoint::TlsFiles, util::poll_backoff::PollBackoff};

/// How often the files are looked at.
///
/// Asking is more robust here than being told: it sees files that are replaced by rename, links that are turned (each
/// link on the way, as Kubernetes turns the one of a directory), and network file systems, none of which a watch on the
/// file itself sees; and it costs a few system calls a second.
const PERIOD: Duration = Duration::from_secs(1);

/// The certificates of all endpoints.
#[derive(Debug, Default)]
pub(crate) struct Reloader {
    certificates: Vec<Arc<Certificate>>,
}

impl Reloader {
    pub(crate) fn new(certificates: Vec<Arc<Certificate>>) -> Self {
        Self { certificates }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// Reads all files again, and logs what became of each certificate. One that cannot be used stays as it was; the
    /// first of these errors is returned. Blocks while the files are read.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        self.certificates.iter().map(reload).fold(Ok(()), Result::and)
    }

    /// Looks at the files for ever, and reads them again when they have changed.
    pub(crate) async fn watch(&self) {
        let mut watched: Vec<_> = self
            .certificates
            .iter()
            .map(|certificate| Watched {
                certificate: certificate.clone(),
                changed: None,
                retry: PollBackoff::default(),
            })
            .collect();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut looking = mem::take(&mut watched);
            // A file system may be slow.
            let looked = tokio::task::spawn_blocking(move || {
                looking.iter_mut().for_each(Watched::look);
                looking
            });
            match looked.await {
                Ok(looked) => watched = looked,
                // The runtime ends.
                Err(_) => return,
            }
        }
    }
}

fn reload(certificate: &Arc<Certificate>) -> Result<(), TlsError> {
    let reloaded = certificate.reload();
    log(certificate, &reloaded);
    reloaded
}

fn log(certificate: &Certificate, reloaded: &Result<(), TlsError>) {
    match reloaded {
        Ok(()) => info!(endpoint = certificate.endpoint, "certificate loaded again"),
        Err(cause) => warn!(%cause, "certificate not loaded again: the old one stays"),
    }
}

struct Watched {
    certificate: Arc<Certificate>,
    /// What the files looked like the last time, if that is not what they looked like when they were read.
    changed: Option<Fingerprint>,
    retry: PollBackoff,
}

impl Watched {
    /// Files that have changed are read once they stay as they are: a certificate and its key are two files, and
    /// neither need be written at once.
    fn look(&mut self) {
        let now = Fingerprint::of(&self.certificate.files);
        if *self.certificate.read.lock().unwrap_or_else(PoisonError::into_inner) == now {
            self.changed = None;
        } else if self.changed.as_ref() != Some(&now) {
            (self.changed, self.retry) = (Some(now), PollBackoff::default());
        } else if self.retry.is_due() {
            let reloaded = self.certificate.reload();
            let news = reloaded.as_ref().err().is_none_or(|cause| self.retry.failed(&cause.to_string()));
            if news {
                log(&self.certificate, &reloaded);
            }
        }
    }
}

/// What tells whether files have changed, without reading them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<Option<Trace>>);

/// Of one file; links are followed.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    len: u64,
    modified: Option<SystemTime>,
    /// Device, number and time of change: another file in its place has others.
    #[cfg(unix)]
    inode: (u64, u64, i64, i64),
}

impl Fingerprint {
    pub(super) fn of(files: &TlsFiles) -> Self {
        let TlsFiles { key, cert, chain, client_ca, client_auth: _ } = files;
        let paths = [Some(key), Some(cert), chain.as_ref(), client_ca.as_ref()];
        Self(paths.into_iter().flatten().map(|path| Trace::of(path)).collect())
    }
}

impl Trace {
    /// `None` when it cannot be looked at.
    fn of(path: &Path) -> Option<Self> {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        let file = fs::metadata(path).ok()?;
        Some(Self {
            len: file.len(),
            modified: file.modified().ok(),
            #[cfg(unix)]
            inode: (file.dev(), file.ino(), file.ctime(), file.ctime_nsec()),
        })
    }
}
