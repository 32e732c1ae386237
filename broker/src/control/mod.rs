//! The control socket: commands of the operator to a running broker, over a Unix socket in its data
//! folder.
//!
//! A connection asks once: one line of JSON, and gets one line, `{"ok": …}` or `{"error": "…"}`; `dump`
//! gets a line `{"message": …}` for each message before that.

mod answer;
mod drain;
mod dump;
pub(crate) mod request;

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use self::request::Request;
use crate::{context::BrokerContext, journal::store::Store};

/// The name of the socket in the data folder.
pub(crate) const NAME: &str = "control";
/// The longest request.
const LONGEST: u64 = 4096;
/// Connections that are served at once; more wait.
const MOST: usize = 8;
/// The time for a request to come, and for one line of the answer to go.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time for an answer to be found.
const WORK: Duration = Duration::from_secs(60);
/// The rest after a failed accept.
const REST: Duration = Duration::from_secs(1);

/// The control socket of a broker. Dropped, its file is gone.
pub(crate) struct Control {
    path: PathBuf,
    listener: UnixListener,
}

impl Control {
    /// Makes the socket, for the owner of the folder alone. The folder is locked: a socket that is
    /// there is a dead one's.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(NAME);
        if fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(&path)?;
        }
        // The folder is closed to other users meanwhile.
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { path, listener })
    }

    /// Serves commands without an end. Dropped, it accepts no more; commands that run end when the
    /// broker closes.
    pub(crate) async fn run(self, store: Arc<Store>, context: Arc<BrokerContext>) {
        let places = Arc::new(Semaphore::new(MOST));
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (store, context_too) = (Arc::clone(&store), Arc::clone(&context));
                    context.tasks.spawn(async move {
                        let serving = serve(stream, &store, &context_too);
                        if let Some(Err(cause)) = context_too.closing.run_until_cancelled(serving).await {
                            debug!(%cause, "a command was not answered");
                        }
                        drop(place);
                    });
                }
                Err(cause) => {
                    warn!(%cause, "the control socket does not accept");
                    sleep(REST).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Gone already, it needs no removal.
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(mut stream: UnixStream, store: &Arc<Store>, context: &Arc<BrokerContext>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(LONGEST));
    timeout(PATIENCE, read.read_line(&mut line)).await??;
    let request = match line.parse::<Request>() {
        Ok(request) => request,
        Err(fault) => return say(&mut write, &json!({ "error": fault })).await,
    };
    let result = match request {
        Request::Dump(name) => dump::dump(store, &name, &mut write).await?,
        request => match timeout(WORK, answer::answer(store, context, request)).await {
            Ok(result) => result,
            Err(_) => Err(format!("the answer took more than {} s", WORK.as_secs())),
        },
    };
    let answer = match result {
        Ok(value) => json!({ "ok": value }),
        Err(fault) => json!({ "error": fault }),
    };
    say(&mut write, &answer).await
}

/// Writes one line.
async fn say(write: &mut (impl tokio::io::AsyncWrite + Unpin), value: &Value) -> io::Result<()> {
    let line = format!("{value}\n");
    timeout(PATIENCE, write.write_all(line.as_bytes())).await?
}
