//! The rows of each list as a table, and the details of one of them.

use super::{
    model::{Channel, Consumer, Mailbox, Sensor, Snapshot},
    pane::Pane,
    refused,
    table::{Column, Span, Table, Tone},
    text::{Look, bytes, short, span},
};

const SENSORS: [Column; 10] = [
    Column::text("STATE", 1),
    Column::text("SINCE", 2),
    Column::long("IDENT", 24, 0),
    Column::number("LAST", 4),
    Column::number("MSG/MIN", 3),
    Column::number("USUAL", 6),
    Column::number("MESSAGES", 5),
    Column::text("ENDED", 7),
    Column::long("PEER", 12, 8),
    Column::long("PROGRAM", 8, 9),
];

const CONSUMERS: [Column; 9] = [
    Column::text("STATE", 1),
    Column::text("SINCE", 5),
    Column::long("IDENT", 20, 0),
    Column::number("SUBS", 6),
    Column::number("QUEUED", 2),
    Column::number("SENT", 4),
    Column::number("DROPPED", 3),
    Column::long("PEER", 12, 7),
    Column::long("PROGRAM", 8, 8),
];

const CHANNELS: [Column; 6] = [
    Column::long("CHANNEL", 12, 0),
    Column::number("MESSAGES", 1),
    Column::number("BYTES", 4),
    Column::number("PUBLISHERS", 3),
    Column::number("SUBSCRIPTIONS", 5),
    Column::number("UNROUTED", 2),
];

const MAILBOXES: [Column; 8] = [
    Column::long("MAILBOX", 20, 0),
    Column::text("COLLECTOR", 2),
    Column::text("SINCE", 5),
    Column::number("WAITING", 1),
    Column::number("BYTES", 6),
    Column::number("OLDEST", 4),
    Column::number("LOST", 3),
    Column::long("WHY LOST", 8, 7),
];

/// The list of a pane.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub(super) table: Table,
    /// How many rows the filter lets pass, and how many there are.
    pub(super) matching: usize,
    pub(super) total: usize,
}

/// The list of a pane in a snapshot; the tail has none.
pub(super) fn listing(pane: Pane, snapshot: &Snapshot, look: &Look) -> Listing {
    let now = snapshot.now();
    match pane {
        Pane::Sensors => {
            let list = &snapshot.sensors;
            let rows = list.rows.iter().map(|row| sensor(row, now, look)).collect();
            Listing { table: Table { columns: &SENSORS, rows }, matching: list.matching, total: list.total }
        }
        Pane::Consumers => {
            let list = &snapshot.consumers;
            let rows = list.rows.iter().map(|row| consumer(row, now, look)).collect();
            Listing { table: Table { columns: &CONSUMERS, rows }, matching: list.matching, total: list.total }
        }
        Pane::Channels => {
            let list = &snapshot.channels;
            let rows = list.rows.iter().map(|row| channel(row, look)).collect();
            Listing { table: Table { columns: &CHANNELS, rows }, matching: list.matching, total: list.total }
        }
        Pane::Refused => {
            let list = &snapshot.incidents;
            let rows = list.rows.iter().map(|row| refused::cells(row, snapshot.at, look)).collect();
            let columns = &refused::COLUMNS;
            Listing { table: Table { columns, rows }, matching: list.matching, total: list.total }
        }
        Pane::Mailboxes => {
            let list = &snapshot.mailboxes;
            let rows = list.rows.iter().map(|row| mailbox(row, now, look)).collect();
            Listing { table: Table { columns: &MAILBOXES, rows }, matching: list.matching, total: list.total }
        }
        Pane::Tail => Listing { table: Table { columns: &[], rows: Vec::new() }, matching: 0, total: 0 },
    }
}

