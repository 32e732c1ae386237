"""Honeypots against our broker: two with their own code, six played. What their clients write arrives as it is."""

import itertools
import json
import signal
from contextlib import ExitStack, closing

import pytest

from process import wait_until
from sensors.events import MAKERS, connection, dionaea, ewsposter, number_of
from sensors.route import CHANNELS, ROUTES, Collector, secret_of
from sensors.sensor import Sensor
from wire import MAX_BODY, Peer

# The first test that needs an environment makes it, which takes as long as the package index does.
pytestmark = [pytest.mark.rust, pytest.mark.timeout(600)]

FILES = "mwbinary.dionaea.sensorunique"
# Messages for each command, where it is not one.
EACH = {"ewsposter": 3}
STOPS = pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["sigterm", "sigkill"])


@pytest.fixture(params=ROUTES)
def route(request, tmp_path):
    with closing(ROUTES[request.param](tmp_path)) as made:
        yield made.start()


@pytest.fixture
def collector(route):
    with closing(Collector(route)) as made:
        yield made


# Reports of a client that has sent AUTH. The poster of T-Pot connects for each round.
READY = {
    "cowrie": {"connected": True},
    "opencanary": {"ready": True},
    "dionaea": {"authenticated": True},
    "heralding": {"connected": True},
    "conpot": {"connected": True},
    "tanner": {"connected": True},
    "glutton": {"connected": True},
}


@pytest.fixture
def start_sensor(route, tmp_path):
    started = []

    def start(name, ready=True, secret=None):
        channels = CHANNELS[name] if name == "opencanary" else ()
        started.append(Sensor(name, route, secret or secret_of(name), tmp_path, channels))
        if ready and name in READY:
            started[-1].wait_for(**READY[name])
            route.wait_for_refusal(name) if secret else route.wait_for_login(name)
        return started[-1]

    yield start
    for each in started:
        each.close()


def play(sensor, *numbers):
    """Has it see these events, in order."""
    sensor.tell(*(command for number in numbers for command in MAKERS[sensor.name](number)))


WAKE = {"wake": True}


def numbers(found):
    """The numbers of the events that these messages tell of."""
    return [number_of(payload) for _, payload in found]


def messages(sensor, count):
    """Waits until it is known what became of so many messages, none of which was lost."""
    sensor.wait_for_results(count)
    assert (sensor.lost, sensor.slept) == ([], [])
    return sensor.written


# --- while nothing is wrong


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "opencanary"])
def test_every_event_arrives(route, collector, start_sensor, name):
    # Conpot waits for a second after each.
    count = 3 if name == "conpot" else 60
    sensor = start_sensor(name)
    play(sensor, *range(count))
    collector.expect(name, messages(sensor, count * EACH.get(name, 1)))
    assert {channel for channel, _ in sensor.written} <= set(CHANNELS[name])


def test_cowrie_sends_one_message_for_each_session(collector, start_sensor):
    sensor = start_sensor("cowrie")
    play(sensor, 1)
    [(channel, payload)] = messages(sensor, 1)
    collector.expect("cowrie", [("cowrie.sessions", payload)])
    session = json.loads(payload)
    assert (session["peerIP"], session["hostPort"], session["loggedin"]) == ("192.0.2.7", 2222, ["root", "1234"])
    assert (session["credentials"], session["hashes"]) == ([["root", "pässwörd\u0000\ud800"]], ["ab" * 32])


def test_opencanary_sends_its_first_event_alone(collector, start_sensor):
    """Its channels are an iterator, which the first event uses up."""
    sensor = start_sensor("opencanary")
    play(sensor, *range(20))
    sensor.wait_for(logged={"PASSWORD": "ü", "number": 19})
    collector.expect("opencanary", sensor.written)
    assert [channel for channel, _ in sensor.written] == ["opencanary.events", "opencanary.copies"]
    assert [json.loads(payload)["logdata"]["number"] for _, payload in sensor.written] == [0, 0]
    assert (sensor.lost, sensor.slept) == ([], [])


