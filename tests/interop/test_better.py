"""Where our broker deliberately differs from Python's: it says what was wrong before it closes. Ours only."""

from contextlib import suppress

import pytest

from wire import (
    AUTH,
    EOF,
    ERROR,
    INFO,
    MAX_BODY,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    connect,
    error,
    frame,
    header,
    message,
    publish,
    short,
    subscribe,
    unsubscribe,
)

BAD_UTF8 = b"\xc3\x28"
LONGEST_AUTH = 5 + 256 + 20
LONGEST_SUBSCRIBE = 5 + 256 + 255
LONGEST_PUBLISH = 5 + MAX_BODY

# What Python does instead, where it is not just closing without a word: lengths 0 to 4 and above 2^31 put it into
# a loop or an exception, depending on what else is in its buffer; a channel that is longer than its frame is taken as
# it is; a client's INFO and ERROR end in an exception; SUBSCRIBE may be 1 MiB long.
BROKEN = {
    "unknown opcode 6": header(5, 6),
    "unknown opcode 255": header(5, 255),
    **{f"publish of length {n}": header(n, PUBLISH) for n in range(5)},
    "unsubscribe of length 0": header(0, UNSUBSCRIBE),
    # Only the header is sent: the limit is enforced before anything is buffered.
    "publish one over the limit": header(LONGEST_PUBLISH + 1, PUBLISH),
    "auth one over the limit": header(LONGEST_AUTH + 1, AUTH),
    "subscribe one over the limit": header(LONGEST_SUBSCRIBE + 1, SUBSCRIBE),
    "unsubscribe one over the limit": header(LONGEST_SUBSCRIBE + 1, UNSUBSCRIBE),
    "publish of length 2^31": header(2**31, PUBLISH),
    "publish of length 2^32-1": header(2**32 - 1, PUBLISH),
    "subscribe of length 2^32-1": header(2**32 - 1, SUBSCRIBE),
    "publish without a body": frame(PUBLISH),
    "publish with its ident cut off": frame(PUBLISH, b"\x06sens"),
    "publish without a channel": frame(PUBLISH, short("sensor")),
    "publish with its channel cut off": frame(PUBLISH, short("sensor") + b"\x07events"),
    "publish with an empty ident": publish("", "events", b"x"),
    "publish with an empty channel": publish("sensor", "", b"x"),
    "subscribe without a body": frame(SUBSCRIBE),
    "subscribe with its ident cut off": frame(SUBSCRIBE, b"\x06sens"),
    "subscribe to an empty channel": frame(SUBSCRIBE, short("sensor")),
    "unsubscribe with its ident cut off": frame(UNSUBSCRIBE, b"\x06sens"),
    "bad UTF-8 in the ident of publish": frame(PUBLISH, short(BAD_UTF8) + short("events")),
    "bad UTF-8 in the channel of publish": frame(PUBLISH, short("sensor") + short(BAD_UTF8)),
    "bad UTF-8 in the channel of subscribe": frame(SUBSCRIBE, short("sensor") + BAD_UTF8),
    "bad UTF-8 in the channel of unsubscribe": frame(UNSUBSCRIBE, short("sensor") + BAD_UTF8),
    "INFO from a client": frame(INFO, short("hpfeeds") + b"1234"),
    "ERROR from a client": frame(ERROR, b"no, you are wrong"),
}

BROKEN_AUTH = {
    "ident cut off": frame(AUTH, b"\x06sens"),
    "no body": frame(AUTH),
    "no signature": frame(AUTH, short("sensor")),
    "signature too short": frame(AUTH, short("sensor") + bytes(19)),
    "signature too long": frame(AUTH, short("sensor") + bytes(21)),
    "bad UTF-8": frame(AUTH, short(BAD_UTF8) + bytes(20)),
    "empty ident": frame(AUTH, short("") + bytes(20)),
}


def assert_refused(peer):
    """One ERROR with a text, then the end."""
    peer.read_until_closed()
    (kind, *text), end = peer.transcript[-2:]
    assert kind == "ERROR" and text[0].strip(), peer.transcript
    assert end == EOF, "a reset may destroy the ERROR before it is read"
    return peer.transcript[1:-2]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_frame(our_broker, name):
    with connect(our_broker.port, "sensor") as peer:
        peer.send(BROKEN[name])
        assert assert_refused(peer) == []


@pytest.mark.parametrize("name", BROKEN)
def test_broken_frame_before_auth(our_broker, name):
    with our_broker.peer() as peer:
        peer.send(BROKEN[name])
        assert assert_refused(peer) == []


