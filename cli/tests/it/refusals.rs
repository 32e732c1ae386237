//! ERROR texts of brokers in use, and the exit codes that they lead to.

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
};

use crate::support::{Scripted, error, fails, read_frame};

/// Refuses the key: AUTH has been read.
fn refuse(stream: &mut TcpStream, text: &str) {
    stream.write_all(&error(text)).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn a_key_that_a_broker_refuses_in_its_own_words_is_3() {
    let texts = [
        "Authentication failed for sensor",
        "authfail.",
        "authfail",
        "hpfeeds: Bad credentials",
        // A length byte, and one byte short.
        "\x15Authentication faile",
        // Nothing else has been asked for by then.
        "accessfail",
    ];
    for text in texts {
        let broker = Scripted::authenticated(1, move |_, stream| refuse(stream, text));
        fails(broker.sensor("publish").arg("x"), 3, "check the ident and its secret");
        broker.done();
    }
    // Together with a subscription, accessfail can mean that one.
    for text in texts.into_iter().take(5) {
        let broker = Scripted::authenticated(1, move |_, stream| refuse(stream, text));
        fails(&mut broker.sensor("subscribe"), 3, "check the ident and its secret");
        broker.done();
    }
}

#[test]
fn a_message_that_a_broker_refuses_in_its_own_words_is_4() {
    // hpfeeds/broker ends the frame one byte before its text ends: that byte comes behind it.
    let cases = [
        ("Publish not authorized", ""),
        ("\x16Publish not authorize", "d"),
        ("accessfail.", ""),
        ("accessfail", ""),
        ("hpfeeds: You do not have permission to publish to this channel", ""),
    ];
    for (text, behind) in cases {
        let broker = Scripted::authenticated(1, move |_, stream| {
            assert_eq!(read_frame(stream).unwrap()[4], 3, "not PUBLISH");
            stream.write_all(&[&error(text), behind.as_bytes()].concat()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        fails(broker.sensor("publish").arg("x"), 4, "the broker does not let this key publish to a channel");
        broker.done();
    }
}

#[test]
fn a_subscription_that_a_broker_refuses_in_its_own_words_is_4() {
    let cases = [
        ("Subscribe not authorized", ""),
        ("\x18Subscribe not authorize", "d"),
        ("accessfail.", ""),
        ("accessfail", ""),
        ("hpfeeds: You do not have permission to subscribe to this channel", ""),
    ];
    for (text, behind) in cases {
        let broker = Scripted::authenticated(1, move |_, stream| {
            assert_eq!(read_frame(stream).unwrap()[4], 4, "not SUBSCRIBE");
            stream.write_all(&[&error(text), behind.as_bytes()].concat()).unwrap();
        });
        fails(&mut broker.sensor("subscribe"), 4, r#"the broker does not let this key subscribe to "events""#);
        broker.done();
    }
}
