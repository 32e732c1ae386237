//! The screen as lines: header, panes, the open list, the details of a row, and what keys do.

use tokio::time::Instant;

use super::{
    app::App,
    header,
    model::TailMessage,
    pane::Pane,
    rows::{Listing, details, listing},
    table::{Column, Line, Span, Table, Tone},
    text::{Look, number, rate, span, width},
};

const TAIL: [Column; 5] = [
    Column::text("TIME", 3),
    Column::long("CHANNEL", 8, 1),
    Column::long("IDENT", 8, 2),
    Column::number("BYTES", 4),
    Column::long("PAYLOAD", 12, 0),
];

const KEYS: &str = "Tab 1-6 lists  / filter  s order  r from now  ? help  q quit";

const HELP: &[&str] = &[
    "Tab, 1 to 6     the next list, or that of the number",
    "arrows, j and k one row; PgUp and PgDn one screen; Home and End (g, G) all of it",
    "/               filter: rows with a text in a name; empty for all",
    "                of the tail: channel=cowrie.* ident=s-* peerIP=192.0.2.1 text",
    "s, S            the next order, the one before",
    "r               count from now; R: from the start of the broker",
    "space           hold the tail, and let it go on",
    "Ctrl-L          draw the screen anew; Ctrl-Z: suspend",
    "?               this help; q, Ctrl-C: quit",
    "",
    "gone       no connection: for who runs its host and the network",
    "silent     connected, and quiet for over ten minutes and twice its longest gap",
    "flood      over ten times as many messages as usual",
    "never      has a key, and has not connected in thirty days",
    "learning   known for less than a day",
];

/// How many lines each part has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    header: usize,
    rows: usize,
    details: usize,
}

impl Layout {
    /// Title, header, panes, the titles of columns, rows, a rule, details, and the last line.
    fn new(height: usize, header: usize) -> Self {
        let header = if height >= 14 { header } else { 0 };
        let details = match height {
            24.. => 4,
            18.. => 3,
            14.. => 2,
            10.. => 1,
            _ => 0,
        };
        let rule = usize::from(details > 0);
        Self { header, rows: height.saturating_sub(4 + header + rule + details), details }
    }
}

/// A whole screen, and the column of the cursor in its last line while a filter is typed.
pub(super) struct Screen {
    pub(super) lines: Vec<Line>,
    pub(super) cursor: Option<usize>,
}

/// Draws a screen of this size.
pub(super) fn draw(app: &mut App, look: &Look, columns: usize, height: usize, now: Instant) -> Screen {
    let header = header::lines(&app.snapshot, app.counting(), look, columns);
    let layout = Layout::new(height, header.len());
    app.set_room(layout.rows);
    let app = &*app;
    let title = header::title(&app.snapshot, &app.address, look);
    let clock = look.clock(app.snapshot.at);
    let mut lines = vec![spread(&title, &clock, look, columns).reversed()];
    lines.extend(header.into_iter().take(layout.header));
    lines.push(header::tabs(&app.snapshot, app.pane, columns));
    if app.helps {
        let help = HELP.iter().map(|text| Line::of([*text]));
        lines.extend(help.take(layout.rows + 1 + layout.details));
        lines.resize(height.saturating_sub(1), Line::default());
    } else {
        let (listing, selected) = current(app, look);
        lines.extend(list(app, &listing, selected, look, columns, layout));
        if layout.details > 0 {
            lines.push(rule(app, &listing, look, columns, now));
            lines.extend(foot(app, look, columns, layout.details));
        }
    }
    lines.truncate(height.saturating_sub(1));
    lines.push(last(app, look, now));
    let cursor = app.prompt.as_ref().map(|text| (1 + width(&look.plain(text))).min(columns.saturating_sub(1)));
    let lines = lines.into_iter().take(height).map(|line| line.cut(look, columns)).collect();
    Screen { lines, cursor }
}

/// A text at the left, and one at the right if there is room.
fn spread(left: &str, right: &str, look: &Look, columns: usize) -> Line {
    let gap = columns.saturating_sub(width(left) + width(right) + 2);
    if gap == 0 {
        return Line::of([format!(" {}", look.cut(left, columns.saturating_sub(2))) + " "]);
    }
    Line::of([format!(" {left}{}{right} ", " ".repeat(gap))])
}

/// The rows of the open pane that are on the screen, with the number of the selected one among them.
fn current(app: &App, look: &Look) -> (Listing, Option<usize>) {
    let view = app.view();
    if app.pane == Pane::Tail {
        let first = app.tail.first();
        let messages = app.tail.messages.iter().skip(view.top - first);
        let rows: Vec<_> = messages.map(|message| tail_row(message, look)).collect();
        let selected = (!rows.is_empty()).then(|| view.cursor - view.top);
        let table = Table { columns: &TAIL, rows };
        return (Listing { table, matching: app.tail.messages.len(), total: app.tail.taken }, selected);
    }
    let mut listing = listing(app.pane, &app.snapshot, look);
    if !app.has_rows() {
        listing.table.rows.clear();
        return (listing, None);
    }
    let above = view.top.saturating_sub(app.query.offset).min(listing.table.rows.len());
    listing.table.rows.drain(..above);
    let selected = (view.top >= app.query.offset).then(|| view.cursor - view.top);
    (listing, selected)
}

fn tail_row(message: &TailMessage, look: &Look) -> Vec<Span> {
    vec![
        Span::new(look.clock(message.at), Tone::Faint),
        look.plain(&message.channel).into(),
        look.plain(&message.ident).into(),
        Span::new(number(message.size), Tone::Faint),
        look.plain(&message.payload).into(),
    ]
}

