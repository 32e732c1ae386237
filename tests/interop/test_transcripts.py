"""Every byte between peers that do not know the extension, against what was recorded before there was one.

The transcripts in `transcripts/` were recorded between the Python package and itself, or our tool and the Python
broker. They must be the same with our broker in the place of Python's, with its extension on and off, but for the
token behind the name in INFO.
"""

import asyncio
import json

import pytest
from hpfeeds.asyncio import ClientSession

import transcript
from broker import KINDS
from recorder import Recorder
from users import SECRETS
from wire import connect, publish, subscribe

SECRET = SECRETS["sensor"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def recorder(broker):
    with Recorder(broker.port) as made:
        yield made


def check(name, recorder, kind, connections=1, ident="sensor"):
    ended = recorder.wait_for_ends(connections)
    assert [transcript.offers_extension(each) for each in ended] == [kind == "rust"] * connections
    transcript.compare(name, transcript.text(ended, SECRETS[ident]))


# --- the Python clients


def test_asyncio_client(broker, recorder):
    async def main():
        async with ClientSession("127.0.0.1", recorder.port, "sensor", SECRET) as session:
            session.subscribe("events")
            for payload in ("text", b"\x00\xff", b""):
                session.publish("events", payload)
            for payload in (b"text", b"\x00\xff", b""):
                assert await session.read() == ("sensor", "events", payload)
            session.unsubscribe("events")
            session.publish("events", b"not for me")
            session.publish("files", "ünï")
            session.subscribe("sync")
            session.publish("sync", b"done")
            assert await session.read() == ("sensor", "sync", b"done")

    asyncio.run(asyncio.wait_for(main(), 30))
    check("python-asyncio", recorder, broker.kind)


class Commanded:
    """A script of peers/, of which each message that it prints is awaited."""

    def __init__(self, process):
        self.process = process
        self._seen = 0

    def say(self, *words):
        self.process.write(" ".join(words).encode() + b"\n")

    def hears(self, channel, payload):
        self._seen += 1
        self.process.wait_for(r"\A(.*\n){%d}" % self._seen)
        last = json.loads(self.process.lines()[self._seen - 1])
        assert last == {"ident": "sensor", "channel": channel, "payload": payload}


@pytest.mark.parametrize("script", ["blocking_session.py", "twisted_session.py"])
def test_peer(broker, recorder, run_peer, script):
    # One channel at first: these clients keep them in a set, whose order is not the same in each run.
    peer = Commanded(run_peer(script, recorder.port, "sensor", SECRET, "events"))
    recorder.wait_for("client", subscribe("sensor", "events"))
    peer.say("publish", "events", "from the peer")
    peer.hears("events", "from the peer")
    peer.say("subscribe", "sync")
    peer.say("unsubscribe", "events")
    peer.say("publish", "events", "not for me")
    peer.say("publish", "sync", "done")
    peer.hears("sync", "done")
    peer.process.close_stdin()
    peer.process.wait()
    check("python-" + script.partition("_")[0], recorder, broker.kind)


def test_old_client(broker, recorder, run_peer):
    peer = Commanded(run_peer("old_client.py", recorder.port, "sensor", SECRET, "events"))
    recorder.wait_for("client", subscribe("sensor", "events"))
    for payload in ("one", "two"):
        peer.say("publish", "events", payload)
        peer.hears("events", payload)
    peer.process.close_stdin()
    peer.process.wait()
    check("python-old-client", recorder, broker.kind)


# --- the command line of the Python package


def flags(port, ident, *channels, secret=None):
    wanted = [word for name in channels for word in ("-c", name)]
    secret = SECRETS[ident] if secret is None else secret
    return ["--host", "127.0.0.1", "-p", port, "-i", ident, "-s", secret, *wanted]


def test_command_line_publish(broker, recorder, python_tool):
    process = python_tool(*flags(recorder.port, "sensor", "events", "files"), "publish", "two", "words")
    assert process.wait() == 0
    # It shows the name as it is. Nothing else of the extension can be seen by such a client.
    name = "hpfeeds hpx/1" if broker.kind == "rust" else "hpfeeds"
    assert process.lines()[0] == f"[feedcli] connected to {name}"
    check("python-command-line-publish", recorder, broker.kind)


def test_command_line_publish_denied(broker, recorder, python_tool):
    process = python_tool(*flags(recorder.port, "sensor", "forbidden"), "publish", "x")
    process.wait_for("Authkey not allowed to pub here. ident=sensor, chan=forbidden")
    process.wait()
    check("python-command-line-publish-denied", recorder, broker.kind)


def test_command_line_wrong_secret(broker, recorder, python_tool):
    options = flags(recorder.port, "sensor", "events", secret="wrong")
    assert python_tool(*options, "publish", "x").wait() == 0
    check("python-command-line-wrong-secret", recorder, broker.kind)


def test_command_line_sendfile(broker, recorder, python_tool, tmp_path):
    (tmp_path / "malware.bin").write_bytes(bytes(range(256)))
    options = flags(recorder.port, "sensor", "files")
    assert python_tool(*options, "sendfile", tmp_path / "malware.bin").wait() == 0
    check("python-command-line-sendfile", recorder, broker.kind)


def deliver(broker, recorder, channel, *payloads):
    """Publishes to a client that has subscribed through the recorder, once the broker has acted on that."""
    recorder.wait_for("client", subscribe("collector", channel))
    with connect(broker.port, "sensor") as sensor:
        sensor.send(*(publish("sensor", channel, payload) for payload in payloads))
        sensor.sync()


def test_command_line_subscribe(broker, recorder, python_tool):
    process = python_tool(*flags(recorder.port, "collector", "events"), "subscribe")
    deliver(broker, recorder, "events", b"to the tool")
    process.wait_for("publish to events by sensor")
    process.kill()
    check("python-command-line-subscribe", recorder, broker.kind, ident="collector")


# --- our tool, which must say what it has always said to a broker without the extension


@pytest.fixture(params=["python", "rust-plain"])
def old_broker(request, start_broker):
    return start_broker(request.param)


@pytest.fixture
def old_recorder(old_broker):
    with Recorder(old_broker.port) as made:
        yield made


def test_our_publish(old_broker, old_recorder, tool):
    options = flags(old_recorder.port, "sensor", "events", "files")
    assert tool(*options, "publish", "two", "wörds").wait() == 0
    check("tool-publish", old_recorder, old_broker.kind)


def test_our_publish_of_lines(old_broker, old_recorder, tool):
    process = tool(*flags(old_recorder.port, "sensor", "events"), "publish", "--lines", stdin=b"one\n\nthree\n")
    process.close_stdin()
    assert process.wait() == 0
    check("tool-publish-lines", old_recorder, old_broker.kind)


def test_our_publish_denied(old_broker, old_recorder, tool):
    assert tool(*flags(old_recorder.port, "sensor", "forbidden"), "publish", "x").wait() == 4
    check("tool-publish-denied", old_recorder, old_broker.kind)


def test_our_publish_with_the_wrong_secret(old_broker, old_recorder, tool):
    options = flags(old_recorder.port, "sensor", "events", secret="wrong")
    assert tool(*options, "publish", "x").wait() == 3
    check("tool-wrong-secret", old_recorder, old_broker.kind)


def test_our_sendfile(old_broker, old_recorder, tool, tmp_path):
    (tmp_path / "malware.bin").write_bytes(bytes(range(256)))
    options = flags(old_recorder.port, "sensor", "files")
    assert tool(*options, "sendfile", tmp_path / "malware.bin").wait() == 0
    check("tool-sendfile", old_recorder, old_broker.kind)


def test_our_subscribe(old_broker, old_recorder, tool):
    options = flags(old_recorder.port, "collector", "events", "files")
    process = tool(*options, "subscribe", "--count", 2)
    deliver(old_broker, old_recorder, "files", b"first", b"\x00\xff")
    assert process.wait() == 0
    check("tool-subscribe", old_recorder, old_broker.kind, ident="collector")


def test_our_subscribe_denied(old_broker, old_recorder, tool):
    assert tool(*flags(old_recorder.port, "sensor", "files"), "subscribe").wait() == 4
    check("tool-subscribe-denied", old_recorder, old_broker.kind)


def test_our_subscribe_after_a_restart(old_broker, old_recorder, tool):
    process = tool(*flags(old_recorder.port, "collector", "events"), "subscribe", "--count", 2)
    deliver(old_broker, old_recorder, "events", b"before")
    process.wait_for("before")
    old_broker.restart()
    old_recorder.wait_for("client", subscribe("collector", "events"), connection=1)
    with connect(old_broker.port, "sensor") as sensor:
        sensor.send(publish("sensor", "events", b"after"))
        sensor.sync()
    assert process.wait() == 0
    check("tool-subscribe-restart", old_recorder, old_broker.kind, connections=2, ident="collector")
