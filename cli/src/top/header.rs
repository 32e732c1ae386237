//! The header: the broker, its sensors by state, the rates, and the books.

use super::{
    model::{Books, Snapshot},
    pane::Pane,
    table::{Line, Span, Tone},
    text::{Look, bytes, long_span, number, rate, short, span, whole},
};

/// The title: which broker this is, and for how long it runs.
pub(super) fn title(snapshot: &Snapshot, address: &str, look: &Look) -> String {
    let up = long_span(snapshot.now().saturating_sub(snapshot.started));
    let mut title = format!("hpfeeds top · {}", look.plain(address));
    if !snapshot.name.is_empty() {
        title = format!("{title} · {}", look.plain(&snapshot.name));
    }
    if !snapshot.version.is_empty() {
        title = format!("{title} {}", look.plain(&snapshot.version));
    }
    look.own(&format!("{title} · up {up}"))
}

/// The lines below the title, for so many columns. `since` is the moment that counts begin at, in
/// milliseconds, if that is not the start of the broker.
pub(super) fn lines(snapshot: &Snapshot, since: Option<u64>, look: &Look, room: usize) -> Vec<Line> {
    let exact = books(snapshot, since, look, number);
    let books = if exact.width() <= room { exact } else { books(snapshot, since, look, short) };
    vec![states(snapshot), rates(snapshot, look), books]
}

/// Numbers of sensors; a state that needs somebody is bright when there are any.
fn states(snapshot: &Snapshot) -> Line {
    let states = &snapshot.states;
    let mut spans = vec![Span::new("sensors ", Tone::Head)];
    for (count, name, tone) in [
        (states.gone, "gone", Tone::Bad),
        (states.silent, "silent", Tone::Warning),
        (states.flood, "flood", Tone::Warning),
        (states.never, "never", Tone::Plain),
        (states.learning, "learning", Tone::Plain),
        (states.ok, "ok", Tone::Good),
    ] {
        let tone = if count > 0 { tone } else { Tone::Faint };
        spans.push(Span::new(format!("{} {name}", number(count)), tone));
        spans.push("  ".into());
    }
    spans.pop();
    Line::of(spans)
}

fn rates(snapshot: &Snapshot, look: &Look) -> Line {
    let rates = &snapshot.rates;
    let text = format!(
        "{} messages/s · {}/s in · {}/s out · {}/{} connections",
        rate(rates.messages),
        bytes(whole(rates.received_bytes)),
        bytes(whole(rates.sent_bytes)),
        number(snapshot.connections),
        number(snapshot.max_connections),
    );
    let mut spans = vec![Span::new("rates   ", Tone::Head), look.own(&text).into()];
    if !snapshot.ready {
        spans.push(Span::new(look.own(" · takes no new connections"), Tone::Warning));
    }
    Line::of(spans)
}

/// The copies of messages, and what became of them, with numbers as `number` writes them.
fn books(snapshot: &Snapshot, since: Option<u64>, look: &Look, number: fn(u64) -> String) -> Line {
    let Books { copies, delivered, queued, dropped, cut_off, stored, lost } = snapshot.books;
    let mut spans = vec![Span::new("copies  ", Tone::Head)];
    spans.push(format!("{} = {} delivered + {} queued", number(copies), number(delivered), number(queued)).into());
    let losses = [(dropped, "dropped"), (cut_off, "cut off"), (lost.unwrap_or(0), "lost")];
    for (count, name) in losses.into_iter().filter(|(count, name)| *name != "lost" || *count > 0) {
        spans.push(" + ".into());
        let tone = if count > 0 { Tone::Warning } else { Tone::Plain };
        spans.push(Span::new(format!("{} {name}", number(count)), tone));
    }
    if let Some(stored) = stored.filter(|stored| *stored > 0) {
        spans.push(look.own(&format!(" · {} stored", number(stored))).into());
    }
    if snapshot.difference != 0 {
        spans.push(Span::new(look.own(&format!(" · differ by {}", snapshot.difference)), Tone::Bad));
    }
    if let Some(since) = since {
        let text = format!(" · in the last {}", span(snapshot.at.saturating_sub(since) / 1000));
        spans.push(Span::new(look.own(&text), Tone::Head));
    }
    Line::of(spans)
}

/// The panes with their keys, names and numbers of rows, as far as there is room for them; one is open.
pub(super) fn tabs(snapshot: &Snapshot, open: Pane, room: usize) -> Line {
    let tabs = |named: bool, counted: bool| {
        let mut spans = Vec::new();
        for (pane, key) in Pane::ALL.into_iter().zip(1..) {
            let total = total(snapshot, pane);
            if pane == Pane::Mailboxes && open != pane && total == Some(0) {
                continue;
            }
            let is_open = pane == open;
            let (left, right) = if is_open { ("[", "]") } else { (" ", " ") };
            let mut text = format!("{left}{key}");
            if named || is_open {
                text = format!("{text} {}", pane.title());
            }
            if let Some(total) = total.filter(|_| counted) {
                text = format!("{text} {}", number(total as u64));
            }
            spans.push(Span::new(text + right, if is_open { Tone::Head } else { Tone::Plain }));
        }
        Line::of(spans)
    };
    let fits = |line: &Line| line.width() <= room;
    [tabs(true, true), tabs(true, false)].into_iter().find(fits).unwrap_or_else(|| tabs(false, false))
}

/// The rows of a pane's list.
fn total(snapshot: &Snapshot, pane: Pane) -> Option<usize> {
    match pane {
        Pane::Sensors => Some(snapshot.sensors.total),
        Pane::Consumers => Some(snapshot.consumers.total),
        Pane::Channels => Some(snapshot.channels.total),
        Pane::Refused => Some(snapshot.incidents.total),
        Pane::Mailboxes => Some(snapshot.mailboxes.total),
        Pane::Tail => None,
    }
}
