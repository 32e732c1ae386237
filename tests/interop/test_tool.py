"""Our command-line tool against the Python broker, with both of its stores that need no database."""

import itertools
import json
import os

import pytest

from process import wait_until
from users import SECRETS
from wire import connect, max_payload, message, publish, subscribe


@pytest.fixture(params=["json", "env"])
def server(start_broker, request):
    return start_broker("python", request.param)


def flags(broker, ident, *channels, secret=None):
    wanted = [word for name in channels for word in ("-c", name)]
    secret = SECRETS[ident] if secret is None else secret
    return ["--host", "127.0.0.1", "-p", broker.port, "-i", ident, "-s", secret, *wanted]


def listen(broker, *channels):
    """A peer that is subscribed."""
    collector = connect(broker.port, "collector")
    for name in channels:
        collector.send(subscribe("collector", name))
    collector.sync()
    return collector


def assert_explained(process, *words):
    """It gave up by itself, and stderr says why."""
    assert process.wait() != 0
    for word in words:
        assert word in process.stderr, process.report()


# --- publishing. The exit code 0 promises that the broker has read everything, so that a marker sent afterwards comes
# after it.


@pytest.mark.parametrize("flags_first", [True, False], ids=["flags-first", "action-first"])
def test_publish(server, tool, flags_first):
    with listen(server, "events", "files") as collector:
        options = flags(server, "sensor", "events", "files")
        action = ["publish", "two", "wörds"]
        process = tool(*options, *action) if flags_first else tool(action[0], *options, *action[1:])
        assert process.wait() == 0
        collector.sync()
        expected = [message("sensor", name, "two wörds".encode()) for name in ("events", "files")]
        assert sorted(collector.transcript[1:]) == expected


def test_publish_lines(server, tool):
    lines = [b"%d" % number for number in range(10000)]
    with listen(server, "events") as collector:
        process = tool(*flags(server, "sensor", "events"), "publish", "--lines", stdin=b"\n".join(lines) + b"\n")
        process.close_stdin()
        assert process.wait() == 0
        collector.sync()
        assert collector.transcript[1:] == [message("sensor", "events", line) for line in lines]


@pytest.mark.parametrize("size", [0, 170_000, max_payload("sensor", "files")], ids=["empty", "170KB", "largest"])
def test_sendfile(server, tool, tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "malware.bin").write_bytes(content)
    with listen(server, "files") as collector:
        process = tool(*flags(server, "sensor", "files"), "sendfile", tmp_path / "malware.bin")
        assert process.wait() == 0
        collector.sync()
        assert collector.transcript[1:] == [message("sensor", "files", content)]


def test_sendfile_too_large(server, tool, tmp_path):
    """Refused here: the broker would only have closed the connection."""
    (tmp_path / "huge").write_bytes(bytes(max_payload("sensor", "files") + 1))
    with listen(server, "files") as collector:
        assert_explained(tool(*flags(server, "sensor", "files"), "sendfile", tmp_path / "huge"))
        collector.sync()
        assert collector.transcript[1:] == []


def test_sendfile_that_does_not_exist(server, tool, tmp_path):
    assert_explained(tool(*flags(server, "sensor", "files"), "sendfile", tmp_path / "no such file"), "no such file")


def test_publish_denied(server, tool):
    assert_explained(tool(*flags(server, "sensor", "forbidden"), "publish", "x"), "forbidden")


def test_publish_lines_denied(server, tool):
    """In full flow, when the broker closes while most lines are still to be sent."""
    lines = b"".join(b"%d\n" % number for number in range(2000))
    process = tool(*flags(server, "sensor", "forbidden"), "publish", "--lines", stdin=b"")
    try:
        process.write(lines)
        process.close_stdin()
    except BrokenPipeError:
        pass  # It gave up before it had read them all.
    assert_explained(process)


ACTIONS = [["publish", "x"], ["sendfile", __file__], ["subscribe"]]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda words: words[0])
def test_rejected_key(server, tool, action):
    assert_explained(tool(*flags(server, "sensor", "events", secret="wrong"), *action))


# --- subscribing


