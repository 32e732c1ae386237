//! The live screen on a terminal, which `script` (util-linux) gives the tool.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{Dashboard, SNAPSHOT, TOKEN, server::respond};
use crate::{
    skip::skip,
    support::{Running, bare_tool},
};

/// The screen of its own, and back.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// `hpfeeds top` on a terminal.
struct OnTerminal(Running);

/// Starts it; nothing when there is no `script`.
fn on_a_terminal(dashboard: &Dashboard, args: &str) -> Option<OnTerminal> {
    if let Err(cause) = Command::new("script").arg("--version").stdout(Stdio::null()).status() {
        skip(&format!("cannot run script (util-linux): {cause}"));
        return None;
    }
    let tool = bare_tool().get_program().to_str().unwrap().to_owned();
    // `script` makes a terminal of no size.
    let command = format!("stty rows 24 cols 80; exec {tool} top --url {} {args}", dashboard.url());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    script.envs([
        ("HPFEEDS_TOP_TOKEN", TOKEN),
        ("TERM", "xterm"),
        ("LC_ALL", "C.UTF-8"),
        ("NO_COLOR", "1"),
        ("TZ", "UTC"),
    ]);
    Some(OnTerminal(Running::start(&mut script)))
}

impl OnTerminal {
    /// Waits until the screen holds a text.
    fn shows(&self, text: &str) {
        self.0.wait_for_stdout_that(|stdout| emulate(stdout).iter().any(|line| line.contains(text)), text);
    }

    fn press(&mut self, keys: &[u8]) {
        self.0.type_in(keys);
    }

    /// Its exit code, and everything that it wrote to the terminal.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.0.wait_with_open_stdin();
        (code, String::from_utf8(self.0.stdout()).unwrap())
    }
}

/// The lines of a terminal of 80 columns that has got these bytes: as far as `top` uses one. A wide
/// character is followed by a space.
fn emulate(bytes: &[u8]) -> Vec<String> {
    let mut cells = vec![[' '; 80]; 24];
    let (mut row, mut column) = (0, 0);
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\u{1b}' => {
                assert_eq!(rest.next(), Some('['), "a sequence that is not known");
                let mut numbers = String::new();
                let last = loop {
                    match rest.next() {
                        Some(character @ ('0'..='9' | ';' | '?')) => numbers.push(character),
                        Some(last) => break last,
                        // The rest has not come yet.
                        None => return lines(&cells),
                    }
                };
                match last {
                    'H' => {
                        let (line, place) = numbers.split_once(';').unwrap_or(("1", "1"));
                        (row, column) = (line.parse::<usize>().unwrap() - 1, place.parse::<usize>().unwrap() - 1);
                    }
                    'J' => cells = vec![[' '; 80]; 24],
                    _ => assert!("mhl".contains(last), "a sequence that is not known: {last}"),
                }
            }
            '\r' | '\n' => {}
            _ => {
                cells[row][column] = character;
                column = (column + 1).min(79);
            }
        }
    }
    lines(&cells)
}

fn lines(cells: &[[char; 80]]) -> Vec<String> {
    cells.iter().map(|line| line.iter().collect()).collect()
}

#[test]
fn keys_open_lists_and_the_terminal_is_left_as_it_was() {
    let dashboard = Dashboard::of("200 OK", "application/json", SNAPSHOT);
    let Some(mut top) = on_a_terminal(&dashboard, "") else { return };
    top.shows("sensor-17");
    top.press(b"3");
    top.shows("dionaea.capture");
    top.press(b"4");
    top.shows("--add-publish=cowrie.sessions");
    top.press(b"/203\r");
    top.shows("filter: 203");
    top.press(b"q");
    let (code, seen) = top.end();
    assert_eq!(code, Some(0));
    assert!(seen.contains(ENTER) && seen.contains(LEAVE) && !seen.contains(TOKEN));
    assert!(seen.rfind(LEAVE) > seen.rfind("sensor"), "nothing is drawn after it");
    assert!(!seen.contains("\u{202e}") && !seen.contains("\u{1b}[2J\u{202e}"), "hostile names are text");
    let paths = dashboard.paths();
    assert!(paths.contains(&"GET /api/v1/snapshot?list=incidents&limit=200&q=203 HTTP/1.1".to_owned()), "{paths:?}");
    assert_eq!(dashboard.connections.load(Ordering::SeqCst), 1, "one connection for all questions");
}