def test_conpot_waits_a_second_after_each_event(collector, start_sensor):
    sensor = start_sensor("conpot")
    play(sensor, 1, 2)
    collector.expect("conpot", messages(sensor, 2))
    sensor.wait_for(2, answer=None)
    assert min(each["waited"] for each in sensor.reports if "waited" in each) >= 0.99


@pytest.mark.parametrize("size", [1, 16384, 170_000, MAX_BODY - len("dionaea") - len(FILES) - 2])
def test_dionaea_sends_a_file_in_pieces(collector, start_sensor, tmp_path, size):
    """Events that come meanwhile wait, until something else has been sent."""
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "binary").write_bytes(content[:size])
    sensor = start_sensor("dionaea")
    sensor.tell({"file": str(tmp_path / "binary")}, connection(1), {"file": str(tmp_path / "binary")}, connection(2))
    wait_until(lambda: [channel for channel, _ in sensor.written].count(FILES) == 2, "two files", every=0.01)
    sensor.tell(connection(3))
    collector.expect("dionaea", messages(sensor, 5))
    files = [payload for channel, payload in sensor.written if channel == FILES]
    assert files == [content[:size]] * 2
    if size > 2 * 16384:
        ports = [json.loads(payload)["remote_port"] for _, payload in sensor.written[2:]]
        assert (sensor.count(queued=1), sensor.count(queued=2), ports) == (1, 1, [3, 1, 2])


def test_dionaea_sends_a_file_that_is_too_large_for_the_broker(route, collector, start_sensor, tmp_path):
    """The broker says so as soon as it has the header; everything behind it is lost, and nothing else."""
    (tmp_path / "huge").write_bytes(bytes(MAX_BODY))
    sensor = start_sensor("dionaea")
    play(sensor, 1)
    sensor.wait_for_results(1)
    sensor.tell({"file": str(tmp_path / "huge")})
    sensor.wait_for(connected=False)
    collector.expect("dionaea", sensor.written[:1])


def test_ewsposter_leaves_its_connections_open(collector, start_sensor):
    """Nothing that a broker does may wait for the end of a round's connection."""
    sensor = start_sensor("ewsposter")
    for number in range(1, 4):
        sensor.tell(*ewsposter(number, alerts=100))
        sensor.wait_for(number, done=100)
        collector.expect("ewsposter", messages(sensor, number * 100))
    assert sensor.count(connected=True) == 3


# --- a broker that ends and comes back. Our broker closes a publisher's connection when it ends in an orderly way, and
# resets it when it is killed: what is written next is taken by the system in one case and refused in the other.


def silently(how):
    """Messages that a blocking client takes for written although nobody is there."""
    return 1 if how is signal.SIGTERM else 0


def comes_back(route, collector):
    route.start()
    collector.reconnect()


@STOPS
def test_cowrie_drops_silently_what_happens_without_a_broker(route, collector, start_sensor, how):
    sensor = start_sensor("cowrie")
    play(sensor, *range(10))
    collector.expect("cowrie", messages(sensor, 10))
    route.stop(how)
    sensor.wait_for(connected=False)
    play(sensor, *range(10, 30))
    sensor.wait_for_results(30)
    comes_back(route, collector)
    sensor.wait_for(2, connected=True)
    play(sensor, *range(30, 40))
    sensor.wait_for_results(40)
    assert (len(sensor.written), sensor.lost) == (20, ["cowrie.sessions"] * 20)
    collector.expect("cowrie", sensor.written)
    assert numbers(sensor.written) == [*range(10), *range(30, 40)]


@STOPS
def test_cowrie_loses_only_what_was_on_its_way(route, collector, start_sensor, how):
    """Sessions end all the time, and the broker goes in the middle of them."""
    sensor = start_sensor("cowrie")
    play(sensor, *range(300))
    wait_until(lambda: len(collector.of("cowrie")) >= 20, "the first sessions", every=0.001)
    route.stop(how)
    sensor.wait_for_results(300)
    sensor.wait_for(connected=False)
    before = len(collector.of("cowrie"))
    assert 20 <= before <= len(sensor.written)
    comes_back(route, collector)
    sensor.wait_for(2, connected=True)
    play(sensor, *range(300, 310))
    sensor.wait_for_results(310)
    # An unbroken beginning, and everything since it is connected again.
    collector.expect("cowrie", sensor.written[:before] + sensor.written[-10:])


