//! The state of the screen: the open pane, the place in its list, and what keys do.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::time::Instant;

use super::{
    args::TopArgs,
    baseline::Baseline,
    fault::Fault,
    header::Counting,
    model::Snapshot,
    pane::Pane,
    poll::{Update, Wanted},
    query::Query,
    tail::{Tail, TailUpdate},
};

/// The rows that are asked for at once.
pub(super) const WINDOW: usize = 200;

/// The books are read while others change them: a difference is a fault when so many answers repeat it.
const FAULT_AFTER: u32 = 5;

/// The longest filter in bytes, which is what a broker takes.
const LONGEST_FILTER: usize = 255;

/// The terminal's part after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Draw,
    /// Draw all of it anew.
    Redraw,
    Suspend,
    Quit,
}

/// The place in a pane's list.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) filter: String,
    /// The key of the order, as it stands in a query.
    pub(super) sort: String,
    /// The number of the row at the cursor, and of the first row on the screen, over all pages.
    pub(super) cursor: usize,
    pub(super) top: usize,
}

/// No answer: since when, why, and when the next attempt comes.
#[derive(Debug, Clone)]
pub(super) struct Away {
    pub(super) since: Instant,
    pub(super) fault: Fault,
    pub(super) again: Instant,
}

/// The state of the screen.
pub(super) struct App {
    pub(super) address: String,
    pub(super) pane: Pane,
    views: [View; Pane::ALL.len()],
    state: String,
    limit: usize,
    /// The last answer, with counts since the baseline, and what was asked for.
    pub(super) snapshot: Snapshot,
    pub(super) query: Query,
    /// The answer as it came.
    raw: Snapshot,
    pub(super) baseline: Option<Baseline>,
    counted: u64,
    pub(super) away: Option<Away>,
    pub(super) tail: Tail,
    /// The tail stays where it is.
    pub(super) is_paused: bool,
    /// The filter that is being typed.
    pub(super) prompt: Option<String>,
    pub(super) helps: bool,
    /// How often the books have had the same difference, one answer after the other.
    differs: u32,
    /// The rows of a list that the screen has room for.
    room: usize,
}

impl App {
    pub(super) fn new(address: String, args: &TopArgs) -> Self {
        let pane = Pane::from(args.show);
        let filter = args.filter.clone().unwrap_or_default();
        let sort = args.sort.clone().unwrap_or_default();
        let mut views = <[View; Pane::ALL.len()]>::default();
        views[pane as usize] = View { filter, sort, ..View::default() };
        Self {
            address,
            pane,
            views,
            state: args.state.clone().unwrap_or_default(),
            limit: args.limit.map_or(WINDOW, usize::from),
            snapshot: Snapshot::default(),
            query: Query::of(pane, 0),
            raw: Snapshot::default(),
            baseline: None,
            counted: 0,
            away: None,
            tail: Tail::default(),
            is_paused: false,
            prompt: None,
            helps: false,
            differs: 0,
            room: 1,
        }
    }

    pub(super) fn view(&self) -> &View {
        &self.views[self.pane as usize]
    }

    fn view_mut(&mut self) -> &mut View {
        &mut self.views[self.pane as usize]
    }

    /// The question for the broker.
    pub(super) fn wanted(&self) -> Wanted {
        let view = self.view();
        // A page that does not fill the screen would leave the worst rows out when it moves.
        let limit = self.limit.max(self.room);
        let mut query = Query::of(self.pane, limit);
        if self.pane == Pane::Tail {
            // The header alone.
            return Wanted { query, baseline: self.counted };
        }
        query.filter.clone_from(&view.filter);
        query.sort.clone_from(&view.sort);
        if self.pane == Pane::Sensors {
            query.state.clone_from(&self.state);
        }
        // The page stays until the screen leaves it.
        let is_same = Query { offset: 0, ..self.query.clone() } == query;
        let page = self.query.offset..(self.query.offset + limit).max(1);
        query.offset = if is_same && page.contains(&view.top) && page.contains(&(view.top + self.room - 1)) {
            self.query.offset
        } else {
            (view.top + self.room / 2).saturating_sub(limit / 2)
        };
        Wanted { query, baseline: self.counted }
    }

    /// How the counts of the header are to be read.
    pub(super) fn counting(&self) -> Counting {
        let fault = (self.differs >= FAULT_AFTER).then_some(self.raw.difference);
        Counting { since: self.baseline.as_ref().map(|baseline| baseline.at), fault }
    }

