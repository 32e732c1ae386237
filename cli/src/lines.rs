//! The lines of `publish --lines` and `--ndjson`: each is a message, published as it comes.

use std::time::Duration;

use hpfeeds::Channel;
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep_until};

use crate::{
    args::PublishArgs,
    connection::{ConnectionArgs, Room},
    escape::Escaped,
    exit::{self, Failure, SKIPPED, messages, notice},
    ndjson,
    pace::{Pace, Speed},
    sending::{Cut, Manner, Outgoing},
    signals::{Signal, Stop},
    stdin::{Batch, Line, Lines, Outbound, Rules},
};

/// How long the input is still read after the user wants an end: until nothing has come for the
/// first time, and at most the second. Long enough for the program that writes it, which the same
/// Ctrl-C ends, to hand over what it has.
const LAST_INPUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// Lines that are left out and told, each with what is wrong; input may go on for weeks, and more
/// are only counted.
const TOLD: u64 = 10;

pub(crate) async fn run(
    connection: &ConnectionArgs,
    args: &PublishArgs,
    manner: Manner,
    stop: Stop,
) -> Result<(), Failure> {
    let channels = &args.channels.channels;
    let pace = match args.recording.speed {
        Speed::Max => None,
        Speed::Times(times) => Some(Pace::new(times, args.recording.max_gap)),
    };
    let rules = if args.recording.ndjson {
        ndjson_rules(channels.clone(), connection.room()?, args.recording.skip_bad, pace.is_some())
    } else {
        line_rules(connection.largest_payload(channels)?, args.skip_long)
    };
    let skip = rules.skip;
    let outgoing = Outgoing::connect(connection, channels, manner, ProgressBar::hidden(), stop).await?;
    let input = Lines::read(rules)?;
    let mut sender = Sender { outgoing, input, channels, pace, skip, interrupted: None, counts: Counts::default() };
    let sent = sender.send_all().await;
    if sent.is_err() {
        sender.count_rest().await;
    }
    let Sender { outgoing, counts, .. } = sender;
    let cut = sent.is_err();
    counts.verdict(cut, outgoing.finish(sent).await)
}

fn line_rules(limit: usize, skip: bool) -> Rules {
    let parse = Box::new(|line: Vec<u8>| Ok(Some(Outbound { channel: None, time: None, payload: line.into() })));
    let too_long = format!("is longer than {limit} bytes, the most that fits one message");
    Rules { limit, too_long, skip, parse }
}

fn ndjson_rules(channels: Vec<Channel>, room: Room, skip: bool, needs_time: bool) -> Rules {
    let reader = ndjson::Reader { channels, room, needs_time };
    let limit = reader.longest_line();
    let too_long = format!("is longer than {limit} bytes, more than any message makes");
    Rules { limit, too_long, skip, parse: Box::new(move |line| reader.parse(&line)) }
}

struct Sender<'a> {
    outgoing: Outgoing,
    input: Lines,
    channels: &'a [Channel],
    pace: Option<Pace>,
    /// Lines that are wrong are left out.
    skip: bool,
    /// The signal by which the user wants an end, and when no more input is taken at the latest.
    interrupted: Option<(Signal, Instant)>,
    counts: Counts,
}

