//! The header: the broker, its sensors by state, the rates, and the books.

use super::{
    model::{Books, Journal, Snapshot},
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

/// The counts of a header are not those since the start of the broker.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counting {
    /// The moment that they begin at, in milliseconds.
    pub(super) since: Option<u64>,
    /// The difference of the books, when that has been the same for so long that it is a fault.
    pub(super) fault: Option<i64>,
}

/// The lines below the title, for so many columns.
pub(super) fn lines(snapshot: &Snapshot, counting: Counting, look: &Look, room: usize) -> Vec<Line> {
    let fitting = |line: &dyn Fn(fn(u64) -> String) -> Line| {
        let exact = line(number);
        if exact.width() <= room { exact } else { line(short) }
    };
    let mut lines =
        vec![states(snapshot), rates(snapshot, look), fitting(&|number| copies(snapshot, counting, look, number))];
    lines.extend(snapshot.journal.as_ref().map(|journal| fitting(&|number| stored(snapshot, journal, look, number))));
    lines
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

/// A number of lost messages.
fn loss(count: u64, name: &str, number: fn(u64) -> String) -> Span {
    Span::new(format!("{} {name}", number(count)), if count > 0 { Tone::Warning } else { Tone::Plain })
}

/// The books of copies of messages, and what became of them, with numbers as `number` writes them.
fn copies(snapshot: &Snapshot, counting: Counting, look: &Look, number: fn(u64) -> String) -> Line {
    let Books { copies, delivered, queued, dropped, cut_off, .. } = snapshot.books;
    let sum = format!("{} = {} delivered + {} queued + ", number(copies), number(delivered), number(queued));
    let mut spans = vec![Span::new("copies  ", Tone::Head), sum.into()];
    spans.extend([loss(dropped, "dropped", number), " + ".into(), loss(cut_off, "cut off", number)]);
    if let Some(difference) = counting.fault {
        let text = format!(" · differ by {difference}: a fault of the broker");
        spans.push(Span::new(look.own(&text), Tone::Bad));
    }
    if let Some(since) = counting.since {
        let text = format!(" · in the last {}", span(snapshot.at.saturating_sub(since) / 1000));
        spans.push(Span::new(look.own(&text), Tone::Head));
    }
    Line::of(spans)
}

/// The books of messages that were to be stored, and the journal.
fn stored(snapshot: &Snapshot, journal: &Journal, look: &Look, number: fn(u64) -> String) -> Line {
    let Books { wanted, stored, not_stored, lost, .. } = snapshot.books;
    let sum = format!("{} = {} stored + ", number(wanted), number(stored));
    let mut spans = vec![Span::new("to disk ", Tone::Head), sum.into(), loss(not_stored, "not stored", number)];
    let full = journal.bytes.saturating_mul(100) / journal.limit.max(1);
    let (health, tone) = match &*journal.health {
        "good" => (format!("good, {full} % full"), Tone::Plain),
        health => (look.plain(health), Tone::Bad),
    };
    spans.extend([look.own(" · journal ").into(), Span::new(health, tone)]);
    if lost > 0 {
        spans.extend([look.own(" · ").into(), loss(lost, "lost", number)]);
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
