"""Our client's half of the extension `hpx/1`: the tool against a broker that was written from its description."""

import struct

import pytest

import transcript
from broker import PYTHON_BIN
from hpx import CONFIRM, KNOWN, NOT_ALLOWED, REPLIES, tlv
from hpx_broker import HpxBroker
from recorder import Recorder
from users import SECRETS
from wire import AUTH, PUBLISH, SUBSCRIBE, publish


def flags(port, ident, channel):
    return ["--host", "127.0.0.1", "-p", port, "-i", ident, "-s", SECRETS[ident], "-c", channel]


def expect(conn, *payloads, channel="events"):
    for payload in payloads:
        got = conn.read()
        assert got is not None and got.opcode == PUBLISH, got
        assert got.fields(2) == ["sensor", channel, payload]


def finish(conn):
    """Waits for the end of the client's stream."""
    while conn.read():
        pass


def test_nothing_is_published_before_the_answer(tool):
    seen = []

    def script(conn):
        conn.greet()
        assert conn.auth() == "sensor"
        seen.append(conn.hello())
        conn.silence(0.7)
        conn.answer(seen[0]["flags"])
        expect(conn, b"x")
        # It ends its stream at once, and waits.
        assert conn.read() is None
        conn.ack(1)

    with HpxBroker(script) as broker:
        for _ in range(2):
            process = tool(*flags(broker.port, "sensor", "events"), "publish", "x")
            assert process.wait() == 0, process.report()
            broker.check()
    one, two = seen
    assert one["version"] == 1 and one["flags"] & (CONFIRM | REPLIES) == CONFIRM | REPLIES
    assert one["first"] == two["first"] == 1
    # A stream is made anew at each start of the program.
    assert one["stream"] != two["stream"] and bytes(16) not in (one["stream"], two["stream"])


def test_the_token_is_not_shown(tool):
    def script(conn):
        conn.greet("näme hpx/1".encode())
        conn.auth()
        conn.answer(conn.hello()["flags"])
        finish(conn)

    with HpxBroker(script) as broker:
        process = tool(*flags(broker.port, "collector", "events"), "subscribe", "--timeout", "1")
        process.wait_for(r"connected to näme$", "stderr")
        process.wait()
        broker.check()


def test_what_is_newer_is_ignored(tool):
    """Flags, TLVs, bytes behind the last field, a higher version: nothing of that is an error."""

    def script(conn):
        conn.greet()
        conn.auth()
        asked = conn.hello()["flags"]
        conn.answer(asked | 64 | KNOWN, version=7, level=9, tlvs=tlv(99, b"new") + tlv(2, b"\0\x10\0\x05"))
        expect(conn, b"x")
        conn.send(struct.pack(">IBQ", 5 + 8 + 4, 0x81, 1) + b"more")
        finish(conn)

    with HpxBroker(script) as broker:
        assert tool(*flags(broker.port, "sensor", "events"), "publish", "x").wait() == 0
        broker.check()


def test_refused(tool):
    def script(conn):
        conn.greet()
        conn.auth()
        conn.answer(conn.hello()["flags"])
        expect(conn, b"x", channel="forbidden")
        conn.refuse(1, 1, NOT_ALLOWED, "forbidden")
        conn.ack(1)
        finish(conn)

    with HpxBroker(script) as broker:
        process = tool(*flags(broker.port, "sensor", "forbidden"), "publish", "x")
        assert process.wait() == 4, process.report()
        assert "forbidden" in process.stderr
        broker.check()


def test_subscription_denied(tool):
    def script(conn):
        conn.greet()
        conn.auth()
        conn.answer(conn.hello()["flags"])
        assert conn.read().opcode == SUBSCRIBE
        conn.suback(NOT_ALLOWED, "files", b"no")
        finish(conn)

    with HpxBroker(script) as broker:
        process = tool(*flags(broker.port, "sensor", "files"), "subscribe")
        assert process.wait() == 4, process.report()
        broker.check()


LINES = [b"%d" % number for number in range(1, 6)]


