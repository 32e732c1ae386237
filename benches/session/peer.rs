//! The peers of a session: a broker's side of the handshake with and without the extension, a sender
//! of numbered messages, and a reader that checks each byte.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

use bytes::{Bytes, BytesMut};
use hpfeeds::wire::{
    Channel, Codec, Frame, HEADER_LEN, Ident, Limits, Nonce, encode_publish,
    extension::{BrokerFrame, BrokerHello, ClientFrame, Code, ExtensionHeader, Flags, VERSION, offer},
};
use tokio_util::codec::Decoder as _;

pub(crate) const PAYLOAD: usize = 256;
pub(crate) const CHANNEL: &str = "cowrie.sessions";
/// One digit at the end tells the peers apart.
pub(crate) const IDENT: &str = "sensor-0";
pub(crate) const FRAME: usize = 5 + 1 + IDENT.len() + 1 + CHANNEL.len() + PAYLOAD;
/// Frames in one write of a peer: 64 KiB, as a session reads.
pub(crate) const BATCH: usize = 64 * 1024 / FRAME;

/// The broker's side of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// None: the other side is a bare socket.
    Nothing,
    /// INFO, and AUTH with any secret.
    Plain,
    /// The same with an offer of the extension, and an answer to HELLO that grants what it asks for:
    /// what confirms is then acknowledged after each read, and a subscription is answered. Nothing waits
    /// for the window, as the system's buffers are smaller, and no round lasts until a heartbeat.
    Extended,
}

/// A peer that sends messages, numbered from 0, as soon as it is asked for any.
pub(crate) fn feed(n: usize, messages: usize, handshake: Handshake) -> (SocketAddr, JoinHandle<()>) {
    accept(move |mut socket| {
        greet(&mut socket, handshake);
        assert_ne!(socket.read(&mut [0; 1024]).unwrap(), 0);
        if handshake == Handshake::Extended {
            socket.write_all(&encoded(&BrokerFrame::SubAck { code: Code::DONE, channel: CHANNEL, text: "" })).unwrap();
        }
        let mut batch = batch(n);
        for first in (0..messages).step_by(BATCH) {
            for (frame, number) in batch.chunks_exact_mut(FRAME).zip(first as u64..) {
                frame[FRAME - PAYLOAD..][..8].copy_from_slice(&number.to_le_bytes());
            }
            socket.write_all(&batch).unwrap();
        }
        // A session whose broker goes away would connect again.
        while socket.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
    })
}

/// A peer that reads to the end, compares every byte with what must come, and returns how many there
/// were. It reads as much at once as the broker does, and acknowledges each read if that was asked for.
pub(crate) fn drain(handshake: Handshake) -> (SocketAddr, JoinHandle<usize>) {
    accept(move |mut socket| {
        let confirms = greet(&mut socket, handshake);
        let expected = batch(0);
        let mut buffer = vec![0; 256 * 1024];
        let (mut total, mut acknowledged) = (0, 0);
        loop {
            let n = socket.read(&mut buffer).unwrap();
            if n == 0 {
                return total;
            }
            let mut read = &buffer[..n];
            while !read.is_empty() {
                let expected = &expected[total % expected.len()..];
                let (now, later) = read.split_at(read.len().min(expected.len()));
                assert!(now == &expected[..now.len()], "wrong bytes from {total}");
                total += now.len();
                read = later;
            }
            let whole = (total / FRAME) as u64;
            if confirms && whole > acknowledged {
                acknowledged = whole;
                socket.write_all(&encoded(&BrokerFrame::Ack { number: whole })).unwrap();
            }
        }
    })
}

fn accept<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (addr, thread::spawn(move || serve(listener.accept().unwrap().0)))
}

/// Says whether what the other side publishes is to be acknowledged.
fn greet(socket: &mut TcpStream, handshake: Handshake) -> bool {
    introduce(socket, handshake);
    handshake == Handshake::Extended && answer_hello(socket)
}

/// Sends INFO, and reads AUTH.
pub(crate) fn introduce(socket: &mut TcpStream, handshake: Handshake) {
    let name = match handshake {
        Handshake::Nothing => return,
        Handshake::Plain => "peer".into(),
        Handshake::Extended => offer("peer"),
    };
    socket.set_nodelay(true).unwrap();
    let mut bytes = BytesMut::new();
    let info = Frame::Info { name: name.into_owned(), nonce: Nonce::new([1, 2, 3, 4]) };
    info.encode(&mut bytes, Limits::default()).unwrap();
    socket.write_all(&bytes).unwrap();
    bytes.clear();
    // Byte by byte: what follows AUTH is not ours.
    let auth = loop {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        bytes.extend_from_slice(&byte);
        if let Some(frame) = Codec::default().decode(&mut bytes).unwrap() {
            break frame;
        }
    };
    assert!(matches!(auth, Frame::Auth { .. }));
}

fn answer_hello(socket: &mut TcpStream) -> bool {
    let mut head = [0; HEADER_LEN];
    socket.read_exact(&mut head).unwrap();
    let header = ExtensionHeader::parse(&head).unwrap().unwrap();
    let mut body = vec![0; header.length - HEADER_LEN];
    socket.read_exact(&mut body).unwrap();
    let Ok(ClientFrame::Hello(hello)) = ClientFrame::parse(header.opcode, &body) else { panic!("not HELLO") };
    assert!(hello.next == 1, "a stream begins with its first message");
    let answer = BrokerHello { version: VERSION, flags: hello.flags, ..BrokerHello::default() };
    socket.write_all(&encoded(&BrokerFrame::Hello(answer))).unwrap();
    hello.flags.contains(Flags::CONFIRM)
}

pub(crate) fn encoded(frame: &BrokerFrame<'_>) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

pub(crate) fn peer_ident(n: usize) -> String {
    format!("{}{n}", &IDENT[..IDENT.len() - 1])
}

pub(crate) fn payload(number: u64) -> Bytes {
    let mut payload = [0xa5; PAYLOAD];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    Bytes::copy_from_slice(&payload)
}

pub(crate) fn batch(n: usize) -> BytesMut {
    let (ident, channel) = (Ident::new(peer_ident(n)).unwrap(), Channel::new(CHANNEL).unwrap());
    let mut bytes = BytesMut::new();
    for number in 0..BATCH as u64 {
        encode_publish(&mut bytes, Limits::default(), &ident, &channel, &payload(number)).unwrap();
    }
    assert_eq!(bytes.len(), BATCH * FRAME);
    bytes
}