/// The details of a row of a pane, as lines: what does not fit its columns, and what to do.
pub(super) fn details(pane: Pane, snapshot: &Snapshot, at: usize, look: &Look) -> Vec<String> {
    let lines = match pane {
        Pane::Sensors => snapshot.sensors.rows.get(at).map(|row| sensor_details(row, snapshot.now(), look)),
        Pane::Consumers => snapshot.consumers.rows.get(at).map(|row| consumer_details(row, snapshot.now(), look)),
        Pane::Channels => snapshot.channels.rows.get(at).map(|row| channel_details(row, look)),
        Pane::Refused => snapshot.incidents.rows.get(at).map(|row| refused::details(row, snapshot.at, look)),
        Pane::Mailboxes => snapshot.mailboxes.rows.get(at).map(|row| mailbox_details(row, look)),
        Pane::Tail => None,
    };
    lines.unwrap_or_default().into_iter().map(|line| look.own(&line)).collect()
}

/// The tone of a state.
fn tone(state: &str) -> Tone {
    match state {
        "gone" => Tone::Bad,
        "silent" | "flood" => Tone::Warning,
        "ok" => Tone::Good,
        "never" => Tone::Faint,
        _ => Tone::Plain,
    }
}

/// How long ago a moment was; `-` for one that is not known.
fn ago(moment: Option<u64>, now: u64) -> Span {
    moment.map_or_else(|| Span::new("-", Tone::Faint), |moment| span(now.saturating_sub(moment)).into())
}

/// A text that may be missing.
fn maybe(text: Option<&str>, look: &Look) -> Span {
    text.map_or_else(|| Span::new("-", Tone::Faint), |text| look.plain(text).into())
}

/// A count that is remarkable when there is one.
fn trouble(count: u64) -> Span {
    Span::new(short(count), if count > 0 { Tone::Warning } else { Tone::Faint })
}

fn sensor(row: &Sensor, now: u64, look: &Look) -> Vec<Span> {
    vec![
        Span::new(look.plain(&row.state), tone(&row.state)),
        ago(row.since, now),
        look.plain(&row.ident).into(),
        ago(row.published, now),
        short(row.rate).into(),
        short(row.usual_rate).into(),
        short(row.messages).into(),
        maybe(row.reason.as_deref().filter(|_| row.connections == 0), look),
        maybe(row.peer.as_deref(), look),
        maybe(row.software.as_deref(), look),
    ]
}

fn sensor_details(row: &Sensor, now: u64, look: &Look) -> Vec<String> {
    let ident = look.plain(&row.ident);
    let mut parts = vec![ident];
    let ago = |moment: Option<u64>| moment.map(|moment| span(now.saturating_sub(moment)));
    match &*row.state {
        "never" => parts.push("has a key and has not connected in thirty days".to_owned()),
        _ if row.connections == 0 => {
            let reason = row.reason.as_deref().map(|reason| format!(" ({})", look.plain(reason)));
            let left = ago(row.left.or(row.since)).unwrap_or_else(|| "some time".to_owned());
            parts.push(format!("without a connection for {left}{}", reason.unwrap_or_default()));
        }
        _ => parts.push(match ago(row.connected) {
            Some(since) if row.connections == 1 => format!("connected for {since}"),
            Some(since) => format!("{} connections, the last for {since}", row.connections),
            None => "connected".to_owned(),
        }),
    }
    parts.extend(ago(row.published).map(|last| format!("last message {last} ago")));
    if row.usual_gap > 0 {
        parts.push(format!("quiet for {}, at most {} in seven days", span(row.quiet), span(row.usual_gap)));
    }
    parts.extend(row.peer.as_deref().map(|peer| format!("from {}", look.plain(peer))));
    parts.extend(row.software.as_deref().map(|software| look.plain(software)));
    let advice = match &*row.state {
        "gone" => match row.reason.as_deref() {
            Some("closed") => "its client closed the connection: does the honeypot run?",
            Some("shutdown") => "the broker was stopped, and it has not come back: hpfeeds doctor there says why",
            Some("revoked") => "its key was removed or changed: hpfeeds-broker keys list shows those that there are",
            _ => "its host or the network is down: hpfeeds doctor there says which link is broken",
        },
        "silent" => "its honeypot is connected, and publishes less than it used to: see its log",
        "flood" => "over ten times as many messages as on a busy day: an attack, or a loop in it",
        "never" => "does it run, with this ident and secret? hpfeeds doctor there says",
        "learning" => "known for less than a day: what is usual is not known yet",
        _ => "",
    };
    vec![parts.join(" · "), advice.to_owned()]
}

