"""Conpot's hpfriends logger, played: PORT IDENT SECRET.

{"log": EVENT}. After each event it waits for an answer, for a second; five attempts at an event whose connection
fails with an error of the socket. The client handles those itself, and blocks until the broker is back.
"""

import json
import sys
import time

import hpfeeds

import legacy  # noqa: F401, sets up the client
from console import commands, report, sleep

ATTEMPTS = 5
port, ident, secret = sys.argv[1:]


def connect():
    return hpfeeds.new("127.0.0.1", int(port), ident, secret)


client = connect()
for command in commands():
    for _ in range(ATTEMPTS):
        try:
            client.publish(["conpot.events"], json.dumps(command["log"]))
            break
        except OSError:
            client = connect()
            sleep(0.5)
    begun = time.monotonic()
    answer = client.wait()
    report(waited=time.monotonic() - begun, answer=answer)
