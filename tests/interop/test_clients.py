"""The clients of the Python package against our broker, and against their own as the control."""

import asyncio
import hashlib
import itertools
import json
import time

import pytest
from hpfeeds.asyncio import ClientSession

from process import wait_until
from users import SECRETS
from wire import connect, max_payload, message, publish, subscribe

DEADLINE = 15.0


# --- asyncio, in this process


def run(main):
    asyncio.run(asyncio.wait_for(main, 2 * DEADLINE))


def session(broker, ident="sensor"):
    return ClientSession("127.0.0.1", broker.port, ident, SECRETS[ident])


markers = itertools.count()


async def settle(client):
    """Waits for an echo, which proves that the broker has handled what the client sent; returns what came before."""
    payload = b"marker %d" % next(markers)
    client.subscribe("sync")
    client.publish("sync", payload)
    before = []
    while (item := await client.read()) != (client.ident, "sync", payload):
        if item[1] != "sync":
            before.append(item)
    return before


def test_asyncio_session(broker):
    async def main():
        async with session(broker) as sensor, session(broker, "collector") as collector:
            collector.subscribe("events")
            sensor.subscribe("events")
            assert await settle(sensor) == await settle(collector) == []
            # Text, bytes and nothing; the publisher, being subscribed, hears itself.
            for payload in ("text", b"\x00\xff", b""):
                sensor.publish("events", payload)
            expected = [("sensor", "events", payload) for payload in (b"text", b"\x00\xff", b"")]
            assert await settle(sensor) == expected
            assert await settle(collector) == expected

            sensor.unsubscribe("events")
            sensor.publish("events", b"not for me")
            assert await settle(sensor) == []
            assert await settle(collector) == [("sensor", "events", b"not for me")]

    run(main())


def test_asyncio_iteration(broker):
    async def numbers():
        for number in range(1000):
            yield b"%d" % number
            await asyncio.sleep(0)

    async def main():
        async with session(broker) as sensor, session(broker, "collector") as collector:
            collector.subscribe("events")
            await settle(collector)
            await sensor.publish_async_iterable("events", numbers())
            got = []
            async for item in collector:
                got.append(item)
                if len(got) == 1000:
                    break
            assert got == [("sensor", "events", b"%d" % number) for number in range(1000)]

    run(main())


def test_asyncio_largest_payload(broker):
    async def main():
        async with session(broker) as sensor:
            sensor.subscribe("events")
            largest = b"x" * max_payload("sensor", "events")
            sensor.publish("events", largest)
            assert await settle(sensor) == [("sensor", "events", largest)]

    run(main())


@pytest.mark.parametrize("auth", ["json", "env"])
def test_asyncio_reconnects(kind, start_broker, auth):
    """After a restart of the broker the session comes back, with its subscriptions."""
    broker = start_broker(kind, auth)

    async def main():
        async with session(broker) as sensor:
            sensor.subscribe("events")
            await settle(sensor)
            await asyncio.to_thread(broker.restart)
            # The session drops what is published before it notices, and dials once a second.
            got = None
            while not got:
                sensor.publish("events", b"after")
                try:
                    got = await asyncio.wait_for(sensor.read(), 0.1)
                except asyncio.TimeoutError:
                    pass
            assert got == ("sensor", "events", b"after")

    run(main())


# --- the others, which need a process of their own


def objects(process):
    return [json.loads(line) for line in process.lines()]


class PythonPeer:
    def __init__(self, process):
        self.process = process

    def command(self, *words):
        self.process.write(" ".join(words).encode() + b"\n")

    def settle(self):
        """As above. Repeated, for only the echo tells that the peer is connected and subscribed."""
        attempts = itertools.count()

        def echoed():
            assert self.process.running, self.process.report()
            marker = f"marker {time.monotonic_ns()} {next(attempts)}"
            self.command("publish", "sync", marker)
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                if any(item["payload"] == marker for item in objects(self.process)):
                    return True
                time.sleep(0.01)

        wait_until(echoed, "the peer's echo")

    def received(self):
        """What came on other channels, as (ident, channel, payload)."""
        found = [(item["ident"], item["channel"], item["payload"]) for item in objects(self.process)]
        return [item for item in found if item[1] != "sync"]


PEERS = ["blocking_session.py", "old_client.py", "twisted_session.py"]


@pytest.fixture(params=PEERS)
def script(request):
    return request.param