fn consumer(row: &Consumer, now: u64, look: &Look) -> Vec<Span> {
    vec![
        Span::new(look.plain(&row.state), tone(&row.state)),
        ago(row.since, now),
        look.plain(&row.ident).into(),
        row.subscriptions.to_string().into(),
        bytes(row.queued).into(),
        bytes(row.sent).into(),
        trouble(row.dropped),
        maybe(row.peer.as_deref(), look),
        maybe(row.software.as_deref(), look),
    ]
}

fn consumer_details(row: &Consumer, now: u64, look: &Look) -> Vec<String> {
    let since = row.since.map(|since| span(now.saturating_sub(since)));
    let mut parts = vec![look.plain(&row.ident)];
    parts.push(match (since, row.connections) {
        (Some(since), 0) => format!("without a connection for {since}"),
        (None, 0) => "without a connection".to_owned(),
        (Some(since), connections) => format!("connected for {since} ({connections} now)"),
        (None, connections) => format!("{connections} connections"),
    });
    parts.push(format!("{} subscriptions", row.subscriptions));
    parts.extend(row.peer.as_deref().map(|peer| format!("from {}", look.plain(peer))));
    let advice = if row.connections == 0 {
        "messages for it are lost meanwhile, unless it has a mailbox"
    } else if row.dropped > 0 {
        "it reads more slowly than messages come: see its CPU, its disk and its network"
    } else {
        ""
    };
    vec![parts.join(" · "), advice.to_owned()]
}

fn channel(row: &Channel, look: &Look) -> Vec<Span> {
    vec![
        look.plain(&row.channel).into(),
        short(row.messages).into(),
        bytes(row.bytes).into(),
        short(row.publishers).into(),
        row.subscriptions.to_string().into(),
        trouble(row.unrouted),
    ]
}

fn channel_details(row: &Channel, look: &Look) -> Vec<String> {
    let advice = if row.unrouted > 0 && row.subscriptions <= 0 {
        "nothing subscribes to it now, so its messages go nowhere"
    } else if row.unrouted > 0 {
        "some of its messages had no subscriber"
    } else {
        ""
    };
    vec![look.plain(&row.channel), advice.to_owned()]
}

fn mailbox(row: &Mailbox, now: u64, look: &Look) -> Vec<Span> {
    let (state, tone) = if row.stuck {
        ("stuck", Tone::Bad)
    } else if row.expired {
        ("expired", Tone::Bad)
    } else if row.attached {
        ("attached", Tone::Good)
    } else {
        ("away", Tone::Warning)
    };
    let least = if row.at_least { "> " } else { "" };
    vec![
        look.plain(&row.mailbox).into(),
        Span::new(state, tone),
        ago(row.since, now),
        format!("{least}{}", short(row.waiting)).into(),
        bytes(row.waiting_bytes).into(),
        ago(row.oldest, now),
        trouble(row.lost),
        maybe(row.reason.as_deref(), look),
    ]
}

fn mailbox_details(row: &Mailbox, look: &Look) -> Vec<String> {
    let mut parts = vec![look.plain(&row.mailbox)];
    parts.push(format!("{} waiting, {} on their way", short(row.waiting), short(row.in_flight)));
    parts.extend(row.peer.as_deref().filter(|_| row.attached).map(|peer| format!("to {}", look.plain(peer))));
    let reason = row.reason.as_deref().map(|reason| format!(", mostly by {}", look.plain(reason)));
    if row.lost > 0 {
        parts.push(format!("{} lost{}", short(row.lost), reason.unwrap_or_default()));
    }
    if row.denied > 0 {
        parts.push(format!("{} that its key does not allow", short(row.denied)));
    }
    let advice = if row.stuck {
        "its collector ends without progress, or on one message: see the collector's log"
    } else if row.expired {
        "nobody came for too long, so that it was forgotten: the next connection begins anew"
    } else if !row.attached {
        "no collector is attached: messages wait until one is, or until they are too old"
    } else if row.lost > 0 {
        "messages were lost before its collector took them: hpfeeds-broker mailbox list says more"
    } else {
        ""
    };
    vec![parts.join(" · "), advice.to_owned()]
}
