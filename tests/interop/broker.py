"""Either broker as a child process, behind one interface."""

import os
import random
import socket
import sys
from pathlib import Path

import pytest

import users
from process import Process, clean_environment, wait_until
from wire import Peer, publish, subscribe

PYTHON_BIN = Path(sys.executable).parent
BIN_DIR = Path(os.environ.get("HPFEEDS_BIN_DIR") or Path(__file__).parents[2] / "target" / "debug")


def binary(name):
    """The path of one of our binaries. Without it the whole run fails: a skipped suite looks like a good one."""
    path = BIN_DIR / name
    if not os.access(path, os.X_OK):
        pytest.exit(f"{path} is missing: build it (cargo build --workspace --all-features)", returncode=1)
    return path


def pick_port():
    """A free port below the range that the kernel hands out, and above those of README.md, whose blocks may run at the
    same time. A client that dials a port of the kernel's range while nothing listens there may be given the same port as
    its own and connect to itself, which would also keep the restarted broker from binding it.
    """
    while True:
        port = random.randrange(21000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


# Python's; ours; and ours without its extension, which says what Python's says.
KINDS = ("python", "rust", "rust-plain")


class Broker:
    def __init__(self, kind, directory, auth="json", exporter=False, flags=()):
        assert kind in KINDS and auth in ("json", "env")
        self.kind = kind
        self.auth = auth
        self.directory = Path(directory)
        self.flags = [*flags, *(["--extensions", "off"] if kind == "rust-plain" else [])]
        self.port = None
        # Where it answers HTTP, if it is to.
        self.exporter = pick_port() if exporter else None
        self.process = None
        self._users = self.directory / "users.json"
        self._users.write_text(users.as_json())

    def start(self, port=None):
        """Starts it and waits until it serves. The Python broker does not tell its port, so that one is picked."""
        self.port = port or pick_port()
        self.process = self._spawn(self.port)
        wait_until(self._serves, f"the {self.kind} broker to serve")
        return self

    def start_anywhere(self):
        """Lets our broker choose the port and reads it from the line that it prints."""
        assert self.ours
        self.process = self._spawn(0)
        self.port = int(self.process.wait_for(r"^listening on 127\.0\.0\.1:(\d+)$")[1])
        return self

    @property
    def ours(self):
        return self.kind != "python"

    def stop(self):
        return self.process.terminate()

    def restart(self):
        """The hard way: connections break without a farewell, and the same port serves again."""
        self.process.kill()
        self.process.cleanup()
        self.start(self.port)

    def close(self):
        if self.process:
            self.process.cleanup()

    def peer(self):
        return Peer(self.port)

    def listen(self, port):
        """The flags that say where it listens."""
        return ["--bind", f"127.0.0.1:{port}"]

    def _spawn(self, port):
        argv = [binary("hpfeeds-broker") if self.ours else PYTHON_BIN / "hpfeeds-broker", *self.flags]
        # Without it the Python broker would serve its metrics on port 8080 of every interface.
        if self.exporter or not self.ours:
            argv += ["--exporter", f"127.0.0.1:{self.exporter or 0}"]
        argv += [*self.listen(port), "--auth", "env" if self.auth == "env" else self._users]
        variables = users.as_env() if self.auth == "env" else {}
        return Process(argv, env=clean_environment(**variables), cwd=self.directory)

    def _serves(self):
        """True once a user gets an echo. Listening is not enough: the Python broker accepts connections before its
        JSON store has read the file, and keeps running without a listener when the port is taken.
        """
        assert self.process.running, f"the broker ended:\n{self.process.report()}"
        try:
            with Peer(self.port) as peer:
                peer.send(peer.auth("sensor"), subscribe("sensor", "sync"), publish("sensor", "sync", b"ready?"))
                peer.read()
                return peer.transcript[-1] == ("PUBLISH", "sensor", "sync", b"ready?")
        except (ConnectionError, AssertionError):
            return False
