use std::time::Duration;

use hpfeeds::SessionState;
use tokio::time::sleep;

use crate::script::Script;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn any_error_before_the_eof_is_not_a_confirmation() {
    for text in [
        "PUBLISH frame of 2000000 bytes is too long: the limit is 1048581 bytes",
        "Invalid authkey in message, ident=me",
        "First message was not AUTH",
    ] {
        let (mut script, builder) = Script::new();
        let mut session = builder.start().unwrap();
        session.publish("x", "1").await.unwrap();
        session.publish("x", "2").await.unwrap();
        let serve = async {
            let mut peer = script.login().await;
            peer.expect_publish("1").await;
            peer.error(text).await;
            // Closes; "2" was never acted on.
        };
        let (closed, ()) = tokio::join!(session.close(), serve);
        let error = closed.expect_err("close() confirmed messages that the broker refused");
        assert!(error.is_incomplete() && error.to_string().contains(text), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_rejection_is_not_a_confirmation() {
    let (mut script, builder) = Script::new();
    let mut session = builder.start().unwrap();
    session.publish("x", "1").await.unwrap();
    let serve = async {
        // The broker does not know the key, and closes without a word, as some do.
        drop(script.login().await);
    };
    let (closed, ()) = tokio::join!(session.close(), serve);
    let error = closed.expect_err("close() confirmed a message on a connection whose key was refused");
    assert!(error.is_rejected() && error.is_incomplete(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn messages_lost_before_close_are_counted_and_do_not_fail_a_later_connection() {
    for comes_back in [false, true] {
        let (mut script, builder) = Script::new();
        let mut session = builder.start().unwrap();
        let mut state = session.state();
        let free = session.publisher().free();
        session.publish("x", "precious").await.unwrap();
        let peer = script.login().await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(session.publisher().free(), free, "it is written");
        // The broker dies without having read it.
        script.set_down(true);
        drop(peer);
        state.wait_for(|state| matches!(state, SessionState::Waiting { .. })).await.unwrap();
        if comes_back {
            script.set_down(false);
            let mut peer = script.login().await;
            state.wait_for(|state| *state == SessionState::Connected).await.unwrap();
            let (closed, ()) = tokio::join!(session.close(), async {
                peer.expect_eof().await;
                drop(peer);
            });
            closed.expect("the new connection has nothing that is not read");
        } else {
            let error = session.close().await.expect_err("close() says that the broker has read everything");
            assert_eq!(error.unconfirmed(), 1);
        }
        assert_eq!(session.unconfirmed(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn close_speaks_of_the_last_connection() {
    let (mut script, builder) = Script::new();
    let mut session = builder.close_timeout(MINUTE).start().unwrap();
    let mut state = session.state();
    for n in 1..=3 {
        session.publish("x", n.to_string()).await.unwrap();
        let mut peer = script.login().await;
        peer.expect_publish(&n.to_string()).await;
        drop(peer);
        state.wait_for(|state| matches!(state, SessionState::Waiting { .. })).await.unwrap();
        assert_eq!(session.unconfirmed(), n);
    }
    // A connection that is refused takes nothing back.
    script.login().await.error("Authentication failed for me").await;
    script.set_down(true);
    let error = session.close().await.unwrap_err();
    assert_eq!((error.unconfirmed(), session.unconfirmed()), (1, 3), "{error}");
}

#[tokio::test(start_paused = true)]
async fn handles_of_a_closed_session_fail_as_closed() {
    let (script, builder) = Script::new();
    script.set_down(true);
    let mut session = builder.max_retries(2).start().unwrap();
    session.publish("x", "1").await.unwrap();
    session.close().await.unwrap_err();
    let error = session.publish("x", "2").await.unwrap_err();
    assert!(error.is_closed(), "publish: {error}");
    let error = session.subscribe("x").unwrap_err();
    assert!(error.is_closed(), "subscribe: {error}");
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_dial_in_a_loop() {
    let (script, builder) = Script::new();
    script.set_down(true);
    let mut session = builder.close_timeout(10 * MINUTE).start().unwrap();
    session.publish("x", "1").await.unwrap();
    session.close().await.unwrap_err();
    let dials = script.dials();
    assert!(dials < 1000, "{dials} attempts in ten minutes");
}
