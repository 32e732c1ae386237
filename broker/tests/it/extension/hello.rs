//! HELLO: where it is taken, and what is granted.

use hpfeeds::wire::{
    Limits, Opcode,
    extension::{ClientFrame, ClientHello, Flags, StreamId},
};
use hpfeeds_broker::Endpoint;

use crate::{
    extension_client::{Got, Scripted, ack, confirming, encoded, hello, stream_id},
    support::{Peer, builder, bytes, publish, start, within},
};

#[tokio::test]
async fn the_answer_says_what_is_granted_and_how_long_messages_may_be() {
    let broker = start(builder().max_message(5000)).await;
    let (_, answer) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    assert_eq!((answer.version, answer.level, answer.heartbeat, answer.decided), (1, 0, 0, 0));
    assert_eq!(answer.flags, Flags::CONFIRM | Flags::REPLIES, "the stream is new");
    assert_eq!(answer.largest_message, Some(Limits::new(5000).of(Opcode::Publish)));
    assert!(answer.software.starts_with("hpfeeds-broker/"), "{}", answer.software);
    assert_eq!(answer.refused, []);
    // A broker keeps its identifier, and no two have the same.
    let (_, second) = Scripted::dev(broker.local_addr(), confirming(2, 1)).await;
    let other = start(builder()).await;
    let (_, third) = Scripted::dev(other.local_addr(), confirming(2, 1)).await;
    assert_eq!(second.node, answer.node);
    assert_ne!(third.node, answer.node);
}

#[tokio::test]
async fn the_version_is_the_lower_one_and_flags_that_nobody_knows_are_not_granted() {
    let broker = start(builder()).await;
    for (version, expected) in [(1, 1), (2, 1), (255, 1)] {
        let asked = ClientHello { version, ..hello(Flags::from_bits(255), version, 1) };
        let (_, answer) = Scripted::dev(broker.local_addr(), asked).await;
        assert_eq!(answer.version, expected);
        assert!(answer.flags.contains(Flags::CONFIRM | Flags::REPLIES));
        for flag in [Flags::STORE, Flags::ORIGIN, Flags::KNOWN] {
            assert!(!answer.flags.contains(flag), "{:?}", answer.flags);
        }
    }
}

