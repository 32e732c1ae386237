//! The report on a terminal, and a network whose large packets get lost.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::Found;
use crate::{
    skip::skip,
    support::{SECRET, TestBroker},
};

/// The screen of a terminal of 80 columns; nothing when there is no `script`.
fn on_a_terminal(arguments: &str, variables: &[(&str, &str)]) -> Option<String> {
    let mut script = Command::new("script");
    let command = format!("stty cols 80; {} doctor {arguments}", env!("CARGO_BIN_EXE_hpfeeds"));
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    script.env_remove("LC_ALL").env_remove("LC_CTYPE").env_remove("NO_COLOR").env("TERM", "xterm");
    script.env("HPFEEDS_SECRET", SECRET).envs(variables.iter().copied()).stdin(Stdio::null());
    match script.output() {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")),
        Err(cause) => {
            skip(&format!("cannot run script (util-linux): {cause}"));
            None
        }
    }
}

/// The text without what differs from run to run.
fn steady(text: &str, port: u16) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = line.replace(&port.to_string(), "PORT");
        let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        for at in 1..words.len() {
            if matches!(&*words[at], "ms" | "s") && words[at - 1].trim_start_matches('<').parse::<f64>().is_ok() {
                "N".clone_into(&mut words[at - 1]);
                "ms".clone_into(&mut words[at]);
            }
        }
        let line = words.join(" ");
        lines.push(match line.split_once("clock         ") {
            Some((begin, _)) => format!("{begin}clock         NOW"),
            None => line,
        });
    }
    lines.join("\n") + "\n"
}

const UNICODE: &str = "\
127.0.0.1:PORT as sensor
  ✓ settings      host, port, ident from the command line · secret from the
                  environment
  ✓ clock         NOW
  ✓ DNS           not needed: an address is given
  ✓ TCP           127.0.0.1 N ms
  ✓ protocol      hpfeeds, without TLS
  ✓ INFO          \"hpfeeds\" in N ms · nonce of 4 bytes · extension hpx/1
  ✓ AUTH          accepted in N ms · confirms as routed · at most 1 MiB each
  ✓ version       hpfeeds-broker/VERSION
  ✗ subscribe     nö denied: \"Authkey not allowed to sub here. ident=sensor,
                  chan=nö\"
                  on the broker:
                  hpfeeds-broker keys set sensor --add-subscribe 'nö'
1 problem, 8 passed in N ms
";

#[test]
fn a_terminal_gets_symbols_and_colours_where_it_has_them() {
    let broker = TestBroker::start();
    let arguments = format!("--host 127.0.0.1 -p {} -i sensor -c nö", broker.port());
    let expected = UNICODE.replace("VERSION", env!("CARGO_PKG_VERSION"));
    let Some(seen) = on_a_terminal(&arguments, &[("LANG", "C.UTF-8"), ("NO_COLOR", "1")]) else { return };
    assert_eq!(steady(&seen, broker.port()), expected);

    let seen = on_a_terminal(&arguments, &[("LANG", "C.UTF-8")]).unwrap();
    let coloured = expected.replace("✓", "\u{1b}[32m✓\u{1b}[0m").replace("✗", "\u{1b}[1;31m✗\u{1b}[0m");
    assert_eq!(steady(&seen, broker.port()), coloured);
    assert!(expected.lines().all(|line| line.chars().count() <= 80));

    for (variables, colours) in [(&[("LANG", "C")][..], true), (&[("LANG", "C"), ("NO_COLOR", "1")], false)] {
        let seen = on_a_terminal(&arguments, variables).unwrap();
        assert!(seen.is_ascii(), "{seen}");
        assert_eq!(seen.contains("\u{1b}[1;31mFAIL\u{1b}[0m subscribe "), colours, "{seen}");
        assert_eq!(seen.contains("  FAIL subscribe     n\\u{f6} denied: "), !colours, "{seen}");
    }
    // A terminal that can do nothing.
    let seen = on_a_terminal(&arguments, &[("LANG", "C.UTF-8"), ("TERM", "dumb")]).unwrap();
    assert!(!seen.contains('\u{1b}') && seen.contains('✓'), "{seen}");
}