@pytest.fixture
def start_peer(run_peer, script):
    def start(broker, ident, *channels):
        return PythonPeer(run_peer(script, broker.port, ident, SECRETS[ident], "sync", *channels))

    return start


def test_peer(broker, start_peer, script):
    sensor = start_peer(broker, "sensor", "events")
    sensor.settle()
    with connect(broker.port, "collector") as collector:
        collector.send(subscribe("collector", "events"))
        collector.sync()
        # Its own echo, and another subscriber.
        sensor.command("publish", "events", "from the peer")
        sensor.settle()
        assert sensor.received() == [("sensor", "events", "from the peer")]
        collector.sync()
        assert collector.transcript[1:] == [message("sensor", "events", b"from the peer")]
    with connect(broker.port, "sensor") as other:
        other.send(publish("sensor", "events", b"to the peer"))
        other.sync()
    sensor.settle()
    assert sensor.received()[1:] == [("sensor", "events", "to the peer")]

    # The old client has no unsubscribe.
    if script != "old_client.py":
        sensor.command("unsubscribe", "events")
        sensor.command("publish", "events", "not for me")
        sensor.settle()
        assert len(sensor.received()) == 2
        sensor.command("subscribe", "events")
        sensor.command("publish", "events", "for me again")
        sensor.settle()
        assert sensor.received()[2:] == [("sensor", "events", "for me again")]


def test_peer_and_the_largest_payload(broker, start_peer, tmp_path):
    largest = b"x" * max_payload("sensor", "events")
    (tmp_path / "largest").write_bytes(largest)
    sensor = start_peer(broker, "sensor", "events")
    sensor.settle()
    sensor.command("publish-file", "events", str(tmp_path / "largest"))
    sensor.settle()
    assert sensor.received() == [("sensor", "events", hashlib.sha256(largest).hexdigest())]


# The blocking session ends with an exception when it dials while nothing listens, and the old client waits 20 s between
# attempts whatever it is told: neither tells anything about the broker.
@pytest.mark.parametrize("script", ["twisted_session.py"], indirect=True)
def test_twisted_reconnects(kind, start_broker, start_peer):
    broker = start_broker(kind)
    sensor = start_peer(broker, "sensor", "events")
    sensor.settle()
    broker.restart()
    sensor.settle()
    sensor.command("publish", "events", "after")
    sensor.settle()
    assert sensor.received() == [("sensor", "events", "after")]


# --- the command-line tool of the Python package


def flags(broker, ident="sensor", *channels):
    wanted = [word for name in channels for word in ("-c", name)]
    return ["--host", "127.0.0.1", "-p", broker.port, "-i", ident, "-s", SECRETS[ident], *wanted]


def test_command_line_publish(broker, python_tool):
    with connect(broker.port, "collector") as collector:
        for name in ("events", "files"):
            collector.send(subscribe("collector", name))
        collector.sync()
        process = python_tool(*flags(broker, "sensor", "events", "files"), "publish", "two", "words")
        assert process.wait() == 0
        assert "connected to hpfeeds" in process.lines()[0]
        collector.sync()
        assert collector.transcript[1:] == [message("sensor", name, b"two words") for name in ("events", "files")]


def test_command_line_publish_denied(broker, python_tool):
    process = python_tool(*flags(broker, "sensor", "forbidden"), "publish", "x")
    process.wait_for("Authkey not allowed to pub here. ident=sensor, chan=forbidden")


def test_command_line_sendfile(broker, python_tool, tmp_path):
    """It closes its connection as soon as the file is written; the broker delivers what it had sent."""
    content = bytes(range(256)) * 680
    (tmp_path / "malware.bin").write_bytes(content)
    with connect(broker.port, "collector") as collector:
        collector.send(subscribe("collector", "files"))
        collector.sync()
        assert python_tool(*flags(broker, "sensor", "files"), "sendfile", tmp_path / "malware.bin").wait() == 0
        collector.read()
        assert collector.transcript[-1] == message("sensor", "files", content)


def test_command_line_subscribe(broker, python_tool):
    process = python_tool(*flags(broker, "collector", "events"), "subscribe")
    with connect(broker.port, "sensor") as sensor:

        def printed():
            # It says that it is connected before it subscribes, so only a message tells.
            sensor.send(publish("sensor", "events", b"to the tool"))
            return any("publish to events by sensor" in line and "to the tool" in line for line in process.lines())

        wait_until(printed, "the tool to print a message")
