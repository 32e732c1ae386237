//! The plain loop, which is the bound: a program that appends what its sockets bring to a file
//! without looking at it, syncs the file, and acknowledges.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use crate::poller::Poller;

/// The most bytes of one file, as the journal has it.
const SEGMENT: usize = 64 << 20;
/// How much is read of one socket at once.
const BUFFER: usize = 64 * 1024;

struct Publisher {
    socket: TcpStream,
    bytes: u64,
    /// How many messages are acknowledged.
    acknowledged: u64,
}

/// Runs until it is killed: everything that has arrived is a group, whose messages have this length.
pub(crate) fn run(args: &[String]) -> io::Result<()> {
    let numbers: Option<Vec<u64>> = args.iter().map(|arg| arg.parse().ok()).collect();
    let Some([port, frame]) = numbers.and_then(|numbers| <[u64; 2]>::try_from(numbers).ok()) else {
        return Err(io::Error::other("this is run by the benchmark itself"));
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, u16::try_from(port).map_err(io::Error::other)?))?;
    let mut poller = Poller::new()?;
    poller.readable(&listener, 0)?;
    let (mut publishers, mut ready): (Vec<Publisher>, _) = (Vec::new(), Vec::new());
    let (mut files, mut written, mut group) = (1_u32, 0, Vec::new());
    let (mut file, mut buffer) = (File::create("0.log")?, vec![0; BUFFER]);
    loop {
        poller.wait(None, &mut ready)?;
        for &key in &ready {
            let Some(at) = key.checked_sub(1) else {
                let (socket, _) = listener.accept()?;
                socket.set_nodelay(true)?;
                publishers.push(Publisher { socket, bytes: 0, acknowledged: 0 });
                poller.readable(&publishers[publishers.len() - 1].socket, publishers.len())?;
                continue;
            };
            match publishers[at].socket.read(&mut buffer)? {
                0 => poller.remove(&publishers[at].socket)?,
                n => {
                    group.extend_from_slice(&buffer[..n]);
                    publishers[at].bytes += n as u64;
                }
            }
        }
        if group.is_empty() {
            continue;
        }
        if written + group.len() > SEGMENT {
            (file, written, files) = (File::create(format!("{files}.log"))?, 0, files + 1);
        }
        file.write_all(&group)?;
        file.sync_data()?;
        written += group.len();
        group.clear();
        for publisher in publishers.iter_mut().filter(|publisher| publisher.bytes / frame > publisher.acknowledged) {
            publisher.acknowledged = publisher.bytes / frame;
            let ack = [&[0, 0, 0, 13, 0x81][..], &publisher.acknowledged.to_be_bytes()].concat();
            publisher.socket.write_all(&ack)?;
        }
    }
}
