//! The relay as a service: the uplinks of a broker that stores everything, started and stopped
//! together.

use std::{path::Path, sync::Arc, time::Duration};

use hpfeeds::{log::RealDisk, wire::Ident};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    figures::{Figures, UplinkSnapshot},
    table::Table,
    uplink::{Settings, Uplink},
};
use crate::broker::Broker;

/// The folder of the table in the data folder.
const FOLDER: &str = "relay";

/// The longest wait for the uplinks at the end: they give their sessions 6 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running relay. Dropped, its uplinks end as by a kill: nothing is lost.
pub(crate) struct Relay {
    uplinks: JoinSet<()>,
    figures: Vec<Figures>,
    stop: CancellationToken,
}

impl Relay {
    /// Opens the table of a data folder. Blocks. The error is one line.
    fn table(data_dir: &Path, allows_network_fs: bool) -> Result<Table, String> {
        let path = data_dir.join(FOLDER);
        let disk = if allows_network_fs { RealDisk::open_anywhere(&path) } else { RealDisk::open(&path) };
        let fault = |cause: &dyn std::fmt::Display| format!("the folder {} cannot be used: {cause}", path.display());
        let disk = disk.map_err(|cause| fault(&cause))?;
        let (table, lost) = Table::open(Arc::new(disk)).map_err(|cause| fault(&cause))?;
        if lost > 0 {
            warn!(records = lost, "records of the relay's cursors are damaged: some messages may be sent once more");
        }
        Ok(table)
    }

    /// Starts an uplink for each ident. The error is one line.
    pub(crate) async fn start(
        broker: &Broker,
        data_dir: &Path,
        allows_network_fs: bool,
        idents: Vec<Ident>,
        settings: Settings,
    ) -> Result<Self, String> {
        let Some(journal) = broker.journal() else { return Err("a relay needs a data folder".to_owned()) };
        let path = data_dir.to_owned();
        let opening = tokio::task::spawn_blocking(move || Self::table(&path, allows_network_fs));
        let table = opening.await.map_err(|cause| cause.to_string())??;
        let stop = CancellationToken::new();
        let (mut uplinks, mut all) = (JoinSet::new(), Vec::new());
        for ident in idents {
            let figures = Figures::new(ident.clone());
            all.push(figures.clone());
            let uplink = Uplink::new(ident, settings.clone(), journal, table.clone(), figures);
            uplinks.spawn(uplink.run(stop.clone()));
        }
        Ok(Self { uplinks, figures: all, stop })
    }

    /// The figures of each ident, in the order of the keys.
    pub(crate) fn figures(&self) -> &[Figures] {
        &self.figures
    }

    /// Waits until an uplink has ended by itself, which is a fault of the program.
    pub(crate) async fn failed(&mut self) -> &'static str {
        // There is at least one.
        let _ = self.uplinks.join_next().await;
        "an uplink has ended: the relay must be started again"
    }

    /// Ends the sessions in order: what they have sent is confirmed first, if that does not take
    /// long. Returns the last figures.
    pub(crate) async fn stop(mut self) -> Vec<UplinkSnapshot> {
        self.stop.cancel();
        let ended = async { while self.uplinks.join_next().await.is_some() {} };
        if timeout(PATIENCE, ended).await.is_err() {
            warn!("the disk of the relay does not answer: a restart sends some messages once more");
        }
        self.figures.iter().map(Figures::snapshot).collect()
    }
}