/// A broker of the old kind that gives each message back, in Python: it runs in a namespace of its own.
const ECHO: &str = r#"
import socket, struct
listener = socket.create_server(("10.213.0.2", 0), reuse_port=False)
print("port", listener.getsockname()[1], flush=True)
def whole(stream, length):
    data = b""
    while len(data) < length:
        more = stream.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data
while True:
    stream, _ = listener.accept()
    try:
        stream.sendall(b"\0\0\0\x0d\x01\x03odd1234")
        while True:
            header = whole(stream, 5)
            body = whole(stream, struct.unpack(">I", header[:4])[0] - 5)
            if header[4] == 3:
                stream.sendall(header + body)
    except (EOFError, OSError):
        stream.close()
"#;

/// A process that is told what to do, and answers, by lines; it ends with this.
struct Helper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    /// The next line, without its end; empty when the process has ended.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn told(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        assert_eq!(self.line(), "done");
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A program in the network namespace of a process.
fn inside(process: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{process}/ns/net")).arg(program);
    command
}

#[test]
fn a_network_that_delays_and_one_that_loses_large_packets_are_told_by_the_echo() {
    let can = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !can("unshare", &["--net", "true"]) || !can("python3", &["-c", "open('/dev/net/tun', 'rb+', buffering=0)"]) {
        return skip("no network namespaces, or no TUN devices, or no python3");
    }
    let hold = || Helper::start(Command::new("unshare").args(["--net", "sh", "-c", "echo ready; exec cat"]));
    let (mut ours, mut theirs) = (hold(), hold());
    assert_eq!([ours.line(), theirs.line()], ["ready", "ready"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../broker/tests/faults/link.py");
    let pids = [ours.child.id(), theirs.child.id()].map(|id| id.to_string());
    let mut link = Helper::start(Command::new("python3").arg(script).args(&pids));
    if link.line() != "ready" {
        return skip("no network could be made between namespaces");
    }
    let mut broker = Helper::start(inside(theirs.child.id(), "python3").args(["-c", ECHO]));
    let port = broker.line().split_once(' ').unwrap().1.to_owned();
    let doctor = |host: &str, args: &[&str]| {
        let mut command = inside(ours.child.id(), env!("CARGO_BIN_EXE_hpfeeds"));
        command.args(["doctor", "--host", host, "-p", &port, "-i", "me", "-s", "x"]).args(args).env("LANG", "C");
        let output = command.env_remove("LC_ALL").output().unwrap();
        Found { code: output.status.code(), text: String::from_utf8(output.stdout).unwrap() }
    };

    // No route: only the network of the link is known there.
    let found = doctor("192.0.2.1", &[]);
    found.says("FAIL", "TCP", &["192.0.2.1 unreachable there is no route to it"]);

    // 300 ms there and back.
    link.told("0 150 0 0");
    let found = doctor("10.213.0.2", &["--echo", "test"]);
    assert_eq!(found.code, Some(0), "{}", found.text);
    found.says("ok", "echo", &["1 KiB ", "64 KiB ", "largest ("]);

    // A tunnel that takes packets of 1,200 bytes, and says nothing of longer ones.
    link.told("0 0 0 0");
    link.told("largest 1200");
    let found = doctor("10.213.0.2", &["--echo", "test"]);
    assert_eq!(found.code, Some(1), "{}", found.text);
    let text = found.text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "ok echo test | 1 KiB ",
        "FAIL echo 64 KiB is lost on the way: no packet was acknowledged for 5 s",
        "large packets get lost (MTU)",
        "ping -M do -s 1472 10.213.0.2",
    ] {
        assert!(text.contains(part), "{part:?} not in {}", found.text);
    }

    // Nothing any more.
    link.told("partition");
    let found = doctor("10.213.0.2", &["--timeout", "1"]);
    found.says("FAIL", "TCP", &["10.213.0.2 no answer in 1 s packets get lost"]);
}
