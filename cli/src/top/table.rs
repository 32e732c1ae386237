//! A table of text: columns that share the width of a screen, of which those that matter least are
//! left out when it is narrow.

use super::text::{Look, width};

/// The columns between two columns.
const GAP: usize = 2;

/// The meaning of a text, which a terminal may show by a colour besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    /// Something that is there and matters less.
    Faint,
    /// The name of a column, or of what follows.
    Head,
    Good,
    Warning,
    Bad,
}

/// A text with one meaning, safe to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) text: String,
    pub(super) tone: Tone,
}

impl Span {
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl From<String> for Span {
    fn from(text: String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<&str> for Span {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// A line of a screen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) spans: Vec<Span>,
    /// The line at which the user is, or the title: in reverse video to its end.
    pub(super) reversed: bool,
}

impl Line {
    pub(super) fn of<S: Into<Span>>(spans: impl IntoIterator<Item = S>) -> Self {
        Self { spans: spans.into_iter().map(Into::into).collect(), reversed: false }
    }

    pub(super) fn reversed(mut self) -> Self {
        self.reversed = true;
        self
    }

    pub(super) fn width(&self) -> usize {
        self.spans.iter().map(|span| width(&span.text)).sum()
    }

    /// The line within so many columns.
    pub(super) fn cut(mut self, look: &Look, room: usize) -> Self {
        let mut left = room;
        for at in 0..self.spans.len() {
            let used = width(&self.spans[at].text);
            if used > left {
                self.spans[at].text = look.cut(&self.spans[at].text, left);
                self.spans.truncate(at + 1);
                return self;
            }
            left -= used;
        }
        self
    }

    /// The text, without spaces at its end.
    pub(super) fn text(&self) -> String {
        let text: String = self.spans.iter().map(|span| span.text.as_str()).collect();
        text.trim_end().to_owned()
    }
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Numbers stand at the right.
    pub(super) right: bool,
    /// It may be cut to so many columns; `usize::MAX` for one that is not.
    pub(super) least: usize,
    /// The columns with the highest ranks are left out first; that of rank 0 never.
    pub(super) rank: u8,
}

impl Column {
    pub(super) const fn text(title: &'static str, rank: u8) -> Self {
        Self { title, right: false, least: usize::MAX, rank }
    }

    pub(super) const fn number(title: &'static str, rank: u8) -> Self {
        Self { title, right: true, least: usize::MAX, rank }
    }

    /// A text of any length, which is cut to `least` columns at most.
    pub(super) const fn long(title: &'static str, least: usize, rank: u8) -> Self {
        Self { title, right: false, least, rank }
    }
}

/// Rows below columns.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) columns: &'static [Column],
    /// A cell for each column.
    pub(super) rows: Vec<Vec<Span>>,
}

impl Table {
    /// The title and the rows within so many columns.
    pub(super) fn lines(&self, look: &Look, room: usize) -> (Line, Vec<Line>) {
        let widths = self.widths(room);
        let titles = self.columns.iter().map(|column| Span::new(column.title, Tone::Head)).collect::<Vec<_>>();
        let line = |cells: &[Span]| self.line(cells, &widths, look);
        (line(&titles), self.rows.iter().map(|row| line(row)).collect())
    }

    /// The width of each column; `None` for one that is left out.
    fn widths(&self, room: usize) -> Vec<Option<usize>> {
        let natural = |at: usize, column: &Column| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| width(&cell.text));
            cells.max().unwrap_or(0).max(width(column.title))
        };
        let mut widths: Vec<_> =
            self.columns.iter().enumerate().map(|(at, column)| Some(natural(at, column))).collect();
        loop {
            let kept = widths.iter().flatten().count();
            let used = widths.iter().flatten().sum::<usize>() + GAP * kept.saturating_sub(1);
            let Some(excess) = used.checked_sub(room).filter(|excess| *excess > 0) else { return widths };
            // The columns that all long texts together can spare.
            let spare = |(column, width): (&Column, &Option<usize>)| width.unwrap_or(0).saturating_sub(column.least);
            if self.columns.iter().zip(&widths).map(spare).sum::<usize>() >= excess {
                shrink(self.columns, &mut widths, excess);
                return widths;
            }
            let kept = self.columns.iter().enumerate().filter(|(at, _)| widths[*at].is_some());
            match kept.max_by_key(|(_, column)| column.rank).filter(|(_, column)| column.rank > 0) {
                Some((at, _)) => widths[at] = None,
                // The line is cut where the screen ends.
                None => return widths,
            }
        }
    }

