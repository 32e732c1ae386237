//! `hpfeeds subscribe`: prints messages as they arrive.

use std::{num::NonZeroU64, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::pending};
use hpfeeds::{Channel, ClientSession, Message, wire::Pattern};
use tokio::{task::yield_now, time::sleep};

use crate::{
    args::SubscribeArgs,
    connection::ConnectionArgs,
    escape::Escaped,
    exit::{Failure, TOO_FEW, notice},
    output::{Output, Stuck},
    signals::{Hangup, Stop},
    watch::Watch,
};

/// How long saying good-bye to the broker may take.
const GOODBYE: Duration = Duration::from_secs(1);

pub(crate) async fn run(connection: ConnectionArgs, args: SubscribeArgs, mut stop: Stop) -> Result<(), Failure> {
    let output = Output::open(&args)?;
    let hangup = Hangup::listen(args.output.is_some())?;
    let channels = args.channels.channels;
    tracing::debug!(addr = %connection.addr(), "connecting");
    let session = connection.builder().close_timeout(GOODBYE).start()?;
    // Before it is connected: the subscriptions go out together with the key, so that the broker
    // has looked at them by the time that the session counts as connected.
    subscribe(&session, &channels)?;
    let watch = Watch::new(connection.addr(), channels);
    let mut subscriber = Subscriber { session, output, hangup, watch, wanted: args.count, received: 0 };
    let end = tokio::select! {
        end = subscriber.receive() => end,
        _ = stop.requested() => Ok(End::Done),
        () = deadline(args.timeout) => Ok(End::TimedOut),
    };
    subscriber.finish(end, args.timeout).await
}

fn subscribe(session: &ClientSession, channels: &[Channel]) -> Result<(), Failure> {
    for channel in channels {
        // Legal, and one channel of that name: nothing else would ever arrive, without a word.
        if Pattern::new(channel).is_ok_and(|pattern| pattern.has_literal_star()) {
            notice(format!("{} is the name of one channel: a pattern is * or ends in .*", Escaped(channel.as_bytes())));
        }
        session.subscribe(channel)?;
    }
    Ok(())
}

async fn deadline(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => sleep(timeout).await,
        None => pending().await,
    }
}

struct Subscriber {
    session: ClientSession,
    output: Output,
    hangup: Hangup,
    watch: Watch,
    wanted: Option<NonZeroU64>,
    received: u64,
}

/// Why no more is received.
enum End {
    /// Everything wanted has come, or nobody wants more.
    Done,
    TimedOut,
}

impl Subscriber {
    async fn receive(&mut self) -> Result<End, Failure> {
        let mut events = self.session.events();
        loop {
            tokio::select! {
                // Events are told before the messages that came after them.
                biased;
                event = events.next() => match event {
                    Some(event) => self.watch.note(event)?,
                    None => return Err(Failure::new("the session ended")),
                },
                message = self.session.next() => match message.map(|message| self.take_all(message)) {
                    // The caller's timeout and signals get their turn, however much there is to
                    // receive.
                    Some(Ok(false)) => yield_now().await,
                    Some(Ok(true) | Err(Stuck::ClosedPipe)) => return Ok(End::Done),
                    Some(Err(Stuck::Failed(why))) => return Err(Failure::new(why)),
                    None => return Err(Failure::new("the session ended")),
                },
                () = self.hangup.next() => self.output.reopen()?,
                () = self.output.closed() => return Ok(End::Done),
            }
        }
    }

    /// Prints a message and all that have come with it, then flushes. True when no more are wanted.
    fn take_all(&mut self, first: Message) -> Result<bool, Stuck> {
        let mut next = Some(first);
        // Not without end: events want to be told.
        let mut budget = 1000;
        while let Some(message) = next {
            if let Err(stuck) = self.output.print(&message) {
                // The messages before it are taken, and stored: their lines are printed whatever is
                // wrong with this one.
                drop(self.output.flush());
                return Err(stuck);
            }
            self.received += 1;
            budget -= 1;
            if self.is_done() || budget == 0 {
                break;
            }
            next = self.session.next().now_or_never().flatten();
        }
        self.output.flush()?;
        Ok(self.is_done())
    }

    fn is_done(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.received >= wanted.get())
    }

    async fn finish(mut self, end: Result<End, Failure>, timeout: Option<Duration>) -> Result<(), Failure> {
        let verdict = match end {
            Ok(End::TimedOut) => self.watch.verdict().and_then(|()| self.enough(timeout)),
            Ok(End::Done) => self.watch.verdict(),
            Err(failure) => return Err(failure),
        };
        // Nothing is queued: this tells the broker that we go, and how it takes that no longer
        // matters.
        drop(self.session.close().await);
        if self.session.skipped() > 0 {
            notice(format_args!("messages skipped: {}", self.session.skipped()));
        }
        verdict
    }

    fn enough(&self, timeout: Option<Duration>) -> Result<(), Failure> {
        let (received, timeout) = (self.received, timeout.unwrap_or_default());
        let message = match self.wanted {
            Some(wanted) => format!("only {received} of {wanted} messages arrived within {timeout:?}"),
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
