//! The relay, which is the bound: a program that moves bytes from the publishers' sockets to the
//! subscribers' without looking at them.
//!
//! With one publisher it does not even know where a message ends. With several it knows how long a
//! message is, because theirs must not be mixed.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use crate::poller::Poller;

/// How much is read and written at once.
const BUFFER: usize = 256 * 1024;

/// The arguments of the relay: its ports, how many connect to each, and how long a message is on
/// the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) subscribers: (u16, usize),
    pub(crate) publishers: (u16, usize),
    pub(crate) frame: usize,
}

impl Plan {
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { subscribers, publishers, frame } = *self;
        let numbers = [subscribers.0.into(), subscribers.1, publishers.0.into(), publishers.1, frame];
        ["relay".to_owned()].into_iter().chain(numbers.map(|number: usize| number.to_string())).collect()
    }

    pub(crate) fn parse(args: &[String]) -> Option<Self> {
        let numbers: Option<Vec<usize>> = args.iter().map(|arg| arg.parse().ok()).collect();
        let [to, subscribers, from, publishers, frame] = numbers?.try_into().ok()?;
        let port = |number: usize| u16::try_from(number).ok();
        Some(Self { subscribers: (port(to)?, subscribers), publishers: (port(from)?, publishers), frame })
    }
}

/// Runs until the publishers have gone.
pub(crate) fn run(plan: Plan) -> io::Result<()> {
    let subscribers = listen(plan.subscribers.0)?;
    let publishers = listen(plan.publishers.0)?;
    let subscribers = accept(&subscribers, plan.subscribers.1)?;
    let mut publishers = accept(&publishers, plan.publishers.1)?;
    match publishers.as_mut_slice() {
        [publisher] => one(publisher, &subscribers),
        _ => many(&publishers, &subscribers, plan.frame),
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

fn accept(listener: &TcpListener, count: usize) -> io::Result<Vec<TcpStream>> {
    let accept_one = |_| {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        Ok(socket)
    };
    (0..count).map(accept_one).collect()
}

fn one(publisher: &mut TcpStream, subscribers: &[TcpStream]) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match publisher.read(&mut buffer)? {
            0 => return Ok(()),
            n => write(subscribers, &buffer[..n])?,
        }
    }
}

/// Gathers whole messages of all publishers that have sent something, and writes them at once.
fn many(publishers: &[TcpStream], subscribers: &[TcpStream], frame: usize) -> io::Result<()> {
    let mut poller = Poller::new()?;
    for (key, publisher) in publishers.iter().enumerate() {
        poller.readable(publisher, key)?;
    }
    let mut rests = vec![Vec::new(); publishers.len()];
    let mut buffer = vec![0; BUFFER + frame];
    let (mut ready, mut open) = (Vec::new(), publishers.len());
    while open > 0 {
        poller.wait(None, &mut ready)?;
        let mut filled = 0;
        for &key in &ready {
            let (mut publisher, rest) = (&publishers[key], &mut rests[key]);
            if buffer.len() - filled < frame.max(BUFFER / 4) {
                write(subscribers, &buffer[..filled])?;
                filled = 0;
            }
            buffer[filled..filled + rest.len()].copy_from_slice(rest);
            let read = publisher.read(&mut buffer[filled + rest.len()..])?;
            if read == 0 {
                poller.remove(publisher)?;
                open -= 1;
            }
            let end = filled + rest.len() + read;
            let whole = filled + (end - filled) / frame * frame;
            rest.clear();
            rest.extend_from_slice(&buffer[whole..end]);
            filled = whole;
        }
        write(subscribers, &buffer[..filled])?;
    }
    Ok(())
}

fn write(mut subscribers: &[TcpStream], bytes: &[u8]) -> io::Result<()> {
    while let Some((mut subscriber, others)) = subscribers.split_first() {
        subscriber.write_all(bytes)?;
        subscribers = others;
    }
    Ok(())
}