@STOPS
@pytest.mark.parametrize("name", ["heralding", "conpot"])
def test_blocking_sensors_lose_what_they_could_not_send_and_keep_what_comes_meanwhile(
    route, collector, start_sensor, name, how
):
    """They sleep for 20 s again and again, and events wait in the queue before them."""
    sensor = start_sensor(name)
    play(sensor, 0)
    collector.expect(name, messages(sensor, 1))
    if name == "conpot":
        sensor.wait_for(answer=None)
    route.stop(how)
    play(sensor, 1, 2, 3, 4)
    sensor.wait_for(sleeps=20)
    sensor.tell(WAKE)
    sensor.wait_for(2, sleeps=20)
    assert (len(sensor.written), sensor.lost) == (1 + silently(how), [])
    comes_back(route, collector)
    sensor.tell(WAKE)
    sensor.wait_for_results(5)
    assert (len(sensor.lost), sensor.slept) == (1, [20, 20])
    collector.expect(name, sensor.written[:1] + sensor.written[1 + silently(how) :])
    assert numbers(collector.of(name)) == ([0, 3, 4] if how is signal.SIGTERM else [0, 2, 3, 4])


@STOPS
def test_opencanary_stands_still_at_its_first_event(route, collector, start_sensor, how):
    """Its reactor's thread sleeps; when the broker is back, that event is gone, and no other one is ever sent."""
    sensor = start_sensor("opencanary")
    route.stop(how)
    play(sensor, 0, 1)
    sensor.wait_for(sleeps=20)
    # The frame of its first channel went into a connection that had ended.
    assert [channel for channel, _ in sensor.written] == ["opencanary.events"]
    assert sensor.count(logged={"PASSWORD": "ü", "number": 0}) == 0
    comes_back(route, collector)
    sensor.tell(WAKE)
    play(sensor, 2)
    sensor.wait_for(logged={"PASSWORD": "ü", "number": 2})
    assert (len(sensor.written), sensor.slept, collector.of("opencanary")) == (1, [20], [])


def test_opencanary_does_not_start_without_a_broker(route, start_sensor):
    route.stop(signal.SIGTERM)
    sensor = start_sensor("opencanary", ready=False)
    sensor.wait_for(sleeps=20)
    sensor.tell(WAKE)
    sensor.wait_for(2, sleeps=20)
    assert sensor.count(ready=True) == 0
    route.start()
    sensor.tell(WAKE)
    sensor.wait_for(ready=True)


@STOPS
def test_tanner_sends_nothing_more_after_the_first_failure(route, collector, start_sensor, how):
    sensor = start_sensor("tanner")
    play(sensor, 0)
    collector.expect("tanner", messages(sensor, 1))
    route.stop(how)
    play(sensor, 1, 2)
    sensor.wait_for_results(3)
    comes_back(route, collector)
    play(sensor, *range(3, 10))
    sensor.wait_for_results(10)
    assert (len(sensor.written), len(sensor.lost)) == (1 + silently(how), 9 - silently(how))
    collector.expect("tanner", sensor.written[:1])


def test_tanner_tries_three_times_when_it_starts(route, collector, start_sensor):
    route.stop(signal.SIGTERM)
    sensor = start_sensor("tanner", ready=False)
    for count in (1, 2, 3):
        sensor.wait_for(count, sleeps=20)
        sensor.tell(WAKE)
    sensor.wait_for(connected=False)
    comes_back(route, collector)
    play(sensor, *range(5))
    sensor.wait_for_results(5)
    assert (sensor.slept, sensor.written, len(sensor.lost), collector.of("tanner")) == ([20] * 3, [], 5, [])


