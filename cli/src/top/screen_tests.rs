//! The screen on a terminal of the test, as text.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use ratatui_core::{backend::TestBackend, style::Color, terminal::Terminal};
use tokio::time::Instant;

use super::{
    app::{App, Next},
    args::{Show, TopArgs},
    baseline::Baseline,
    fault::Fault,
    model::{Snapshot, TailEvent, TailMessage},
    paint::paint,
    poll::Update,
    screen,
    tail::TailUpdate,
    text::Look,
};

const SNAPSHOT: &str = include_str!("../../tests/it/top/snapshot.json");

fn args(show: Show) -> TopArgs {
    TopArgs {
        token_file: None,
        show,
        state: None,
        filter: None,
        sort: None,
        once: false,
        json: false,
        strict: false,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(10),
        limit: None,
    }
}

fn snapshot() -> Snapshot {
    Snapshot::parse(SNAPSHOT.as_bytes()).unwrap()
}

/// A screen that has had an answer.
fn app(show: Show) -> App {
    let mut app = App::new("http://127.0.0.1:9432".to_owned(), &args(show));
    answer(&mut app, snapshot());
    app
}

/// Answers what the screen wants.
fn answer(app: &mut App, snapshot: Snapshot) {
    app.update(Update::Snapshot(app.wanted().query, Box::new(snapshot)), Instant::now());
}

fn press(app: &mut App, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            '⇟' => KeyCode::PageDown,
            '⇞' => KeyCode::PageUp,
            '⇱' => KeyCode::Home,
            '⇲' => KeyCode::End,
            '⌫' => KeyCode::Backspace,
            '⎋' => KeyCode::Esc,
            key => KeyCode::Char(key),
        };
        assert_eq!(app.key(KeyEvent::new(code, KeyModifiers::NONE)), Next::Draw, "{key}");
    }
}

struct Drawn {
    text: String,
    colours: Vec<Color>,
}

