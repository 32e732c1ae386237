//! The operator's end of the control socket: asks a running broker, and says why that cannot be done.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::Value;

use crate::control::{NAME, request::Request};

/// The time for the next line of an answer.
const PATIENCE: Duration = Duration::from_secs(90);

/// The running broker of a data folder.
#[derive(Debug, Args)]
pub(super) struct Folder {
    /// The data folder of the broker
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/hpfeeds/data")]
    data_dir: PathBuf,
}

impl Folder {
    pub(super) fn of(data_dir: PathBuf) -> Self {
        Self { data_dir }
    }

    pub(super) fn path(&self) -> &Path {
        &self.data_dir
    }

    /// Asks the broker; each line before the last is given to `each`. An error is one line.
    pub(super) fn ask(
        &self,
        request: &Request,
        mut each: impl FnMut(&Value) -> Result<(), String>,
    ) -> Result<Value, String> {
        let socket = self.data_dir.join(NAME);
        let mut stream = UnixStream::connect(&socket).map_err(|cause| self.fault(&socket, &cause))?;
        let ask = |stream: &mut UnixStream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(format!("{request}\n").as_bytes())
        };
        ask(&mut stream).map_err(|cause| broken(&cause))?;
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        loop {
            line.clear();
            if lines.read_line(&mut line).map_err(|cause| broken(&cause))? == 0 {
                return Err("the broker has ended before it had answered".to_owned());
            }
            let mut answer: Value =
                serde_json::from_str(&line).map_err(|cause| format!("the broker's answer is no JSON: {cause}"))?;
            if let Some(fault) = answer["error"].as_str() {
                return Err(fault.to_owned());
            }
            match answer.get("message") {
                Some(message) => each(message)?,
                None => return Ok(answer["ok"].take()),
            }
        }
    }

    /// Why there is no connection to the socket, and what to do.
    fn fault(&self, socket: &Path, cause: &io::Error) -> String {
        let dir = self.data_dir.display();
        match cause.kind() {
            io::ErrorKind::NotFound if !self.data_dir.exists() => {
                format!("there is no folder {dir}: name the broker's with --data-dir")
            }
            io::ErrorKind::NotFound => {
                format!("no broker runs with the data folder {dir}, or it is older than this program")
            }
            io::ErrorKind::ConnectionRefused => {
                format!("no broker runs with the data folder {dir}: its last one was killed, and left the socket")
            }
            io::ErrorKind::PermissionDenied => {
                format!("{} may not be used by this user: run this as the user of the broker", socket.display())
            }
            _ => format!("{}: {cause}", socket.display()),
        }
    }
}

fn broken(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("the broker has not answered within {} s", PATIENCE.as_secs())
        }
        _ => format!("the connection to the broker failed: {cause}"),
    }
}
