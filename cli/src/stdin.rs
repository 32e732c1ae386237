//! Reading stdin, in a thread of its own: a read that waits for input must not keep the process
//! from ending.

use std::{
    io::{self, BufRead, Read as _},
    thread,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::exit::Failure;

/// Lines are handed over in batches of about so many bytes, or when there are no more for the
/// moment.
const BATCH: usize = 64 * 1024;

/// All of stdin, which must not be longer than `limit`.
pub(crate) async fn whole(limit: usize) -> Result<Bytes, Failure> {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().take(limit as u64 + 1).read_to_end(&mut bytes);
        drop(sender.send(read.map(|_| bytes)));
    });
    match receiver.await {
        Ok(Ok(bytes)) if bytes.len() <= limit => Ok(bytes.into()),
        Ok(Ok(_)) => Err(Failure::new(format!(
            "stdin is longer than {limit} bytes, the most that fits one message; publish it with --lines, or raise \
             --max-message here and on the broker"
        ))),
        Ok(Err(cause)) => Err(Failure::new(format!("cannot read stdin: {cause}"))),
        Err(_) => Err(Failure::new("cannot read stdin")),
    }
}

/// Lines of stdin, or why there are no more.
pub(crate) type Batch = Result<Vec<Line>, String>;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Without its newline.
    Whole(Bytes),
    /// It was longer than the limit, and nothing of it was kept.
    TooLong,
}

/// The lines of stdin as they come. One that is longer than `limit` ends them, unless it is to be
/// skipped.
pub(crate) fn lines(limit: usize, skip_long: bool) -> mpsc::Receiver<Batch> {
    // The next batch is read while one is being sent.
    let (sender, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        let stdin = io::BufReader::with_capacity(BATCH, io::stdin().lock());
        Lines { input: stdin, limit, skip_long, number: 0 }.send_all(&sender);
    });
    receiver
}

struct Lines<R> {
    input: io::BufReader<R>,
    limit: usize,
    skip_long: bool,
    number: u64,
}

impl<R: io::Read> Lines<R> {
    fn send_all(mut self, to: &mpsc::Sender<Batch>) {
        loop {
            let (batch, ended) = self.batch();
            let failed = ended.as_ref().is_err();
            if !batch.is_empty() && to.blocking_send(Ok(batch)).is_err() {
                return;
            }
            match ended {
                Ok(false) => {}
                Ok(true) => return,
                Err(why) => {
                    debug_assert!(failed);
                    drop(to.blocking_send(Err(why)));
                    return;
                }
            }
        }
    }

    /// The input that can be had without waiting, but at least one line; and whether the input has
    /// ended.
    fn batch(&mut self) -> (Vec<Line>, Result<bool, String>) {
        let mut batch = Vec::new();
        let mut size = 0;
        loop {
            match self.next() {
                Ok(Some(line)) => {
                    if let Line::Whole(line) = &line {
                        size += line.len();
                    }
                    batch.push(line);
                }
                Ok(None) => return (batch, Ok(true)),
                Err(why) => return (batch, Err(why)),
            }
            // A line that is not whole yet would mean waiting for its rest.
            if size >= BATCH || !self.input.buffer().contains(&b'\n') {
                return (batch, Ok(false));
            }
        }
    }

    fn next(&mut self) -> Result<Option<Line>, String> {
        self.number += 1;
        let mut line = Vec::new();
        let read = self.input.by_ref().take(self.limit as u64 + 1).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(cause) => return Err(format!("cannot read line {} of stdin: {cause}", self.number)),
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > self.limit && self.skip_long {
            // Its rest passes through the buffer, however long it is.
            let skipped = self.input.skip_until(b'\n');
            skipped.map_err(|cause| format!("cannot read line {} of stdin: {cause}", self.number))?;
            return Ok(Some(Line::TooLong));
        }
        if line.len() > self.limit {
            return Err(format!(
                "line {} of stdin is longer than {} bytes, the most that fits one message",
                self.number, self.limit
            ));
        }
        Ok(Some(Line::Whole(line.into())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn read(input: &[u8], limit: usize, skip_long: bool) -> (Vec<Line>, Option<String>) {
        let (sender, mut receiver) = mpsc::channel(1000);
        // The smallest buffer: every line is cut by it.
        Lines { input: io::BufReader::with_capacity(2, input), limit, skip_long, number: 0 }.send_all(&sender);
        drop(sender);
        let (mut lines, mut error) = (Vec::new(), None);
        while let Some(batch) = receiver.blocking_recv() {
            match batch {
                Ok(batch) => lines.extend(batch),
                Err(why) => error = Some(why),
            }
        }
        (lines, error)
    }

    fn whole(line: &'static [u8]) -> Line {
        Line::Whole(Bytes::from_static(line))
    }

    #[test]
    fn lines_are_taken_as_they_are() {
        assert_eq!(read(b"", 9, false), (vec![], None));
        assert_eq!(read(b"\n", 9, false), (vec![whole(b"")], None));
        assert_eq!(read(b"one\n\n\xff\r\nlast", 9, false).0, [b"one", b"" as &[u8], b"\xff\r", b"last"].map(whole));
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        assert_eq!(read(b"1234\n1234", 4, false).0.len(), 2);
        for input in [b"1234\n12345\n".as_slice(), b"1234\n12345"] {
            let (lines, error) = read(input, 4, false);
            assert_eq!(lines, [whole(b"1234")]);
            assert!(error.unwrap().starts_with("line 2 of stdin is longer than 4 bytes"));
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_to_its_end() {
        let (lines, error) = read(b"12345\n1234\n123456789\n\n12345", 4, true);
        assert_eq!(lines, [Line::TooLong, whole(b"1234"), Line::TooLong, whole(b""), Line::TooLong]);
        assert_eq!(error, None);
    }
}