@STOPS
def test_ewsposter_skips_the_rounds_without_a_broker(route, collector, start_sensor, how):
    sensor = start_sensor("ewsposter")
    play(sensor, 0)
    sensor.wait_for(1, done=3)
    route.stop(how)
    play(sensor, 1, 2)
    sensor.wait_for(2, skipped=3)
    comes_back(route, collector)
    play(sensor, 3)
    sensor.wait_for(2, done=3)
    collector.expect("ewsposter", messages(sensor, 6))


@STOPS
def test_glutton_stops_at_the_second_event_without_a_broker(route, collector, start_sensor, how):
    sensor = start_sensor("glutton")
    play(sensor, 0)
    collector.expect("glutton", messages(sensor, 1))
    route.stop(how)
    sensor.wait_for(connected=False)
    play(sensor, 1, 2)
    sensor.wait_for(stuck=True)
    comes_back(route, collector)
    play(sensor, 3)
    assert (len(sensor.written), len(sensor.lost), len(collector.of("glutton"))) == (1, 1, 1)
    assert sensor.process.running


def test_glutton_ends_when_it_starts_without_a_broker(route, start_sensor):
    route.stop(signal.SIGTERM)
    sensor = start_sensor("glutton", ready=False)
    assert sensor.process.wait() == 1
    assert "cannot connect" in sensor.process.stderr


@STOPS
def test_dionaea_keeps_connections_and_leaves_captures_out(route, collector, start_sensor, tmp_path, how):
    """Its queue has no bound."""
    (tmp_path / "binary").write_bytes(bytes(1000))
    sensor = start_sensor("dionaea")
    play(sensor, *range(10))
    collector.expect("dionaea", messages(sensor, 10))
    route.stop(how)
    sensor.wait_for(connected=False)
    sensor.tell(*map(connection, range(10, 2010)), *dionaea(3), {"file": str(tmp_path / "binary")})
    sensor.wait_for(queued=2000)
    sensor.wait_for_results(12)
    sensor.tell(WAKE)
    sensor.wait_for(2, sleeps=10.0)
    comes_back(route, collector)
    sensor.tell(WAKE)
    sensor.wait_for(2, authenticated=True)
    sensor.wait_for_results(2012)
    assert sensor.lost == ["dionaea.capture", FILES]
    collector.expect("dionaea", sensor.written)
    assert [json.loads(payload)["remote_port"] for _, payload in sensor.written[10:]] == list(range(10, 2010))


def test_dionaea_that_sends_a_file_before_auth_loses_it(route, collector, start_sensor, tmp_path):
    """And what waits in its queue goes out behind that file: the broker ends the connection at the first frame."""
    (tmp_path / "binary").write_bytes(bytes(1000))
    sensor = start_sensor("dionaea")
    route.stop(signal.SIGKILL)
    sensor.wait_for(connected=False)
    comes_back(route, collector)
    sensor.tell({"hold": True}, WAKE, connection(1), {"file": str(tmp_path / "binary")}, {"hold": False})
    sensor.wait_for(2, connected=False)
    assert ([channel for channel, _ in sensor.written], sensor.lost) == ([FILES, "dionaea.connections"], [])
    sensor.tell(connection(2), WAKE)
    sensor.wait_for_results(3)
    collector.expect("dionaea", sensor.written[2:])


def test_dionaea_does_not_authenticate_after_a_file_that_was_cut(route, collector, start_sensor, tmp_path):
    """It reads nothing while a file is under way, and the end of the connection does not end the file."""
    (tmp_path / "binary").write_bytes(bytes(900_000))
    (tmp_path / "another").write_bytes(bytes(100))
    sensor = start_sensor("dionaea")
    route.freeze()
    sensor.tell({"file": str(tmp_path / "binary")})
    # The system does not take all of it as long as the broker reads nothing.
    sensor.wait_for(begins=900_000)
    route.stop(signal.SIGKILL)
    sensor.wait_for(connected=False)
    comes_back(route, collector)
    sensor.tell(WAKE, connection(1))
    sensor.wait_for(2, connected=True)
    sensor.wait_for(queued=1)
    assert sensor.count(authenticated=True) == 1
    # The next file goes out before AUTH. When its connection has ended, there is nothing under way any more.
    sensor.tell({"file": str(tmp_path / "another")})
    sensor.wait_for(2, connected=False)
    sensor.tell(connection(2), WAKE)
    wait_until(lambda: collector.of("dionaea"), "a message", every=0.01)
    assert collector.of("dionaea") == sensor.written[-1:]


