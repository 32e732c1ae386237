//! The input: stdin, read in a thread of its own, so that a read that waits does not keep the
//! process from ending, and ends without having taken anything that is not handed over.

use std::{
    io::{self, BufRead, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use bytes::Bytes;
use hpfeeds::Channel;
use jiff::Timestamp;
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

/// The message that a line stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outbound {
    /// The channel that the line names.
    pub(crate) channel: Option<Channel>,
    /// The time that the line names, if it is wanted.
    pub(crate) time: Option<Timestamp>,
    pub(crate) payload: Bytes,
}

/// A line of stdin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// The message, or what is wrong with the line; that goes on behind `line 3 of stdin`.
    pub(crate) message: Result<Outbound, String>,
}

/// Some of what was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Batch {
    Lines(Vec<Line>),
    /// The reading has ended, and so many lines and bytes behind them were read and are given to
    /// nobody.
    Rest {
        lines: u64,
        bytes: usize,
    },
    /// The input cannot be read; why.
    Failed(String),
}

/// The rules for lines.
pub(crate) struct Rules {
    /// The longest line, in bytes.
    pub(crate) limit: usize,
    /// The fault of a longer one, in words.
    pub(crate) too_long: String,
    /// A line that is wrong does not end the input.
    pub(crate) skip: bool,
    /// The message of a line; nothing for one that stands for none.
    pub(crate) parse: Parse,
}

type Parse = Box<dyn FnMut(Vec<u8>) -> Result<Option<Outbound>, String> + Send>;

/// The lines of stdin as they come, until one is wrong.
pub(crate) struct Lines {
    batches: mpsc::Receiver<Batch>,
    ending: Ending,
}

impl Lines {
    pub(crate) fn read(rules: Rules) -> Result<Self, Failure> {
        // The next batch is read while one is being sent.
        let (sender, batches) = mpsc::channel(1);
        let (ending, input) = Ending::new().map_err(|cause| Failure::new(format!("cannot read stdin: {cause}")))?;
        let stopped = ending.stopped.clone();
        thread::spawn(move || {
            let input = io::BufReader::with_capacity(BATCH, input);
            Reading { input, rules, number: 0, stopped }.send_all(&sender);
        });
        Ok(Self { batches, ending })
    }

    /// The next lines; `None` at the end of the input. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }

    /// Reads no more. Lines that have been read still come, and then the end.
    pub(crate) fn stop(&mut self) {
        self.ending.stop();
    }

    /// Whether it was [`stop`](Self::stop)ped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.ending.stopped.load(Relaxed)
    }
}

struct Reading<R> {
    input: io::BufReader<R>,
    rules: Rules,
    number: u64,
    stopped: Arc<AtomicBool>,
}

/// Whether more may follow a line.
type More = Result<bool, Batch>;

impl<R: io::Read> Reading<R> {
    fn send_all(mut self, to: &mpsc::Sender<Batch>) {
        loop {
            let (lines, more) = self.batch();
            if !lines.is_empty() && to.blocking_send(Batch::Lines(lines)).is_err() {
                return;
            }
            match more {
                Ok(true) => {}
                Ok(false) => return,
                Err(last) => {
                    drop(to.blocking_send(last));
                    return;
                }
            }
        }
    }

    /// The lines that can be had without waiting, but at least one.
    fn batch(&mut self) -> (Vec<Line>, More) {
        let mut lines = Vec::new();
        let mut size = 0;
        loop {
            match self.next() {
                Ok(Some(message)) => {
                    size += message.as_ref().map_or(0, |message| message.payload.len());
                    let is_last = message.is_err() && !self.rules.skip;
                    lines.push(Line { number: self.number, message });
                    if is_last {
                        return (lines, Err(self.rest()));
                    }
                }
                Ok(None) => return (lines, Ok(false)),
                Err(last) => return (lines, Err(last)),
            }
            // A line that is not whole yet would mean waiting for its rest.
            if size >= BATCH || !self.input.buffer().contains(&b'\n') {
                return (lines, Ok(true));
            }
        }
    }

