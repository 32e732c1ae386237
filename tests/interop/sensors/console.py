"""Standard streams of a sensor's script: commands in, reports out, and a clock that the test turns.

A command and a report are one JSON object a line. A script reports each message that its client took for written
(`wrote`), each that the client is known to have given up (`lost`), and each sleep, which ends when the test says
`wake`: so no test waits for the twenty seconds that most of these clients sleep.
"""

import base64
import json
import sys
from collections import deque

_later = deque()


def report(**facts):
    # One write: several threads report.
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def wrote(channel, payload):
    data = payload if isinstance(payload, bytes) else payload.encode()
    report(wrote=channel, payload=base64.b64encode(data).decode())


def lost(channel):
    report(lost=channel)


def sleep(seconds):
    """A time.sleep that the test ends. What it asks for meanwhile waits, as in a honeypot's queue."""
    report(sleeps=seconds)
    for line in sys.stdin:
        command = json.loads(line)
        if command == {"wake": True}:
            return
        _later.append(command)
    sys.exit(0)


def commands():
    """The commands of the test, until it closes stdin."""
    while True:
        while _later:
            yield _later.popleft()
        line = sys.stdin.readline()
        if not line:
            return
        yield json.loads(line)


class Clock:
    """Stands in for the module `time` in a client that sleeps."""

    sleep = staticmethod(sleep)
