use std::{cell::Cell, future::poll_fn, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::join_all, stream::FuturesUnordered};
use hpfeeds::{
    ClientSession, SessionEvent, SessionState,
    wire::extension::{BrokerHello, Code, Flags, Level, RefusedRange},
};
use tokio::time::{Instant, sleep};

use super::peer::{Heard, Peer, grants, script};
use crate::script::{Script, events_so_far};

/// Publishes numbers, each with a receipt, and tells their outcomes in order.
async fn publish(session: &ClientSession, numbers: std::ops::RangeInclusive<u64>) -> Vec<Result<u64, String>> {
    let waiting: FuturesUnordered<_> =
        numbers.map(|n| async move { (n, session.publish_confirmed("x", n.to_string()).await) }).collect();
    let mut outcomes: Vec<_> = waiting.collect().await;
    outcomes.sort_by_key(|(n, _)| *n);
    let number = |receipt: hpfeeds::Receipt| receipt.position().number;
    outcomes.into_iter().map(|(_, outcome)| outcome.map(number).map_err(|error| error.to_string())).collect()
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_receipt_comes_with_the_acknowledgement_that_covers_it() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, hello) = script.greet().await;
    peer.answer(grants(&hello, Level::STORED)).await;
    let mut first = Box::pin(session.publish_confirmed("x", "1"));
    let mut second = Box::pin(session.publish_confirmed("x", "2"));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    assert_eq!(peer.payloads(2).await, numbers(1..=2));
    assert_eq!(session.stats().unconfirmed, 2);
    peer.ack(1).await;
    let receipt = first.await.unwrap();
    assert_eq!((receipt.position().number, receipt.level()), (1, Level::STORED));
    assert_eq!(receipt.position().stream, hello.stream);
    assert!((&mut second).now_or_never().is_none());
    // Older numbers say nothing.
    peer.ack(0).await;
    peer.ack(2).await;
    assert_eq!(second.await.unwrap().position().number, 2);
    let stats = session.stats();
    assert_eq!((stats.unconfirmed, stats.queued, stats.confirmed, stats.oldest), (0, 0, 2, None));
}

