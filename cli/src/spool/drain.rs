//! `hpfeeds spool drain`: sends everything that a spool holds.

use std::path::Path;

use hpfeeds::Spool;
use indicatif::ProgressBar;

use super::{open, survey::Survey};
use crate::{
    connection::ConnectionArgs,
    delivery::PatienceArgs,
    exit::{Failure, SPOOLED, messages, notice},
    sending::{Cut, Manner, Outgoing},
    signals::Stop,
};

/// Sends all of it. A spool that is not there is none, and is not made.
pub(crate) async fn drain(
    connection: ConnectionArgs,
    dir: &Path,
    patience: &PatienceArgs,
    stop: Stop,
) -> Result<(), Failure> {
    let before = Survey::of(&open(dir)?);
    if before.messages == 0 && before.damage.is_empty() {
        notice(format_args!("{} holds no messages", dir.display()));
        return Ok(());
    }
    let manner = Manner::with(patience, Some(Spool::dir(dir)));
    let mut outgoing = Outgoing::connect(&connection, &[], manner, ProgressBar::hidden(), stop).await?;
    let drained = outgoing.drain().await;
    let is_stalled = matches!(drained, Err(Cut::Stalled));
    let patience = patience.timeout;
    // The rest stands on disk: there is nothing to wait for any more.
    let finished = outgoing.finish(if is_stalled { Ok(()) } else { drained }).await;
    let after = Survey::of(&open(dir)?).messages;
    match finished {
        Ok(_) if after == 0 => {
            notice(format_args!("{} sent from {}, which is empty now", messages(before.messages), dir.display()));
            Ok(())
        }
        Ok(_) => Err(Failure::with_code(SPOOLED, format!("{} left in {}", messages(after), dir.display()))),
        Err(failure) if is_stalled => Err(failure.and(format_args!("the broker took nothing for {patience:?}"))),
        Err(failure) => Err(failure),
    }
}