# --- a wrong secret, which the operator then puts into the broker's keys


def test_heralding_with_a_wrong_secret_has_info_within_its_second(route, collector, start_sensor):
    """It dials again at once whenever it finds its connection ended, and then all of its address are kept waiting, as a
    neighbour fails again and again. A greeting that came after its second would make it sleep for 20 s each time.
    """
    with ExitStack() as stack:
        neighbours = [stack.enter_context(Peer(route.sensor_port)) for _ in range(100)]
        sensor = start_sensor("heralding", secret="another")
        seen = itertools.count()

        def has_dialled():
            play(sensor, next(seen))
            if neighbours:
                neighbour = neighbours.pop()
                neighbour.send(neighbour.auth("heralding", "wrong"))
            return sensor.count(connected=True) >= 3

        wait_until(has_dialled, "its connections", every=0.05)
    route.correct_key("heralding")
    wait_until(lambda: play(sensor, next(seen)) or collector.of("heralding"), "an event", every=0.1)
    play(sensor, last := next(seen))
    wait_until(lambda: last in numbers(collector.of("heralding")), "the last event", every=0.01)
    arrived = numbers(collector.of("heralding"))
    assert (arrived, sensor.slept) == (list(range(arrived[0], last + 1)), [])


def test_conpot_is_told_that_its_secret_is_wrong(route, collector, start_sensor):
    sensor = start_sensor("conpot", secret="another")
    play(sensor, 0)
    sensor.wait_for(answer="Authentication failed for conpot")
    assert (collector.of("conpot"), sensor.slept) == ([], [])


def test_cowrie_with_a_wrong_secret_tries_again_by_itself(route, collector, start_sensor):
    sensor = start_sensor("cowrie", secret="another")
    sensor.wait_for(connected=False)
    route.correct_key("cowrie")
    connections = sensor.count(connected=False)
    wait_until(lambda: sensor.count(connected=True) > connections, "a connection that stays", every=0.01)
    before = len(sensor.written) + len(sensor.lost)
    play(sensor, 5)
    sensor.wait_for_results(before + 1)
    collector.expect("cowrie", sensor.written[-1:])


def test_dionaea_with_a_wrong_secret_keeps_its_connections(route, collector, start_sensor):
    sensor = start_sensor("dionaea", secret="another")
    sensor.wait_for(connected=False)
    sensor.tell(connection(1), connection(2))
    sensor.wait_for(queued=2)
    route.correct_key("dionaea")
    sensor.tell(WAKE)
    sensor.wait_for_results(2)
    assert (sensor.lost, sensor.slept) == ([], [10.0])
    collector.expect("dionaea", sensor.written)


@pytest.mark.parametrize("name", ["opencanary", "tanner", "glutton"])
def test_sensors_with_a_wrong_secret_send_nothing_until_they_are_started_again(route, collector, start_sensor, name):
    sensor = start_sensor(name, secret="another")
    route.correct_key(name)
    play(sensor, *range(4))
    if name == "opencanary":
        sensor.wait_for(logged={"PASSWORD": "ü", "number": 3})
    elif name == "tanner":
        sensor.wait_for_results(4)
    else:
        sensor.wait_for(stuck=True)
    assert collector.of(name) == []


def test_ewsposter_with_a_wrong_secret_loses_the_rounds(route, collector, start_sensor):
    sensor = start_sensor("ewsposter", secret="another")
    play(sensor, 0)
    sensor.wait_for(1, done=3)
    route.correct_key("ewsposter")
    play(sensor, 1)
    sensor.wait_for(2, done=3)
    collector.expect("ewsposter", sensor.written[-3:])
