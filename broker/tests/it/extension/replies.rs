//! REFUSED and SUBACK.

use hpfeeds::wire::extension::{ClientFrame, Code, Flags, Mode, Position};
use hpfeeds_broker::Endpoint;

use crate::{
    extension_client::{Got, Scripted, ack, confirming, encoded, hello, refused, sub_ack},
    support::{Peer, builder, publish, start},
};

#[tokio::test]
async fn denied_messages_are_refused_and_counted_by_the_ack_behind_them() {
    let broker = start(builder()).await;
    let mut subscriber = Peer::subscriber(&broker, &["*"]).await;
    let (mut client, _) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    let said = [
        client.messages("a", 1..=2),
        client.messages("x", 3..=5),
        client.messages("a", [6]),
        client.messages("x", [7]),
        client.messages("y", [8]),
    ];
    client.send(&said.concat()).await;
    let before = client.until_ack(8).await;
    assert_eq!(
        before,
        [refused("alice", 3, 3, "x"), refused("alice", 7, 1, "x"), refused("alice", 8, 1, "y")],
        "neighbouring ones of a channel are one frame"
    );
    for n in [1u64, 2, 6] {
        assert_eq!(subscriber.next().await, Some(publish("alice", "a", n.to_be_bytes().to_vec())));
    }
    client.publish("a", [9]).await;
    assert_eq!(client.next().await, ack(9));
    assert_eq!(broker.stats().received_messages, 5, "the subscriber sent one");
}

#[tokio::test]
async fn the_last_refusals_of_a_stream_are_told_again_in_hello_from_the_next_number_on() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    // 70 ranges, of which the last 64 are kept.
    for n in 0..70u64 {
        client.publish(if n % 2 == 0 { "x" } else { "y" }, [n]).await;
        client.publish("a", [n]).await;
    }
    client.until_ack(140).await;
    drop(client);
    let (client, answer) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    let firsts: Vec<_> = answer.refused.iter().map(|range| (range.first, range.count, range.code)).collect();
    let expected: Vec<_> = (6..70u64).map(|n| (2 * n + 1, 1, Code::NOT_ALLOWED)).collect();
    assert_eq!((answer.decided, firsts), (140, expected));
    drop(client);
    let (_, answer) = Scripted::alice(broker.local_addr(), confirming(1, 137)).await;
    assert_eq!(answer.refused.iter().map(|range| range.first).collect::<Vec<_>>(), [137, 139]);
}

#[tokio::test]
async fn refusals_without_numbers_have_the_first_number_zero() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::alice(broker.local_addr(), hello(Flags::REPLIES, 1, 5)).await;
    client.publish("x", 1..=3).await;
    client.subscribe("b").await;
    let mut got = [client.next().await, client.next().await];
    got.sort_by_key(|got| matches!(got, Got::SubAck { .. }));
    assert_eq!(got, [refused("alice", 0, 3, "x"), sub_ack(Code::DONE, "b")]);
}

#[tokio::test]
async fn without_the_flag_for_replies_a_denied_channel_ends_the_connection_as_today() {
    let broker = start(builder()).await;
    for denied in [true, false] {
        let (mut client, answer) = Scripted::alice(broker.local_addr(), hello(Flags::CONFIRM, 1, 1)).await;
        client.publish("a", [1]).await;
        assert_eq!(client.next().await, ack(answer.decided + 1));
        let text = if denied {
            client.publish("x", [2]).await;
            "Authkey not allowed to pub here. ident=alice, chan=x"
        } else {
            client.subscribe("x").await;
            "Authkey not allowed to sub here. ident=alice, chan=x"
        };
        client.expect_error(text).await;
    }
}

#[tokio::test]
async fn a_message_in_another_name_ends_the_connection_in_any_case() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    let said = [client.messages("a", [1]), crate::support::bytes([publish("dev", "a", "not mine")])].concat();
    client.send(&said).await;
    assert_eq!(client.next().await, ack(1), "what was decided before it is acknowledged");
    client.expect_error("Invalid authkey in message, ident=dev").await;
}

