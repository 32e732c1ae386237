"""A sensor's script as a child process, from the test's side: commands to it, and what it reports."""

import base64
import json
import sys
from pathlib import Path

from process import Process, clean_environment, wait_until
from sensors.environment import python_of

HERE = Path(__file__).parent
# The sensors whose own code runs, each in its own environment. The others are played, in that of the suite.
REAL = {"cowrie": "cowrie_plugin.py", "opencanary": "opencanary_handler.py"}


class Sensor:
    def __init__(self, name, route, secret, directory, channels=()):
        settings = {"port": route.sensor_port, "secret": secret}
        if name == "cowrie":
            settings |= {"server": "127.0.0.1", "identifier": name}
        else:
            settings |= {"ident": name, "channels": channels}
        self._begin(name, settings, directory)

    @classmethod
    def configured(cls, name, settings, directory):
        """With the settings of its own configuration file."""
        made = cls.__new__(cls)
        made._begin(name, settings, directory)
        return made

    def _begin(self, name, settings, directory):
        self.name = name
        python = python_of(name) if name in REAL else sys.executable
        argv, extra = [python, HERE / REAL.get(name, f"{name}.py")], {}
        if name == "cowrie":
            # As its documentation says: a setting of a section is COWRIE_SECTION_NAME in the environment.
            extra = {f"COWRIE_OUTPUT_HPFEEDS3_{key.upper()}": str(value) for key, value in settings.items()}
        else:
            argv += [settings["port"], settings["ident"], settings["secret"], *settings["channels"]]
        self.process = Process(argv, env=clean_environment(**extra), cwd=directory, stdin=b"")

    @property
    def reports(self):
        return [json.loads(line) for line in self.process.lines() if line.startswith("{")]

    def tell(self, *commands):
        self.process.write(b"".join(json.dumps(each).encode() + b"\n" for each in commands))

    def wait_for(self, count=1, **facts):
        """Waits until it has reported this so many times in all, since it began."""

        def enough():
            ended = not self.process.running
            found = sum(facts.items() <= each.items() for each in self.reports)
            assert found >= count or not ended, f"ended before {facts}:\n{self.process.report()}"
            return found >= count

        wait_until(enough, f"{facts} of {self.name}\n{self.process.report()}", every=0.01)

    def wait_for_results(self, count):
        """Waits until it is known of so many messages whether they were written or lost."""
        results = lambda: len(self.written) + len(self.lost)  # noqa: E731
        wait_until(lambda: results() >= count, f"{count} results of {self.name}", every=0.01)
        assert results() == count, self.process.report()

    @property
    def written(self):
        """Channel and payload of each message that its client took for written, in order."""
        return [(each["wrote"], base64.b64decode(each["payload"])) for each in self.reports if "wrote" in each]

    @property
    def lost(self):
        """The channel of each message that its client is known to have given up."""
        return [each["lost"] for each in self.reports if "lost" in each]

    @property
    def slept(self):
        """The seconds of each sleep that it has asked for."""
        return [each["sleeps"] for each in self.reports if "sleeps" in each]

    def count(self, **facts):
        return sum(facts.items() <= each.items() for each in self.reports)

    def close(self):
        self.process.cleanup()