fn draw(app: &mut App, columns: u16, lines: u16, colour: bool, unicode: bool) -> Drawn {
    let look = Look { colour, unicode, zone: TimeZone::UTC };
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal
        .draw(|frame| {
            let screen = screen::draw(app, &look, columns.into(), lines.into(), Instant::now());
            assert_eq!(screen.lines.len(), usize::from(lines));
            paint(frame.buffer_mut(), &screen.lines, &look);
        })
        .unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in buffer.content().chunks(columns.into()) {
        let mut line = String::new();
        let mut hidden = 0;
        for cell in row {
            if hidden == 0 {
                line.push_str(cell.symbol());
                hidden = super::text::width(cell.symbol()).max(1);
            }
            hidden -= 1;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Drawn {
        text,
        colours: buffer.content().iter().map(|cell| cell.fg).filter(|colour| *colour != Color::Reset).collect(),
    }
}

fn text(app: &mut App, columns: u16, lines: u16) -> String {
    draw(app, columns, lines, false, true).text
}

#[tokio::test]
async fn the_worst_sensors_are_on_the_first_screen() {
    assert_eq!(text(&mut app(Show::Sensors), 80, 24), include_str!("../../tests/it/top/screens/sensors.txt"));
}

#[tokio::test]
async fn the_screen_has_a_form_in_ascii() {
    let drawn = draw(&mut app(Show::Sensors), 80, 24, false, false);
    assert!(drawn.text.is_ascii(), "{}", drawn.text);
    assert_eq!(drawn.text, include_str!("../../tests/it/top/screens/ascii.txt"));
}

#[tokio::test]
async fn each_list_has_its_screen() {
    assert_eq!(text(&mut app(Show::Consumers), 80, 16), include_str!("../../tests/it/top/screens/consumers.txt"));
    assert_eq!(text(&mut app(Show::Channels), 80, 16), include_str!("../../tests/it/top/screens/channels.txt"));
    assert_eq!(text(&mut app(Show::Refused), 80, 24), include_str!("../../tests/it/top/screens/refused.txt"));
    assert_eq!(text(&mut app(Show::Mailboxes), 80, 16), include_str!("../../tests/it/top/screens/mailboxes.txt"));
}

#[tokio::test]
async fn a_narrow_and_a_low_screen_show_what_matters_most() {
    assert_eq!(text(&mut app(Show::Sensors), 40, 12), include_str!("../../tests/it/top/screens/narrow.txt"));
    for (columns, lines) in [(1, 1), (2, 2), (3, 3), (10, 4), (200, 5), (20, 100), (80, 9), (80, 13), (80, 19)] {
        for show in [Show::Sensors, Show::Refused, Show::Tail] {
            text(&mut app(show), columns, lines);
        }
    }
}

#[tokio::test]
async fn colours_are_there_only_where_they_are_wanted() {
    let colours = draw(&mut app(Show::Sensors), 80, 24, true, true).colours;
    for colour in [Color::Red, Color::Yellow, Color::Green] {
        assert!(colours.contains(&colour), "{colour}");
    }
    assert_eq!(draw(&mut app(Show::Sensors), 80, 24, false, true).colours, []);
}

#[tokio::test]
async fn hostile_names_and_payloads_are_text_in_their_cells() {
    let mut app = app(Show::Tail);
    let hostile = "\u{1b}]0;x\u{7}\u{202e}\n\u{200b}";
    let message = TailMessage {
        at: 1000,
        ident: hostile.to_owned(),
        channel: hostile.to_owned(),
        payload: hostile.repeat(100),
        size: 12_345,
        ..TailMessage::default()
    };
    app.update_tail(TailUpdate::Messages(TailEvent { at: 1, rate: 1.0, messages: vec![message; 40] }));
    let text = text(&mut app, 80, 24);
    assert!(text.chars().all(|char| char == '\n' || !hpfeeds::visible::acts_on_a_terminal(char)), "{text:?}");
    assert!(text.contains(r"\u{1b}]"), "{text}");
    assert!(text.lines().all(|line| super::text::width(line) <= 80));
}

#[tokio::test]
async fn the_tail_follows_until_it_is_held() {
    let mut app = app(Show::Tail);
    let message =
        |n: usize| TailMessage { at: 1000, ident: format!("i{n}"), payload: "{}".into(), ..TailMessage::default() };
    let send = |app: &mut App, from: usize, to: usize| {
        let messages = (from..to).map(message).collect();
        app.update_tail(TailUpdate::Messages(TailEvent { at: 1, rate: 3412.0, messages }));
    };
    send(&mut app, 0, 50);
    let seen = text(&mut app, 80, 24);
    assert!(seen.contains("> 00:00:01") && seen.contains("i49") && !seen.contains("i9 "), "{seen}");
    press(&mut app, "↑↑");
    send(&mut app, 50, 80);
    let seen = text(&mut app, 80, 24);
    assert!(seen.contains("i49") && !seen.contains("i79") && seen.contains("held"), "{seen}");
    // The messages that are held are pushed out at last.
    for from in (80..1000).step_by(40) {
        send(&mut app, from, from + 40);
    }
    assert!(text(&mut app, 80, 24).contains("i500"));
    press(&mut app, " ");
    let seen = text(&mut app, 80, 24);
    assert!(seen.contains("i999") && !seen.contains("held"), "{seen}");
}

#[tokio::test]
async fn the_cursor_asks_for_the_page_that_it_comes_to() {
    let mut app = app(Show::Sensors);
    text(&mut app, 80, 24);
    assert_eq!(app.wanted().query.offset, 0);
    press(&mut app, "↓↓");
    assert!(text(&mut app, 80, 24).contains("> silent"));
    press(&mut app, "⇲");
    text(&mut app, 80, 24);
    let query = app.wanted().query;
    assert!(query.offset > 1700 && query.offset < 2000, "{query:?}");
    assert!(text(&mut app, 80, 24).contains("2,000 of 2,000"));
    answer(&mut app, snapshot());
    press(&mut app, "⇱");
    text(&mut app, 80, 24);
    assert_eq!(app.wanted().query.offset, 0);
}

#[tokio::test]
async fn the_cursor_stays_with_its_row() {
    let mut app = app(Show::Sensors);
    press(&mut app, "↓↓");
    let mut moved = snapshot();
    moved.sensors.rows.rotate_left(1);
    answer(&mut app, moved.clone());
    assert_eq!(app.view().cursor, 1);
    // But not at the first row: the worst is to be seen.
    press(&mut app, "⇱");
    moved.sensors.rows.rotate_left(1);
    answer(&mut app, moved.clone());
    assert_eq!(app.view().cursor, 0);
    // One that is gone, and a list that is shorter.
    press(&mut app, "↓↓↓");
    moved.sensors.rows.truncate(2);
    (moved.sensors.matching, moved.sensors.total) = (2, 2);
    answer(&mut app, moved);
    assert_eq!(app.view().cursor, 1);
}

#[tokio::test]
async fn keys_filter_and_sort_each_list_for_itself() {
    let mut app = app(Show::Sensors);
    press(&mut app, "/cowx⌫\n");
    assert_eq!(app.wanted().query.path(), "/api/v1/snapshot?list=sensors&limit=200&q=cow");
    press(&mut app, "s");
    assert_eq!(app.wanted().query.path(), "/api/v1/snapshot?list=sensors&limit=200&q=cow&sort=-since");
    press(&mut app, "S");
    press(&mut app, "\t");
    assert_eq!(app.wanted().query.path(), "/api/v1/snapshot?list=consumers&limit=200");
    // The rows that are there are those of another list.
    assert!(text(&mut app, 80, 24).contains("  …"));
    answer(&mut app, snapshot());
    assert!(text(&mut app, 80, 24).contains("> ok"));
    press(&mut app, "1/x⎋");
    assert_eq!(app.view().filter, "cow", "what was typed is not taken");
    answer(&mut app, snapshot());
    let seen = text(&mut app, 80, 24);
    assert!(seen.contains("order: worst first · filter: cow"), "{seen}");
    press(&mut app, "/");
    assert!(text(&mut app, 80, 24).ends_with("\n/cow\n"));
    press(&mut app, &"é".repeat(200));
    press(&mut app, "\n");
    assert!(app.view().filter.len() <= 255);
}

#[tokio::test]
async fn counts_begin_anew_at_a_key_and_with_the_broker() {
    let mut app = app(Show::Sensors);
    assert_eq!(app.wanted().baseline, 0);
    press(&mut app, "r");
    assert_eq!(app.wanted().baseline, 1);
    let mut baseline = Baseline::default();
    baseline.add(snapshot());
    app.update(Update::Baseline(Box::new(baseline)), Instant::now());
    let mut later = snapshot();
    later.at += 30_000;
    later.sensors.rows[0].messages += 7;
    answer(&mut app, later.clone());
    let seen = text(&mut app, 120, 24);
    assert!(seen.contains("copies  60 = 0 delivered + 60 queued") && seen.contains("in the last 30 s"), "{seen}");
    assert_eq!((app.snapshot.sensors.rows[0].messages, app.snapshot.sensors.rows[1].messages), (7, 0));
    press(&mut app, "R");
    assert_eq!(app.snapshot.sensors.rows[0].messages, 12_338);
    // A broker that has begun anew.
    press(&mut app, "r");
    let mut baseline = Baseline::default();
    baseline.add(snapshot());
    app.update(Update::Baseline(Box::new(baseline)), Instant::now());
    later.started += 1;
    answer(&mut app, later);
    assert_eq!((app.baseline.is_none(), app.snapshot.sensors.rows[0].messages), (true, 12_338));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_leaves_its_last_picture() {
    let mut app = app(Show::Sensors);
    let fault = Fault::new("cannot connect to 127.0.0.1:9432: connection refused: does the broker run?");
    app.update(Update::Away(fault.clone(), Duration::from_secs(1)), Instant::now());
    tokio::time::advance(Duration::from_secs(12)).await;
    app.update(Update::Away(fault, Duration::from_secs(4)), Instant::now());
    let seen = text(&mut app, 80, 24);
    let last = seen.lines().last().unwrap();
    assert_eq!(last, " NO ANSWER for 12 s, this is the picture of 15:30:00; next attempt in 4 s");
    assert!(seen.contains("sensor-17") && seen.contains("connection refused: does the broker run?"), "{seen}");
    answer(&mut app, snapshot());
    assert!(!text(&mut app, 80, 24).contains("NO ANSWER"));
}

#[tokio::test]
async fn books_that_differ_are_a_fault_only_when_they_stay_so() {
    let mut app = app(Show::Sensors);
    let mut differing = snapshot();
    for (difference, expected) in
        [(3, false), (2, false), (2, false), (2, false), (2, false), (2, false), (2, true), (0, false)]
    {
        differing.difference = difference;
        answer(&mut app, differing.clone());
        assert_eq!(text(&mut app, 120, 24).contains("differ by 2: a fault of the broker"), expected, "{difference}");
    }
}

#[tokio::test]
async fn help_names_the_keys() {
    let mut app = app(Show::Sensors);
    press(&mut app, "?");
    let seen = text(&mut app, 80, 24);
    assert!(seen.contains("count from now") && seen.contains("learning   known for less than a day"), "{seen}");
    let below = seen.split_once('\n').unwrap().1;
    assert!(!below.contains('…'), "nothing is cut: {seen}");
    press(&mut app, "⎋");
    assert!(text(&mut app, 80, 24).contains("sensor-17"));
    for (code, modifiers, expected) in [
        (KeyCode::Char('q'), KeyModifiers::NONE, Next::Quit),
        (KeyCode::Char('c'), KeyModifiers::CONTROL, Next::Quit),
        (KeyCode::Char('z'), KeyModifiers::CONTROL, Next::Suspend),
        (KeyCode::Char('l'), KeyModifiers::CONTROL, Next::Redraw),
    ] {
        assert_eq!(app.key(KeyEvent::new(code, modifiers)), expected);
    }
}
