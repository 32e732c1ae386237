"""Both exporters after the same script: whoever has a dashboard for the one sees the same with the other."""

import itertools
import os
from contextlib import closing, suppress
from pathlib import Path

import pytest

from broker import Broker
from exposition import OPENMETRICS, families, fetch, samples, value
from process import wait_until
from wire import Peer, connect, publish, subscribe, unsubscribe

PREFIX = "hpfeeds_broker_"

# What differs on purpose: labels hold only idents that have authenticated. A stranger has none, and what a client
# claims to be in a message is none.
CLAIMED = {
    ("connection_error", "stranger", "invalid-ident"): ("connection_error", "", "invalid-ident"),
    ("connection_error", "collector", "ident-mismatch-pub"): ("connection_error", "sensor", "ident-mismatch-pub"),
    ("connection_lost", "None"): ("connection_lost", ""),
}


def sign_in(broker, ident):
    """A peer whose AUTH came alone: Python does not count what comes in the same segment."""
    ready = f"{PREFIX}connection_ready_total"
    before = value(broker.exporter, ready, ident=ident) or 0
    peer = broker.peer()
    peer.send(peer.auth(ident))
    wait_until(lambda: (value(broker.exporter, ready, ident=ident) or 0) > before, f"{ident} to be counted")
    return peer


def script(broker):
    """One of everything. What it opens and does not close is returned."""
    collector, sensor = sign_in(broker, "collector"), sign_in(broker, "sensor")
    collector.send(subscribe("collector", "events"), subscribe("collector", "files"))
    collector.sync()
    for size in (0, 1, 1024, 1025, 4096, 5000, 100_000, 1_000_000):
        sensor.send(publish("sensor", "events", b"x" * size))
    for number in range(50):
        sensor.send(publish("sensor", "files", b"." * (number * 61)))
    sensor.sync()
    collector.sync(through=sensor)
    collector.send(unsubscribe("collector", "files"))
    collector.sync()

    with sign_in(broker, "sensor") as gone:
        gone.send(subscribe("sensor", "events"))
        gone.sync()
        gone.half_close()
        gone.read_until_closed()

    refused = [
        publish("collector", "events", b"not mine"),
        publish("sensor", "forbidden", b""),
        subscribe("sensor", "files"),
    ]
    for frame in refused:
        with sign_in(broker, "sensor") as peer:
            peer.send(frame)
            peer.read_until_closed()
    with broker.peer() as peer:
        peer.send(subscribe("sensor", "events"))
        peer.read_until_closed()
    for ident, secret in (("stranger", "x"), ("sensor", "wrong")):
        with broker.peer() as peer:
            peer.send(peer.auth(ident, secret))
            peer.read_until_closed()
    # The first half of a message stays in the buffer.
    half = publish("sensor", "events", b"0123456789")[:-4]
    sensor.send(half)
    buffered = f"{PREFIX}connection_receive_buffer_size"
    wait_until(lambda: value(broker.exporter, buffered, ident="sensor") == len(half), "half a message to be buffered")
    wait_for_connections(broker, 2)
    return collector, sensor


def wait_for_connections(broker, count):
    wait_until(lambda: value(broker.exporter, f"{PREFIX}client_connections") == count, f"{count} connections")


@pytest.fixture
def exposed(tmp_path_factory, monkeypatch):
    """The families of both exporters after the script, by kind of broker, and what there was before it: the client that
    found out whether the broker serves has left traces.
    """
    before, after = {}, {}
    for kind in ("python", "rust"):
        # The same sizes for both.
        monkeypatch.setattr(Peer, "_markers", itertools.count(100))
        with closing(Broker(kind, tmp_path_factory.mktemp(kind), exporter=True)) as broker:
            broker.start()
            wait_for_connections(broker, 0)
            before[kind] = families(broker.exporter)
            peers = script(broker)
            after[kind] = families(broker.exporter)
            for peer in peers:
                peer.close()
    return before, after


