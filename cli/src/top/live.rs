//! The live screen: keys, answers, messages and signals, one after the other.

use std::io;

use crossterm::event::{Event, EventStream};
use futures::StreamExt as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    app::{App, Next},
    args::TopArgs,
    console::{self, Console},
    http::Client,
    poll::{self, Update},
    tail::{self, TailUpdate},
    text::Look,
};
use crate::{exit::Failure, signals::Stop};

/// A task that ends with this.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Shows the dashboard until the user has seen enough. Only the first answer must come.
pub(super) async fn run(mut client: Client, args: &TopArgs, look: &Look, mut stop: Stop) -> Result<(), Failure> {
    let mut app = App::new(client.address.to_string(), args);
    let query = app.wanted().query;
    let first = tokio::select! {
        first = poll::snapshot(&mut client, &query) => first?,
        signal = stop.requested() => return Err(Failure::silent(signal.exit_code())),
    };
    app.update(Update::Snapshot(query, Box::new(first)), Instant::now());
    // A second signal ends the process at once.
    stop.last_words(|| {
        console::leave();
        None
    });
    let mut console = Console::open().map_err(|cause| lost(&cause))?;
    let shown = show(&mut console, &mut app, client, args, look, &mut stop).await;
    drop(console);
    shown.map_err(|cause| lost(&cause))
}

fn lost(cause: &io::Error) -> Failure {
    Failure::new(format!("the terminal does not work ({cause}): hpfeeds top --once needs none"))
}

async fn show(
    console: &mut Console,
    app: &mut App,
    client: Client,
    args: &TopArgs,
    look: &Look,
    stop: &mut Stop,
) -> io::Result<()> {
    let (wanted, receiver) = watch::channel(app.wanted());
    let (sender, mut updates) = mpsc::channel(4);
    let (tail_sender, mut tail_updates) = mpsc::channel::<TailUpdate>(4);
    let tail_client = client.another();
    let _poller = Task(tokio::spawn(poll::run(client, receiver, sender, args.interval)));
    let mut tailing: Option<(String, Task)> = None;
    let mut events = EventStream::new();
    let mut suspensions = Suspensions::listen()?;
    loop {
        console.draw(app, look)?;
        let now = app.wanted();
        wanted.send_if_modified(|wanted| {
            let changed = *wanted != now;
            *wanted = now;
            changed
        });
        match app.tail_filter() {
            None => tailing = None,
            Some(filter) if tailing.as_ref().is_some_and(|(old, _)| old == filter) => {}
            Some(filter) => {
                let task = tail::run(tail_client.another(), filter.to_owned(), tail_sender.clone());
                tailing = Some((filter.to_owned(), Task(tokio::spawn(task))));
            }
        }
        let next = tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) => app.key(key),
                Some(Ok(_)) => Next::Draw,
                Some(Err(cause)) => return Err(cause),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
            update = updates.recv() => match update {
                Some(update) => {
                    app.update(update, Instant::now());
                    Next::Draw
                }
                None => return Err(io::Error::other("the poller has ended")),
            },
            Some(update) = tail_updates.recv() => {
                app.update_tail(update);
                Next::Draw
            }
            _ = stop.requested() => Next::Quit,
            () = suspensions.next() => {
                console.suspend(false)?;
                Next::Draw
            }
            () = sleep(app.next_change()) => Next::Draw,
        };
        match next {
            Next::Draw => {}
            Next::Redraw => console.clear()?,
            Next::Suspend => console.suspend(true)?,
            Next::Quit => return Ok(()),
        }
    }
}

/// SIGTSTP, by which another process suspends this one.
struct Suspensions(#[cfg(unix)] tokio::signal::unix::Signal);

impl Suspensions {
    fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            signal(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw())).map(Self)
        }
        #[cfg(not(unix))]
        Ok(Self())
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if self.0.recv().await.is_some() {
            return;
        }
        std::future::pending::<()>().await;
    }
}
