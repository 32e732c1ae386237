"""What the peers share: commands on stdin, one JSON object a received message on stdout.

    publish CHANNEL TEXT | publish-file CHANNEL PATH | subscribe CHANNEL | unsubscribe CHANNEL
"""

import hashlib
import json
import os
import sys
import threading
from pathlib import Path


def received(ident, channel, payload):
    """Reports a message; a large payload by its hash."""
    payload = bytes(payload)
    text = payload.decode() if len(payload) < 1000 else hashlib.sha256(payload).hexdigest()
    print(json.dumps({"ident": str(ident), "channel": str(channel), "payload": text}), flush=True)


def follow(client):
    """Runs the commands in a thread, on a client with the methods publish, subscribe and unsubscribe."""

    def run():
        for line in sys.stdin:
            verb, channel, *rest = line.rstrip("\n").split(" ", 2)
            if verb == "publish":
                client.publish(channel, rest[0].encode())
            elif verb == "publish-file":
                client.publish(channel, Path(rest[0]).read_bytes())
            else:
                getattr(client, verb)(channel)
        # The test is over. Not sys.exit: some of these clients have no way to be stopped while they wait to read.
        os._exit(0)

    threading.Thread(target=run, daemon=True).start()