#[tokio::test]
async fn hello_may_come_in_pieces_behind_auth_and_at_any_later_time() {
    let broker = start(builder()).await;
    // Longer than the buffer of the handshake.
    let software = "s".repeat(255);
    let asked = ClientHello { software: &software, ..confirming(3, 1) };
    let mut piecemeal = Scripted::connect(broker.local_addr()).await;
    let mut all = piecemeal.auth("dev", "dev");
    let mut said = encoded(&ClientFrame::Hello(asked));
    // Bytes that a newer client may add, to the longest frame.
    said.extend([9, (4096 - said.len() - 3).to_be_bytes()[6], (4096 - said.len() - 3).to_be_bytes()[7]]);
    said.resize(4096, 0);
    said[..4].copy_from_slice(&4096u32.to_be_bytes());
    all.extend(said);
    all.extend(piecemeal.messages("c", [1]));
    for piece in all.chunks(700) {
        piecemeal.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(piecemeal.answer().await.decided, 0);
    assert_eq!(piecemeal.next().await, ack(1));

    let mut later = Scripted::connect(broker.local_addr()).await;
    let auth = later.auth("dev", "dev");
    later.send(&auth).await;
    later.subscribe("c").await;
    later.publish("c", [7]).await;
    assert_eq!(later.next().await, Got::Publish("c".to_owned(), 7u64.to_be_bytes().to_vec().into()));
    later.hello(confirming(4, 1)).await;
    assert_eq!(later.answer().await.decided, 0, "messages before HELLO have no numbers");
    later.publish("d", [8]).await;
    assert_eq!(later.next().await, ack(1));
}

#[tokio::test]
async fn without_an_offer_or_before_auth_hello_is_an_unknown_opcode_as_today() {
    let without = Endpoint::tcp("127.0.0.1", 0).extensions(false);
    let broker = start(builder().endpoint(without)).await;
    let silent = start(builder().extensions(false)).await;
    for addr in [broker.local_addrs()[1], silent.local_addr()] {
        let mut client = Scripted::connect(addr).await;
        assert_eq!(client.name, "hpfeeds");
        let mut said = client.auth("dev", "dev");
        said.extend(encoded(&ClientFrame::Hello(confirming(1, 1))));
        client.send(&said).await;
        client.expect_error("unknown opcode 128").await;
    }
    let mut early = Scripted::connect(broker.local_addr()).await;
    early.hello(confirming(1, 1)).await;
    early.expect_error("unknown opcode 128").await;
}

#[tokio::test]
async fn before_hello_every_other_frame_of_the_extension_is_an_unknown_opcode() {
    let broker = start(builder()).await;
    for opcode in (0x81..=0x88).chain([6, 0x89, 0xff]) {
        for length in [[0, 0, 0, 6], [0, 1, 0, 0]] {
            let mut peer = Peer::dev(&broker).await;
            peer.send_raw(&[&length[..], &[opcode, 0]].concat()).await;
            peer.expect_error(format!("unknown opcode {opcode}")).await;
        }
    }
}

#[tokio::test]
async fn a_malformed_frame_of_the_extension_ends_the_connection_and_says_why() {
    let broker = start(builder()).await;
    for (said, text) in [
        (&b"\0\0\0\x05\x84"[..], "reserved byte in HEARTBEAT frame is cut short"),
        (b"\0\0\0\x0d\x81\0\0\0\0\0\0\0\x01", "ACK frame came from the side that never sends it"),
        (b"\0\0\x10\x01\x84", "HEARTBEAT frame of 4097 bytes is too long: the limit is 4096 bytes"),
        (b"\0\0\0\x06\x89\0", "unknown opcode 137"),
        (b"\0\0\0\x04\x84", "frame length 4 is too short: a frame has at least 5 bytes"),
    ] {
        let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
        client.send(said).await;
        let Got::Error(error) = client.next().await else { panic!("no ERROR: {text}") };
        assert_eq!(error, text);
        assert_eq!(client.next().await, Got::End);
    }
}

/// A stream id of zeros stands for none.
#[tokio::test]
async fn nothing_is_numbered_without_a_stream_id_or_without_the_flag() {
    let broker = start(builder()).await;
    let asked = [
        ClientHello { stream: StreamId::default(), ..confirming(1, 1) },
        hello(Flags::REPLIES, 2, 1),
        hello(Flags::default(), 3, 1),
    ];
    for asked in asked {
        let (mut client, answer) = Scripted::dev(broker.local_addr(), asked).await;
        assert_eq!((answer.flags, answer.decided), (asked.flags & Flags::REPLIES, 0));
        client.publish("c", 1..=3).await;
        client.finish().await;
        assert_eq!(client.next().await, Got::End);
    }
    assert_eq!(broker.stats().received_messages, 9);
}

/// Peers that do not know the extension pay nothing for it and see none of it.
#[tokio::test]
async fn clients_without_the_extension_see_none_of_it() {
    let broker = start(builder()).await;
    let mut old = Peer::subscriber(&broker, &["c"]).await;
    let (mut new, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    new.subscribe("c").await;
    assert!(matches!(new.next().await, Got::SubAck { .. }));
    new.publish("c", [1]).await;
    old.send(publish("dev", "c", "from the old one")).await;
    let frames = [publish("dev", "c", 1u64.to_be_bytes().to_vec()), publish("dev", "c", "from the old one")];
    let mut received = vec![0; bytes(frames.clone()).len()];
    let (stream, buffered) = (old.framed.get_mut(), 0);
    within(tokio::io::AsyncReadExt::read_exact(stream, &mut received[buffered..])).await.unwrap();
    let reversed: Vec<_> = frames.iter().rev().cloned().collect();
    assert!(received == bytes(frames) || received == bytes(reversed), "{received:?}");
    assert_eq!(stream_id(1).as_bytes(), &[1; 16]);
}
