//! The simulated network: what turmoil leaves out of TCP, and taps on both ends.
//!
//! Turmoil loses segments for good, knows no keepalive, and ends every stream that is dropped as if it were shut down. So
//! a [`Link`] tells both ends of a connection what TCP would tell them: that it has been broken for too long, or that the
//! other end was reset.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};

use futures::future::BoxFuture;
use hpfeeds::{BrokerAddr, Connector, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

use crate::{record::Log, tap::Tap};

pub(crate) const PORT: u16 = 20000;

/// One connection, shared by its ends.
#[derive(Default)]
pub(crate) struct Link {
    /// Segments are missing, and TCP has given up.
    lost: AtomicBool,
    /// The broker let go of it without an end of stream, be it that its process is gone.
    reset: AtomicBool,
    /// Reading and writing, at the client's and at the broker's end.
    wakers: Mutex<[Option<Waker>; 4]>,
}

impl Link {
    /// Both ends get an error from now on.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Relaxed);
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn check(&self, place: usize, cx: &Context<'_>) -> io::Result<()> {
        if self.lost.load(Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(cx.waker().clone());
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Of this session.
    Client(usize),
    /// With this number.
    Broker(usize),
}

pub(crate) struct Stream {
    /// Until it is dropped.
    tcp: Option<TcpStream>,
    link: Arc<Link>,
    log: Log,
    end: End,
    input: Tap,
    output: Tap,
    /// How much one write takes at most.
    chunk: usize,
    shut: bool,
}

impl Stream {
    /// The broker's end.
    pub(crate) fn accepted(tcp: TcpStream, peer: SocketAddr, log: &Log, chunk: usize) -> Self {
        let mut record = log.lock();
        let (link, end) = (record.link(peer), End::Broker(record.accept(peer)));
        drop(record);
        Self::new(tcp, link, log, end, chunk)
    }

    fn new(tcp: TcpStream, link: Arc<Link>, log: &Log, end: End, chunk: usize) -> Self {
        let tcp = Some(tcp);
        Self { tcp, link, log: log.clone(), end, input: Tap::default(), output: Tap::default(), chunk, shut: false }
    }

    fn tcp(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.tcp.as_mut().expect("it has not been dropped"))
    }

    fn place(&self) -> usize {
        if let End::Client(_) = self.end { 0 } else { 2 }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.link.check(this.place(), cx)?;
        if let End::Broker(number) = this.end {
            this.log.lock().asked(number);
        }
        let before = buf.filled().len();
        ready!(this.tcp().poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        match this.end {
            End::Broker(number) => this.log.lock().broker_read(number, &mut this.input, read),
            End::Client(_) if read.is_empty() && this.link.reset.load(Relaxed) => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            End::Client(session) => this.log.lock().client_read(session, &mut this.input, read),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.link.check(this.place() + 1, cx)?;
        let some = &buf[..buf.len().min(this.chunk)];
        let n = ready!(this.tcp().poll_write(cx, some))?;
        match this.end {
            End::Broker(number) => this.log.lock().broker_wrote(number, &mut this.output, &buf[..n]),
            End::Client(session) => this.log.lock().client_wrote(session, &mut this.output, &buf[..n]),
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.shut {
            return Poll::Ready(Ok(()));
        }
        this.link.check(this.place() + 1, cx)?;
        // With all its segments on the way, turmoil would forget this one.
        ready!(pin!(this.tcp().writable()).poll(cx))?;
        ready!(this.tcp().poll_shutdown(cx))?;
        this.shut = true;
        if let End::Broker(number) = this.end {
            this.log.lock().broker_wrote(number, &mut this.output, &[]);
        }
        Poll::Ready(Ok(()))
    }
}

impl Transport for Stream {}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut record = self.log.lock();
        let corpse = Corpse { end: self.end, tcp: self.tcp.take(), link: self.link.clone(), shut: self.shut };
        if record.crashing {
            record.corpses.push(corpse);
        } else {
            drop(record);
            corpse.bury(&self.log);
        }
    }
}

/// A stream that somebody has let go of.
pub(crate) struct Corpse {
    end: End,
    tcp: Option<TcpStream>,
    link: Arc<Link>,
    shut: bool,
}

impl Corpse {
    fn bury(self, log: &Log) {
        let mut record = log.lock();
        if let End::Broker(number) = self.end {
            record.broker_closed(number);
        }
        if !self.shut {
            if let End::Broker(_) = self.end {
                self.link.reset.store(true, Relaxed);
            }
            // Turmoil may forget the segment that says so, when too many are on the way.
            record.abandoned.push(self.link.clone());
        }
        drop(record);
        drop(self.tcp);
    }
}

/// Handles of a machine's main program. When a machine crashes, tokio drops its tasks in an order that is different each
/// time: their streams wait here, and go in an order of their own.
pub(crate) struct Undertaker(pub(crate) Log);

impl Drop for Undertaker {
    fn drop(&mut self) {
        let mut corpses = std::mem::take(&mut self.0.lock().corpses);
        corpses.sort_by_key(|corpse| (corpse.end, corpse.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())));
        for corpse in corpses {
            corpse.bury(&self.0);
        }
    }
}

/// Dials the broker for a session.
pub(crate) struct Dial {
    pub(crate) session: usize,
    pub(crate) log: Log,
    pub(crate) chunk: usize,
}

impl Connector for Dial {
    fn connect<'a>(&'a self, addr: &'a BrokerAddr) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let tcp = TcpStream::connect((addr.host(), addr.port())).await?;
            let ours = tcp.local_addr()?;
            let mut record = self.log.lock();
            record.mark(8, self.session as u64, u64::from(ours.port()));
            record.sessions[self.session].addrs.push(ours);
            record.sessions[self.session].sent.dialled();
            let link = record.link(ours);
            drop(record);
            Ok(Box::new(Stream::new(tcp, link, &self.log, End::Client(self.session), self.chunk)) as _)
        })
    }
}