#[test]
fn a_dashboard_that_goes_away_leaves_its_picture() {
    static AWAY: AtomicBool = AtomicBool::new(false);
    let dashboard = Dashboard::start(|_, stream| {
        let status = if AWAY.load(Ordering::SeqCst) { "503 Service Unavailable" } else { "200 OK" };
        respond(stream, status, "application/json", SNAPSHOT)
    });
    let Some(mut top) = on_a_terminal(&dashboard, "--interval 0.2") else { return };
    top.shows("sensor-17");
    AWAY.store(true, Ordering::SeqCst);
    top.shows("NO ANSWER for 0 s, this is the picture of");
    AWAY.store(false, Ordering::SeqCst);
    top.shows("s order");
    top.press(&[3]);
    assert_eq!(top.end().0, Some(0), "Ctrl-C");
}

#[test]
fn messages_come_as_a_stream_and_are_text() {
    let dashboard = Dashboard::start(|head, stream| {
        if !head[0].contains("/stream") {
            return respond(stream, "200 OK", "application/json", SNAPSHOT);
        }
        let events = "retry: 1000\n\n: x\n\nevent: snapshot\ndata: {}\n\nevent: tail\ndata: {\"at\":1000,\"rate\":3412.0,\"shown\":1,\
            \"messages\":[{\"at\":1000,\"ident\":\"a\\u202e\",\"channel\":\"cowrie.x\",\"size\":7,\"encoding\":\"text\",\
            \"payload\":\"\\u001b[2Jhi\",\"cut\":false}]}\n\n";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = format!("{head}{:x}\r\n{events}\r\n", events.len());
        drop(std::io::Write::write_all(stream, chunk.as_bytes()));
        // Until the other side ends it.
        drop(std::io::copy(stream, &mut std::io::sink()));
        false
    });
    let Some(mut top) = on_a_terminal(&dashboard, "--show tail --filter channel=cowrie.*") else { return };
    top.shows("cowrie.x");
    top.shows(r"a\u{202e}");
    top.shows(r"\u{1b}[2Jhi");
    top.shows("showing 2 of 3,412/s");
    top.press(b"q");
    assert_eq!(top.end().0, Some(0));
    assert!(dashboard.paths().contains(&"GET /api/v1/stream?tail=1&list=&channel=cowrie.* HTTP/1.1".to_owned()));
}

#[test]
fn a_stream_that_is_refused_or_breaks_says_so_below_the_list() {
    let refused = ("403 Forbidden", "text/plain", "", "this token may look, and not read messages");
    let broken =
        ("200 OK", "text/event-stream", "event: tail\ndata: {\n\n", "an event of the stream is not as expected");
    let other = ("200 OK", "text/html", "<p>", "is no dashboard of a broker");
    let ended = ("200 OK", "text/event-stream", "event: gone\ndata: {}\n\n", "the broker is stopping");
    for (status, kind, body, expected) in [refused, broken, other, ended] {
        let dashboard = Dashboard::start(move |head, stream| {
            if head[0].contains("/stream") {
                respond(stream, status, kind, body)
            } else {
                respond(stream, "200 OK", "application/json", SNAPSHOT)
            }
        });
        let Some(mut top) = on_a_terminal(&dashboard, "--show tail") else { return };
        top.shows(expected);
        top.press(b"q");
        assert_eq!(top.end().0, Some(0));
    }
}

#[test]
fn a_first_answer_that_does_not_come_is_told_without_a_screen() {
    let dashboard = Dashboard::of("401 Unauthorized", "text/plain", "");
    let Some(top) = on_a_terminal(&dashboard, "") else { return };
    let (code, seen) = top.end();
    assert_eq!(code, Some(3));
    assert!(seen.contains("does not take this token") && !seen.contains(ENTER), "{seen}");
}
