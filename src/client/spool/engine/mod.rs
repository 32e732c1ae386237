//! The engine of a spool: the thread that owns its log, and what it does in one turn.

mod writing;

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    error::SpoolError,
    options::Spool,
    owner::{Found, Owner},
    reading::{self, Reading},
    runs::Runs,
    shared::{Answer, Batch, Shared, Want, Work},
    status::SpoolNews,
};
use crate::{
    client::when_full::WhenFull,
    log::{self, Disk, Log, LogError, LogOptions},
    wire::{
        Limits,
        extension::{Position, StreamId, StreamPosition},
    },
};

/// How long after a failure the disk is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a drained spool keeps its last segment, and how often a cursor that has moved is made
/// durable: a broker that wavers costs a few writes a second at most.
const SETTLE: Duration = Duration::from_secs(1);
/// The records that a log keeps in memory until they are durable.
const UNSYNCED: usize = 2 << 20;
/// A thread that nobody wakes looks around after so long.
const IDLE: Duration = Duration::from_secs(3600);

pub(super) struct Engine {
    spool: Spool,
    ident: String,
    shared: Arc<Shared>,
    opened: Option<Opened>,
    /// Batches that are not in the log.
    waiting: VecDeque<Batch>,
    /// Batches that are in the log and not durable: appended again if it fails.
    appended: VecDeque<Batch>,
    owner: Owner,
    /// Streams whose new names are not on disk yet.
    renamed: Vec<(StreamId, StreamId)>,
    runs: Runs,
    /// Up to which number each stream is released that has runs.
    released: BTreeMap<StreamId, u64>,
    /// The number in the log of the last message of earlier programs.
    old: u64,
    reading: Reading,
    request: Option<(Want, usize)>,
    /// The disk fails, and is tried again then.
    retry_at: Option<Instant>,
    is_failing: bool,
    /// It can never be used.
    is_hopeless: bool,
    /// When something is to be written that can wait.
    settle_at: Option<Instant>,
    since: Option<Instant>,
    is_full: bool,
    damaged: u64,
    dropped: u64,
}

/// The log and what goes with it, as long as the disk works.
struct Opened {
    disk: Arc<dyn Disk>,
    log: Log,
    /// As it was when the last drop was counted.
    lost: u64,
    /// The position up to which everything is durable or older.
    durable: Position,
}

impl Engine {
    pub(super) fn new(spool: Spool, ident: &str, limits: Limits, shared: Arc<Shared>) -> Self {
        Self {
            reading: Reading::new(ident, limits, spool.clock),
            spool,
            owner: Owner::new(ident),
            renamed: Vec::new(),
            ident: ident.to_owned(),
            shared,
            opened: None,
            waiting: VecDeque::new(),
            appended: VecDeque::new(),
            runs: Runs::default(),
            released: BTreeMap::new(),
            old: 0,
            request: None,
            retry_at: None,
            is_failing: false,
            is_hopeless: false,
            settle_at: None,
            since: None,
            is_full: false,
            damaged: 0,
            dropped: 0,
        }
    }

    /// Works until the spool is closed.
    pub(super) fn serve(&mut self) {
        loop {
            let next = self.turn(Instant::now());
            let shared = Arc::clone(&self.shared);
            let mut state = shared.state.lock();
            if state.is_closed {
                return;
            }
            if !state.work.is_new {
                let until = next.unwrap_or_else(|| Instant::now() + IDLE);
                shared.asked.wait_until(&mut state, until.into_std());
            }
        }
    }

    /// Does all that can be done, and says when there is something to do by itself.
    pub(super) fn turn(&mut self, now: Instant) -> Option<Instant> {
        let work = {
            let mut state = self.shared.state.lock();
            if state.is_closed {
                return None;
            }
            state.take_work()
        };
        if self.opened.is_none() && !self.is_hopeless && self.retry_at.is_none_or(|at| at <= now) {
            self.retry_at = None;
            match self.open(now) {
                Ok(()) => {}
                Err(error) => self.fail(error, now),
            }
        }
        let close = work.close;
        self.take(work);
        self.consume(now);
        if self.retry_at.is_none_or(|at| at <= now || close) {
            self.retry_at = None;
            self.write(now);
            self.read(now);
            // Reading may have shown that the rest is damaged.
            self.consume(now);
            self.settle(now, close);
        }
        self.report(now, close);
        [self.retry_at, self.settle_at].into_iter().flatten().min()
    }

