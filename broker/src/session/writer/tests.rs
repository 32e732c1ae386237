//! The writer at the end of a connection: what it still writes, and what it gives up.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::BytesMut;
use futures::future::poll_fn;
use hpfeeds::wire::{Frame, Limits};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    delivery::{batch::FrameBatch, context::DeliveryContext, outbox::EnqueueOutcome, policy::Rules},
    metrics::session::SessionMetrics,
    net::socket::Socket,
};

const FRAME: &[u8] = b"\0\0\0\x0a\x03\x01i\x01cx";
const ERROR: &[u8] = b"\0\0\0\x07\0no";
const TICK: Duration = Duration::from_nanos(1);

#[tokio::test]
async fn a_last_word_is_written_when_the_deadline_falls_between_two_frames() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut socket = Socket::new(listener.accept().await.unwrap().0, None).unwrap();
    let (_read, mut write) = socket.split();
    // The system takes no more.
    let mut filled = 0;
    while let Poll::Ready(n) = poll_fn(|cx| Poll::Ready(write.poll_write(cx, &[IoSlice::new(&[0; 4096])]))).await {
        filled += n.unwrap();
    }
    let rules = Rules {
        low_mark: 0,
        high_mark: 0,
        window: TICK,
        deadline: Duration::ZERO,
        ..crate::config::Config::default().rules()
    };
    let delivery = DeliveryContext::new(rules, Arc::default());
    let outbox = Outbox::new(SessionMetrics::for_test("test"), ([127, 0, 0, 1], 1).into(), delivery);
    let mut batch = FrameBatch::new([FRAME, FRAME].concat().into(), 2, 0);
    let mut writer = Writer::new(write, outbox.clone());
    let now = Instant::now();
    assert!(matches!(outbox.enqueue(&mut batch, || now), EnqueueOutcome::Queued { .. }));
    assert!(poll_fn(|cx| Poll::Ready(writer.poll_run(cx))).await.is_pending());
    // It took exactly the first frame.
    writer.advance(FRAME.len());
    assert!(matches!(outbox.enqueue(&mut batch, || now), EnqueueOutcome::Wait(_)));
    assert_eq!(outbox.enqueue(&mut batch, || now + TICK), EnqueueOutcome::Refused);
    assert!(matches!(poll_fn(|cx| writer.poll_run(cx)).await, WriteEnd::Slow));
    outbox.close(Some(Bytes::from_static(ERROR)));
    let mut got = vec![0; filled + ERROR.len()];
    let (end, read) = tokio::join!(poll_fn(|cx| writer.poll_run(cx)), client.read_exact(&mut got));
    read.unwrap();
    assert!(matches!(end, WriteEnd::Drained), "{end:?}");
    assert_eq!(got[filled..], *ERROR);
    assert_eq!(outbox.dropped(), 3);
}

#[tokio::test]
async fn a_last_word_that_comes_after_the_connection_broke_inside_a_frame_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut socket = Socket::new(listener.accept().await.unwrap().0, None).unwrap();
    let (_read, write) = socket.split();
    let delivery = DeliveryContext::new(crate::config::Config::default().rules(), Arc::default());
    let outbox = Outbox::new(SessionMetrics::for_test("test"), ([127, 0, 0, 1], 1).into(), delivery.clone());
    let mut frame = BytesMut::new();
    let (ident, channel) = ("i".parse().unwrap(), "c".parse().unwrap());
    let publish = Frame::Publish { ident, channel, payload: vec![0; 16 << 20].into() };
    publish.encode(&mut frame, Limits::new(u32::MAX)).unwrap();
    let mut batch = FrameBatch::new(frame.freeze(), 1, 16 << 20);
    assert!(matches!(outbox.enqueue(&mut batch, Instant::now), EnqueueOutcome::Queued { .. }));
    let mut writer = Writer::new(write, outbox.clone());
    assert!(poll_fn(|cx| Poll::Ready(writer.poll_run(cx))).await.is_pending());
    assert!(writer.written > ERROR.len());
    // With bytes that it has not read: a reset.
    drop(client);
    assert!(matches!(poll_fn(|cx| writer.poll_run(cx)).await, WriteEnd::Failed));
    outbox.close(Some(Bytes::from_static(ERROR)));
    assert!(matches!(poll_fn(|cx| writer.poll_run(cx)).await, WriteEnd::Failed));
    assert_eq!(delivery.buffered.load(Relaxed), 0);
}
