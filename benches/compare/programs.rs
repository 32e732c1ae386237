//! The programs of the brokers: their paths, versions and command lines.

use std::{
    env, fs, io,
    path::{self, Path, PathBuf},
    process::Command,
};

use crate::{
    kind::Kind,
    protocol::{CHANNEL, CHANNELS, PASSWORD, USER},
    relay::Plan,
};

/// Debian puts servers where the `PATH` of users does not look.
const DIRECTORIES: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The program of a broker, if it is there.
pub(crate) fn find(kind: Kind) -> Option<PathBuf> {
    let target = || env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let path = match kind {
        Kind::Relay | Kind::Plain => env::current_exe().ok()?,
        Kind::Ours | Kind::Confirmed | Kind::OurRelay => {
            env::var_os("HPFEEDS_BROKER").map_or_else(|| target().join("release/hpfeeds-broker"), PathBuf::from)
        }
        Kind::Python => target().join("interop-venv/bin/hpfeeds-broker"),
        Kind::Nats => in_path("nats-server")?,
        Kind::Redis => in_path("redis-server")?,
        Kind::Mosquitto => in_path("mosquitto")?,
    };
    // Not the canonical path: redis-server is a link, and knows by its name what it is.
    path::absolute(path).ok().filter(|path| path.is_file())
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var("PATH").unwrap_or_default();
    let all = format!("{path}:{DIRECTORIES}");
    env::split_paths(&all).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// The version that the broker tells.
pub(crate) fn version(kind: Kind, program: &Path) -> Option<String> {
    let argument = if kind == Kind::Mosquitto { "-h" } else { "--version" };
    let text = match kind {
        Kind::Relay | Kind::Plain => return None,
        Kind::Python => python_version(program)?,
        Kind::Ours | Kind::Confirmed | Kind::OurRelay | Kind::Nats | Kind::Redis | Kind::Mosquitto => {
            let output = Command::new(program).arg(argument).output().ok()?;
            String::from_utf8(output.stdout).ok()?.lines().next()?.to_owned()
        }
    };
    let word = |word: &&str| word.trim_start_matches(['v', '=']).starts_with(|c: char| c.is_ascii_digit());
    let number = text.split_whitespace().find(word)?.trim_start_matches(['v', '=']);
    Some(format!("{} {number}", kind.name()))
}

/// Its broker does not tell.
fn python_version(program: &Path) -> Option<String> {
    let code = "import importlib.metadata as m; print(m.version('hpfeeds'))";
    let output = Command::new(program.with_file_name("python")).args(["-c", code]).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// The command that runs a broker on a port of the loopback interface, with its files in a
/// directory.
pub(crate) fn command(kind: Kind, program: &Path, directory: &Path, port: u16, plan: &Plan) -> io::Result<Command> {
    // The broker ends when we do, however that is.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).current_dir(directory);
    let address = format!("127.0.0.1:{port}");
    match kind {
        Kind::Relay => command.args(plan.arguments()),
        Kind::Plain => command.args(["plain", &port.to_string(), &plan.frame.to_string()]),
        Kind::Ours | Kind::Confirmed => hpfeeds(&mut command).args(["--auth", "env", "--bind", &address]),
        Kind::OurRelay => hpfeeds(&mut command).args(["relay", "--bind", &address]),
        // Without --exporter it serves its metrics on port 8080 of every interface.
        Kind::Python => hpfeeds(&mut command).args(["--auth", "env", "--bind", &address, "--exporter", "127.0.0.1:0"]),
        Kind::Nats => command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "--user", USER, "--pass", PASSWORD]),
        Kind::Redis => command.args(redis(port)),
        Kind::Mosquitto => {
            let file = directory.join("mosquitto.conf");
            fs::write(&file, mosquitto(port))?;
            command.arg("-c").arg(file)
        }
    };
    Ok(command)
}

fn hpfeeds(command: &mut Command) -> &mut Command {
    let channels = format!("{CHANNEL},{CHANNELS}*");
    let fields = [("SECRET", PASSWORD), ("OWNER", USER), ("PUBCHANS", &channels), ("SUBCHANS", &channels)];
    command.envs(fields.map(|(field, value)| (format!("HPFEEDS_{}_{field}", USER.to_uppercase()), value)))
}

/// Nothing is stored, and a subscriber may have any amount queued: by default Redis disconnects it
/// at 32 MiB.
fn redis(port: u16) -> Vec<String> {
    let options = format!(
        "--port {port}|--bind 127.0.0.1|--save|--appendonly no|--requirepass {PASSWORD}|--loglevel warning\
         |--client-output-buffer-limit pubsub 0 0 0"
    );
    let mut args = Vec::new();
    for option in options.split('|') {
        match option.split_once(' ') {
            Some((name, value)) => args.extend([name.to_owned(), value.to_owned()]),
            None => args.extend([option.to_owned(), String::new()]),
        }
    }
    args
}

/// A subscriber may have any amount queued: by default Mosquitto drops messages above a thousand.
fn mosquitto(port: u16) -> String {
    format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nset_tcp_nodelay true\n\
         persistence false\nlog_type error\nuser root\n"
    )
}