    /// Opens the log, the first time or after it has failed.
    fn open(&mut self, now: Instant) -> Result<(), SpoolError> {
        let dir = self.spool.name();
        let disk = self.spool.open().map_err(|error| SpoolError::opening(&dir, &error))?;
        let found = Owner::read(&*disk).map_err(|error| SpoolError::opening(&dir, &error))?;
        let owner = match found {
            Found::Owner(owner) => Some(owner),
            Found::None | Found::Damaged => None,
            Found::Newer => {
                let cause = "a newer program has written it: use that, or another folder".to_owned();
                return Err(SpoolError::Unusable { dir, cause });
            }
        };
        let other = |ident: &str| SpoolError::OtherIdent { dir: dir.clone(), ident: ident.to_owned() };
        if let Some(owner) = owner.as_ref().filter(|owner| owner.ident != self.ident) {
            return Err(other(&owner.ident));
        }
        let options = LogOptions::default().max_bytes(self.spool.max_bytes).max_unsynced(UNSYNCED);
        let options = options.when_full(match self.spool.when_full {
            WhenFull::DropOldest => log::WhenFull::DropOldest,
            WhenFull::Wait | WhenFull::Refuse => log::WhenFull::Refuse,
        });
        let (log, _report) = Log::open(Arc::clone(&disk), &options).map_err(|error| SpoolError::log(&dir, &error))?;
        self.owner = if let Some(owner) = owner {
            owner
        } else {
            // The messages there say whose they are, as far as they can be read.
            if let Some(ident) = reading::ident(&log).filter(|ident| *ident != self.ident) {
                return Err(other(&ident));
            }
            let owner = Owner::new(&self.ident);
            owner.store(&*disk).map_err(|error| SpoolError::opening(&dir, &error))?;
            owner
        };
        self.reading.open(&log);
        let is_first = !self.shared.state.lock().is_open;
        let messages = log.last().number - log.cursor().number.min(log.last().number);
        let durable = log.last();
        self.opened = Some(Opened { lost: log.lost(), disk, log, durable });
        for &(from, to) in &self.renamed {
            self.owner.rename(from, to);
        }
        if is_first {
            self.old = durable.number;
            if messages > 0 {
                self.since = Some(now);
                self.read_ahead(now);
            }
            self.tell(SpoolNews::Opened { messages });
        }
        self.shared.state.lock().is_open = true;
        Ok(())
    }

    /// Takes what the handle asks for.
    fn take(&mut self, work: Work) {
        // A batch that is released in the same turn need not be written.
        self.waiting.extend(work.batches);
        for to in work.released {
            self.release(to);
        }
        for (from, to) in work.renamed {
            self.owner.rename(from, to);
            self.runs.rename(from, to);
            self.reading.rename(from, to);
            if let Some(number) = self.released.remove(&from) {
                self.released.insert(to, number);
            }
            for batch in self.waiting.iter_mut().chain(&mut self.appended).filter(|batch| batch.stream == from) {
                batch.stream = to;
            }
            self.renamed.push((from, to));
        }
        self.request = work.read.or(self.request);
    }

    fn release(&mut self, to: StreamPosition) {
        let is_released = |batch: &Batch| batch.stream == to.stream && batch.last().number <= to.number;
        self.waiting.retain(|batch| !is_released(batch));
        let number = self.released.entry(to.stream).or_default();
        *number = to.number.max(*number);
    }

    /// Moves the cursor over what is released.
    fn consume(&mut self, now: Instant) {
        let Some(opened) = &mut self.opened else { return };
        // Messages of earlier programs that were not read yet are released by nobody.
        let limit = if self.reading.number() < self.old { self.reading.number() } else { u64::MAX };
        let mut to = self.runs.release(limit, |stream| self.released.get(&stream).copied().unwrap_or(0));
        // More of a stream may be read later, all of which is released by now.
        let is_unread = self.reading.number() < self.old;
        let written = |stream| self.waiting.iter().chain(&self.appended).any(|batch| batch.stream == stream);
        self.released.retain(|stream, _| is_unread || self.runs.has(*stream) || written(*stream));
        let last = opened.log.last();
        let is_read = self.reading.is_empty() && self.reading.number() >= last.number;
        if is_read && self.runs.is_empty() && self.waiting.is_empty() && self.appended.is_empty() {
            // Only damage is left, if anything.
            to = Some(last);
        }
        let Some(to) = to.filter(|to| to.number > opened.log.cursor().number) else { return };
        self.settle_at.get_or_insert(now + SETTLE);
        // Removing files takes milliseconds, in which a replay would wait.
        opened.log.advance(to);
    }

    /// Answers a request for more.
    fn read(&mut self, now: Instant) {
        let Some((want, wanted)) = self.request else { return };
        let after = if let Want::After(after) = want { Some(after) } else { None };
        let (mut answers, mut bytes) = (VecDeque::new(), 0);
        while let Some(opened) = &self.opened {
            if !self.reading.is_at(want) {
                if let Some(chunk) = self.reading.take(opened.log.cursor(), want) {
                    bytes += chunk.bytes();
                    answers.push_back(Answer::Chunk(chunk));
                    if bytes >= wanted {
                        break;
                    }
                    continue;
                }
            }
            if !self.reading.is_at(want) {
                self.reading.seek(&opened.log, after.and_then(|after| self.runs.locate(after)));
                match self.read_ahead(now) {
                    Some(true) => continue,
                    Some(false) => {}
                    None => break,
                }
            }
            answers.push_back(Answer::End);
            break;
        }
        if !answers.is_empty() {
            self.request = None;
            let mut state = self.shared.state.lock();
            (state.answers, state.has_changed) = (answers, true);
        }
    }

