"""Honeypots through a relay: what their clients write arrives as it is, whatever becomes of the parent meanwhile."""

import itertools
import signal
import subprocess
from contextlib import closing

import pytest

from broker import Broker, binary, pick_port
from process import Process, clean_environment, wait_until
from sensors.events import MAKERS, dionaea
from sensors.route import CHANNELS, Collector, Direct, secret_of
from sensors.sensor import Sensor
from test_sensors import EACH, FILES, READY, messages, numbers, play

pytestmark = [pytest.mark.rust, pytest.mark.timeout(600)]


class Relayed(Direct):
    """A relay, to which sensors connect, and its parent, to which the collector does."""

    def __init__(self, kind, directory, flags=()):
        self.broker = Broker(kind, directory, flags=flags)
        self.set_keys()
        self.relay, self.port, self.data = None, pick_port(), directory / "relay"

    @property
    def sensor_port(self):
        return self.port

    def start(self):
        super().start()
        if self.relay is None:
            self.start_relay()
        return self

    def start_relay(self):
        keys = [f"--key={ident}" for ident in CHANNELS]
        secrets = {f"HPFEEDS_{ident.upper()}_SECRET": secret_of(ident) for ident in CHANNELS}
        command = [binary("hpfeeds-broker"), "relay", f"--parent=127.0.0.1:{self.broker.port}", *keys]
        command += [f"--bind=127.0.0.1:{self.port}", f"--data-dir={self.data}"]
        self.relay = Process(command, env=clean_environment(**secrets), cwd=self.broker.directory)
        self.relay.wait_for(r"^listening on", stream="stdout")

    def kill_relay(self):
        self.relay.kill()
        self.relay.cleanup()

    def wait_for_login(self, ident):
        self.relay.wait_for(f'connected ident="{ident}"', stream="stderr")

    def status(self):
        """Figures of each ident: waiting, delivered, lost."""
        command = [binary("hpfeeds-broker"), "relay", "status", f"--data-dir={self.data}"]
        screen = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
        found, ident = {}, None
        for line in screen.splitlines()[1:]:
            if not line.startswith(" "):
                ident = line.split(":")[0]
            elif (words := line.replace(",", "").split())[0] in ("waiting", "delivered", "lost", "refused"):
                found.setdefault(ident, {})[words[0]] = int(words[1])
        return found

    def close(self):
        if self.relay:
            self.relay.cleanup()
        super().close()


# Our broker that stores, and so knows the streams after a restart; and two that confirm by their end of stream.
PARENTS = {
    "stores": lambda directory: Relayed("rust", directory, ["--data-dir", str(directory / "broker")]),
    "plain": lambda directory: Relayed("rust-plain", directory),
    "python": lambda directory: Relayed("python", directory),
}


@pytest.fixture(params=PARENTS)
def route(request, tmp_path):
    with closing(PARENTS[request.param](tmp_path)) as made:
        yield made.start()


@pytest.fixture
def collector(route):
    with closing(Collector(route)) as made:
        yield made


@pytest.fixture
def start_sensor(route, tmp_path):
    started = []

    def start(name):
        channels = CHANNELS[name] if name == "opencanary" else ()
        started.append(Sensor(name, route, secret_of(name), tmp_path, channels))
        if name in READY:
            started[-1].wait_for(**READY[name])
            route.wait_for_login(name)
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "opencanary"])
def test_every_event_arrives_as_the_sensor_wrote_it(route, collector, start_sensor, name):
    count = 3 if name == "conpot" else 60
    sensor = start_sensor(name)
    play(sensor, *range(count))
    collector.expect(name, messages(sensor, count * EACH.get(name, 1)))


def test_the_one_event_of_opencanary_arrives_and_its_own_subscription_holds_nothing_up(collector, start_sensor):
    sensor = start_sensor("opencanary")
    play(sensor, *range(20))
    sensor.wait_for(logged={"PASSWORD": "ü", "number": 19})
    collector.expect("opencanary", sensor.written)
    assert [channel for channel, _ in sensor.written] == CHANNELS["opencanary"]


@pytest.mark.parametrize("name", ["cowrie", "heralding", "tanner", "glutton"])
@pytest.mark.parametrize("route", ["stores"], indirect=True)
def test_a_sensor_notices_nothing_of_a_parent_that_is_killed(route, collector, start_sensor, name):
    sensor = start_sensor(name)
    play(sensor, *range(10))
    collector.expect(name, messages(sensor, 10))
    route.stop(signal.SIGKILL)
    play(sensor, *range(10, 40))
    assert len(messages(sensor, 40)) == 40
    wait_until(lambda: route.status()[name]["waiting"] == 30, "messages that wait")
    # A collector without a mailbox gets what comes after it has subscribed: it is there first.
    with paused(route.relay):
        route.start()
        collector.reconnect()
    collector.expect(name, sensor.written)


@pytest.mark.parametrize("route", ["stores"], indirect=True)
def test_a_relay_that_is_killed_loses_nothing_that_was_stored_and_repeats_nothing(route, collector, start_sensor):
    sensor = start_sensor("cowrie")
    for turn in itertools.count():
        play(sensor, *range(turn * 50, turn * 50 + 50))
        messages(sensor, turn * 50 + 50)
        # What the relay has not read from the sensor's socket dies with it.
        wait_until(lambda: len(collector.of("cowrie")) >= turn * 50 + 50, "everything to go up")
        wait_until(lambda: route.status()["cowrie"]["waiting"] == 0, "everything to be confirmed")
        if turn == 4:
            break
        route.kill_relay()
        sensor.wait_for(turn + 1, connected=False)
        route.start_relay()
        sensor.wait_for(turn + 2, connected=True)
    collector.expect("cowrie", sensor.written)
    assert numbers(collector.of("cowrie")) == [*range(250)]


@pytest.mark.parametrize("route", ["stores", "python"], indirect=True)
def test_a_file_that_the_parent_does_not_take_ends_no_connection(route, collector, start_sensor, tmp_path):
    (tmp_path / "huge").write_bytes(bytes(5 << 20))
    sensor = start_sensor("dionaea")
    sensor.tell(*dionaea(1), {"file": str(tmp_path / "huge")})
    wait_until(lambda: len(sensor.written) == 2, "the file", every=0.01)
    sensor.tell(*dionaea(2), *dionaea(4))
    messages(sensor, 4)
    small = [message for message in sensor.written if message[0] != FILES]
    collector.expect("dionaea", small)
    assert sensor.count(connected=False) == 0
    wait_until(lambda: "1 too long" in screen(route), "the refused file")


def screen(route):
    command = [binary("hpfeeds-broker"), "relay", "status", f"--data-dir={route.data}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


class paused:
    """A process that stands still."""

    def __init__(self, process):
        self.process = process

    def __enter__(self):
        self.process.signal(signal.SIGSTOP)

    def __exit__(self, *_):
        self.process.signal(signal.SIGCONT)
