//! Strangers, scrapes and reloads.

use std::{sync::Arc, time::Duration};

use hpfeeds::wire::Frame;
use socket2::SockRef;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::sleep};

use crate::{
    Context,
    ledger::message,
    process::{SECRET, SPARE, STRANGER, users},
    support::{Peer, subscribe, within},
};

/// Unwelcome clients: wrong secrets, unknown idents, garbage, silence, resets.
pub(crate) async fn strangers(context: Arc<Context>) {
    for turn in 0.. {
        if context.is_over().await {
            return;
        }
        let mut stream = context.process.connect_from(STRANGER).await;
        match turn % 6 {
            ident @ 0..2 => {
                let ident = ["p.slow", "nobody\r\n"][ident];
                let peer = Peer::greeted(stream).await.authenticate(ident, "wrong").await;
                peer.expect_error(format!("Authentication failed for {ident}")).await;
                continue;
            }
            // It may be turned away before.
            2 => _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await,
            3 => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
            4 => {
                let mut tls = within(TcpStream::connect(context.process.tls)).await.unwrap();
                tls.write_all(b"\x16\x03\x01garbage").await.unwrap();
            }
            _ => {}
        }
        drop(stream);
        sleep(Duration::from_millis(50)).await;
    }
}

/// A client that publishes where it may not.
pub(crate) async fn denied(context: Arc<Context>) {
    while !context.is_over().await {
        let mut peer = context.process.login("s.slow").await;
        let run = context.ledger.open();
        peer.send(message("s.slow", "forbidden", run, 0, 100)).await;
        assert!(matches!(peer.next().await, Some(Frame::Error { .. })));
        assert_eq!(peer.next().await, None);
        sleep(Duration::from_millis(200)).await;
    }
}

/// Asks for metrics, and sometimes does not wait for them.
pub(crate) async fn scraper(context: Arc<Context>) {
    for turn in 0.. {
        if context.is_over().await {
            return;
        }
        context.process.scrape().await;
        if turn % 4 == 0 {
            let mut stream = within(TcpStream::connect(context.process.exporter())).await.unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").await.unwrap();
            if turn % 8 == 0 {
                stream.write_all(b"\r\n").await.unwrap();
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Replaces the keys: once by half a file, and once without that of somebody who is connected.
pub(crate) async fn keys(context: Arc<Context>) {
    let process = &context.process;
    while !context.is_over().await {
        process.write_keys("{\"p.slow\": {");
        for _ in 0..3 {
            process.signal("-HUP").await;
        }
        sleep(Duration::from_millis(100)).await;
        process.write_keys(&users(true));
        process.signal("-HUP").await;
        let mut spare = loop {
            match spare(&context).await {
                Some(peer) => break peer,
                None => sleep(Duration::from_millis(50)).await,
            }
        };
        process.write_keys(&users(false));
        for _ in 0..5 {
            process.signal("-HUP").await;
        }
        assert!(
            matches!(spare.next().await, Some(Frame::Error { message }) if message == "Authentication failed for spare")
        );
        assert_eq!(spare.next().await, None);
    }
    process.write_keys(&users(true));
    process.signal("-HUP").await;
}

/// Whose key comes and goes; `None` while it is not there.
async fn spare(context: &Context) -> Option<Peer> {
    let stream = context.process.connect_from(SPARE).await;
    let mut peer = Peer::greeted(stream).await.authenticate("spare", SECRET).await;
    let (run, channel) = (context.ledger.open(), "echo.spare");
    let sent = message("spare", channel, run, 0, 16);
    let mut bytes = crate::support::bytes([subscribe("spare", channel), sent.clone()]);
    // Nothing is answered to the end of this until the first is acted on; it may be cut off before.
    let _ = peer.framed.get_mut().write_all(&bytes).await;
    bytes.clear();
    match peer.next().await {
        Some(Frame::Publish { .. }) => {
            context.ledger.published(run, 1, 1);
            context.ledger.due(1, 1, 1);
            Some(peer)
        }
        _ => None,
    }
}

/// Replaces the certificate, in two steps, and at times says so.
pub(crate) async fn certificates(context: Arc<Context>) {
    for turn in 0.. {
        if context.is_over().await {
            return;
        }
        context.process.issue();
        if turn % 2 == 0 {
            context.process.signal("-HUP").await;
        }
        sleep(Duration::from_secs(1)).await;
    }
}