#[tokio::test(start_paused = true)]
async fn receipts_that_come_together_cost_one_poll_each() {
    const MANY: u64 = 2000;
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let polls = Cell::new(0);
    let all = join_all((1..=MANY).map(|number| {
        let mut confirmed = Box::pin(session.publish_confirmed("x", number.to_string()));
        let polls = &polls;
        poll_fn(move |cx| {
            polls.set(polls.get() + 1);
            confirmed.as_mut().poll(cx)
        })
    }));
    let serve = async {
        peer.payloads(2000).await;
        peer.ack(MANY).await;
    };
    let (outcomes, ()) = tokio::join!(all, serve);
    assert!(outcomes.into_iter().map(|receipt| receipt.unwrap().position().number).eq(1..=MANY));
    assert_eq!(polls.get(), 2 * MANY, "one to queue it, one for the receipt");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_acknowledged_in_parts_also_while_it_is_written() {
    // The pipe takes a part of one batch.
    let (mut script, builder) = Script::at_own_address(1000);
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let serve = async {
        for n in 1..=400 {
            peer.expect_publish(&n.to_string()).await;
            if n % 7 == 0 {
                peer.ack(n).await;
            }
        }
        peer.ack(400).await;
    };
    let (outcomes, ()) = tokio::join!(publish(&session, 1..=400), serve);
    assert_eq!(outcomes, (1..=400).map(Ok).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_is_sent_again_and_nothing_else() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, hello) = script.confirm(0).await;
    let serve = async {
        assert_eq!(peer.payloads(6).await, numbers(1..=6));
        peer.ack(2).await;
        sleep(Duration::from_millis(10)).await;
        drop(peer);
        // The broker had decided 4, and the acknowledgement was lost.
        let (mut peer, again) = script.greet().await;
        assert_eq!((again.stream, again.next), (hello.stream, 3));
        peer.answer(BrokerHello { decided: 4, ..grants(&again, Level::ROUTED) }).await;
        assert_eq!(peer.payloads(2).await, numbers(5..=6));
        drop(peer);
        // One that has forgotten the stream gets all that is not confirmed.
        let (mut peer, again) = script.confirm(0).await;
        assert_eq!(again.next, 5);
        assert_eq!(peer.payloads(2).await, numbers(5..=6));
        peer.ack(6).await;
        peer
    };
    let (outcomes, mut peer) = tokio::join!(publish(&session, 1..=6), serve);
    assert_eq!(outcomes, (1..=6).map(Ok).collect::<Vec<_>>());
    assert_eq!((session.stats().resent, session.unconfirmed()), (4, 0));
    session.publish("x", "7").await.unwrap();
    peer.expect_publish("7").await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_heartbeats_that_says_nothing_is_left_and_gets_the_messages_again() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let flags = Flags::CONFIRM | Flags::REPLIES;
    let (mut peer, hello) = script.greet().await;
    peer.answer(BrokerHello { flags, ..grants(&hello, Level::ROUTED) }).await;
    // With nothing to confirm it may be silent for as long as it likes.
    sleep(Duration::from_secs(3600)).await;
    let serve = async {
        assert_eq!(peer.payloads(3).await, numbers(1..=3));
        let since = Instant::now();
        // What it says is a sign of life.
        sleep(Duration::from_secs(100)).await;
        peer.ack(1).await;
        peer.expect_eof().await;
        let silent = since.elapsed().as_secs();
        assert!((219..=222).contains(&silent), "{silent}");
        let (mut peer, again) = script.confirm(1).await;
        assert_eq!((again.stream, again.next), (hello.stream, 2));
        assert_eq!(peer.payloads(2).await, numbers(2..=3));
        peer.ack(3).await;
        peer
    };
    let (outcomes, _peer) = tokio::join!(publish(&session, 1..=3), serve);
    assert_eq!(outcomes, (1..=3).map(Ok).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_was_cut_is_sent_once_and_has_one_number() {
    let (mut script, builder) = Script::at_own_address(100);
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let serve = async {
        assert_eq!(peer.payloads(9).await, numbers(1..=9));
        drop(peer);
        let (mut peer, again) = script.confirm(9).await;
        assert_eq!(again.next, 1);
        assert_eq!(peer.payloads(31).await, numbers(10..=40));
        peer.ack(40).await;
        peer
    };
    let (outcomes, _peer) = tokio::join!(publish(&session, 1..=40), serve);
    assert_eq!(outcomes, (1..=40).map(Ok).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_fails_its_publisher_and_nothing_else() {
    let (mut script, builder) = script();
    let mut session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let serve = async {
        assert_eq!(peer.payloads(4).await, numbers(1..=4));
        peer.refuse(2, 2, "x").await;
        peer.ack(4).await;
    };
    let (outcomes, ()) = tokio::join!(publish(&session, 1..=4), serve);
    assert_eq!((&outcomes[0], &outcomes[3]), (&Ok(1), &Ok(4)));
    for refused in &outcomes[1..3] {
        assert!(refused.as_ref().is_err_and(|text| text.contains("not for you")), "{refused:?}");
    }
    let events = events_so_far(&session);
    let told = |event: &SessionEvent| matches!(event, SessionEvent::Refused { channel: Some(channel), messages: 2, .. } if channel == "x");
    assert_eq!(events.iter().filter(|event| told(event)).count(), 1, "{events:?}");
    // No quarantine: the next one is sent.
    let (outcomes, ()) = tokio::join!(publish(&session, 5..=5), async {
        peer.expect_publish("5").await;
        peer.ack(5).await;
    });
    assert_eq!(outcomes, [Ok(5)]);
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, flushed.refused, flushed.unconfirmed), (3, 2, 0));
    // Closing says that something was refused.
    let (closed, ()) = tokio::join!(session.close(), async {
        peer.expect_eof().await;
        drop(peer);
    });
    assert!(closed.unwrap_err().is_denied());
}

#[tokio::test(start_paused = true)]
async fn refusals_that_were_lost_come_with_the_next_hello() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let serve = async {
        assert_eq!(peer.payloads(3).await, numbers(1..=3));
        drop(peer);
        let (mut peer, hello) = script.greet().await;
        let refused = vec![RefusedRange { first: 2, count: 5, code: Code::NOT_ALLOWED }];
        peer.answer(BrokerHello { decided: 2, refused, ..grants(&hello, Level::ROUTED) }).await;
        peer.expect_publish("3").await;
        peer.ack(3).await;
        peer
    };
    let (outcomes, _peer) = tokio::join!(publish(&session, 1..=3), serve);
    assert!(outcomes[0] == Ok(1) && outcomes[1].is_err() && outcomes[2] == Ok(3), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flush_counts_what_was_accepted_before_it() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    // Nothing to wait for, with no broker.
    assert_eq!(session.flush().now_or_never().unwrap().unwrap(), hpfeeds::Flushed::default());
    let (mut peer, _) = script.confirm(0).await;
    for n in 1..=3 {
        session.publish("x", n.to_string()).await.unwrap();
    }
    let mut early = Box::pin(session.flush());
    assert!((&mut early).now_or_never().is_none());
    assert_eq!(peer.payloads(3).await, numbers(1..=3));
    // Behind messages that the driver has.
    let mut late = Box::pin(session.flush());
    assert!((&mut late).now_or_never().is_none());
    session.publish("x", "4").await.unwrap();
    peer.expect_publish("4").await;
    peer.refuse(1, 1, "x").await;
    peer.ack(2).await;
    sleep(Duration::from_secs(1)).await;
    assert!((&mut early).now_or_never().is_none());
    peer.refuse(4, 1, "x").await;
    peer.ack(4).await;
    for flushed in [early.await.unwrap(), late.await.unwrap()] {
        assert_eq!((flushed.confirmed, flushed.refused), (2, 1));
    }
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, flushed.refused), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_queue_covers_what_is_not_confirmed() {
    let (mut script, builder) = script();
    let session = builder.send_queue(1).start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let publisher = session.publisher();
    let free = publisher.free();
    session.publish("x", vec![b'1'; 600_000]).await.unwrap();
    peer.heard().await;
    assert!(publisher.free() < free - 600_000);
    let second = vec![b'2'; 600_000];
    assert!(publisher.try_publish("x", second.clone()).unwrap_err().is_full());
    peer.ack(1).await;
    session.publish("x", second).await.unwrap();
    peer.heard().await;
    peer.ack(2).await;
    session.flush().await.unwrap();
    assert_eq!(publisher.free(), free);
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_the_extension_gets_once_more_what_another_had_not_confirmed() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let serve = async {
        assert_eq!(peer.payloads(2).await, numbers(1..=2));
        peer.ack(1).await;
        sleep(Duration::from_millis(10)).await;
        drop(peer);
        let mut peer = script.login().await;
        peer.expect_publish("2").await;
        peer
    };
    let (outcomes, peer) = tokio::join!(publish(&session, 1..=2), serve);
    assert_eq!(outcomes[0], Ok(1));
    assert!(outcomes[1].as_ref().is_err_and(|text| text.contains("may have arrived")), "{outcomes:?}");
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, flushed.unconfirmed), (1, 1));
    let error = session.publish_confirmed("x", "3").await.unwrap_err();
    assert!(error.is_not_confirmable() && !error.may_have_arrived(), "{error}");
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn flush_waits_for_the_socket_where_nothing_confirms() {
    let (mut script, builder) = Script::with_pipe(100);
    let session = builder.start().unwrap();
    let mut peer = script.login().await;
    for n in 0..20 {
        session.publish("x", n.to_string()).await.unwrap();
    }
    let mut flush = Box::pin(session.flush());
    sleep(Duration::from_secs(1)).await;
    assert!((&mut flush).now_or_never().is_none(), "the pipe is full");
    for n in 0..20 {
        peer.expect_publish(&n.to_string()).await;
    }
    let flushed = flush.await.unwrap();
    assert_eq!((flushed.unconfirmed, flushed.confirmed), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_session_tells_whether_a_message_may_have_arrived() {
    let (mut script, builder) = Script::at_own_address(1000);
    let mut session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let publisher = session.publisher();
    let mut written = Box::pin(publisher.publish_confirmed("x", "1"));
    let mut not_written = Box::pin(publisher.publish_confirmed("x", vec![b'2'; 5000]));
    let mut flush = Box::pin(publisher.flush());
    assert!((&mut written).now_or_never().is_none() && (&mut not_written).now_or_never().is_none());
    assert!((&mut flush).now_or_never().is_none());
    peer.expect_publish("1").await;
    let error = session.close().await.unwrap_err();
    assert_eq!(error.unsent(), 1, "{error}");
    let error = written.await.unwrap_err();
    assert!(error.may_have_arrived() && error.is_closed(), "{error}");
    let error = not_written.await.unwrap_err();
    assert!(!error.may_have_arrived() && error.is_closed(), "{error}");
    assert!(flush.await.unwrap_err().is_closed());
    drop(peer);
}

/// Closes while a broker has read everything, and has acknowledged so much.
async fn close(acknowledged: u64, ends: bool) -> (ClientSession, Result<(), hpfeeds::Error>) {
    let (mut script, builder) = script();
    let mut session = builder.max_retries(0).start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    for n in 1..=2 {
        session.publish("x", n.to_string()).await.unwrap();
    }
    assert_eq!(peer.payloads(2).await, numbers(1..=2));
    let mut closing = Box::pin(session.close());
    assert!((&mut closing).now_or_never().is_none());
    peer.expect_eof().await;
    peer.ack(acknowledged).await;
    let peer = if ends { None::<Peer> } else { Some(peer) };
    let closed = closing.await;
    drop(peer);
    (session, closed)
}

#[tokio::test(start_paused = true)]
async fn closing_is_confirmed_by_acknowledgements_and_the_end_of_the_stream() {
    close(2, true).await.1.unwrap();
    // Everything is acknowledged, and the end does not come.
    close(2, false).await.1.unwrap();
    // An end alone says nothing about what a broker that acknowledges has not acknowledged.
    let (session, closed) = close(1, true).await;
    let error = closed.unwrap_err();
    assert_eq!(error.unconfirmed(), 1, "{error}");
    assert_eq!((session.stats().unconfirmed, session.unconfirmed()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn closing_sends_again_what_a_broken_connection_had_not_confirmed() {
    let (mut script, builder) = script();
    let mut session = builder.close_timeout(Duration::from_secs(60)).start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    session.publish("x", "1").await.unwrap();
    peer.expect_publish("1").await;
    let (closed, ()) = tokio::join!(session.close(), async {
        drop(peer);
        let (mut peer, _) = script.confirm(0).await;
        peer.expect_publish("1").await;
        peer.ack(1).await;
        peer.expect_eof().await;
    });
    closed.unwrap();
    assert_eq!(session.stats().resent, 1);
}

#[tokio::test(start_paused = true)]
async fn receipts_that_nobody_waits_for_cost_nothing() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let mut state = session.state();
    let (mut peer, _) = script.confirm(0).await;
    state.wait_for(|state| *state == SessionState::Connected).await.unwrap();
    for n in 1..=3 {
        assert!(session.publish_confirmed("x", n.to_string()).now_or_never().is_none());
    }
    assert_eq!(peer.payloads(3).await, numbers(1..=3));
    peer.ack(3).await;
    let flushed = session.flush().await.unwrap();
    assert_eq!(flushed.confirmed, 3);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_too_long_for_the_broker_are_refused_before_they_are_sent() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    for payload in [vec![b'1'; 10], vec![b'2'; 2000], vec![b'3'; 20_000], vec![b'4'; 10]] {
        session.publish("x", payload).await.unwrap();
    }
    let receipt = session.publish_confirmed("x", vec![b'5'; 2000]);
    let serve = async {
        let (mut peer, hello) = script.greet().await;
        peer.answer(BrokerHello { largest_message: Some(1000), ..grants(&hello, Level::ROUTED) }).await;
        peer.expect_publish("1111111111").await;
        peer.expect_publish("4444444444").await;
        peer.ack(2).await;
        peer
    };
    let (receipt, _peer) = tokio::join!(receipt, serve);
    let error = receipt.unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("1000"), "{error}");
    let error = session.publish("x", vec![7; 2000]).await.unwrap_err();
    assert!(error.is_usage(), "{error}");
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, session.stats().refused), (2, 3));
    assert!(events_so_far(&session).iter().any(|event| matches!(event, SessionEvent::Refused { messages: 3, .. })));
    let free = session.publisher().free();
    assert_eq!(free, 8 << 20, "its room is free");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_numbered_for_a_larger_broker_is_given_up_in_its_place() {
    let (mut script, builder) = script();
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    let sizes = [10, 2000, 10, 2000, 20_000, 10];
    let waiting: FuturesUnordered<_> = (1..=6_u64)
        .zip(sizes)
        .map(|(n, size)| {
            session.publish_confirmed("x", vec![b'0' + u8::try_from(n).unwrap(); size]).map(move |it| (n, it))
        })
        .collect();
    let serve = async {
        peer.payloads(6).await;
        drop(peer);
        let (mut peer, mut hello) = script.greet().await;
        let mut decided = 0;
        for next in [1, 3, 5] {
            assert_eq!(hello.next, next);
            peer.answer(BrokerHello { largest_message: Some(1000), decided, ..grants(&hello, Level::ROUTED) }).await;
            if next < 5 {
                peer.expect_publish(&next.to_string().repeat(10)).await;
                peer.ack(next).await;
                decided = next;
                let Heard::Hello(again) = peer.heard().await else { panic!("not HELLO") };
                hello = again;
            }
        }
        // The fifth is the first of those that are left.
        let Heard::Hello(again) = peer.heard().await else { panic!("not HELLO") };
        assert_eq!((again.next, again.stream), (6, hello.stream));
        peer.answer(BrokerHello { largest_message: Some(1000), decided, ..grants(&again, Level::ROUTED) }).await;
        peer.expect_publish("6666666666").await;
        peer.ack(6).await;
        peer
    };
    let (mut outcomes, _peer) = tokio::join!(waiting.collect::<Vec<_>>(), serve);
    outcomes.sort_by_key(|(n, _)| *n);
    for (n, outcome) in outcomes {
        assert_eq!(outcome.is_ok(), matches!(n, 1 | 3 | 6), "{n}: {outcome:?}");
    }
    let flushed = session.flush().await.unwrap();
    assert_eq!((flushed.confirmed, flushed.refused, script.dials()), (3, 3, 2));
    assert_eq!(session.publisher().free(), 8 << 20);
}

#[tokio::test(start_paused = true)]
async fn confirmed_messages_that_are_polled_together_keep_their_order() {
    let (mut script, builder) = Script::at_own_address(4 << 20);
    let session = builder.start().unwrap();
    let (mut peer, _) = script.confirm(0).await;
    // More than a publisher without a receipt may queue before others run.
    let payload = |n: u64| format!("{n} {}", "x".repeat(1000));
    let waiting = futures::future::join_all((1..=1000).map(|n| session.publish_confirmed("x", payload(n))));
    let serve = async {
        for n in 1..=1000 {
            peer.expect_publish(&payload(n)).await;
        }
        peer.ack(1000).await;
    };
    let (receipts, ()) = tokio::join!(waiting, serve);
    let numbers = receipts.into_iter().map(|receipt| receipt.unwrap().position().number);
    assert!(numbers.eq(1..=1000));
}
