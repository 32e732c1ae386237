"""Unmodified Python collectors and publishers against a mailbox of our broker: each is killed, stopped or ended in a way of
its own, and the sums agree: what was published has been processed, and repeats are no more than the rules allow.
"""

import signal
import sys
from pathlib import Path

import pytest

from broker import Broker
from process import Process, wait_until
from users import SECRETS
from wire import Peer, publish

pytestmark = [pytest.mark.rust, pytest.mark.timeout(300)]

PEERS = Path(__file__).parent / "peers"


THREADS = pytest.mark.parametrize("broker", ["1", "2"], ids=["one thread", "two threads"], indirect=True)


@pytest.fixture
def broker(request, tmp_path):
    threads = getattr(request, "param", "1")
    flags = ("--data-dir", "data", "--mailbox", "collector=events", "--threads", threads)
    running = Broker("rust", tmp_path, flags=flags)
    yield running.start()
    running.close()


class Publisher:
    """An unmodified publisher, as `wire.Peer` is: numbers from 1, in order. What the broker had read when the publisher saw
    the end of the stream after its own is stored."""

    def __init__(self, broker):
        self.broker, self.count = broker, 0

    def publish(self, count, size=0):
        with Peer(self.broker.port) as peer:
            peer.send(peer.auth("sensor"))
            numbers = range(self.count + 1, self.count + count + 1)
            peer.send(*(publish("sensor", "events", payload(number, size)) for number in numbers))
            peer.half_close()
            peer.read_until_closed()
        self.count += count


def payload(number, size=0):
    return str(number).encode().ljust(size, b".")


class Collectors:
    """Collectors that run one after the other, and what each has processed."""

    def __init__(self, broker):
        self.broker, self.runs = broker, []

    def start(self, mode="all"):
        argv = [sys.executable, PEERS / "asyncio_collector.py", self.broker.port, "collector", SECRETS["collector"]]
        self.runs.append(Process([*argv, "events", mode]))
        self.runs[-1].wait_for("^subscribed$")
        return self.runs[-1]

    @staticmethod
    def numbers(run):
        return [int(line.split()[1].rstrip(".")) for line in run.lines() if line.startswith("got ")]

    def wait_for(self, number):
        """Waits until the collector that runs has processed this one."""
        run = self.runs[-1]
        wait_until(lambda: number in self.numbers(run)[-1:], f"{number}, have {self.numbers(run)[-3:]}", every=0.02)

    def check(self, published):
        """Each number once, in order, but for what one begins again with. How many were repeated."""
        seen, repeats = 0, 0
        for run in self.runs:
            numbers = self.numbers(run)
            if not numbers:
                continue
            # One collector gets them in order, without a gap, from the first that was not processed, or before that.
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), numbers
            assert numbers[0] <= seen + 1, f"{seen + 1} to {numbers[0] - 1} are missing"
            repeats += min(seen, numbers[-1]) - numbers[0] + 1
            seen = max(seen, numbers[-1])
        assert seen == published
        return repeats

    def close(self):
        for run in self.runs:
            run.cleanup()


@pytest.fixture
def collectors(broker):
    made = Collectors(broker)
    yield made
    made.close()


@pytest.fixture
def publisher(broker):
    return Publisher(broker)


def test_a_collector_that_was_never_there_gets_all(broker, publisher, collectors):
    publisher.publish(1_000)
    collectors.start()
    collectors.wait_for(1_000)
    assert collectors.check(1_000) == 0


@THREADS
def test_a_collector_that_is_killed_again_and_again_misses_nothing(broker, publisher, collectors):
    for turn in range(5):
        collectors.start()
        publisher.publish(200)
        collectors.wait_for(publisher.count)
        collectors.runs[-1].kill()
        publisher.publish(100)
    collectors.start()
    collectors.wait_for(publisher.count)
    # All that was ever published is younger than 30 s, or among the newest 256 KiB.
    assert collectors.check(1_500) <= 5 * 1_500


@THREADS
def test_a_collector_that_has_read_everything_and_processed_nothing_misses_nothing(broker, publisher, collectors):
    run = collectors.start("none")
    publisher.publish(1_000)
    run.wait_for("^queued 1000$")
    # Its kernel has acknowledged all of that, and says FIN.
    run.kill()
    collectors.start()
    collectors.wait_for(1_000)
    assert collectors.check(1_000) == 0


def test_a_collector_that_is_stopped_gets_all_when_it_goes_on(broker, publisher, collectors):
    run = collectors.start()
    publisher.publish(10)
    collectors.wait_for(10)
    run.signal(signal.SIGSTOP)
    # More than both kernels hold.
    publisher.publish(4_000, size=4_096)
    run.signal(signal.SIGCONT)
    collectors.wait_for(4_010)
    # It was there all the time, so nothing comes twice.
    assert collectors.check(4_010) == 0


@THREADS
def test_a_broker_that_is_killed_loses_nothing_that_was_stored(broker, publisher, collectors):
    run = collectors.start()
    for turn in range(3):
        publisher.publish(300)
        broker.restart()
    publisher.publish(100)
    # The client connects again by itself, and what it gets from each broker has no gap.
    wait_until(lambda: 1_000 in collectors.numbers(run), "the last message")
    assert set(collectors.numbers(run)) == set(range(1, 1_001))


def test_a_poison_message_holds_the_collector_up_and_is_not_passed_over(broker, publisher, collectors):
    """The broker waits longer before each try: 1, 2, 4, 8 seconds."""
    publisher.publish(20)
    for life in range(4):
        run = collectors.start("poison:7")
        run.wait_for("^crashed$")
        run.wait()
        assert 8 not in collectors.numbers(run)
    run = collectors.start()
    wait_until(lambda: 20 in collectors.numbers(run), "the last message", seconds=120)
    assert {number for run in collectors.runs for number in collectors.numbers(run)} == set(range(1, 21))


def test_a_collector_that_closes_when_it_is_idle_is_sent_nothing_again_after_the_quiet_time(broker, publisher, collectors):
    """As mnemosyne does each 15 seconds: after a FIN before which nothing was written for 10 s nothing comes again."""
    publisher.publish(50)
    run = collectors.start()
    collectors.wait_for(50)
    try:
        run.wait(11)
    except AssertionError:
        pass
    run.terminate()
    run = collectors.start()
    publisher.publish(1)
    collectors.wait_for(51)
    assert collectors.numbers(run) == [51]
