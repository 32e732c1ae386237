//! The broker's process, at one port for all of its lives.

use std::{
    fs::{self, OpenOptions},
    net::SocketAddr,
    path::Path,
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{
    collector::within,
    event::{CHANNEL, COLLECTOR, IDENT, MARKS, Moment, SECRET},
};

pub(crate) struct Broker {
    child: Child,
    addr: SocketAddr,
}

impl Broker {
    /// Starts it, at any port for 0.
    pub(crate) async fn start(folder: &Path, port: u16) -> Self {
        let users = folder.join("users.json");
        fs::write(&users, keys()).unwrap();
        let log = OpenOptions::new().create(true).append(true).open(folder.join("broker.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hpfeeds-broker"));
        command.args([format!("--bind=127.0.0.1:{port}"), "--log-level=warn".to_owned()]).arg("--auth").arg(users);
        command.env_clear().kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = within(lines.next_line()).await.unwrap().expect("the broker starts; see broker.log");
        let addr = line.strip_prefix("listening on ").expect(&line).parse().unwrap();
        Self { child, addr }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// SIGKILL. When it came: nothing was acknowledged later than that.
    pub(crate) async fn kill(&mut self) -> Moment {
        self.child.start_kill().unwrap();
        within(self.child.wait()).await.unwrap();
        Moment::now()
    }
}

fn keys() -> String {
    let key = |ident: &str, publish: &str, subscribe: &[&str]| {
        format!(
            r#""{ident}": {{"owner": "o", "secret": "{SECRET}", "pubchans": ["{publish}"], "subchans": {subscribe:?}}}"#
        )
    };
    format!("{{{}, {}}}", key(IDENT, CHANNEL, &[]), key(COLLECTOR, MARKS, &[CHANNEL, MARKS]))
}
