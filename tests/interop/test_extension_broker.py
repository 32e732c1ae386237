"""Our broker's half of the extension `hpx/1`, against a client that was written from its description."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from broker import Broker
from hpx import (
    BEATS,
    CONFIRM,
    FENCED,
    HEARTBEAT,
    KNOWN,
    NOT_ALLOWED,
    REPLIES,
    TLV_WINDOW,
    WINDOW,
    Client,
    Refused,
    Suback,
    consumed,
    hello,
    new_stream,
    tlv,
)
from wire import EOF, connect, error, frame, publish, subscribe, unsubscribe

ALL = CONFIRM | REPLIES | BEATS | WINDOW


@pytest.fixture
def collector(our_broker):
    with connect(our_broker.port, "collector") as peer:
        peer.send(subscribe("collector", "events"))
        peer.sync()
        yield peer


def events(collector, our_broker):
    """The payloads that the collector has received so far."""
    with connect(our_broker.port, "sensor") as other:
        collector.sync(through=other)
    return [line[3] for line in collector.transcript if line[0] == "PUBLISH"]


def payloads(first, last):
    return [b"%d" % number for number in range(first, last + 1)]


# --- HELLO


def test_hello_is_the_answer_to_auth(our_broker):
    with Client(our_broker.port, flags=ALL, beats=10) as client:
        answer = client.answer
        assert (answer.version, answer.flags, answer.decided, answer.level) == (1, ALL, 0, 0)
        assert len(answer.node) == 16 and answer.software


def test_what_is_newer_is_ignored(our_broker):
    newer = tlv(77, b"unknown") + tlv(TLV_WINDOW, b"\x00\x01\x00\x00")
    with Client(our_broker.port, flags=ALL | 64, version=9, tlvs=newer) as client:
        # It cannot grant a flag that it does not know.
        assert (client.answer.version, client.answer.flags) == (1, ALL)


def test_wrong_secret(our_broker):
    with our_broker.peer() as peer:
        peer.send(peer.auth("sensor", "wrong"), hello(ALL, new_stream()))
        peer.read_until_closed()
        assert peer.transcript[1:] == [error("Authentication failed for sensor"), EOF]


def assert_refused(peer):
    """One ERROR with a text, then the end."""
    peer.read_until_closed()
    assert peer.transcript[-1] == EOF and peer.transcript[-2][0] == "ERROR" and len(peer.transcript) == 3


def test_hello_before_auth(our_broker):
    with our_broker.peer() as peer:
        peer.send(hello(ALL, new_stream()))
        assert_refused(peer)


@pytest.mark.parametrize("opcode", range(0x81, 0x89))
def test_a_frame_of_the_extension_without_hello(our_broker, opcode):
    with connect(our_broker.port, "sensor") as peer:
        peer.send(frame(opcode, bytes(60)))
        assert_refused(peer)


def test_hello_to_a_broker_without_the_extension(start_broker):
    broker = start_broker("rust-plain")
    with connect(broker.port, "sensor") as peer:
        peer.send(hello(ALL, new_stream()))
        assert_refused(peer)


@pytest.mark.parametrize("opcode", [0x81, 0x82, 0x83, 0x87, 0x88])
def test_a_frame_that_only_a_broker_may_send(our_broker, opcode):
    with Client(our_broker.port) as client:
        client.send(frame(opcode, bytes(60)))
        assert client.read()[0] == "ERROR"
        assert client.read() is None


# --- numbers


def test_what_is_published_is_acknowledged(our_broker, collector):
    with Client(our_broker.port) as client:
        client.publish("events", *payloads(1, 1000))
        assert client.read_until_ack(1000) == []
        client.publish("events", b"1001")
        assert client.read_until_ack(1001) == []
    assert events(collector, our_broker) == payloads(1, 1001)


def test_denied_messages_are_refused_one_by_one(our_broker, collector):
    with Client(our_broker.port) as client:
        one, denied, other = (publish("sensor", name, b"x") for name in ("events", "forbidden", "secret"))
        client.send(one, denied, denied, other, one, denied, one)
        assert client.read_until_ack(7) == [
            Refused(2, 2, NOT_ALLOWED, "forbidden"),
            Refused(4, 1, NOT_ALLOWED, "secret"),
            Refused(6, 1, NOT_ALLOWED, "forbidden"),
        ]
    assert events(collector, our_broker) == [b"x"] * 3


def test_a_stream_goes_on_with_the_next_connection(our_broker, collector):
    with Client(our_broker.port) as client:
        stream = client.stream
        client.publish("events", *payloads(1, 10))
        client.read_until_ack(10)
    # It does not know how much was decided, and offers everything from the third on.
    with Client(our_broker.port, stream=stream, first=3) as client:
        assert (client.answer.decided, client.answer.flags & KNOWN) == (10, KNOWN)
        # So its next message is the eleventh.
        client.publish("events", b"11")
        assert client.read_until_ack(11) == []
    assert events(collector, our_broker) == payloads(1, 11)


def test_a_publisher_that_gave_up_some(our_broker):
    with Client(our_broker.port, first=100) as client:
        assert client.answer.decided == 0
        client.publish("events", b"x")
        assert client.read_until_ack(100) == []
    with Client(our_broker.port, stream=client.stream, first=101) as again:
        assert again.answer.decided == 100


def test_what_was_refused_is_told_again(our_broker):
    with Client(our_broker.port) as client:
        stream = client.stream
        client.send(publish("sensor", "forbidden", b"x"), publish("sensor", "events", b"x"))
        client.read_until_ack(2)
    with Client(our_broker.port, stream=stream, first=1) as client:
        assert client.answer.decided == 2
        assert client.answer.tlvs[4] == b"\0\0\0\0\0\0\0\x01" b"\0\0\0\x01" b"\x01"


def test_streams_are_each_idents_own(our_broker):
    with Client(our_broker.port) as client:
        client.publish("sync", b"x")
        client.read_until_ack(1)
        with Client(our_broker.port, ident="collector", stream=client.stream) as other:
            assert (other.answer.decided, other.answer.flags & KNOWN) == (0, 0)
            client.publish("sync", b"x")
            assert client.read_until_ack(2) == []


def test_a_new_stream_on_the_same_connection(our_broker, collector):
    with Client(our_broker.port) as client:
        old = client.stream
        client.publish("events", *payloads(1, 3))
        client.read_until_ack(3)
        client.hello_again(CONFIRM | REPLIES, new_stream())
        assert client.answer.decided == 0
        client.publish("events", *payloads(4, 5))
        client.read_until_ack(2)
        client.hello_again(CONFIRM | REPLIES, old, first=4)
        assert client.answer.decided == 3
    assert events(collector, our_broker) == payloads(1, 5)


def test_without_the_flag_nothing_is_numbered(our_broker):
    with Client(our_broker.port, flags=REPLIES) as client:
        allowed, denied = (publish("sensor", name, b"x") for name in ("events", "forbidden"))
        client.send(allowed, denied, subscribe("sensor", "sync"))
        assert {client.read(), client.read()} == {Refused(0, 1, NOT_ALLOWED, "forbidden"), Suback(0, "sync")}
        # And no acknowledgement.
        client.peer.half_close()
        assert client.read() is None


def test_a_restarted_broker_knows_no_stream(start_broker):
    broker = start_broker("rust")
    with Client(broker.port) as client:
        client.publish("events", b"x")
        client.read_until_ack(1)
        broker.restart()
        with Client(broker.port, stream=client.stream) as again:
            assert (again.answer.decided, again.answer.flags & KNOWN) == (0, 0)


def test_half_close_after_publish(our_broker):
    """The end of the stream is an answer, too: after the acknowledgement."""
    with Client(our_broker.port) as client:
        client.publish("events", *payloads(1, 100))
        client.peer.half_close()
        assert client.read_until_ack(100) == []
        assert client.read() is None


# --- fencing


def pump(client, data):
    """Sends, until the broker has ended the connection."""
    with contextlib.suppress(OSError):
        client.peer.sock.sendall(data)


def read_numbers(collector, count):
    """The numbers of so many messages, which the payloads begin with."""
    while len(collector.transcript) < count + 1:
        assert collector.read(), "the collector was disconnected"
    return [int(line[3].split()[0]) for line in collector.transcript[1:]]


def test_a_second_connection_fences_the_first(our_broker, collector):
    """Amid its messages, of which some are decided, some are read and not decided, and some are on their way. For
    the collector does not read yet, so that the first one is paced.
    """
    total = 20000
    with Client(our_broker.port) as first, ThreadPoolExecutor(2) as pool:
        numbered = [payload + b" " * 1000 for payload in payloads(1, total)]
        pool.submit(pump, first, b"".join(publish("sensor", "events", payload) for payload in numbered))
        assert first.read()[0] == "ACK"
        with Client(our_broker.port, stream=first.stream) as second:
            decided = second.answer.decided
            print(f"{decided} of {total} were decided")
            assert 0 < decided < total
            reading = pool.submit(read_numbers, collector, total + 1)
            second.publish("events", *numbered[decided:], b"%d" % (total + 1))
            assert second.read_until_ack(total + 1) == []
            while (got := first.read()) and got[0] == "ACK":
                assert got[1] <= decided
            assert got in (("ERROR", FENCED), None)
            # Each once, and in order.
            assert reading.result() == list(range(1, total + 2))


def test_many_connections_of_one_stream(our_broker, collector):
    """Each takes the stream over amid the messages of the one before, which is never told that it goes on."""
    total, clients = 5000, []
    try:
        client = Client(our_broker.port)
        clients.append(client)
        for turn in range(20):
            decided = client.answer.decided
            client.publish("events", *payloads(decided + 1, total))
            client = Client(our_broker.port, stream=client.stream, first=1)
            clients.append(client)
        client.publish("events", *payloads(client.answer.decided + 1, total))
        if client.answer.decided < total:
            client.read_until_ack(total)
        assert events(collector, our_broker) == payloads(1, total)
    finally:
        for client in clients:
            client.peer.close()


# --- subscriptions


def test_each_subscription_is_answered_in_order(our_broker):
    with Client(our_broker.port) as client:
        client.send(
            subscribe("sensor", "events"),
            subscribe("sensor", "forbidden"),
            subscribe("sensor", "events"),
            unsubscribe("sensor", "events"),
            unsubscribe("sensor", "events"),
            subscribe("sensor", "sync"),
            publish("sensor", "sync", b"x"),
        )
        expected = ["events", "forbidden", "events", "events", "events", "sync"]
        answers = [client.read() for _ in expected]
        assert [answer.channel for answer in answers] == expected
        assert [answer.code for answer in answers] == [0, NOT_ALLOWED, 0, 0, 0, 0]
        rest = {client.read(), client.read()}
        assert rest == {("PUBLISH", "sensor", "sync", b"x"), ("ACK", 1)}


# --- the window


SIZE = 1000


def test_no_more_than_the_window_is_sent(our_broker):
    whole = len(publish("sensor", "events", bytes(SIZE)))
    window = (10 * whole).to_bytes(4, "big")
    with Client(our_broker.port, ident="collector", flags=REPLIES | WINDOW, tlvs=tlv(TLV_WINDOW, window)) as client:
        client.send(subscribe("collector", "events"))
        assert client.read() == Suback(0, "events")
        with Client(our_broker.port) as sensor:
            sensor.publish("events", *[bytes(SIZE)] * 100)
            # It is not paced at once: its messages wait in the queue.
            sensor.read_until_ack(100)
        for _ in range(10):
            assert client.read()[0] == "PUBLISH"
        with pytest.raises(AssertionError, match="nothing came"):
            client.read(0.3)
        client.send(consumed(3 * whole))
        for _ in range(3):
            assert client.read()[0] == "PUBLISH"
        with pytest.raises(AssertionError, match="nothing came"):
            client.read(0.3)
        client.send(consumed(13 * whole))
        for _ in range(10):
            assert client.read()[0] == "PUBLISH"


def test_a_message_larger_than_the_window(our_broker):
    """It is sent when nothing is outstanding."""
    window = tlv(TLV_WINDOW, (1000).to_bytes(4, "big"))
    with Client(our_broker.port, ident="collector", flags=REPLIES | WINDOW, tlvs=window) as client:
        client.send(subscribe("collector", "events"))
        assert client.read() == Suback(0, "events")
        with Client(our_broker.port) as sensor:
            sensor.publish("events", bytes(500), bytes(5000), b"after")
            sensor.read_until_ack(3)
        first = client.read()
        assert len(first[3]) == 500
        taken = len(publish("sensor", "events", bytes(500)))
        client.send(consumed(taken))
        assert len(client.read()[3]) == 5000
        client.send(consumed(taken + len(publish("sensor", "events", bytes(5000)))))
        assert client.read()[3] == b"after"


# --- life


def test_heartbeats(our_broker):
    with Client(our_broker.port, flags=ALL, beats=1) as client:
        begin = time.monotonic()
        assert client.read() == "HEARTBEAT" and client.read() == "HEARTBEAT"
        # One sweep a second.
        assert 0.9 < time.monotonic() - begin < 5


def test_no_heartbeats_unless_asked_for(our_broker):
    with Client(our_broker.port, flags=CONFIRM | REPLIES, beats=1) as client:
        with pytest.raises(AssertionError, match="nothing came"):
            client.read(2.5)


@pytest.fixture(scope="module")
def strict_broker(tmp_path_factory):
    """It ends clients that are silent for three seconds, and have said that they would not be."""
    with closing(Broker("rust", tmp_path_factory.mktemp("strict"), flags=["--client-timeout", "3"])) as broker:
        yield broker.start_anywhere()


def test_a_silent_client_is_ended(strict_broker):
    with Client(strict_broker.port, flags=ALL, beats=1) as client:
        assert client.answer.beats == 1
        begin = time.monotonic()
        while (got := client.read()) == "HEARTBEAT":
            pass
        assert got is None or got[0] == "ERROR"
        assert 2 < time.monotonic() - begin < 10


def test_a_client_that_sends_heartbeats_lives(strict_broker):
    with Client(strict_broker.port, flags=ALL, beats=1) as client:
        for _ in range(6):
            client.send(frame(HEARTBEAT, b"\0"))
            assert client.read() == "HEARTBEAT"
        client.publish("sync", b"x")
        assert [got for got in client.read_until_ack(1) if got != "HEARTBEAT"] == []


def test_a_silent_client_that_has_promised_nothing_lives(strict_broker):
    with Client(strict_broker.port, flags=CONFIRM | REPLIES) as client:
        with pytest.raises(AssertionError, match="nothing came"):
            client.read(5)
        client.publish("sync", b"x")
        assert client.read_until_ack(1) == []
