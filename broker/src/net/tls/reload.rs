//! The reloader of TLS certificates: replaces them while the broker runs.

use std::{mem, net::SocketAddr, sync::Arc};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::{
    net::tls::certificate::{Certificate, TlsError},
    util::file_watch::{self, FileWatch, Look},
};

/// Files are read only once they stay as they are from one look to the next, however long that
/// takes: a certificate and its key are two files, and neither need be written at once.
const PATIENCE: u32 = u32::MAX;

/// The certificates of all endpoints.
#[derive(Debug, Default)]
pub(crate) struct Reloader {
    certificates: Vec<Arc<Certificate>>,
    /// The address of the endpoint of each.
    addrs: Vec<SocketAddr>,
}

impl Reloader {
    pub(crate) fn new(certificates: impl Iterator<Item = (SocketAddr, Arc<Certificate>)>) -> Self {
        let (addrs, certificates) = certificates.unzip();
        Self { certificates, addrs }
    }

    /// The end of each certificate's validity in seconds since 1970, with its endpoint's address.
    pub(crate) fn expiries(&self) -> Vec<(SocketAddr, i64)> {
        self.addrs.iter().copied().zip(self.certificates.iter().map(|certificate| certificate.expires())).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    /// Reads all files again, and logs what became of each certificate. One that cannot be used
    /// stays as it was; the first of these errors is returned. Blocks while the files are read.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        self.certificates.iter().map(|certificate| reload(certificate)).fold(Ok(()), Result::and)
    }

    /// Looks at the files for ever, and reads them again when they have changed.
    pub(crate) async fn watch(&self) {
        let mut watched: Vec<_> = self.certificates.iter().cloned().map(Watched::new).collect();
        let mut ticks = interval(file_watch::INTERVAL);
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

fn reload(certificate: &Certificate) -> Result<(), TlsError> {
    let reloaded = certificate.reload();
    log(certificate, &reloaded);
    reloaded
}

fn log(certificate: &Certificate, reloaded: &Result<(), TlsError>) {
    match reloaded {
        Ok(()) => info!(endpoint = certificate.endpoint(), "certificate loaded again"),
        Err(cause) => warn!(%cause, "certificate not loaded again: the old one stays"),
    }
}

struct Watched {
    certificate: Arc<Certificate>,
    files: FileWatch,
}

impl Watched {
    fn new(certificate: Arc<Certificate>) -> Self {
        let files = FileWatch::new(certificate.read_from(), PATIENCE);
        Self { certificate, files }
    }

    fn look(&mut self) {
        let now = self.certificate.fingerprint();
        if self.certificate.read_from() == now {
            // Also after a reload that was asked for.
            self.files = FileWatch::new(now, PATIENCE);
        } else if self.files.look(now) == Look::Due {
            let reloaded = self.certificate.reload();
            if reloaded.as_ref().err().is_none_or(|cause| self.files.failed(&cause.to_string())) {
                log(&self.certificate, &reloaded);
            }
        }
    }
}
