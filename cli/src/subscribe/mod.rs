//! `hpfeeds subscribe`: prints messages as they arrive, or those that meet its conditions, or a report.

pub(crate) mod args;
mod condition;
pub(crate) mod field;
pub(crate) mod json;
mod report;

use std::{num::NonZeroU64, sync::atomic::Ordering::Relaxed, time::Duration};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, pending},
    stream::FuturesOrdered,
};
use hpfeeds::{Channel, ClientSession, Message, SessionEvent, SubscribeFrom, wire::Pattern};
use tokio::{
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use self::{args::SubscribeArgs, condition::Condition, field::Looked, report::Report};
use crate::{
    connection::ConnectionArgs,
    escape::Escaped,
    exit::{Failure, TOO_FEW, USAGE, messages, notice},
    output::{Output, Stuck},
    signals::{Hangup, Stop},
    watch::Watch,
};

/// How long saying good-bye to the broker may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long printed messages of a mailbox wait until the disk has them: one sync for all.
const COMMIT: Duration = Duration::from_secs(1);

pub(crate) async fn run(connection: ConnectionArgs, args: SubscribeArgs, mut stop: Stop) -> Result<(), Failure> {
    let output = Output::open(&args)?;
    let hangup = Hangup::listen(args.output.is_some())?;
    let channels = args.channels.channels;
    tracing::debug!(addr = %connection.addr(), "connecting");
    let commits = args.beginning.commits();
    let session = connection.builder().close_timeout(GOODBYE).manual_commit(commits).start()?;
    let from = args.beginning.of(session.ident()).map_err(|why| Failure::with_code(USAGE, why))?;
    // Before it is connected: the subscriptions go out together with the key, so that the broker
    // has looked at them by the time that the session counts as connected.
    let grants = subscribe(&session, &channels, from.as_ref());
    let watch = Watch::new(connection.addr(), channels);
    let unprinted = output.unprinted();
    stop.last_words(move || match unprinted.load(Relaxed) {
        0 => None,
        n => Some(format!("{} were received and may not be printed", messages(n))),
    });
    let show = &args.show;
    let is_for_programs = show.is_for_programs();
    let report = show.report.then(|| Report::new(show.fields().unwrap_or_default(), is_for_programs));
    let mut subscriber = Subscriber {
        session,
        output,
        hangup,
        watch,
        conditions: args.show.conditions,
        report,
        report_every: args.show.report_every,
        wanted: args.count,
        received: 0,
        passed_over: 0,
        grants,
        is_for_programs,
        commits,
        uncommitted: None,
    };
    let end = tokio::select! {
        end = subscriber.receive() => end,
        _ = stop.requested() => Ok(End::Asked),
        () = deadline(args.timeout) => Ok(End::TimedOut),
    };
    subscriber.finish(end, args.timeout).await
}

/// Subscribes to the channels.
fn subscribe(session: &ClientSession, channels: &[Channel], from: Option<&SubscribeFrom>) -> FuturesOrdered<Granted> {
    for channel in channels {
        // Legal, and one channel of that name: nothing else would ever arrive, without a word.
        if Pattern::new(channel).is_ok_and(|pattern| pattern.has_literal_star()) {
            notice(format!("{} is the name of one channel: a pattern is * or ends in .*", Escaped(channel.as_bytes())));
        }
    }
    let ask = |channel: &Channel| match from {
        None => granted(session, channel),
        Some(from) => {
            let (granted, channel) = (session.subscribe_from(channel.clone(), from.clone()), channel.clone());
            async move { granted.await.is_ok().then_some(channel) }.boxed()
        }
    };
    channels.iter().map(ask).collect()
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn deadline(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => sleep(timeout).await,
        None => pending().await,
    }
}

/// A channel, once the broker delivers it; nothing if it never will.
type Granted = BoxFuture<'static, Option<Channel>>;

/// Subscribes to a channel, if that has not been done in one way or another.
fn granted(session: &ClientSession, channel: &Channel) -> Granted {
    let (granted, channel) = (session.subscribe_confirmed(channel.clone()), channel.clone());
    async move { granted.await.is_ok().then_some(channel) }.boxed()
}

struct Subscriber {
    session: ClientSession,
    output: Output,
    hangup: Hangup,
    watch: Watch,
    /// The conditions for a message to be printed or counted.
    conditions: Vec<Condition>,
    /// Takes the messages, if they are counted instead of printed.
    report: Option<Report>,
    report_every: Option<Duration>,
    wanted: Option<NonZeroU64>,
    /// Messages that meet the conditions.
    received: u64,
    /// Messages that do not.
    passed_over: u64,
    /// The broker's answers to the subscriptions, in this connection or the next.
    grants: FuturesOrdered<Granted>,
    /// A program that reads the output wants to know of a message that is missing in it.
    is_for_programs: bool,
    /// A mailbox is told of what is printed.
    commits: bool,
    /// When it is told of what was printed since the last time; set while there is something.
    uncommitted: Option<Instant>,
}

/// Why no more is received.
enum End {
    /// Everything wanted has come.
    Done,
    /// The reader of the output has gone.
    ClosedPipe,
    /// The user wants it to end.
    Asked,
    TimedOut,
}

impl Subscriber {
    async fn receive(&mut self) -> Result<End, Failure> {
        let mut events = self.session.events();
        let mut next_report = self.after_report();
        loop {
            tokio::select! {
                // Events are told before the messages that came after them.
                biased;
                event = events.next() => match event {
                    Some(event) => self.note(event)?,
                    None => return Err(Failure::new("the session ended")),
                },
                Some(granted) = self.grants.next(), if !self.grants.is_empty() => {
                    if let Some(channel) = granted {
                        self.watch.subscribed(&channel);
                    }
                }
                // Before the messages, of which there may always be more.
                () = due(next_report) => {
                    next_report = self.after_report();
                    match self.print_report() {
                        Ok(()) => {}
                        Err(Stuck::ClosedPipe) => return Ok(End::ClosedPipe),
                        Err(Stuck::Failed(why)) => return Err(Failure::new(why)),
                    }
                }
                message = self.session.next() => match message.map(|message| self.take_all(message)) {
                    // The caller's timeout and signals get their turn, however much there is to
                    // receive.
                    Some(Ok(false)) => yield_now().await,
                    Some(Ok(true)) => return Ok(End::Done),
                    Some(Err(Stuck::ClosedPipe)) => return Ok(End::ClosedPipe),
                    Some(Err(Stuck::Failed(why))) => return Err(Failure::new(why)),
                    None => return Err(Failure::new("the session ended")),
                },
                () = due(self.uncommitted) => match self.commit() {
                    Ok(()) => {}
                    Err(Stuck::ClosedPipe) => return Ok(End::ClosedPipe),
                    Err(Stuck::Failed(why)) => return Err(Failure::new(why)),
                },
                () = self.hangup.next() => self.output.reopen()?,
                () = self.output.closed() => return Ok(End::ClosedPipe),
            }
        }
    }

    fn note(&mut self, event: SessionEvent) -> Result<(), Failure> {
        let is_over = matches!(event, SessionEvent::Disconnected { .. });
        self.watch.note(event)?;
        if is_over {
            self.grants = self.watch.channels().iter().map(|channel| granted(&self.session, channel)).collect();
        }
        Ok(())
    }

    /// Prints a message and all that have come with it, then flushes. True when no more are wanted.
    fn take_all(&mut self, first: Message) -> Result<bool, Stuck> {
        let mut next = Some(first);
        // Not without end: events want to be told.
        let mut budget = 1000;
        while let Some(message) = next {
            if let Err(stuck) = self.take(&message) {
                // The messages before it are taken, and stored: their lines are printed whatever is
                // wrong with this one.
                drop(self.output.flush());
                return Err(stuck);
            }
            budget -= 1;
            if self.is_done() || budget == 0 {
                break;
            }
            next = self.session.next().now_or_never().flatten();
        }
        self.output.flush()?;
        if self.commits {
            let wait = if self.output.needs_sync() { COMMIT } else { Duration::ZERO };
            let due = *self.uncommitted.get_or_insert_with(|| Instant::now() + wait);
            if due <= Instant::now() {
                self.commit()?;
            }
        }
        Ok(self.is_done())
    }

    /// Prints or counts a message, if it meets the conditions.
    fn take(&mut self, message: &Message) -> Result<(), Stuck> {
        let looked = Looked::at(message);
        if !self.is_wanted(&looked) {
            self.passed_over += 1;
            return Ok(());
        }
        match &mut self.report {
            Some(report) => report.count(&looked),
            None => self.output.print(&looked, self.session.origin().as_ref())?,
        }
        self.received += 1;
        Ok(())
    }

    fn is_wanted(&self, looked: &Looked<'_>) -> bool {
        self.conditions.iter().all(|condition| condition.is_met(looked))
    }

    fn print_report(&mut self) -> Result<(), Stuck> {
        let Some(report) = &self.report else { return Ok(()) };
        let mut text = Vec::new();
        report.write(&mut text).map_err(|cause| Stuck::Failed(format!("cannot print the report: {cause}")))?;
        self.output.write(&text)
    }

    /// When the next report but the last one is due.
    fn after_report(&self) -> Option<Instant> {
        self.report_every.map(|every| Instant::now() + every)
    }

    /// Tells the mailbox that everything that was taken is printed, once that is where it stays.
    fn commit(&mut self) -> Result<(), Stuck> {
        if self.uncommitted.take().is_some() {
            self.output.sync()?;
            self.session.commit();
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.received >= wanted.get())
    }

    async fn finish(mut self, end: Result<End, Failure>, timeout: Option<Duration>) -> Result<(), Failure> {
        let end = match end {
            Ok(end) => end,
            Err(failure) => {
                // The counts hold, whatever has gone wrong since.
                drop(self.print_report());
                return Err(failure);
            }
        };
        if self.commits {
            self.commit_last(&end).await?;
        }
        // Nothing is queued: this tells the broker that we go, and how it takes that no longer
        // matters.
        drop(self.session.close().now_or_never());
        if let End::Asked | End::TimedOut = end {
            self.print_rest().await?;
        }
        drop(self.session.close().await);
        match end {
            End::ClosedPipe => self.count_rest(),
            _ => match self.print_report() {
                Ok(()) | Err(Stuck::ClosedPipe) => {}
                Err(Stuck::Failed(why)) => return Err(Failure::new(why)),
            },
        }
        if self.session.skipped() > 0 {
            notice(format_args!("messages skipped: {}", self.session.skipped()));
        }
        self.watch.verdict()?;
        if let End::TimedOut = end { self.enough(timeout) } else { Ok(()) }
    }

    /// Tells the mailbox of the last messages. Messages that were not taken come again, and are let go;
    /// what else came live is still there.
    async fn commit_last(&mut self, end: &End) -> Result<(), Failure> {
        if !matches!(end, End::ClosedPipe)
            && let Err(Stuck::Failed(why)) = self.commit()
        {
            return Err(Failure::new(why));
        }
        drop(self.session.close().await);
        // From now on nothing that is printed is a mailbox's.
        self.commits = false;
        let missed = self.session.stats().missed;
        if missed > 0 {
            notice(format_args!("the mailbox had lost {}", messages(missed)));
        }
        Ok(())
    }

    /// Prints what has been received, and what is still on its way when the broker hears that we
    /// go: what the next program does not get is lost.
    async fn print_rest(&mut self) -> Result<(), Failure> {
        while !self.is_done()
            && let Some(message) = self.session.next().await
        {
            match self.take_all(message) {
                Ok(_) => {}
                Err(Stuck::ClosedPipe) => return Ok(()),
                Err(Stuck::Failed(why)) => return Err(Failure::new(why)),
            }
        }
        Ok(())
    }

    /// Says how many messages were received that the reader of the output did not get, beyond those
    /// that it did not take out of the pipe.
    fn count_rest(&mut self) {
        let mut left = self.output.unprinted().load(Relaxed);
        while let Some(Some(message)) = self.session.next().now_or_never() {
            left += u64::from(self.is_wanted(&Looked::at(&message)));
        }
        if left > 0 && self.is_for_programs && self.report.is_none() {
            notice(format_args!("nobody reads the output any more: {} were received and not printed", messages(left)));
        }
    }

    fn enough(&self, timeout: Option<Duration>) -> Result<(), Failure> {
        let (received, timeout) = (self.received, timeout.unwrap_or_default());
        let passed_over = match self.passed_over {
            0 => String::new(),
            1 => ", and 1 message that does not meet --where".to_owned(),
            n => format!(", and {n} messages that do not meet --where"),
        };
        let message = match self.wanted {
            Some(wanted) => format!("only {received} of {wanted} messages arrived within {timeout:?}{passed_over}"),
            None if received == 0 && self.passed_over > 0 => {
                format!("nothing wanted arrived within {timeout:?}{passed_over}")
            }
            None if received == 0 => format!("nothing arrived within {timeout:?}"),
            None => return Ok(()),
        };
        let why = if self.watch.was_connected() {
            String::new()
        } else {
            format!(": {} had not accepted the key by then", self.watch.addr())
        };
        Err(Failure::with_code(TOO_FEW, message + &why))
    }
}