    /// Reads about a chunk; whether there was something. `None` when the disk fails.
    fn read_ahead(&mut self, now: Instant) -> Option<bool> {
        let opened = self.opened.as_ref()?;
        match self.reading.fill(&opened.log, &self.owner, &mut self.runs, now) {
            Ok(filled) => {
                self.lose(filled.lost);
                Some(filled.is_some)
            }
            Err(give_up) => {
                if give_up {
                    // Only a disk that can be opened anew is one with a bad block.
                    self.close_log();
                }
                let (dir, cause) = (self.spool.name(), "it cannot be read".to_owned());
                self.fail(SpoolError::Disk { dir, cause }, now);
                None
            }
        }
    }

    /// Writes what could wait: the cursor, and the end of a spool that is drained.
    fn settle(&mut self, now: Instant, close: bool) {
        if self.opened.is_none() || !close && self.settle_at.is_none_or(|at| now < at) {
            return;
        }
        self.settle_at = None;
        self.remove(now);
        let Some(opened) = &mut self.opened else { return };
        let is_drained = self.appended.is_empty() && opened.log.cursor().number >= opened.log.last().number;
        let mut result = opened.log.store_cursor();
        if is_drained && self.since.is_some() {
            result = result.and_then(|()| opened.log.trim());
            if result.is_ok() && self.owner.forget_renamed() {
                result = self.owner.store(&*opened.disk).map_err(LogError::Io);
            }
        }
        match result {
            Err(error) => self.fail_log(&error, now),
            Ok(()) if is_drained && self.waiting.is_empty() && self.since.take().is_some() => {
                self.tell(SpoolNews::Drained);
            }
            Ok(()) => {}
        }
    }

    /// The log has failed: what is not durable is appended again to the next one.
    fn fail_log(&mut self, error: &LogError, now: Instant) {
        if !matches!(error, LogError::NoSpace) {
            self.close_log();
        }
        self.fail(SpoolError::log(&self.spool.name(), error), now);
    }

    fn close_log(&mut self) {
        if let Some(opened) = self.opened.take() {
            self.runs.cut(opened.durable);
            while let Some(batch) = self.appended.pop_back() {
                self.waiting.push_front(batch);
            }
        }
    }

    fn fail(&mut self, error: SpoolError, now: Instant) {
        let is_first = !self.shared.state.lock().is_open;
        // A spool that could be opened once can be opened again.
        self.is_hopeless = is_first && error.is_permanent();
        self.retry_at = (!self.is_hopeless).then_some(now + RETRY);
        let dir = self.spool.name();
        let error = match error {
            error if self.is_hopeless || !error.is_permanent() => error,
            error => SpoolError::Disk { dir, cause: error.to_string() },
        };
        let mut state = self.shared.state.lock();
        state.status.failing = Some(error.clone());
        drop(state);
        if !self.is_failing {
            self.is_failing = true;
            self.tell(SpoolNews::Failing(error));
        }
    }

    fn lose(&mut self, messages: u64) {
        if messages > 0 {
            self.damaged += messages;
            self.tell(SpoolNews::Damaged(messages));
        }
    }

    fn tell(&self, news: SpoolNews) {
        self.shared.state.lock().tell(news);
    }

    /// Brings the figures up to date, and wakes the driver.
    fn report(&mut self, now: Instant, close: bool) {
        if self.is_failing && self.retry_at.is_none() && self.opened.is_some() {
            self.is_failing = false;
            self.tell(SpoolNews::Recovered);
        }
        let backlog = self.waiting.iter().chain(&self.appended).map(Batch::bytes).sum::<usize>();
        let mut state = self.shared.state.lock();
        let before = state.backlog;
        state.backlog = backlog + state.work.batches.iter().map(Batch::bytes).sum::<usize>();
        state.has_changed |= state.backlog < before;
        let status = &mut state.status;
        if let Some(Opened { log, .. }) = &self.opened {
            (status.bytes, status.messages) = (log.size(), log.last().number.saturating_sub(log.cursor().number));
        }
        status.oldest = self.runs.oldest().map(|since| now.duration_since(since));
        status.since = self.since.map(|since| now.duration_since(since));
        (status.damaged, status.dropped) = (self.damaged, self.dropped);
        status.is_full = self.is_full;
        if !self.is_failing {
            status.failing = None;
        }
        drop(state);
        if close {
            // The folder is free before it is said to be.
            self.opened = None;
            let mut state = self.shared.state.lock();
            (state.is_closed, state.has_changed) = (true, true);
        }
        if mem::take(&mut self.shared.state.lock().has_changed) {
            self.shared.waker.wake();
        }
    }
}