@pytest.mark.parametrize("name", BROKEN_AUTH)
def test_broken_auth(our_broker, name):
    with our_broker.peer() as peer:
        peer.send(BROKEN_AUTH[name])
        assert assert_refused(peer) == []


@pytest.mark.parametrize("ident", ["sensor", "collector", "stranger"])
def test_second_auth(our_broker, ident):
    """Python lets a second AUTH replace the identity of the connection, and keeps the subscriptions of the first."""
    with connect(our_broker.port, "sensor") as peer:
        peer.send(peer.auth(ident))
        assert assert_refused(peer) == []


def test_frames_before_a_broken_one_are_delivered(our_broker):
    with connect(our_broker.port, "sensor") as peer:
        peer.send(subscribe("sensor", "events"), publish("sensor", "events", b"x"), header(5, 6))
        assert assert_refused(peer) == [message("sensor", "events", b"x")]


REFUSED = {
    "denied publish": publish("sensor", "forbidden", b"x"),
    "denied subscribe": subscribe("sensor", "forbidden"),
    "foreign ident": publish("collector", "events", b"x"),
    "unknown opcode": header(5, 6),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_after_a_refused_frame_is_acted_on(our_broker, name):
    """Python acts on whatever else had arrived with the refused frame, hence on how TCP happened to cut it."""
    with connect(our_broker.port, "collector") as watcher, connect(our_broker.port, "sensor") as peer:
        watcher.send(subscribe("collector", "events"))
        watcher.sync()
        peer.send(REFUSED[name], publish("sensor", "events", b"after"))
        assert_refused(peer)
        watcher.sync()
        assert watcher.transcript[1:] == []


def test_a_denied_subscribe_never_subscribes(our_broker):
    """Python adds the subscription after it said no. "files" flows all the while, so that any gap would show."""
    with connect(our_broker.port, "collector") as watcher, connect(our_broker.port, "sensor") as publisher:
        watcher.send(subscribe("collector", "files"))
        watcher.sync()
        for _ in range(20):
            with connect(our_broker.port, "sensor") as peer:
                publisher.send(*[publish("sensor", "files", b"secret")] * 50)
                peer.send(subscribe("sensor", "files"), publish("sensor", "files", b"secret"))
                publisher.send(*[publish("sensor", "files", b"secret")] * 50)
                assert assert_refused(peer) == []
                assert peer.transcript[-2] == error("Authkey not allowed to sub here. ident=sensor, chan=files")
        # The channel works for the one who may read it.
        watcher.sync(through=publisher)
        assert watcher.transcript[1:] == [message("sensor", "files", b"secret")] * 20 * 100


def test_unsubscribe_ends_a_subscription_that_was_asked_for_twice(our_broker):
    """Python counts: it takes as many UNSUBSCRIBE as there were SUBSCRIBE, although each message comes once."""
    with connect(our_broker.port, "sensor") as peer:
        on, off = subscribe("sensor", "events"), unsubscribe("sensor", "events")
        peer.send(on, on, off, publish("sensor", "events", b"x"))
        peer.sync()
        assert peer.transcript[1:] == []


def test_an_error_reaches_a_client_that_goes_on_sending(our_broker):
    """A sensor in full flow is refused. Closing with unread bytes in the socket would send a reset, and with it the
    sensor would lose the reason; so the broker reads on for a while, or at least until the ERROR is through.
    """
    with connect(our_broker.port, "sensor") as peer:
        flow = publish("sensor", "events", b"x" * 1000) * 500
        with suppress(ConnectionError):  # A reset shows better in the transcript.
            peer.send(publish("sensor", "forbidden", b"x") + flow)
        assert assert_refused(peer) == []
        assert peer.transcript[-2] == error("Authkey not allowed to pub here. ident=sensor, chan=forbidden")


def test_a_failed_authentication_is_told_at_once(our_broker):
    """The connection may be kept for a while, to slow down clients that dial again without delay; the ERROR is not."""
    with our_broker.peer() as peer:
        peer.send(peer.auth("sensor", "wrong"))
        peer.read(seconds=0.5)
        assert peer.transcript[-1] == error("Authentication failed for sensor")
        peer.read_until_closed(seconds=3)
        assert peer.transcript[-1] == EOF


def test_a_frame_that_the_end_of_the_stream_cuts_off(our_broker):
    """Python drops the part without a word."""
    with connect(our_broker.port, "collector") as watcher, connect(our_broker.port, "sensor") as peer:
        watcher.send(subscribe("collector", "events"))
        watcher.sync()
        peer.send(publish("sensor", "events", b"never complete")[:-1])
        peer.half_close()
        assert_refused(peer)
        watcher.sync()
        assert watcher.transcript[1:] == []