@pytest.mark.parametrize("decided", [0, 2, 3, 5])
def test_what_is_not_decided_is_sent_again(tool, decided):
    """After the acknowledgement of two, the connection breaks; how many were decided, the next answer says."""
    streams = []

    def first(conn):
        conn.greet()
        conn.auth()
        said = conn.hello()
        streams.append(said["stream"])
        conn.answer(said["flags"])
        expect(conn, *LINES)
        if decided >= 2:
            conn.ack(2)

    def second(conn):
        conn.greet()
        conn.auth()
        said = conn.hello()
        assert said["stream"] == streams[0]
        assert said["first"] == (3 if decided >= 2 else 1)
        conn.answer(said["flags"] | KNOWN, decided=decided)
        expect(conn, *LINES[decided:])
        conn.ack(5)
        finish(conn)

    with HpxBroker(first, second) as broker:
        words = ["publish", "--lines", "--keep-going"]
        process = tool(*flags(broker.port, "sensor", "events"), *words, stdin=b"\n".join(LINES))
        process.close_stdin()
        broker.check(2)
        assert process.wait() == 0, process.report()


def test_a_stream_that_is_anothers(tool):
    """More is decided than was ever sent: a new stream begins, and everything is sent."""
    streams = []

    def script(conn):
        conn.greet()
        conn.auth()
        said = conn.hello()
        conn.answer(said["flags"] | KNOWN, decided=1000)
        again = conn.hello()
        assert again["stream"] != said["stream"]
        streams.append(again["first"])
        conn.answer(again["flags"])
        expect(conn, *LINES)
        conn.ack(streams[0] + 4)
        finish(conn)

    with HpxBroker(script) as broker:
        process = tool(*flags(broker.port, "sensor", "events"), "publish", "--lines", stdin=b"\n".join(LINES))
        process.close_stdin()
        assert process.wait() == 0, process.report()
        broker.check()


def closes_on_hello(conn):
    """A broker of the past whose name ends in the token: it closes on an opcode that it does not know."""
    conn.greet(b"unlucky hpx/1")
    conn.auth()
    conn.hello()


def test_a_name_that_is_an_offer_by_accident(tool):
    """Python's broker with such a name: HELLO ends the connection twice, and is left out then."""

    def plain(conn):
        conn.greet(b"unlucky hpx/1")
        conn.auth()
        expect(conn, b"x")
        finish(conn)

    with HpxBroker(closes_on_hello, closes_on_hello, plain) as broker:
        process = tool(*flags(broker.port, "sensor", "events"), "publish", "--keep-going", "x")
        broker.check(3)
        assert process.wait() == 0, process.report()


def test_the_python_broker_with_such_a_name(tool, spawn, start_broker):
    broker = start_broker("python")
    broker.stop()
    argv = [PYTHON_BIN / "hpfeeds-broker", "--bind", f"127.0.0.1:{broker.port}", "--exporter", "127.0.0.1:0"]
    users = broker.directory / "users.json"
    renamed = spawn(*argv, "--auth", users, "--name", "central hpx/1", cwd=broker.directory)
    with Recorder(broker.port) as recorder:
        process = tool(*flags(recorder.port, "sensor", "events"), "publish", "--keep-going", "x")
        assert process.wait() == 0, process.report() + renamed.report()
        last = recorder.wait_for_ends(len(recorder.recordings))[-1]
        sent = transcript.frames(last.sent_by("client"))
        assert [each[4] for each in sent] == [AUTH, PUBLISH]


# --- our tool and our broker


def test_order_of_the_frames(our_broker, tool):
    with Recorder(our_broker.port) as recorder:
        process = tool(*flags(recorder.port, "sensor", "events"), "publish", "x")
        assert process.wait() == 0, process.report()
        (recording,) = recorder.wait_for_ends()
    pieces = recording.pieces
    # INFO; then AUTH and HELLO in one piece; the broker's HELLO; and only then the message.
    assert [side for side, _ in pieces[:4]] == ["broker", "client", "broker", "client"]
    opcodes = [[each[4] for each in transcript.frames(data)] for _, data in pieces[:4]]
    assert opcodes[:3] == [[1], [2, 0x80], [0x80]]
    assert publish("sensor", "events", b"x") in pieces[3][1]
