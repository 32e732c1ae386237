//! The parser of server-sent events: bytes in, events out, of a bounded size.

/// The longest event in bytes: fifty payloads of 16 KiB, each byte escaped in six.
const LONGEST: usize = 8 << 20;

/// An event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Its kind; `message` when none is said.
    pub(super) kind: String,
    pub(super) data: String,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// A line whose end has not come.
    line: Vec<u8>,
    kind: String,
    data: String,
    /// The last line ended with CR: LF belongs to it.
    after_cr: bool,
}

impl Parser {
    /// Takes bytes, and hands out the events that they complete. The error says that an event is too
    /// long.
    pub(super) fn take(&mut self, bytes: &[u8], mut event: impl FnMut(Event)) -> Result<(), String> {
        let mut rest = bytes;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (piece, after) = rest.split_at(end);
            self.extend(piece)?;
            rest = match after {
                [b'\r'] => {
                    self.after_cr = true;
                    &[]
                }
                [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
                [] => &[],
            };
            self.end_line(&mut event);
        }
        self.extend(rest)
    }

    fn extend(&mut self, piece: &[u8]) -> Result<(), String> {
        if self.line.len() + self.data.len() + piece.len() > LONGEST {
            return Err(format!("an event is longer than {} MiB", LONGEST >> 20));
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    fn end_line(&mut self, event: &mut impl FnMut(Event)) {
        let line = String::from_utf8_lossy(&self.line);
        if line.is_empty() {
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            if !data.is_empty() {
                let kind = if kind.is_empty() { "message".to_owned() } else { kind };
                event(Event { kind, data });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // A comment, the time until the next attempt, a number.
            _ => {}
        }
        self.line.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.take(piece, |event| events.push((event.kind, event.data))).unwrap();
        }
        events
    }

    fn event(kind: &str, data: &str) -> (String, String) {
        (kind.to_owned(), data.to_owned())
    }

    #[test]
    fn events_are_taken_apart_wherever_the_bytes_are_cut() {
        let text = "retry: 1000\n\n: comment\nevent: tail\ndata: {\"a\":\ndata:1}\n\nevent: gone\r\ndata: x\r\n\r\ndata: é\n\nevent: none\n\n";
        let expected = [event("tail", "{\"a\":\n1}"), event("gone", "x"), event("message", "é")];
        assert_eq!(parse(&[text.as_bytes()]), expected);
        let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
        assert_eq!(parse(&bytes), expected);
        assert_eq!(parse(&[b"data: a\r", b"\ndata: b\r\r"]), [event("message", "a\nb")]);
        assert_eq!(parse(&[b"data: a\n"]), [], "an event has an end");
    }

    #[test]
    fn an_event_without_end_is_an_error_before_it_fills_the_memory() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let taken = (0..100).take_while(|_| parser.take(&piece, |_| {}).is_ok()).count();
        assert_eq!((taken, parser.line.len()), (8, 8 << 20));
        let mut parser = Parser::default();
        let line = [&b"data: "[..], &piece, b"\n"].concat();
        let taken = (0..100).take_while(|_| parser.take(&line, |_| {}).is_ok()).count();
        assert!(taken < 9, "{taken}");
    }
}
