//! The background tasks of a broker: figures, signs of life, certificates, keys, and the commands of
//! its operator. Each ends with the broker.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::error;
#[cfg(unix)]
use tracing::warn;

#[cfg(unix)]
use crate::control;
use crate::{
    context::BrokerContext,
    identity::recheck,
    journal::state::{Health, Progress},
    view::sampler,
};

/// Starts the tasks that the options ask for.
pub(crate) fn spawn(context: &Arc<BrokerContext>) {
    #[cfg(unix)]
    serve_commands(context);
    let context_too = context.clone();
    let sampling = async move { context_too.closing.run_until_cancelled(sampler::run(context_too.clone())).await };
    context.tasks.spawn(sampling);
    if context.config.offers_extension() {
        let context_too = context.clone();
        let sweeping = async move { context_too.closing.run_until_cancelled(context_too.pulse.run()).await };
        context.tasks.spawn(sweeping);
    }
    if let Some(store) = &context.journal {
        context.tasks.spawn(tell_failure(store.journal.progress(), context.clone()));
    }
    if !context.certificates.is_empty() {
        let context_too = context.clone();
        let watching = async move { context_too.draining.run_until_cancelled(context_too.certificates.watch()).await };
        context.tasks.spawn(watching);
    }
    if !context.config.recheck_keys.is_zero() {
        let context = context.clone();
        let tasks = context.tasks.clone();
        tasks.spawn(async move {
            let config = &context.config;
            let rechecking =
                recheck::run(&context.identities, &*context.store, config.auth_timeout, config.recheck_keys);
            context.draining.run_until_cancelled(rechecking).await
        });
    }
}

/// Counts what the journal has, and serves the commands of its operator.
#[cfg(unix)]
fn serve_commands(context: &Arc<BrokerContext>) {
    let (Some(store), Some(dir)) = (&context.journal, &context.config.storage.dir) else { return };
    let counting = Arc::clone(store);
    let context_too = context.clone();
    context.tasks.spawn(async move { context_too.draining.run_until_cancelled(counting.take_stock()).await });
    match control::Control::open(dir) {
        Ok(control) => {
            let (store, context_too) = (Arc::clone(store), context.clone());
            context.tasks.spawn(async move {
                context_too.closing.run_until_cancelled(control.run(store, context_too.clone())).await
            });
        }
        // The broker works without.
        Err(cause) => {
            warn!(path = %dir.join(control::NAME).display(), %cause, "no commands: the control socket cannot be made");
        }
    }
}

/// Ends the publishers that get confirmations once the journal has failed: they keep what they have.
async fn tell_failure(mut progress: watch::Receiver<Progress>, context: Arc<BrokerContext>) {
    let failed = progress.wait_for(|progress| progress.health == Health::Failed);
    if let Some(Ok(_)) = context.closing.run_until_cancelled(failed).await {
        error!(
            "the journal has failed: mailboxes get nothing more until the broker is started again; look at its disk"
        );
        context.pulse.fail();
    }
}