def start_subscriber(tool, broker, *args, channels=("events",)):
    process = tool(*flags(broker, "collector", *channels), "subscribe", *args)
    for name in channels:
        process.wait_for(f"subscribed to {name}", "stderr")
    return process


def send(broker, *payloads):
    with connect(broker.port, "sensor") as sensor:
        sensor.send(*(publish("sensor", "events", payload) for payload in payloads))
        sensor.sync()


def test_subscribe_line(server, tool):
    process = start_subscriber(tool, server, "--format", "line", "--count", 2)
    send(server, b"first", b"second")
    assert process.wait() == 0
    assert len(process.lines()) == 2
    for line, text in zip(process.lines(), ("first", "second")):
        assert all(word in line for word in ("sensor", "events", text)), line


def test_subscribe_ndjson(server, tool):
    payloads = [b"text", '{"a": "ü\n"}'.encode(), b"", b"\x00\xff\xfe"]
    process = start_subscriber(tool, server, "--format", "ndjson", "--count", len(payloads))
    send(server, *payloads)
    assert process.wait() == 0
    got = [json.loads(line) for line in process.lines()]
    assert [(item["ident"], item["channel"]) for item in got] == [("sensor", "events")] * len(payloads)
    assert all(item["time"] for item in got)
    assert [item.get("payload") for item in got] == ["text", '{"a": "ü\n"}', "", None]
    assert [item.get("payload_base64") for item in got] == [None, None, None, "AP/+"]


def test_subscribe_raw(server, tool):
    """Byte for byte, the largest message too."""
    content = os.urandom(max_payload("sensor", "events"))
    process = start_subscriber(tool, server, "--format", "raw", "--count", 1)
    send(server, content)
    assert process.wait() == 0
    assert process.stdout == content


def test_subscribe_timeout(server, tool):
    """Ends although nothing arrives."""
    tool(*flags(server, "collector", "events"), "subscribe", "--timeout", 1).wait()


def test_subscribe_denied(server, tool):
    """Nothing is left to wait for."""
    assert_explained(tool(*flags(server, "sensor", "files"), "subscribe"), "files")


def test_subscribe_with_one_channel_denied(server, tool):
    """The Python broker closes the connection on a denial; the channel that is allowed flows nevertheless."""
    channels = flags(server, "sensor", "files", "events")
    process = tool(*channels, "subscribe", "--format", "raw")
    process.wait_for("files", "stderr")

    def received():
        send(server, b"x")
        return process.stdout

    wait_until(received, "a message on the allowed channel")
    # From here on the connection is stable: nothing is missed.
    before = len(process.stdout)
    send(server, *[b"y"] * 100)
    wait_until(lambda: process.stdout.endswith(b"y" * 100), "all the messages")
    assert process.stdout[before:].strip(b"x") == b"y" * 100


def test_a_channel_given_twice(server, tool):
    """The Python broker keeps an entry for each SUBSCRIBE, and one that outlives its connection breaks the channel for
    every publisher until a restart. So the tool must not ask twice.
    """
    process = start_subscriber(tool, server, "--count", 1, channels=("events", "events"))
    send(server, b"x")
    assert process.wait() == 0
    with listen(server, "events") as collector:
        send(server, b"y")
        collector.sync()
        assert collector.transcript[1:] == [message("sensor", "events", b"y")]


def test_subscribe_survives_a_restart_of_the_broker(server, tool):
    """SIGKILL, then a start on the same port. What is published once it is back arrives, without a gap."""
    process = start_subscriber(tool, server, "--format", "ndjson")
    send(server, b"before")
    wait_until(lambda: len(process.lines()) == 1, "the message before the restart")

    for _ in range(2):
        server.restart()
        assert_flowing_again(server, process)


def assert_flowing_again(broker, process):
    """Publishes numbers until one arrives; from that one on, every number must."""
    seen = len(process.lines())
    numbers = itertools.count()

    def arrived():
        return [int(json.loads(line)["payload"]) for line in process.lines()[seen:]]

    def publish_next():
        send(broker, b"%d" % next(numbers))
        return arrived()

    first = wait_until(publish_next, "a message after the restart")[0]
    last = next(numbers)
    send(broker, b"%d" % last)
    wait_until(lambda: arrived() == list(range(first, last + 1)), f"messages {first} to {last}")
