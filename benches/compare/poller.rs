//! An epoll poller: waits for many sockets at once.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

/// The most sockets that one wait reports.
const EVENTS: usize = 1024;

pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS) })
    }

    pub(crate) fn readable(&self, source: impl AsFd, key: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(key as u64), EventFlags::IN)?)
    }

    pub(crate) fn writable(&self, source: impl AsFd, key: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(key as u64), EventFlags::OUT)?)
    }

    pub(crate) fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// The keys of the sockets that are ready, into `ready`; none when the time is over.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<usize>) -> io::Result<()> {
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.clear();
        ready.extend(self.events.iter().map(|event| usize::try_from(event.data.u64()).unwrap_or(usize::MAX)));
        Ok(())
    }
}