def added(before, after):
    """What has changed since; gauges as they are."""
    old = samples(before) if before and after.type != "gauge" else {}
    return {key: number - old.get(key, 0) for key, number in samples(after).items()}


def expected_samples(python):
    """What ours must have where Python has this."""
    wanted = {}
    for (name, labels), number in python.items():
        changed = labels
        short = name.removeprefix(PREFIX).removesuffix("_total")
        by_name = dict(labels)
        key = (short, by_name.get("ident"), *([by_name["category"]] if "category" in by_name else []))
        if key in CLAIMED:
            changed = tuple(sorted({**by_name, "ident": CLAIMED[key][1]}.items()))
        wanted[name, changed] = wanted.get((name, changed), 0) + number
    return wanted


@pytest.mark.rust
def test_names_types_labels_and_values_are_the_same(exposed):
    before, after = exposed
    python = {name: family.type for name, family in after["python"].items()}
    rust = {name: family.type for name, family in after["rust"].items()}
    assert len(python) == 16
    assert {name: rust.get(name) for name in python} == python
    assert all(family.documentation for family in after["rust"].values())

    for name, family in after["python"].items():
        wanted = expected_samples(added(before["python"].get(name), family))
        ours = added(before["rust"].get(name), after["rust"][name])
        # A series at zero that only one of them tells is the same to whoever asks for a sum or a rate.
        keys = {key for key in ours | wanted if ours.get(key) or wanted.get(key)}
        assert {key: ours.get(key) for key in keys} == {key: wanted.get(key) for key in keys}, name
        if wanted:
            assert {frozenset(dict(labels)) for _, labels in ours} == {
                frozenset(dict(labels)) for _, labels in wanted
            }, name


@pytest.mark.parametrize("kind", ["python", "rust"])
def test_health(kind, tmp_path):
    with closing(Broker(kind, tmp_path, exporter=True)) as broker:
        headers, text = fetch(broker.start().exporter, "/healthz")
        assert (headers.get_content_type(), text) == ("application/json", "{}")


@pytest.mark.rust
def test_openmetrics_says_the_same(tmp_path):
    """Read by the strict parser of the Prometheus project."""
    with closing(Broker("rust", tmp_path, exporter=True)) as broker:
        broker.start()
        with connect(broker.port, "sensor") as peer:
            peer.send(publish("sensor", "events", b"x"))
            peer.sync()
            headers, text = fetch(broker.exporter, accept=OPENMETRICS)
            assert headers.get_content_type() == "application/openmetrics-text"
            assert text.endswith("\n# EOF\n")
            strict = families(broker.exporter, accept=OPENMETRICS)
            plain = families(broker.exporter)
            assert strict.keys() == plain.keys()
            assert {name: family.type for name, family in strict.items()} == {
                name: family.type for name, family in plain.items()
            }


def listening(process):
    """The TCP ports at which it listens, asked of Linux: what a program prints may come late, or be wrong."""
    proc, opened = Path(f"/proc/{process._popen.pid}"), set()
    for descriptor in (proc / "fd").iterdir():
        # One may be closed meanwhile.
        with suppress(FileNotFoundError):
            opened.add(os.readlink(descriptor))
    ports = []
    for table in ("tcp", "tcp6"):
        for line in (proc / "net" / table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            # 0A is LISTEN.
            if state == "0A" and f"socket:[{inode}]" in opened:
                ports.append(int(local.rpartition(":")[2], 16))
    return sorted(ports)


@pytest.mark.rust
def test_without_the_option_nothing_listens(tmp_path):
    with closing(Broker("rust", tmp_path)) as broker:
        process = broker.start().process
        assert listening(process) == [broker.port]
        assert "metrics at" not in process.stdout.decode()


@pytest.mark.rust
def test_with_the_option_the_exporter_listens(tmp_path):
    """The control of the test above: an exporter would be seen there."""
    with closing(Broker("rust", tmp_path, exporter=True)) as broker:
        assert listening(broker.start().process) == sorted([broker.port, broker.exporter])
