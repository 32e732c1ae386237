//! A simulated fleet of sensors for tests and screenshots: most publish, and of 25 one each stops,
//! vanishes, floods, is denied, has a wrong secret or no key, is silent, new, or never there.
//!
//! ```text
//! fleet prepare --sensors 2000 --keys users.json --data-dir data
//! hpfeeds-broker --bind 127.0.0.1:20000 --auth users.json --data-dir data --client-timeout 3
//! fleet run --sensors 2000 --address 127.0.0.1:20000
//! ```
//!
//! `prepare` writes the keys, and the presence that a broker has stored of sensors that it knows for
//! ten days. `run` prints a line of JSON for what happens, and goes on until its stdin ends: `connected`,
//! then `acted` for each sensor with its role, the state (`null`: it is not shown) and the incident that
//! follow, then `done`; times are in milliseconds since 1970.

mod crowd;

use std::{
    env, fs, io,
    io::Write as _,
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, stdin};

use self::crowd::{CHANNEL, Crowd, Role, ident, keys, presence};

const USAGE: &str = "fleet prepare [--sensors N] --keys FILE --data-dir DIR
fleet run [--sensors N] [--act-after SECONDS] --address HOST:PORT";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("prepare") => prepare(&arguments),
        Some("run") => run(&arguments).await,
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("fleet: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// The value behind a flag.
fn value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == flag)?;
    arguments.get(at + 1).map(String::as_str)
}

fn number(arguments: &[String], flag: &str, default: usize) -> Result<usize, String> {
    value(arguments, flag).map_or(Ok(default), |text| text.parse().map_err(|cause| format!("{flag} {text}: {cause}")))
}

fn required<'a>(arguments: &'a [String], flag: &str) -> Result<&'a str, String> {
    value(arguments, flag).ok_or_else(|| format!("{flag} is missing\n{USAGE}"))
}

fn prepare(arguments: &[String]) -> Result<(), String> {
    let sensors = number(arguments, "--sensors", 2000)?;
    let folder = std::path::Path::new(required(arguments, "--data-dir")?);
    let keys: serde_json::Map<_, _> = keys(sensors)
        .map(|(ident, secret)| {
            (ident, json!({ "owner": "fleet", "secret": secret, "pubchans": [CHANNEL], "subchans": [] }))
        })
        .collect();
    let keys = Value::from(keys).to_string();
    fs::write(required(arguments, "--keys")?, keys).map_err(|cause| format!("the keys: {cause}"))?;
    let presence = presence(sensors, UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()).to_string();
    let write = || {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("presence.json"), presence)
    };
    write().map_err(|cause: io::Error| format!("{}: {cause}", folder.display()))
}

async fn run(arguments: &[String]) -> Result<(), String> {
    let sensors = number(arguments, "--sensors", 2000)?;
    let rest = Duration::from_secs(number(arguments, "--act-after", 2)? as u64);
    let address = required(arguments, "--address")?;
    let address = tokio::net::lookup_host(address).await.map_err(|cause| format!("{address}: {cause}"))?.next();
    let mut crowd = Crowd::connect(address.ok_or("the name has no address")?, sensors).await?;
    say("connected", json!({ "sensors": crowd.len() }));
    crowd.live(rest).await?;
    let acted = |number| {
        let role = Role::of(number);
        let (role, state, incident) = (role.name(), role.state(), role.incident());
        say("acted", json!({ "ident": ident(number), "role": role, "state": state, "incident": incident }));
    };
    crowd.act(acted).await?;
    say("done", json!({}));
    let (mut input, mut bytes) = (stdin(), [0; 64]);
    let ended = async { while input.read(&mut bytes).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        fault = crowd.go_on() => Err(fault),
        () = ended => Ok(()),
    }
}

/// Prints a line. A reader that has gone is none of our business.
fn say(event: &str, mut what: Value) {
    what["event"] = event.into();
    what["at"] = u64::try_from(UNIX_EPOCH.elapsed().unwrap_or_default().as_millis()).unwrap_or_default().into();
    let _ = writeln!(io::stdout(), "{what}");
}
