//! The poller: asks the dashboard for what is shown again and again, with growing delays while it is
//! away.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    baseline::{Baseline, MOST},
    fault::Fault,
    http::Client,
    model::Snapshot,
    query::{ALL, Query},
};

/// The rows that are asked for at once to count from now.
const PAGE: usize = 1000;

/// The longest delay before the next attempt.
const LONGEST_DELAY: Duration = Duration::from_secs(15);

/// The shortest time between two questions.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(200);

/// The wish of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) query: Query,
    /// How often counting was begun anew.
    pub(super) baseline: u64,
}

/// News for the screen.
#[derive(Debug)]
pub(super) enum Update {
    Snapshot(Query, Box<Snapshot>),
    Baseline(Box<Baseline>),
    /// There is no answer; the next attempt comes after this time.
    Away(Fault, Duration),
}

/// Asks for the snapshot of a query.
pub(super) async fn snapshot(client: &mut Client, query: &Query) -> Result<Snapshot, Fault> {
    let json = client.json(&query.path(), query.most_bytes()).await?;
    parse(client, &json)
}

/// Reads an answer.
pub(super) fn parse(client: &Client, json: &[u8]) -> Result<Snapshot, Fault> {
    Snapshot::parse(json).map_err(|what| {
        let what = crate::words::shown(what.as_bytes());
        Fault::new(format!("what answers at {} is no dashboard that is known here: {what}", client.address))
    })
}

/// Asks until nobody listens. `counted`: how often counting was begun when the screen was first drawn.
pub(super) async fn run(
    mut client: Client,
    mut wanted: watch::Receiver<Wanted>,
    updates: mpsc::Sender<Update>,
    interval: Duration,
) {
    let interval = interval.max(SHORTEST_INTERVAL);
    let (mut failures, mut counted) = (0, 0);
    loop {
        let now = wanted.borrow_and_update().clone();
        let mut news = Vec::new();
        if now.baseline != counted {
            match baseline(&mut client).await {
                Ok(baseline) => {
                    counted = now.baseline;
                    news.push(Update::Baseline(Box::new(baseline)));
                }
                Err(fault) => news.push(Update::Away(fault, delay(failures))),
            }
        }
        if !matches!(news.last(), Some(Update::Away(..))) {
            news.push(match snapshot(&mut client, &now.query).await {
                Ok(snapshot) => Update::Snapshot(now.query, Box::new(snapshot)),
                Err(fault) => Update::Away(fault, delay(failures)),
            });
        }
        let wait = if let Some(Update::Away(_, wait)) = news.last() { *wait } else { interval };
        failures = if matches!(news.last(), Some(Update::Away(..))) { failures + 1 } else { 0 };
        for update in news {
            if updates.send(update).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sleep(wait) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

/// The delay before the next attempt: a second, and twice as long each time.
fn delay(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(4)).min(LONGEST_DELAY)
}

/// The counts of all rows, page by page.
async fn baseline(client: &mut Client) -> Result<Baseline, Fault> {
    let mut baseline = Baseline::default();
    // In an order that does not change meanwhile.
    let mut query = Query { sort: "ident".to_owned(), ..Query::of_lists(ALL, PAGE) };
    while query.offset < MOST {
        let page = snapshot(client, &query).await?;
        let longest = [
            page.sensors.rows.len(),
            page.consumers.rows.len(),
            page.channels.rows.len(),
            page.incidents.rows.len(),
            page.mailboxes.rows.len(),
        ];
        let is_last = longest.iter().all(|rows| *rows < PAGE);
        baseline.add(page);
        if is_last {
            break;
        }
        query.offset += PAGE;
    }
    Ok(baseline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rarer_up_to_a_bound() {
        let delays: Vec<_> = (0..7).map(|failures| delay(failures).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 15, 15, 15]);
    }
}