impl Sender<'_> {
    async fn send_all(&mut self) -> Result<(), Cut> {
        while let Some(batch) = self.next_batch().await? {
            match batch {
                Batch::Lines(lines) => self.send_lines(lines).await?,
                Batch::Rest { lines, bytes } => self.counts.rest(lines, bytes),
                Batch::Failed(why) => return Err(Cut::Input(why)),
            }
        }
        // An input that has ended by itself was published whole, whoever wanted that.
        match self.interrupted {
            Some((signal, _)) if self.input.is_stopped() => Err(Cut::Signal(signal)),
            _ => Ok(()),
        }
    }

    /// The next lines. After a signal the input is read for a moment more, to its end if that comes.
    async fn next_batch(&mut self) -> Result<Option<Batch>, Cut> {
        loop {
            let Some((_, until)) = self.interrupted else {
                match self.outgoing.meanwhile(self.input.next()).await {
                    Err(Cut::Signal(signal)) => {
                        // A recording is played no further; the rest of it was not due.
                        if self.pace.is_some() {
                            return Err(Cut::Signal(signal));
                        }
                        self.interrupted = Some((signal, Instant::now() + LAST_INPUT.1));
                    }
                    batch => return batch,
                }
                continue;
            };
            if self.input.is_stopped() {
                return self.outgoing.finally(self.input.next()).await;
            }
            tokio::select! {
                batch = self.outgoing.finally(self.input.next()) => return batch,
                () = sleep_until(until.min(Instant::now() + LAST_INPUT.0)) => self.input.stop(),
            }
        }
    }

    async fn send_lines(&mut self, lines: Vec<Line>) -> Result<(), Cut> {
        self.counts.read(&lines);
        for Line { number, message } in lines {
            match message {
                Ok(message) => self.send(number, message).await?,
                Err(why) if self.skip => self.counts.skip(number, &why),
                Err(why) => {
                    self.counts.done = number;
                    return Err(Cut::Input(format!("line {number} of stdin {why}")));
                }
            }
            self.counts.done = number;
        }
        Ok(())
    }

    async fn send(&mut self, number: u64, message: Outbound) -> Result<(), Cut> {
        if let (Some(pace), Some(time)) = (&mut self.pace, message.time) {
            let due = pace.due(time, Instant::now());
            if let Some(asked) = due.cut {
                let wait = due.at.saturating_duration_since(Instant::now());
                notice(format_args!(
                    "line {number} of stdin would be due in {asked:.0?}: waiting {wait:.0?} (--max-gap)"
                ));
            }
            self.outgoing.meanwhile(sleep_until(due.at)).await?;
        }
        match message.channel {
            Some(channel) => self.outgoing.send(&[channel], &message.payload).await,
            None => self.outgoing.send(self.channels, &message.payload).await,
        }
    }

    /// Counts the lines that were read and will not be sent.
    async fn count_rest(&mut self) {
        self.input.stop();
        while let Some(batch) = self.input.next().await {
            match batch {
                Batch::Lines(lines) => self.counts.read(&lines),
                Batch::Rest { lines, bytes } => self.counts.rest(lines, bytes),
                Batch::Failed(_) => {}
            }
        }
    }
}

/// How many lines of stdin came to what.
#[derive(Debug, Default)]
struct Counts {
    /// The last line that was read.
    read: u64,
    /// The last line that was dealt with: queued, left out, or the reason of the end.
    done: u64,
    skipped: u64,
    /// Bytes of a line whose end was not waited for.
    half: usize,
}

impl Counts {
    fn read(&mut self, lines: &[Line]) {
        self.read = lines.last().map_or(self.read, |line| line.number);
    }

    fn rest(&mut self, lines: u64, bytes: usize) {
        self.read += lines;
        self.half = bytes;
    }

    fn skip(&mut self, number: u64, why: &str) {
        self.skipped += 1;
        if self.skipped <= TOLD {
            let further = if self.skipped == TOLD { ", as further ones will be" } else { "" };
            notice(Escaped(format!("line {number} of stdin {why}: skipped{further}").as_bytes()));
        }
    }

    /// The outcome of all. `cut`: not everything was queued.
    fn verdict(&self, cut: bool, finished: Result<u64, Failure>) -> Result<(), Failure> {
        let skipped = (self.skipped > 0).then(|| format!("skipped {} of stdin", exit::count(self.skipped, "line")));
        match (finished, skipped) {
            (Ok(_), None) => Ok(()),
            (Ok(sent), Some(skipped)) => {
                let sent = messages(sent);
                Err(Failure::with_code(SKIPPED, format!("{skipped}; the broker has read the {sent} of the others")))
            }
            (Err(mut failure), skipped) => {
                if cut {
                    failure = failure.and(self.left());
                }
                Err(match skipped {
                    Some(skipped) => failure.and(skipped),
                    None => failure,
                })
            }
        }
    }

    /// The input that was read, and did not go out.
    fn left(&self) -> String {
        let Self { read, done, half, .. } = *self;
        let lines = match read.saturating_sub(done) {
            0 => format!("stdin was read up to line {read}"),
            1 => format!("line {read} of stdin was read and not sent"),
            _ => format!("lines {} to {read} of stdin were read and not sent", done + 1),
        };
        match half {
            0 => lines,
            _ => format!("{lines}, and {} of a line that had not ended", exit::count(half as u64, "byte")),
        }
    }
}
