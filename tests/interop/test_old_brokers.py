"""Our tool against brokers that are neither Python's nor ours: it says to them what it has always said."""

import hashlib

import pytest

import transcript
from old_brokers import KINDS, NEAR_OFFERS, OldBroker
from recorder import Recorder
from users import SECRETS
from wire import AUTH, frame, publish, short, subscribe, unsubscribe

# Exit codes of the tool.
UNKNOWN_ERROR, REJECTED, DENIED, NOTHING_CAME = 1, 3, 4, 5


@pytest.fixture(params=KINDS, ids=lambda kind: kind.label)
def old(request):
    with OldBroker(request.param) as made:
        yield made


def run(broker, tool, ident, channel, words, secret=None):
    """Runs the tool to its end; all that it has sent on its one connection, and the process."""
    secret = SECRETS[ident] if secret is None else secret
    with Recorder(broker.port) as recorder:
        flags = ["--host", "127.0.0.1", "-p", recorder.port, "-i", ident, "-s", secret, "-c", channel]
        process = tool(*flags, *words)
        process.wait()
        (recording,) = recorder.wait_for_ends()
        assert len(recorder.recordings) == 1
    return transcript.frames(recording.sent_by("client")), process


def auth(kind, ident, secret=None):
    secret = SECRETS[ident] if secret is None else secret
    return frame(AUTH, short(ident) + hashlib.sha1(kind.nonce + secret.encode()).digest())


def test_publish(old, tool):
    sent, process = run(old, tool, "sensor", "events", ["publish", "two", "words"])
    assert process.wait() == 0
    assert sent == [auth(old.kind, "sensor"), publish("sensor", "events", b"two words")]


def test_subscribe(old, tool):
    words = ["subscribe", "--count", 1, "--format", "raw"]
    sent, process = run(old, tool, "collector", "events", words)
    assert (process.wait(), process.stdout) == (0, b"for events")
    on, off = subscribe("collector", "events"), unsubscribe("collector", "events")
    assert sent == [auth(old.kind, "collector"), on, off]
    assert f"connected to {old.kind.name.decode()}\n" in process.stderr


def test_wrong_secret(old, tool):
    sent, process = run(old, tool, "sensor", "events", ["publish", "x"], secret="wrong")
    # The text of this one is not known, and is shown.
    unknown = old.kind.label == "broker-1.2"
    assert process.wait() == (UNKNOWN_ERROR if unknown else REJECTED), process.report()
    assert sent == [auth(old.kind, "sensor", "wrong")]


def test_publish_denied(old, tool):
    sent, process = run(old, tool, "sensor", "forbidden", ["publish", "x"])
    # One broker is silent, so that nothing can be known.
    expected = {"threatwise": 0, "broker-1.2": UNKNOWN_ERROR}.get(old.kind.label, DENIED)
    assert process.wait() == expected, process.report()
    assert sent == [auth(old.kind, "sensor"), publish("sensor", "forbidden", b"x")]


def test_subscribe_denied(old, tool):
    sent, process = run(old, tool, "sensor", "files", ["subscribe", "--timeout", 1])
    expected = {"threatwise": NOTHING_CAME, "broker-1.2": UNKNOWN_ERROR}.get(old.kind.label, DENIED)
    assert process.wait() == expected, process.report()
    # At its own end it unsubscribes; a denial ends it at once.
    rest = [unsubscribe("sensor", "files")] if expected == NOTHING_CAME else []
    assert sent == [auth(old.kind, "sensor"), subscribe("sensor", "files"), *rest]


@pytest.mark.parametrize("name", NEAR_OFFERS)
def test_name_that_is_no_offer(tool, name):
    """A broker that knows nothing of an extension and ends what it does not know."""
    kind = KINDS[-1]._replace(name=name)
    with OldBroker(kind) as old:
        sent, process = run(old, tool, "sensor", "events", ["publish", "x"])
        assert process.wait() == 0, process.report()
        assert sent == [auth(kind, "sensor"), publish("sensor", "events", b"x")]