    /// The next line that stands for a message, or is wrong.
    fn next(&mut self) -> Result<Option<Result<Outbound, String>>, Batch> {
        loop {
            let mut line = Vec::new();
            let read = self.input.by_ref().take(self.rules.limit as u64 + 1).read_until(b'\n', &mut line);
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => self.number += 1,
                Err(cause) => return Err(self.failed(&cause, line.len())),
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if line.len() > self.rules.limit {
                if self.rules.skip {
                    // Its rest passes through the buffer, however long it is.
                    self.input.skip_until(b'\n').map_err(|cause| self.failed(&cause, line.len()))?;
                } else {
                    let rest = self.input.buffer();
                    let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
                    self.input.consume(end);
                }
                return Ok(Some(Err(self.rules.too_long.clone())));
            }
            if let Some(message) = (self.rules.parse)(line).transpose() {
                return Ok(Some(message));
            }
        }
    }

    /// The bytes that were read with a line, and are behind it.
    fn rest(&self) -> Batch {
        let (mut lines, mut bytes) = (0, 0);
        for piece in self.input.buffer().split_inclusive(|byte| *byte == b'\n') {
            if piece.ends_with(b"\n") { lines += 1 } else { bytes = piece.len() }
        }
        Batch::Rest { lines, bytes }
    }

    fn failed(&self, cause: &io::Error, read: usize) -> Batch {
        if self.stopped.load(Relaxed) {
            return Batch::Rest { lines: 0, bytes: read };
        }
        Batch::Failed(format!("cannot read line {} of stdin: {cause}", self.number + 1))
    }
}

/// The end of a reading, for the side that takes the lines.
struct Ending {
    stopped: Arc<AtomicBool>,
    /// Dropped, it wakes the thread that waits for input.
    #[cfg(unix)]
    waker: Option<io::PipeWriter>,
}

/// Stdin, whose reads fail once they are to end: nothing is taken that nobody would get.
struct Stdin {
    stopped: Arc<AtomicBool>,
    #[cfg(unix)]
    wake: io::PipeReader,
    input: io::Stdin,
}

impl Ending {
    fn new() -> io::Result<(Self, Stdin)> {
        let stopped = Arc::<AtomicBool>::default();
        #[cfg(unix)]
        let (wake, waker) = io::pipe()?;
        let stdin = Stdin {
            stopped: stopped.clone(),
            #[cfg(unix)]
            wake,
            input: io::stdin(),
        };
        let ending = Self {
            stopped,
            #[cfg(unix)]
            waker: Some(waker),
        };
        Ok((ending, stdin))
    }

    fn stop(&mut self) {
        self.stopped.store(true, Relaxed);
        #[cfg(unix)]
        drop(self.waker.take());
    }
}