/// The titles of the columns and the rows below, so many lines as there is room for.
fn list(
    app: &App,
    listing: &Listing,
    selected: Option<usize>,
    look: &Look,
    columns: usize,
    layout: Layout,
) -> Vec<Line> {
    // Columns are as wide as what is on the screen needs.
    let table =
        Table { columns: listing.table.columns, rows: listing.table.rows.iter().take(layout.rows).cloned().collect() };
    let (mut titles, rows) = table.lines(look, columns.saturating_sub(2));
    titles.spans.insert(0, "  ".into());
    let mut lines = vec![titles];
    for (at, mut row) in rows.into_iter().enumerate() {
        let is_selected = selected == Some(at);
        row.spans.insert(0, if is_selected { "> " } else { "  " }.into());
        lines.push(if is_selected { row.reversed() } else { row });
    }
    if lines.len() == 1 {
        let text = match app.pane {
            _ if app.pane != Pane::Tail && !app.has_rows() => "…",
            Pane::Tail if app.tail.is_open => "no message yet",
            Pane::Tail => "",
            _ if listing.total > 0 => "none pass the filter",
            Pane::Refused => "none: nothing was refused",
            _ => "none",
        };
        lines.push(Line::of([Span::new(look.own(&format!("  {text}")), Tone::Faint)]));
    }
    lines.resize(layout.rows + 1, Line::default());
    lines
}

/// The rule below the list: which rows these are, and in which order.
fn rule(app: &App, listing: &Listing, look: &Look, columns: usize, now: Instant) -> Line {
    let view = app.view();
    let mut parts = Vec::new();
    if app.pane == Pane::Tail {
        if app.tail.is_open {
            let (shown, all) = app.tail.rates(now);
            parts.push(format!("showing {shown} of {}/s", rate(all)));
        }
        if app.is_paused {
            parts.push("held: space lets it go on".to_owned());
        }
    } else if app.has_rows() {
        let matching = listing.matching;
        let mut text = match matching {
            0 => "0".to_owned(),
            _ => format!("{} of {}", number((view.cursor + 1) as u64), number(matching as u64)),
        };
        if listing.total != matching {
            text = format!("{text} (all: {})", number(listing.total as u64));
        }
        parts.push(text);
        let sort = app.pane.sorts().iter().find(|(key, _)| *key == view.sort);
        parts.push(format!("order: {}", sort.map_or_else(|| look.plain(&view.sort), |(_, words)| (*words).to_owned())));
    }
    if !view.filter.is_empty() {
        parts.push(format!("filter: {}", look.plain(&view.filter)));
    }
    if !app.state_filter().is_empty() {
        parts.push(format!("only {}", app.state_filter()));
    }
    let dash = if look.unicode { "─" } else { "-" };
    let text = if parts.is_empty() { String::new() } else { look.own(&format!("{dash} {} ", parts.join(" · "))) };
    let fill = dash.repeat(columns.saturating_sub(width(&text)));
    Line::of([Span::new(text + &fill, Tone::Faint)])
}

/// The details of the selected row, or what keeps the picture from being new.
fn foot(app: &App, look: &Look, columns: usize, lines: usize) -> Vec<Line> {
    let fault = app.away.as_ref().map(|away| &away.fault.text);
    let fault = fault.or(app.tail.fault.as_ref().filter(|_| app.pane == Pane::Tail));
    let (texts, tone) = match fault {
        Some(fault) => (vec![look.plain(fault)], Tone::Warning),
        None if app.pane == Pane::Tail => (message_details(app, look), Tone::Plain),
        None => {
            let row = app.row();
            (row.map(|row| details(app.pane, &app.snapshot, row, look)).unwrap_or_default(), Tone::Plain)
        }
    };
    let mut wrapped = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        wrapped.extend(wrap(text, columns).into_iter().map(|line| Line::of([Span::new(line, tone)])));
    }
    wrapped.resize(lines, Line::default());
    wrapped
}

fn message_details(app: &App, look: &Look) -> Vec<String> {
    let message = app.view().cursor.checked_sub(app.tail.first()).and_then(|at| app.tail.messages.get(at));
    let Some(message) = message else { return Vec::new() };
    let cut = if message.cut { " (cut)" } else { "" };
    vec![format!("{}{cut}", look.plain(&message.payload))]
}

/// The text in lines of so many columns, broken at spaces where there are some.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| width(line));
        if line > 0 && line + 1 + width(word) > columns {
            lines.push(String::new());
        }
        let is_first = lines.last().is_none_or(String::is_empty);
        for character in (if is_first { "" } else { " " }).chars().chain(word.chars()) {
            // A word that is longer than a line.
            let used = lines.last().map_or(0, |line| width(line));
            if used + width(character.encode_utf8(&mut [0; 4])) > columns {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                line.push(character);
            }
        }
    }
    lines
}

/// The last line: the filter that is typed, the time without an answer, or the keys.
fn last(app: &App, look: &Look, now: Instant) -> Line {
    if let Some(text) = &app.prompt {
        return Line::of([format!("/{}", look.plain(text))]);
    }
    match &app.away {
        Some(away) => {
            let seconds = |time: std::time::Duration| span(time.as_secs());
            let since = seconds(now.saturating_duration_since(away.since));
            let again = seconds(away.again.saturating_duration_since(now));
            let at = look.clock(app.snapshot.at);
            let text = format!(" NO ANSWER for {since}, this is the picture of {at}; next attempt in {again} ");
            Line::of([Span::new(text, Tone::Bad)]).reversed()
        }
        None => Line::of([Span::new(KEYS, Tone::Faint)]),
    }
}
