"""Ways from a sensor to a collector: where each of the two connects, and how what is between them ends and begins."""

import json
import signal
import socket
import threading

import users
from broker import Broker
from process import wait_until
from wire import Peer, subscribe

# Who publishes where: the channels of each sensor's own configuration or code.
CHANNELS = {
    "cowrie": ["cowrie.sessions"],
    "opencanary": ["opencanary.events", "opencanary.copies"],
    "dionaea": ["dionaea.connections", "dionaea.capture", "mwbinary.dionaea.sensorunique"],
    "heralding": ["heralding.auth", "heralding.session"],
    "conpot": ["conpot.events"],
    "tanner": ["tanner.events"],
    "ewsposter": ["ews.xml"],
    "glutton": ["glutton.events"],
}
EVERYTHING = [channel for channels in CHANNELS.values() for channel in channels]


def secret_of(ident):
    return users.SECRETS.get(ident, f"secret of {ident}")


def keys(wrong=()):
    """Keys of all sensors; the stored secrets of some are others than theirs."""
    made = {ident: {"pubchans": channels, "subchans": channels} for ident, channels in CHANNELS.items()}
    made["collector"] = {"pubchans": ["sync"], "subchans": [*EVERYTHING, "sync"]}
    made["sensor"] = users.USERS["sensor"]
    return json.dumps(
        {
            ident: {"owner": ident, "secret": "another" if ident in wrong else secret_of(ident), **channels}
            for ident, channels in made.items()
        }
    )


class Direct:
    """One broker, to which both connect."""

    def __init__(self, kind, directory):
        self.broker = Broker(kind, directory)
        self.set_keys()

    def set_keys(self, wrong=()):
        """A running broker reads them within a second or two."""
        path = self.broker.directory / "users.json"
        new = path.with_suffix(".new")
        new.write_text(keys(wrong))
        new.rename(path)

    @property
    def sensor_port(self):
        return self.broker.port

    @property
    def collector_port(self):
        return self.broker.port

    def start(self):
        self.broker.start(self.broker.port)
        return self

    def wait_for_login(self, ident):
        """Waits until the AUTH of a sensor has been read, so that only what it sends after that is at stake."""
        self.broker.process.wait_for(f'connected ident="{ident}"', stream="stderr")

    def wait_for_refusal(self, ident):
        self.broker.process.wait_for(f'authentication failed: wrong secret ident="{ident}"', stream="stderr")

    def correct_key(self, ident):
        """Stores the wrong secret of a sensor as the right one."""
        self.set_keys(wrong=[ident])
        self.broker.process.wait_for("the keys have been read again", stream="stderr")

    def stop(self, how):
        """SIGTERM, which the broker obeys in its own time, or SIGKILL."""
        self.broker.process.terminate() if how is signal.SIGTERM else self.broker.process.kill()
        self.broker.process.cleanup()

    def freeze(self):
        self.broker.process.signal(signal.SIGSTOP)

    def close(self):
        self.broker.close()


# With the extension of our broker offered, and without it.
ROUTES = {
    "direct": lambda directory: Direct("rust", directory),
    "plain": lambda directory: Direct("rust-plain", directory),
}


class Collector:
    """A subscriber of everything, and all that it has received, in order. It stays when its broker goes."""

    def __init__(self, route):
        self._route = route
        self._lock = threading.Lock()
        self._messages = []
        self._connect()

    def _connect(self):
        self._peer = Peer(self._route.collector_port)
        self._peer.send(self._peer.auth("collector"), *(subscribe("collector", channel) for channel in EVERYTHING))
        self._peer.sync()
        self._reader = threading.Thread(target=self._read, args=(self._peer,), daemon=True)
        self._reader.start()

    def _read(self, peer):
        taken = 0
        try:
            while peer.read(3600):
                with self._lock:
                    self._messages += [line[1:] for line in peer.transcript[taken:] if line[0] == "PUBLISH"]
                taken = len(peer.transcript)
        except (OSError, AssertionError):
            # The broker was killed within a frame, or the test is over.
            pass

    def reconnect(self):
        self._reader.join(10)
        assert not self._reader.is_alive(), "the connection did not end"
        self._peer.close()
        self._connect()

    def of(self, ident):
        """Channel and payload of each message of a sensor."""
        with self._lock:
            return [message[1:] for message in self._messages if message[0] == ident]

    def expect(self, ident, messages):
        """Waits for all of these and asserts that they are what has come, byte for byte and in order."""
        wait_until(lambda: len(self.of(ident)) >= len(messages), f"{len(messages)} messages of {ident}", every=0.01)
        assert self.of(ident) == messages

    def close(self):
        try:
            self._peer.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._reader.join(10)
        self._peer.close()
