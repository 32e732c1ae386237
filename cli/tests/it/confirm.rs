//! `hpfeeds publish --confirm`: how much confirmation is wanted, and how it is told.

use std::{io::Write as _, net::Shutdown, sync::mpsc};

use crate::support::{SOON, Scripted, TestBroker, fails, outcome, read_frame};

#[test]
fn a_broker_that_confirms_is_said_to_have_confirmed() {
    let broker = TestBroker::start();
    let mut peer = broker.listen(&["events"]);
    for (confirm, confirmed) in [("off", 0), ("if-offered", 2), ("required", 2)] {
        let mut publish = broker.sensor("publish");
        publish.args(["--lines", "--debug", "-c", "events", "--confirm", confirm]).write_stdin("one\ntwo\n");
        let (code, stderr) = outcome(&mut publish);
        assert_eq!(code, Some(0), "{stderr}");
        let said = format!(" closed confirmed={confirmed} refused=0 resent=0 may_be_lost=0");
        assert!(stderr.contains(&said), "{said} in {stderr}");
        assert_eq!(peer.payloads(), ["one", "two"]);
    }
}

#[test]
fn a_broker_that_confirms_less_than_is_wanted_is_refused() {
    let broker = TestBroker::start();
    for level in ["stored", "replicated"] {
        let mut publish = broker.sensor("publish");
        fails(publish.args(["-c", "events", "--confirm", level, "x"]), 1, "confirms messages at level 0, and level ");
    }
    // One that does not know the extension does not even get the key.
    let old = Scripted::start(1, |_, stream| {
        stream.write_all(b"\0\0\0\x0d\x01\x03odd1234").unwrap();
        assert_eq!(read_frame(stream), None);
    });
    fails(old.sensor("publish").args(["--confirm", "required", "x"]), 1, "confirms no messages");
    old.done();
    fails(broker.sensor("publish").args(["-c", "events", "--confirm", "maybe", "x"]), 2, "if-offered");
}

#[test]
fn a_broker_that_does_not_know_the_extension_sees_none_of_it() {
    let (frames, got) = mpsc::channel();
    let old = Scripted::authenticated(1, move |_, stream| {
        frames.send(std::iter::from_fn(|| read_frame(stream)).collect::<Vec<_>>()).unwrap();
        stream.flush().unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    });
    old.sensor("publish").args(["--confirm", "if-offered", "x"]).assert().success().stderr("");
    assert_eq!(got.recv_timeout(SOON).unwrap(), [b"\0\0\0\x14\x03\x06sensor\x06eventsx"]);
    old.done();
}
