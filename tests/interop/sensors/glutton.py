"""Glutton's hpfeeds producer, played: PORT IDENT SECRET.

{"event": BASE64} is an event that Go has encoded as gob. The program ends when it cannot connect at its start. Later a
goroutine takes payloads from a channel without a buffer; it ends at the first one after the connection has ended, and
whatever has an event after that stands still for ever.
"""

import base64
import socket
import sys
import threading

from console import commands, lost, report, wrote
from frames import INFO, auth, nonce_of, publish_head, take

CHANNEL = "glutton.events"
port, ident, secret = sys.argv[1:]
try:
    sock = socket.create_connection(("127.0.0.1", int(port)))
except OSError as error:
    sys.exit(f"cannot connect: {error}")
ended = threading.Event()
authenticated = threading.Event()


def receive():
    received = bytearray()
    try:
        while data := sock.recv(1024):
            received += data
            while found := take(received):
                if found[0] == INFO:
                    sock.sendall(auth(nonce_of(found[1]), ident, secret))
                    authenticated.set()
    except OSError:
        pass
    ended.set()
    report(connected=False)


threading.Thread(target=receive, daemon=True).start()
assert authenticated.wait(10), "no INFO"
report(connected=True)
sending = True
for command in commands():
    payload = base64.b64decode(command["event"])
    if not sending:
        # The handler of that event waits for a goroutine that is gone.
        report(stuck=True)
        threading.Event().wait()
    if ended.is_set():
        sending = False
        lost(CHANNEL)
        continue
    try:
        sock.sendall(publish_head(ident, CHANNEL, len(payload)) + payload)
    except OSError:
        ended.set()
        lost(CHANNEL)
    else:
        wrote(CHANNEL, payload)
