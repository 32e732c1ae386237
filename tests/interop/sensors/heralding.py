"""Heralding's hpfeeds logger, played: PORT IDENT SECRET.

{"auth": EVENT} and {"session": EVENT}. The logger has a thread of its own, and a queue before it; its fifth argument
was to be `reconnect`, and is the timeout for connecting and for INFO: True, which counts as 1 s.
"""

import json
import sys

import hpfeeds

import legacy  # noqa: F401, sets up the client
from console import commands

port, ident, secret = sys.argv[1:]
client = hpfeeds.new("127.0.0.1", int(port), ident, secret, True)
for command in commands():
    for kind, event in command.items():
        client.publish(f"heralding.{kind}", json.dumps(event).encode())
