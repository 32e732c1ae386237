//! The examples of the manual, docs/tool.md, as a reader runs them.

use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use hpfeeds_broker::{Broker, Key};
use tokio::{runtime::Runtime, time};

use crate::support::SOON;

const MANUAL: &str = include_str!("../../../docs/tool.md");

/// The address and the secret of the examples.
const ADDRESS: &str = "broker.example";
const SECRET: &str = "SECRET";

/// The message that a sensor publishes to cowrie.sessions, again and again.
const SESSION: &str =
    r#"{"session":"4c1e1d3f","peerIP":"192.0.2.1","credentials":[["root","123456"]],"loggedin":true}"#;

/// Each example that is to be run, and what it prints, if the manual shows that.
fn examples() -> Vec<(&'static str, Option<&'static str>)> {
    let block = |text: &'static str, kind| text.strip_prefix(kind)?.split_once("\n```");
    let starts = MANUAL.match_indices("\n```sh\n");
    let examples = starts.filter_map(|(at, _)| {
        let (code, behind) = block(MANUAL.get(at + 1..)?, "```sh\n")?;
        Some((code, block(behind.trim_start(), "```text\n").map(|(output, _)| output)))
    });
    examples.collect()
}

#[test]
fn examples_of_the_manual_run_and_print_what_it_shows() {
    let runtime = Runtime::new().unwrap();
    let sensor = Key::new("sensor-1", SECRET).unwrap().publish(["cowrie.*"]).unwrap();
    let collector = Key::new("collector", SECRET).unwrap().subscribe(["*"]).unwrap();
    let broker = runtime
        .block_on(Broker::dev_builder().listen("127.0.0.1:0").unwrap().user(sensor).user(collector).start())
        .unwrap();
    let address = broker.local_addr().to_string();
    let home = tempfile::tempdir().unwrap();
    let tool = Path::new(env!("CARGO_BIN_EXE_hpfeeds")).parent().unwrap();
    let path = env::join_paths([tool.to_owned()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())));
    let path = path.unwrap();
    let examples = examples();
    assert!(examples.len() >= 7, "{examples:?}");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            runtime.block_on(async {
                let session = hpfeeds::ClientSession::connect(&*address, "sensor-1", SECRET).await.unwrap();
                while !is_over.load(Relaxed) {
                    session.publish("cowrie.sessions", SESSION).await.unwrap();
                    time::sleep(time::Duration::from_millis(5)).await;
                }
            });
        });
        for (code, expected) in examples {
            // The port is the one that is left out, too.
            let code = code.replace(&format!("{ADDRESS}:20000"), ADDRESS).replace(ADDRESS, &address);
            let mut command = Command::new("timeout");
            command.args([&SOON.as_secs().to_string(), "sh", "-euc", &code]).current_dir(&home);
            command.env("PATH", &path).env("HOME", home.path()).env_remove("XDG_CONFIG_HOME");
            command.env("HPFEEDS_URL", format!("hpfeeds://collector:{SECRET}@{address}"));
            let output = command.output().unwrap();
            let failed = !output.status.success();
            let shown = String::from_utf8_lossy(&output.stdout);
            let is_as_expected =
                expected.is_none_or(|expected| shown.trim_end_matches('\n') == expected.trim_end_matches('\n'));
            if failed || !is_as_expected {
                is_over.store(true, Relaxed);
                panic!("{code}\n{shown}\n{}\nexpected {expected:?}", String::from_utf8_lossy(&output.stderr));
            }
        }
        is_over.store(true, Relaxed);
    });
    assert!(fs::exists(home.path().join(".config/hpfeeds/profiles/lab")).unwrap());
}
