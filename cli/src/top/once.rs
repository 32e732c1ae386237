//! One answer, printed: a screen of plain text, or the broker's JSON.

use std::io::{self, IsTerminal as _, Write as _};

use hpfeeds::visible::acts_on_a_terminal;

use super::{
    args::TopArgs,
    header::{self, Counting},
    http::Client,
    model::Snapshot,
    pane::Pane,
    poll,
    query::{ALL, Query},
    rows::{details, listing},
    table::Line,
    text::{Look, number},
};
use crate::{
    exit::{FAILED, Failure},
    terminal,
};

/// The size of the screen where there is no terminal to ask.
const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// The lines that are no rows of the list.
const OTHERS: usize = 9;

/// The rows of each list as JSON.
const LIMIT: usize = 1000;

/// Asks once, prints the answer, and says by the exit code whether all is well if that is wanted.
pub(super) async fn run(mut client: Client, args: &TopArgs, look: &Look) -> Result<(), Failure> {
    let pane = Pane::from(args.show);
    let limit = args.limit.map(usize::from);
    let mut query = if args.json {
        Query::of_lists(ALL, limit.unwrap_or(LIMIT))
    } else {
        Query::of(pane, limit.unwrap_or_else(|| screen_rows(pane)))
    };
    query.filter = args.filter.clone().unwrap_or_default();
    query.state = args.state.clone().unwrap_or_default();
    query.sort = args.sort.clone().unwrap_or_default();
    let body = client.json(&query.path(), query.most_bytes()).await?;
    let snapshot = poll::parse(&client, &body)?;
    if args.json {
        print(&(harmless(String::from_utf8_lossy(&body).trim()) + "\n"))?;
    } else {
        let columns = if io::stdout().is_terminal() { terminal::columns() } else { None };
        print(&text(&snapshot, pane, &client.address.to_string(), look, columns.unwrap_or(COLUMNS)))?;
    }
    let troubled = snapshot.states.troubled();
    if args.strict && troubled > 0 {
        let what = crate::exit::count(troubled, "sensor");
        return Err(Failure::with_code(FAILED, format!("{what} gone, silent or flooding")));
    }
    Ok(())
}

/// How many rows of a pane fit the screen.
fn screen_rows(pane: Pane) -> usize {
    let lines = if io::stdout().is_terminal() { terminal::lines() } else { None };
    let rows = lines.unwrap_or(ROWS).saturating_sub(OTHERS).max(5);
    if pane == Pane::Refused { rows / 2 } else { rows }
}

/// A screen of text, without anything that a terminal acts on.
fn text(snapshot: &Snapshot, pane: Pane, address: &str, look: &Look, columns: usize) -> String {
    let mut lines = vec![Line::of([header::title(snapshot, address, look)])];
    lines.extend(header::lines(snapshot, Counting::default(), look, columns));
    if pane != Pane::Refused && snapshot.incidents.total > 0 {
        let refused = crate::exit::count(snapshot.incidents.total as u64, "fault");
        lines.push(Line::of([format!("refused {refused} of clients (hpfeeds top --once --show refused)")]));
    }
    lines.push(Line::default());
    let listing = listing(pane, snapshot, look);
    let (titles, rows) = listing.table.lines(look, columns);
    let shown = rows.len();
    if shown == 0 {
        let what = if listing.total == 0 { "there are none" } else { "none pass the filter" };
        lines.push(Line::of([format!("{}: {what}", pane.title().to_lowercase())]));
    } else {
        lines.push(titles);
    }
    for (at, row) in rows.into_iter().enumerate() {
        lines.push(row);
        let advice = if pane == Pane::Refused { details(pane, snapshot, at, look).pop() } else { None };
        lines.extend(advice.filter(|advice| !advice.is_empty()).map(|advice| Line::of([format!("    {advice}")])));
    }
    if let Some(more) = listing.matching.checked_sub(shown).filter(|more| *more > 0 && shown > 0) {
        lines.push(Line::of([format!("and {} more (--limit)", number(more as u64))]));
    }
    // A command is of use only as a whole.
    let whole = |line: &Line| line.spans.first().is_some_and(|span| span.text.starts_with("    "));
    let lines = lines.into_iter().map(|line| if whole(&line) { line } else { line.cut(look, columns) });
    lines.map(|line| line.text() + "\n").collect()
}

/// JSON whose strings hold no character that a terminal would act on: they are escaped as JSON does.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            // Outside of strings, where alone they can be.
            '\n' | '\r' | '\t' => text.push(' '),
            _ if acts_on_a_terminal(character) => {
                text.extend(character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
            }
            _ => text.push(character),
        }
    }
    text
}

/// Writes to stdout. A reader that is gone is no reason for another exit code.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to stdout: {cause}")))
        }
        _ => Ok(()),
    }
}