    fn line(&self, cells: &[Span], widths: &[Option<usize>], look: &Look) -> Line {
        let mut line = Line::default();
        for ((cell, column), room) in cells.iter().zip(self.columns).zip(widths) {
            let Some(room) = *room else { continue };
            let text = look.cut(&cell.text, room);
            let padding = " ".repeat(room - width(&text));
            let text = if column.right { padding + &text } else { text + &padding };
            if !line.spans.is_empty() {
                line.spans.push(Span::from(" ".repeat(GAP)));
            }
            line.spans.push(Span::new(text, cell.tone));
        }
        line
    }
}

/// Takes so many columns from long texts, the longest first.
fn shrink(columns: &[Column], widths: &mut [Option<usize>], excess: usize) {
    for _ in 0..excess {
        let longest = columns.iter().zip(widths.iter_mut()).filter_map(|(column, width)| {
            let width = width.as_mut()?;
            (*width > column.least).then_some(width)
        });
        if let Some(longest) = longest.max() {
            *longest -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::text("STATE", 1),
        Column::long("IDENT", 8, 0),
        Column::number("MESSAGES", 2),
        Column::long("PEER", 6, 3),
    ];

    fn lines(room: usize) -> Vec<String> {
        let look = Look { colour: false, unicode: true, zone: TimeZone::UTC };
        let row = |cells: [&str; 4]| cells.map(Span::from).to_vec();
        let rows = vec![
            row(["gone", "sensor-of-the-north-17", "12,331", "192.0.2.10:4711"]),
            row(["ok", "日本", "7", "192.0.2.9:1"]),
        ];
        let (title, rows) = Table { columns: &COLUMNS, rows }.lines(&look, room);
        std::iter::once(title).chain(rows).map(|line| line.text()).collect()
    }

    #[test]
    fn columns_share_the_width_and_the_least_go_first() {
        assert_eq!(
            lines(80),
            [
                "STATE  IDENT                   MESSAGES  PEER",
                "gone   sensor-of-the-north-17    12,331  192.0.2.10:4711",
                "ok     日本                           7  192.0.2.9:1",
            ]
        );
        assert_eq!(
            lines(40),
            [
                "STATE  IDENT        MESSAGES  PEER",
                "gone   sensor-of-…    12,331  192.0.2.1…",
                "ok     日本                7  192.0.2.9…",
            ]
        );
        assert_eq!(lines(25), ["STATE  IDENT     MESSAGES", "gone   sensor-…    12,331", "ok     日本             7"]);
        assert_eq!(lines(16), ["STATE  IDENT", "gone   sensor-o…", "ok     日本"]);
        assert_eq!(lines(9), ["IDENT", "sensor-o…", "日本"]);
        assert_eq!(lines(3), ["IDENT", "sensor-of-the-north-17", "日本"], "the screen cuts it");
    }

    #[test]
    fn a_line_is_cut_where_the_screen_ends() {
        let look = Look { colour: false, unicode: true, zone: TimeZone::UTC };
        let line = Line::of(["3 gone", "  ", "2 silent"]);
        assert_eq!(line.width(), 16);
        let cut = |room| line.clone().cut(&look, room).text();
        assert_eq!(
            (cut(16), cut(12), cut(7), cut(3)),
            ("3 gone  2 silent".to_owned(), "3 gone  2 s…".to_owned(), "3 gone…".to_owned(), "3 …".to_owned(),)
        );
    }
}