#[tokio::test]
async fn an_endpoint_for_subscribers_refuses_messages_and_one_for_publishers_subscriptions() {
    let endpoint = |mode| Endpoint::tcp("127.0.0.1", 0).mode(mode);
    let broker = start(
        builder().endpoint(endpoint(hpfeeds_broker::Mode::Subscribe)).endpoint(endpoint(hpfeeds_broker::Mode::Publish)),
    )
    .await;
    let (mut client, _) = Scripted::dev(broker.local_addrs()[1], confirming(1, 1)).await;
    client.publish("c", [1]).await;
    assert_eq!(client.until_ack(1).await, [refused("dev", 1, 1, "c")]);
    let (mut client, _) = Scripted::dev(broker.local_addrs()[2], confirming(2, 1)).await;
    client.subscribe("c").await;
    assert_eq!(client.next().await, sub_ack(Code::NOT_ALLOWED, "c"));
}

#[tokio::test]
async fn every_subscription_and_its_end_is_answered_in_order() {
    let broker = start(builder().max_subscriptions(2)).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    for channel in ["one", "two", "two", "three"] {
        client.subscribe(channel).await;
    }
    client.unsubscribe("one").await;
    client.unsubscribe("never").await;
    client.subscribe("three").await;
    for (code, channel) in [
        (Code::DONE, "one"),
        (Code::DONE, "two"),
        (Code::DONE, "two"),
        (Code::TOO_MANY, "three"),
        (Code::DONE, "one"),
        (Code::DONE, "never"),
        (Code::DONE, "three"),
    ] {
        assert_eq!(client.next().await, sub_ack(code, channel));
    }
    // The one too many was not subscribed to before its place was free.
    client.publish("one", [1]).await;
    client.publish("three", [2]).await;
    let payload = |n: u64| n.to_be_bytes().to_vec().into();
    // The delivery comes before the ACK or behind it.
    let mut got = client.until_ack(2).await;
    if got.is_empty() {
        got.push(client.next().await);
    }
    assert_eq!(got, [Got::Publish("three".to_owned(), payload(2))]);
}

#[tokio::test]
async fn denied_subscriptions_do_not_end_the_connection() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::alice(broker.local_addr(), confirming(1, 1)).await;
    for (channel, code) in [("a", Code::NOT_ALLOWED), ("b", Code::DONE), ("c*", Code::NOT_ALLOWED)] {
        client.subscribe(channel).await;
        assert_eq!(client.next().await, sub_ack(code, channel));
    }
    assert_eq!(broker.stats().refused, 0);
}

#[tokio::test]
async fn a_name_that_cannot_be_echoed_ends_the_connection_as_today() {
    let broker = start(builder()).await;
    for (opcode, name) in [(4, &b""[..]), (4, &[b'n'; 256]), (4, b"\xff"), (5, b"\xff")] {
        let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
        let length = u32::try_from(5 + 4 + name.len()).unwrap().to_be_bytes();
        client.send(&[&length[..], &[opcode], b"\x03dev", name].concat()).await;
        assert!(matches!(client.next().await, Got::Error(text) if text.contains("channel")), "{opcode} {name:?}");
        assert_eq!(client.next().await, Got::End);
    }
}

#[tokio::test]
async fn subscribe_from_is_a_subscription_when_it_is_live_and_has_no_mailbox_to_go_to() {
    let broker = start(builder()).await;
    let (mut client, _) = Scripted::dev(broker.local_addr(), confirming(1, 1)).await;
    for (mode, mailbox, code) in [
        (Mode::LIVE, "", Code::DONE),
        (Mode::LIVE, "box", Code::NO_MAILBOX),
        (Mode::LAST_VALUE, "", Code::NO_MAILBOX),
        (Mode::CURSOR, "", Code::NO_MAILBOX),
    ] {
        let frame = ClientFrame::SubscribeFrom { mode, position: Position::NONE, mailbox, channel: "c" };
        client.send(&encoded(&frame)).await;
        assert_eq!(client.next().await, sub_ack(code, "c"));
    }
    client.publish("c", [1]).await;
    let got = [client.next().await, client.next().await];
    assert!(got.contains(&ack(1)) && got.iter().any(|got| matches!(got, Got::Publish(..))), "{got:?}");
}
