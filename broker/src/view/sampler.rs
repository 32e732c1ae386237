//! The sampler of presence and rates: looks at all connections once a second, and stores the presence
//! once a minute.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use crate::{
    context::BrokerContext,
    presence::{Presence, file},
    util::clock::unix_seconds,
};

const LOOK: Duration = Duration::from_secs(1);

/// How many looks come before the presence is stored, and the keys are listed.
const LOOKS_A_MINUTE: u32 = 60;

/// Looks once a second for as long as there are connections, for ever. An idle broker sleeps.
pub(crate) async fn run(context: Arc<BrokerContext>) {
    loop {
        context.list_keys().await;
        context.presence.arrived.notified().await;
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looks, mut last) = (0, Instant::now());
        loop {
            let now = ticks.tick().await;
            let passed = now.saturating_duration_since(last).as_secs();
            last += Duration::from_secs(passed);
            let open = context.presence.look(unix_seconds(), u32::try_from(passed).unwrap_or(u32::MAX));
            context.metrics.rates.sample(&context.metrics.counters);
            looks = (looks + 1) % LOOKS_A_MINUTE;
            if looks == 0 {
                context.presence.expire(unix_seconds());
                save(&context).await;
                context.list_keys().await;
            }
            // With a data folder, what the last connection did is stored first.
            if open == 0 && (looks == 0 || context.config.storage.dir.is_none()) {
                break;
            }
        }
    }
}

/// The presence that the data folder has stored, if there is one.
pub(crate) async fn load(folder: Option<PathBuf>) -> Presence {
    let Some(folder) = folder else {
        return Presence::default();
    };
    let loading = tokio::task::spawn_blocking(move || file::load(&folder));
    match loading.await {
        Ok(Ok(records)) => Presence::of(records),
        Ok(Err(cause)) => {
            warn!(%cause, "the presence of idents is not known: it begins anew");
            Presence::default()
        }
        Err(_) => Presence::default(),
    }
}

/// Stores the presence in the data folder, if there is one and something has changed.
pub(crate) async fn save(context: &BrokerContext) {
    let Some(folder) = &context.config.storage.dir else {
        return;
    };
    let (folder, presence) = (PathBuf::from(folder), context.presence.clone());
    let storing = tokio::task::spawn_blocking(move || presence.store(&folder));
    match storing.await {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => warn!(%cause, "the presence of idents cannot be stored: a restart will forget it"),
        Err(cause) => warn!(%cause, "the presence of idents was not stored"),
    }
}
