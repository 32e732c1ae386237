"""Both brokers, side by side: whoever swaps the one for the other sees no difference in these frames."""

import random
from contextlib import ExitStack, closing

import pytest

from broker import KINDS, Broker
from net import Net
from scenarios import SCENARIOS
from wire import EOF, Peer, connect, error, info, message, publish, subscribe, unsubscribe


# What our broker says without its extension is the same; with it, it is the same but for its name.
NAMES = {"python": "hpfeeds", "rust": "hpfeeds hpx/1", "rust-plain": "hpfeeds"}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def net(broker):
    made = Net(broker.port)
    yield made
    made.close()


def assert_alike(transcripts, expect):
    """Frame by frame, so that the report names the first difference instead of printing megabytes."""
    assert transcripts.keys() == expect.keys()
    for name, wanted in expect.items():
        got = transcripts[name]
        for index, (got_line, wanted_line) in enumerate(zip(got, wanted)):
            if got_line != wanted_line:
                pytest.fail(f"peer {name}, frame {index}: got {got_line!r:.300}, expected {wanted_line!r:.300}")
        assert len(got) == len(wanted), f"peer {name}: got {str(got[-3:]):.600} at the end of {len(got)} frames"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(net, scenario):
    scenario.script(net)
    assert_alike(net.transcripts(), scenario.expect)


def test_greeting(broker):
    with broker.peer() as one, broker.peer() as two:
        assert one.transcript == two.transcript == [info(NAMES[broker.kind], nonce_length=4)]
        assert one.nonce != two.nonce


def test_env_idents_are_case_insensitive(kind, start_broker):
    """The env store finds "Sensor" under HPFEEDS_SENSOR_…; the connection then is "Sensor", everywhere."""
    broker = start_broker(kind, auth="env")
    with connect(broker.port, "Sensor") as peer:
        peer.send(subscribe("Sensor", "events"), publish("Sensor", "events", b"x"))
        peer.sync()
        peer.send(publish("sensor", "events", b"x"))
        peer.read_until_closed()
        assert peer.transcript[1:] == [
            message("Sensor", "events", b"x"),
            error("Invalid authkey in message, ident=sensor"),
            EOF,
        ]


def test_broken_connections_leave_nothing_behind(broker):
    """Resets in every state, after which a subscriber still gets exactly what it should."""
    with connect(broker.port, "collector") as watcher:
        watcher.send(subscribe("collector", "events"))
        watcher.sync()
        for state in range(40):
            peer = broker.peer()
            if state % 4 > 0:
                peer.send(peer.auth("sensor"))
            if state % 4 > 1:
                peer.send(subscribe("sensor", "events"))
                peer.sync()
            if state % 4 > 2:
                peer.send(publish("sensor", "events", b"half")[:-2])
            # With bytes unread in the buffer, this is a reset.
            peer.close()
        with connect(broker.port, "sensor") as publisher:
            publisher.send(publish("sensor", "events", b"x"))
            watcher.sync(through=publisher)
        assert watcher.transcript[1:] == [message("sensor", "events", b"x")]


# --- random scripts, on which no expectation is written down: the Python broker is the expectation


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    with ExitStack() as stack:
        made = [Broker(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS]
        for broker in made:
            stack.enter_context(closing(broker))
            broker.start()
        yield made


FRAME_WEIGHTS = {"publish": 40, "elsewhere": 5, "switch": 12, "needless": 5, "denied": 1, "foreign": 1, "blind": 1}


def random_frames(seed):
    """Mostly allowed frames, among which a refused one comes up every now and then."""
    rng = random.Random(seed)
    subscribed = False
    for number in range(rng.randint(5, 60)):
        what = rng.choices(list(FRAME_WEIGHTS), FRAME_WEIGHTS.values())[0]
        payload = b"%d" % number + b"." * rng.choice([0, 0, 0, 200])
        if what == "publish":
            yield publish("sensor", "events", payload)
        elif what == "elsewhere":
            yield publish("sensor", "files", payload)
        elif what == "switch":
            # In turns, for Python counts subscriptions and ours does not (see test_better).
            yield (unsubscribe if subscribed else subscribe)(rng.choice(["sensor", "collector"]), "events")
            subscribed = not subscribed
        elif what == "needless":
            yield unsubscribe("sensor", rng.choice(["forbidden", "sync"]))
        elif what == "denied":
            yield publish("sensor", "forbidden", payload)
        elif what == "foreign":
            yield publish("collector", "events", payload)
        elif what == "blind":
            yield subscribe("sensor", "files")


def play(port, seed):
    with Peer(port) as peer:
        data = peer.auth("sensor") + b"".join(random_frames(seed))
        # So little that the broker has read everything before it closes. Bytes that come later would make a reset of
        # it, which may destroy the ERROR on its way.
        assert len(data) < 32768
        peer.send(data)
        peer.half_close()
        peer.read_until_closed()
        return peer.transcript


@pytest.mark.rust
@pytest.mark.parametrize("seed", range(40))
def test_random_script(all_kinds, seed):
    python, *ours = (play(broker.port, seed) for broker in all_kinds)
    for broker, got in zip(all_kinds[1:], ours):
        assert_alike({"peer": got}, {"peer": [info(NAMES[broker.kind]), *python[1:]]})