    /// The filter of the tail, while its pane is open.
    pub(super) fn tail_filter(&self) -> Option<&str> {
        (self.pane == Pane::Tail).then(|| self.view().filter.as_str())
    }

    /// The states that are shown alone, where that is so.
    pub(super) fn state_filter(&self) -> &str {
        if self.pane == Pane::Sensors { &self.state } else { "" }
    }

    /// Takes the screen's room for rows.
    pub(super) fn set_room(&mut self, room: usize) {
        self.room = room.max(1);
        self.keep_in_sight();
    }

    pub(super) fn update(&mut self, update: Update, now: Instant) {
        match update {
            Update::Away(fault, wait) => {
                let since = self.away.as_ref().map_or(now, |away| away.since);
                self.away = Some(Away { since, fault, again: now + wait });
            }
            Update::Baseline(baseline) => {
                self.baseline = Some(*baseline);
                self.count();
            }
            Update::Snapshot(query, snapshot) => {
                self.away = None;
                // An answer to what another pane wanted has only its header.
                let key = self.row_key();
                let is_same = self.raw.difference == snapshot.difference;
                self.differs = if is_same && snapshot.difference != 0 { self.differs + 1 } else { 0 };
                (self.query, self.raw) = (query, *snapshot);
                self.count();
                self.follow(key);
            }
        }
    }

    /// Shows the counts since the baseline, unless the broker has begun anew.
    fn count(&mut self) {
        self.snapshot = self.raw.clone();
        match &self.baseline {
            Some(baseline) if baseline.is_of(&self.snapshot) => baseline.take_off(&mut self.snapshot),
            _ => self.baseline = None,
        }
    }

    pub(super) fn update_tail(&mut self, update: TailUpdate) {
        self.tail.update(update);
        if !self.is_paused {
            self.view_of(Pane::Tail).cursor = self.tail.taken.saturating_sub(1);
        }
        self.keep_in_sight();
    }

    fn view_of(&mut self, pane: Pane) -> &mut View {
        &mut self.views[pane as usize]
    }

    /// Whether the rows that there are belong to the open pane.
    pub(super) fn has_rows(&self) -> bool {
        self.query.lists == self.pane.list()
    }

    /// The row at the cursor within the page, if it is there.
    pub(super) fn row(&self) -> Option<usize> {
        self.view().cursor.checked_sub(self.query.offset).filter(|_| self.has_rows())
    }

    /// The key of the row at the cursor; none at the first, where the cursor stays.
    fn row_key(&self) -> Option<String> {
        let row = self.row().filter(|_| self.view().cursor > 0)?;
        key(self.pane, &self.snapshot, row)
    }

    /// Lets the cursor follow its row to where that is now.
    fn follow(&mut self, wanted: Option<String>) {
        if let Some(wanted) = wanted
            && self.has_rows()
        {
            let rows = 0..self.limit;
            let found =
                rows.map_while(|row| Some((row, key(self.pane, &self.snapshot, row)?))).find(|(_, key)| *key == wanted);
            if let Some((row, _)) = found {
                let cursor = row + self.query.offset;
                let view = self.view_mut();
                view.top = (view.top + cursor).saturating_sub(view.cursor);
                view.cursor = cursor;
            }
        }
        self.keep_in_sight();
    }

    /// The numbers of the first row and of the one after the last.
    pub(super) fn bounds(&self) -> (usize, usize) {
        match self.pane {
            Pane::Tail => (self.tail.first(), self.tail.taken),
            _ if !self.has_rows() => (0, usize::MAX),
            Pane::Sensors => (0, self.snapshot.sensors.matching),
            Pane::Consumers => (0, self.snapshot.consumers.matching),
            Pane::Channels => (0, self.snapshot.channels.matching),
            Pane::Refused => (0, self.snapshot.incidents.matching),
            Pane::Mailboxes => (0, self.snapshot.mailboxes.matching),
        }
    }

    /// Keeps the cursor within the list, and the screen around the cursor.
    fn keep_in_sight(&mut self) {
        let ((first, end), room) = (self.bounds(), self.room);
        let view = self.view_mut();
        view.cursor = view.cursor.clamp(first, end.saturating_sub(1).max(first));
        let lowest = (view.cursor + 1).saturating_sub(room);
        let last_top = end.saturating_sub(room).max(first);
        view.top = view.top.clamp(lowest, view.cursor).min(last_top).max(first);
    }