impl Stdin {
    /// Waits until there is something to read.
    #[cfg(unix)]
    fn wait(&self) {
        use rustix::{
            event::{PollFd, PollFlags, poll},
            io::Errno,
        };
        let mut both = [PollFd::new(&self.input, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        // Whatever else goes wrong, the read says so.
        while poll(&mut both, None) == Err(Errno::INTR) {}
    }

    #[cfg(not(unix))]
    fn wait(&self) {}
}

impl io::Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait();
        if self.stopped.load(Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        // At least as long as the buffer of the standard library, which holds nothing back then.
        self.input.read(buffer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn read(input: &[u8], limit: usize, skip: bool) -> Vec<Batch> {
        let (sender, mut receiver) = mpsc::channel(1000);
        let parse = Box::new(|line: Vec<u8>| match &*line {
            b"nothing" => Ok(None),
            b"wrong" => Err("is wrong".to_owned()),
            _ => Ok(Some(whole(&line))),
        });
        let rules = Rules { limit, too_long: "is too long".to_owned(), skip, parse };
        // The smallest buffer: every line is cut by it.
        let input = io::BufReader::with_capacity(2, input);
        Reading { input, rules, number: 0, stopped: Arc::default() }.send_all(&sender);
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).collect()
    }

    fn whole(line: &[u8]) -> Outbound {
        Outbound { channel: None, time: None, payload: Bytes::copy_from_slice(line) }
    }

    /// Each line with its number.
    fn lines(batches: Vec<Batch>) -> Vec<(u64, Result<Bytes, String>)> {
        let lines = batches.into_iter().flat_map(|batch| match batch {
            Batch::Lines(lines) => lines,
            Batch::Rest { .. } => vec![],
            Batch::Failed(why) => panic!("{why}"),
        });
        lines.map(|line| (line.number, line.message.map(|message| message.payload))).collect()
    }

    fn ok(number: u64, line: &'static [u8]) -> (u64, Result<Bytes, String>) {
        (number, Ok(Bytes::from_static(line)))
    }

    #[test]
    fn lines_are_taken_as_they_are() {
        assert_eq!(lines(read(b"", 9, false)), []);
        assert_eq!(lines(read(b"\n", 9, false)), [ok(1, b"")]);
        let got = lines(read(b"one\n\n\xff\r\nlast", 9, false));
        assert_eq!(got, [ok(1, b"one"), ok(2, b""), ok(3, b"\xff\r"), ok(4, b"last")]);
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        assert_eq!(lines(read(b"1234\n1234", 4, false)), [ok(1, b"1234"), ok(2, b"1234")]);
        for input in [b"1234\n12345\n".as_slice(), b"1234\n12345", b"1234\n12345\nmore"] {
            assert_eq!(lines(read(input, 4, false)), [ok(1, b"1234"), (2, Err("is too long".to_owned()))]);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_to_its_end() {
        let got = lines(read(b"12345\n1234\n123456789\n\n12345", 4, true));
        let long = |number| (number, Err("is too long".to_owned()));
        assert_eq!(got, [long(1), ok(2, b"1234"), long(3), ok(4, b""), long(5)]);
    }

    #[test]
    fn a_line_that_is_wrong_ends_the_input_or_is_passed_over() {
        let wrong = |number| (number, Err("is wrong".to_owned()));
        assert_eq!(lines(read(b"a\nwrong\nb\nwrong", 9, false)), [ok(1, b"a"), wrong(2)]);
        assert_eq!(lines(read(b"a\nwrong\nb\nwrong", 9, true)), [ok(1, b"a"), wrong(2), ok(3, b"b"), wrong(4)]);
    }

    #[test]
    fn lines_that_were_read_behind_a_wrong_one_are_counted() {
        for (input, limit, lines, bytes) in [
            (b"wrong".as_slice(), 9, 0, 0),
            (b"wrong\n", 9, 0, 0),
            (b"wrong\na\n\nhalf", 9, 2, 4),
            (b"too long\na\n", 5, 1, 0),
            (b"too long", 5, 0, 0),
        ] {
            let (sender, mut receiver) = mpsc::channel(9);
            let parse = Box::new(|_| Err("is wrong".to_owned()));
            let rules = Rules { limit, too_long: String::new(), skip: false, parse };
            Reading { input: io::BufReader::new(input), rules, number: 0, stopped: Arc::default() }.send_all(&sender);
            assert!(matches!(receiver.blocking_recv(), Some(Batch::Lines(lines)) if lines.len() == 1));
            assert_eq!(receiver.blocking_recv(), Some(Batch::Rest { lines, bytes }), "{input:?}");
        }
    }

    #[test]
    fn a_line_that_stands_for_nothing_is_counted_and_left_out() {
        assert_eq!(lines(read(b"nothing\na\nnothing", 9, false)), [ok(2, b"a")]);
    }

    #[test]
    fn an_ended_reading_tells_of_the_line_that_had_no_end() {
        struct Stopped<'a>(&'a [u8]);
        impl io::Read for Stopped<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.read(buffer)? {
                    0 => Err(io::ErrorKind::ConnectionAborted.into()),
                    read => Ok(read),
                }
            }
        }
        for (stopped, last) in [
            (true, Batch::Rest { lines: 0, bytes: 4 }),
            (false, Batch::Failed("cannot read line 2 of stdin: connection aborted".to_owned())),
        ] {
            let (sender, mut receiver) = mpsc::channel(9);
            let parse = Box::new(|line: Vec<u8>| Ok(Some(whole(&line))));
            let rules = Rules { limit: 9, too_long: String::new(), skip: false, parse };
            let input = io::BufReader::new(Stopped(b"one\nhalf"));
            Reading { input, rules, number: 0, stopped: Arc::new(stopped.into()) }.send_all(&sender);
            drop(sender);
            let one = Line { number: 1, message: Ok(whole(b"one")) };
            assert_eq!(receiver.blocking_recv(), Some(Batch::Lines(vec![one])));
            assert_eq!((receiver.blocking_recv(), receiver.blocking_recv()), (Some(last), None));
        }
    }
}
