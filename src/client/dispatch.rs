//! The dispatcher: received messages to asynchronous functions, by channel or pattern.

use std::{fmt, future::poll_fn, pin::Pin, task::Poll};

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::{
    error::Error,
    publisher,
    session::{ClientSession, Message},
};
use crate::wire::{Channel, Pattern};

type Handler<'a, E> = Box<dyn Fn(Message) -> BoxFuture<'a, Result<(), E>> + Send + Sync + 'a>;

/// Hands received messages to functions, by channel or pattern.
///
/// A message goes to the function of the first entry that matches, in the order in which they were
/// added; one that none matches is let go, unless there is [`otherwise`](Self::otherwise). Functions run
/// one at a time, in the order of the messages, or [several at once](Self::concurrency); while all are
/// busy the session is not read on. Functions may borrow what lives longer than the dispatcher.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hpfeeds::Error> {
/// # let broker = hpfeeds_broker::Broker::dev().await.expect("a broker");
/// use hpfeeds::{ClientSession, Dispatcher, Error};
///
/// let mut session = ClientSession::connect(broker.local_addr(), "dev", "dev").await?;
/// let (publisher, handle) = (&session.publisher(), &session.handle());
/// let dispatcher = Dispatcher::<Error>::new()
///     .on("files", async move |(ident, _, file)| {
///         println!("{} bytes of {ident}", file.len());
///         publisher.publish("files.replies", "thanks").await
///     })?
///     .on("files.*", async move |_| handle.close().await)?;
/// session.publish("files", "#!/bin/sh").await?;
/// dispatcher.run(&mut session).await?;
/// # Ok(()) }
/// ```
#[must_use = "a dispatcher does nothing until it is run"]
pub struct Dispatcher<'a, E = Error> {
    entries: Vec<(Pattern, Channel, Handler<'a, E>)>,
    otherwise: Option<Handler<'a, E>>,
    at_once: usize,
}

impl<'a, E> Dispatcher<'a, E> {
    /// A dispatcher without functions.
    pub fn new() -> Self {
        Self { entries: Vec::new(), otherwise: None, at_once: 1 }
    }

    /// Has messages on a channel, or on those that a pattern (`cowrie.*`, `*`) stands for, handled by
    /// a function. Fails when the name is not legal.
    pub fn on<F, R>(mut self, channel: impl AsRef<str>, handler: F) -> Result<Self, Error>
    where
        F: Fn(Message) -> R + Send + Sync + 'a,
        R: Future<Output = Result<(), E>> + Send + 'a,
    {
        let channel = publisher::parse(channel.as_ref())?;
        self.entries.push((Pattern::new(&channel)?, channel, boxed(handler)));
        Ok(self)
    }

    /// Has all other messages handled by a function. Subscribes to nothing.
    pub fn otherwise<F, R>(mut self, handler: F) -> Self
    where
        F: Fn(Message) -> R + Send + Sync + 'a,
        R: Future<Output = Result<(), E>> + Send + 'a,
    {
        self.otherwise = Some(boxed(handler));
        self
    }

    /// How many functions run at once, all in the task of [`run`](Self::run). Default: 1. With more, a
    /// message may be done with before an earlier one. Messages of a mailbox count as processed when the
    /// next one is taken: with more than one function at once, those that still run are lost when the
    /// program, or one of them, fails. [`manual_commit`](crate::SessionBuilder::manual_commit), and a
    /// commit when [`run`](Self::run) has ended, keeps them.
    pub fn concurrency(mut self, functions: usize) -> Self {
        self.at_once = functions.max(1);
        self
    }

    /// Subscribes the session to the channels of the functions, and hands out its messages until it
    /// ends: `Ok` when all functions have ended then, too.
    ///
    /// Ends at the first error of a function, and then with it: others that run are dropped where they
    /// wait, and the session can be read on. With a [`handle`](ClientSession::handle), a function or
    /// another task closes the session. Not cancel safe: a message whose function was running is lost
    /// to the program.
    pub async fn run(&self, session: &mut ClientSession) -> Result<(), E>
    where
        E: From<Error>,
    {
        for (_, channel, _) in &self.entries {
            session.subscribe(channel)?;
        }
        self.run_on(session).await
    }

    /// As [`run`](Self::run), for any stream of messages, such as a
    /// [channel's](crate::ChannelStream): subscribes to nothing.
    pub async fn run_on<S>(&self, messages: &mut S) -> Result<(), E>
    where
        S: Stream<Item = Message> + Unpin,
    {
        let mut running = FuturesUnordered::new();
        let mut has_ended = false;
        loop {
            let next = poll_fn(|cx| {
                while let Poll::Ready(Some(ended)) = Pin::new(&mut running).poll_next(cx) {
                    if let Err(error) = ended {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                if running.len() >= self.at_once || has_ended {
                    return if running.is_empty() { Poll::Ready(None) } else { Poll::Pending };
                }
                match messages.poll_next_unpin(cx) {
                    Poll::Ready(Some(message)) => Poll::Ready(Some(Ok(message))),
                    Poll::Ready(None) => {
                        has_ended = true;
                        if running.is_empty() { Poll::Ready(None) } else { Poll::Pending }
                    }
                    Poll::Pending => Poll::Pending,
                }
            });
            match next.await {
                Some(Ok(message)) => running.extend(self.handle(message)),
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
        }
    }

    fn handle(&self, message: Message) -> Option<BoxFuture<'a, Result<(), E>>> {
        let of_channel = self.entries.iter().find(|(pattern, ..)| pattern.matches(&message.1));
        let handler = of_channel.map(|(.., handler)| handler).or(self.otherwise.as_ref())?;
        Some(handler(message))
    }
}

fn boxed<'a, E, F, R>(handler: F) -> Handler<'a, E>
where
    F: Fn(Message) -> R + Send + Sync + 'a,
    R: Future<Output = Result<(), E>> + Send + 'a,
{
    Box::new(move |message| handler(message).boxed())
}

impl<E> Default for Dispatcher<'_, E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> fmt::Debug for Dispatcher<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channels: Vec<_> = self.entries.iter().map(|(_, channel, _)| channel).collect();
        f.debug_struct("Dispatcher")
            .field("channels", &channels)
            .field("at_once", &self.at_once)
            .finish_non_exhaustive()
    }
}
