//! The relay as a program: a broker for the sensors of this machine, and its uplinks.

use std::{future::pending, io, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use hpfeeds::{
    Backoff, BrokerAddr, ClientSession, Ident, Limits, Secret, SessionBuilder, TlsOptions,
    wire::{Opcode, extension::NodeId},
};
use sd_notify::NotifyState;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{
    control::Folder,
    output::complain,
    process::{Stop, keep_freed_memory, notify, print, reload},
    relay_args::{LocalAuth, RelayAction, RelayCommand, data_dir},
};
use crate::{
    auth::{AuthError, env::EnvStore},
    broker::Broker,
    builder::BrokerBuilder,
    control::request::Request,
    relay::{
        downlink, figures::Figures, local_keys::LocalKeys, metrics, service::Relay, status::screen, uplink::Settings,
    },
    util::clock::unix_ms,
};

/// The interval of attempts with a key or channel that the parent refuses.
const AGAIN: Duration = Duration::from_secs(30);
/// The first delay before the parent is dialled again.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The send queue of each ident, in bytes: at most half of it and a chunk is unconfirmed.
const SEND_QUEUE: usize = 4 << 20;

type AnyError = Box<dyn std::error::Error>;

/// Runs the subcommand: a relay until a signal ends it, or one look at a running one.
pub(super) fn main(command: &RelayCommand) -> ExitCode {
    if let Some(RelayAction::Status { data_dir: dir }) = &command.action {
        return show(data_dir(dir.as_ref()));
    }
    if let Err(cause) = command.check() {
        complain(format_args!("{cause} (try --help)"));
        return ExitCode::from(2);
    }
    let log = match command.logging.start() {
        Ok(log) => log,
        Err(cause) => {
            complain(format_args!("cannot log: {cause}"));
            return ExitCode::FAILURE;
        }
    };
    match serve(command) {
        Ok(code) => code,
        Err(cause) => {
            log.fatal(&*cause);
            ExitCode::FAILURE
        }
    }
}

/// Prints the status of the relay that uses a folder.
fn show(data_dir: PathBuf) -> ExitCode {
    let shown = Folder::of(data_dir).ask(&Request::Status, |_| Ok(()));
    let printed = shown.and_then(|screen| {
        let screen = screen.as_str().unwrap_or_default().to_owned();
        print(|out| out.write_all(screen.as_bytes())).map_err(|cause| format!("cannot print to stdout: {cause}"))
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            complain(fault);
            ExitCode::FAILURE
        }
    }
}

fn serve(command: &RelayCommand) -> Result<ExitCode, AnyError> {
    keep_freed_memory();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let done = runtime.block_on(run(command));
    runtime.shutdown_background();
    done
}

/// The secret of each ident.
fn secrets(idents: &[Ident]) -> Result<Vec<(Ident, Secret)>, AuthError> {
    let store = EnvStore::new();
    let secret = |ident: &Ident| {
        let name = ident.to_uppercase().replace(['-', '.'], "_");
        let missing = format_args!(
            "no secret for --key {ident}: set HPFEEDS_{name}_SECRET, or HPFEEDS_{name}_SECRET_FILE to a file with it"
        );
        let secret = store.secret(ident)?.ok_or_else(|| AuthError::new(missing))?;
        Ok((ident.clone(), Secret::new(secret)))
    };
    idents.iter().map(secret).collect()
}

/// The broker that sensors talk to.
fn builder(command: &RelayCommand, keys: &[(Ident, Secret)]) -> Result<BrokerBuilder, AnyError> {
    let storage = &command.storage;
    let mut builder = Broker::builder().auth(LocalKeys::new(keys, command.local_auth == LocalAuth::Any)?);
    if let Some(endpoint) = command.bind() {
        builder = builder.endpoint(endpoint.clone());
    }
    let builder = builder
        .name(&command.name)
        .max_message(command.max_message)
        // Sensors that failed once are on this machine, too, and some wait for the greeting for a second.
        .auth_failure_delay(Duration::ZERO)
        .data_dir(storage.data_dir())
        .data_dir_wait(storage.data_dir_wait)
        .allow_network_fs(storage.allow_network_fs)
        .journal_max_bytes(storage.journal_max_bytes)
        .journal_max_age(storage.journal_max_age.0)
        .journal_sync(storage.journal_sync)
        .store_all();
    Ok(command.dashboard.apply(command.exporter.apply(builder)))
}

/// The way to the parent, for each ident with its key.
type Way = Arc<dyn Fn(&Ident) -> SessionBuilder + Send + Sync>;

fn way(command: &RelayCommand, parent: &BrokerAddr, keys: Vec<(Ident, Secret)>) -> Way {
    let (parent, limits) = (parent.clone(), Limits::new(command.max_message));
    let mut tls = TlsOptions::new();
    if let Some(file) = &command.parent_ca {
        tls = tls.ca_file(file);
    }
    if let Some(name) = &command.parent_tls_name {
        tls = tls.server_name(name);
    }
    if let (Some(cert), Some(key)) = (&command.parent_tls_cert, &command.parent_tls_key) {
        tls = tls.client_certificate(cert, key);
    }
    let tls = command.uses_tls().then_some(tls);
    Arc::new(move |ident| {
        let secret = keys.iter().find(|(own, _)| own == ident).map(|(_, secret)| secret.clone());
        let mut session = ClientSession::builder(parent.clone(), ident, secret.unwrap_or_else(|| Secret::new("")))
            .limits(limits)
            .send_queue(SEND_QUEUE)
            .backoff(Backoff::new(FIRST_DELAY, AGAIN));
        if let Some(tls) = &tls {
            session = session.tls(tls.clone());
        }
        session
    })
}

/// A session that receives what the parent publishes, if some of it is wanted.
fn downwards(command: &RelayCommand, way: &Way) -> Result<Option<ClientSession>, hpfeeds::Error> {
    let Some(ident) = command.key.first().filter(|_| !command.parent_subscribe.is_empty()) else { return Ok(None) };
    let session = way(ident).start()?;
    for channel in &command.parent_subscribe {
        session.subscribe(channel)?;
    }
    Ok(Some(session))
}

async fn run(command: &RelayCommand) -> Result<ExitCode, AnyError> {
    // Before anything is printed: a reader of that may signal at once.
    let mut stop = Stop::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let parent = command.parent().ok_or("--parent is missing")?;
    let keys = secrets(&command.key)?;
    let broker = builder(command, &keys)?.start().await?;
    let way = way(command, parent, keys);
    let (connect, path) = (way.clone(), watch::Sender::new(Vec::new()));
    let mut above = path.subscribe();
    let settings = Settings {
        connect: Arc::new(move |ident, feed| connect(ident).feed(feed).start()),
        node: broker.node(),
        denied_for: command.parent_denied_for,
        again: AGAIN,
        largest: Limits::new(command.parent_max_message).of(Opcode::Publish) as usize,
        path,
    };
    let data_dir = command.storage.data_dir();
    let allows = command.storage.allow_network_fs;
    let mut relay = Relay::start(&broker, &data_dir, allows, command.key.clone(), settings).await?;
    let figures = relay.figures().to_vec();
    let more = figures.clone();
    broker.add_metrics(Box::new(move |text| metrics::write(&more, text)));
    let (name, not_stored) = (parent.to_string(), broker.not_stored());
    broker.set_status(Box::new(move || {
        let uplinks: Vec<_> = figures.iter().map(Figures::snapshot).collect();
        screen(&name, &uplinks, not_stored(), unix_ms())
    }));
    let downwards = downwards(command, &way)?;
    if let Err(cause) = print(|out| announce(out, command, parent, &broker)) {
        // The log has the same. A full disk must not keep the sensors out.
        tracing::warn!(%cause, "cannot print to stdout");
    }
    notify(NotifyState::Ready);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), endpoints = ?broker.local_addrs(), %parent, "started");
    tokio::select! {
        (name, _) = stop.recv() => tracing::info!("{name}: stopping"),
        () = reload(&broker, &mut hangup) => {}
        () = deliver(downwards, &broker) => {}
        () = follow(&mut above, &broker) => {}
        cause = relay.failed() => return Err(cause.into()),
    }
    notify(NotifyState::Stopping);
    let ending = async {
        for uplink in relay.stop().await {
            let (ident, delivered, waiting, lost) = (uplink.ident, uplink.delivered, uplink.waiting, uplink.lost);
            tracing::info!(%ident, delivered, waiting, lost, "the uplink has ended");
        }
        broker.shutdown().await
    };
    tokio::select! {
        _ = ending => Ok(ExitCode::SUCCESS),
        (name, code) = stop.recv() => {
            tracing::warn!("{name} again: ending at once");
            Ok(ExitCode::from(code))
        }
    }
}

/// Hands what the parent publishes to the sensors, if some of it is wanted; for ever.
async fn deliver(session: Option<ClientSession>, broker: &Broker) {
    if let Some(session) = session {
        downlink::run(session, broker).await;
        tracing::error!("nothing more comes from the parent");
    }
    pending::<()>().await;
}

/// Tells the clients of the broker when there are others above it; for ever.
async fn follow(above: &mut watch::Receiver<Vec<NodeId>>, broker: &Broker) {
    while above.changed().await.is_ok() {
        let nodes = above.borrow_and_update().clone();
        broker.set_above(nodes);
    }
    pending::<()>().await;
}

fn announce(out: &mut dyn io::Write, command: &RelayCommand, parent: &BrokerAddr, broker: &Broker) -> io::Result<()> {
    for addr in broker.local_addrs() {
        writeln!(out, "listening on {addr}")?;
    }
    if let Some(addr) = broker.exporter_addr() {
        writeln!(out, "metrics at http://{addr}/metrics")?;
    }
    command.dashboard.announce(out, broker)?;
    writeln!(out, "relaying to {parent}")
}