    fn move_by(&mut self, rows: isize) {
        let (first, end) = self.bounds();
        let view = self.view_mut();
        view.cursor = view.cursor.saturating_add_signed(rows).clamp(first, end.saturating_sub(1).max(first));
        if self.pane == Pane::Tail {
            self.is_paused = self.view().cursor + 1 < end;
        }
        self.keep_in_sight();
    }

    fn open(&mut self, pane: Pane) {
        self.pane = pane;
        self.keep_in_sight();
    }

    /// The pane after so many; mailboxes are passed over where there are none.
    fn turn(&mut self, by: usize) {
        let panes = if self.snapshot.mailboxes.total > 0 || self.pane == Pane::Mailboxes {
            &Pane::ALL[..]
        } else {
            &Pane::ALL[..Pane::ALL.len() - 1]
        };
        self.open(panes[(self.pane as usize + by) % panes.len()]);
    }

    fn sort(&mut self, by: usize) {
        let sorts = self.pane.sorts();
        let at = sorts.iter().position(|(key, _)| *key == self.view().sort);
        let next = at.map_or(0, |at| (at + by % sorts.len()) % sorts.len());
        let view = self.view_mut();
        sorts[next].0.clone_into(&mut view.sort);
        (view.cursor, view.top) = (0, 0);
    }

    /// Does what a key says.
    pub(super) fn key(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Next::Quit,
                KeyCode::Char('z') => return Next::Suspend,
                KeyCode::Char('l') => return Next::Redraw,
                KeyCode::Char('u') if self.prompt.is_some() => self.prompt = Some(String::new()),
                _ => {}
            }
            return Next::Draw;
        }
        if self.prompt.is_some() {
            self.type_in(key.code);
            return Next::Draw;
        }
        let page = isize::try_from(self.room).unwrap_or(1);
        match key.code {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char('?' | 'h') => self.helps = !self.helps,
            KeyCode::Esc => self.helps = false,
            KeyCode::Char('/') => self.prompt = Some(self.view().filter.clone()),
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(Pane::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='6') => self.open(Pane::ALL[usize::from(digit as u8 - b'1')]),
            KeyCode::Char('s') => self.sort(1),
            KeyCode::Char('S') => self.sort(self.pane.sorts().len() - 1),
            KeyCode::Char('r') => self.counted += 1,
            KeyCode::Char('R') => {
                self.baseline = None;
                self.count();
            }
            KeyCode::Char(' ') if self.pane == Pane::Tail => {
                self.is_paused = !self.is_paused;
                if !self.is_paused {
                    self.move_by(isize::MAX);
                }
            }
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::PageUp => self.move_by(-page),
            KeyCode::PageDown => self.move_by(page),
            KeyCode::Home | KeyCode::Char('g') => self.move_by(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.move_by(isize::MAX),
            _ => {}
        }
        Next::Draw
    }

    /// A key while the filter is typed.
    fn type_in(&mut self, key: KeyCode) {
        let Some(text) = &mut self.prompt else { return };
        match key {
            KeyCode::Char(character) if text.len() + character.len_utf8() <= LONGEST_FILTER => text.push(character),
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Esc => self.prompt = None,
            KeyCode::Enter => {
                let text = self.prompt.take().unwrap_or_default().trim().to_owned();
                let view = self.view_mut();
                if view.filter != text {
                    view.filter = text;
                    (view.cursor, view.top) = (0, 0);
                }
            }
            _ => {}
        }
    }

    /// How long until the screen changes by itself: a countdown runs, or a rate is old.
    pub(super) fn next_change(&self) -> Duration {
        let changes = self.away.is_some() || self.pane == Pane::Tail;
        Duration::from_millis(if changes { 500 } else { 5000 })
    }
}

/// The key of a row, which tells it from others.
fn key(pane: Pane, snapshot: &Snapshot, row: usize) -> Option<String> {
    match pane {
        Pane::Sensors => snapshot.sensors.rows.get(row).map(|row| row.ident.clone()),
        Pane::Consumers => snapshot.consumers.rows.get(row).map(|row| row.ident.clone()),
        Pane::Channels => snapshot.channels.rows.get(row).map(|row| row.channel.clone()),
        Pane::Refused => snapshot.incidents.rows.get(row).map(super::refused::key),
        Pane::Mailboxes => snapshot.mailboxes.rows.get(row).map(|row| row.mailbox.clone()),
        Pane::Tail => None,
    }
}
