"""Clients that are neither Python's nor ours against our broker: with its extension they see what they always saw."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from broker import Broker
from old_clients import KINDS, Died, OldClient
from wire import ERROR, frame


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Our broker with its extension, and without it."""
    with ExitStack() as stack:
        made = []
        for kind in ("rust", "rust-plain"):
            broker = stack.enter_context(closing(Broker(kind, tmp_path_factory.mktemp(kind))))
            made.append(broker.start_anywhere())
        yield made


@pytest.fixture(params=KINDS, ids=lambda kind: kind.label)
def old(request):
    return request.param


def both(pair, play):
    """Plays the same with both brokers; what the two clients have seen must be the same."""
    one, other = (play(broker) for broker in pair)
    assert one.seen == other.seen
    assert one.unknown == other.unknown == []
    assert one.name == other.name + b" hpx/1"
    return one


LARGE = b"x" * 100_000


def test_session(pair, old):
    def play(broker):
        with OldClient(broker.port, old) as client:
            client.subscribe("events")
            client.subscribe("events")
            for payload in (b"1", b"", LARGE):
                client.publish("events", payload)
                client.await_message("events", payload)
            client.unsubscribe("events")
            client.publish("events", b"not for me")
            client.subscribe("sync")
            client.publish("sync", b"done")
            client.await_message("sync", b"done")
            client.sock.shutdown(1)
            assert client.read() is None
            return client

    assert len(both(pair, play).seen) == 4


def test_wrong_secret(pair, old):
    def play(broker):
        with OldClient(broker.port, old, secret="wrong") as client:
            with pytest.raises(Died) if old.error_kills else ExitStack():
                while client.read():
                    pass
            return client

    assert both(pair, play).seen == [frame(ERROR, b"Authentication failed for sensor")]


@pytest.mark.parametrize("verb", ["publish", "subscribe"])
def test_denied_channel(pair, old, verb):
    """The connection ends, as with Python's broker: nothing else would tell such a client."""

    def play(broker):
        with OldClient(broker.port, old) as client:
            client.publish("forbidden", b"x") if verb == "publish" else client.subscribe("forbidden")
            with pytest.raises(Died) if old.error_kills else ExitStack():
                while client.read():
                    pass
            return client

    text = f"Authkey not allowed to {verb[:3]} here. ident=sensor, chan=forbidden"
    assert both(pair, play).seen == [frame(ERROR, text.encode())]


# --- the name, which carries the offer


# Beyond 248 bytes, name and token together would be longer than 254 bytes.
@pytest.mark.parametrize("length", [0, 1, 247, 248, 249, 253, 254, 255])
def test_length_of_the_name(tmp_path, length):
    """A client works with our broker whenever it works with a broker of this name that has no extension."""
    for kind in ("rust", "rust-plain"):
        (tmp_path / kind).mkdir()
        flags = ["--name", "n" * length]
        with closing(Broker(kind, tmp_path / kind, flags=flags)) as broker:
            broker.start_anywhere()
            names = set()
            for old in KINDS:
                if old.wraps and length == 255:
                    # It counts 1 + 255 in a byte, and takes its digest of the whole frame.
                    continue
                with OldClient(broker.port, old) as client:
                    client.subscribe("sync")
                    client.publish("sync", b"x")
                    client.await_message("sync", b"x")
                    names.add(client.name)
            token = b" hpx/1" if kind == "rust" and length <= 248 else b""
            assert names == {b"n" * length + token}


# --- time


def test_a_client_that_is_silent_for_longer_than_the_client_timeout(tmp_path):
    """Heartbeats are for peers that have asked for them: others are neither sent one nor ended for sending none."""
    with closing(Broker("rust", tmp_path, flags=["--client-timeout", "3"])) as broker, ExitStack() as stack:
        broker.start_anywhere()
        clients = [stack.enter_context(OldClient(broker.port, old)) for old in KINDS]
        with ThreadPoolExecutor(len(clients)) as pool:
            list(pool.map(lambda client: client.silence(5), clients))
        for client in clients:
            client.subscribe("sync")
            client.publish("sync", b"after")
            client.await_message("sync", b"after")
            client.unsubscribe("sync")
            assert len(client.seen) == 1
