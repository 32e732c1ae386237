"""Tanner's hpfeeds reporting, played: PORT IDENT SECRET.

{"session": EVENT} is a str of JSON on tanner.events. It has a copy of an early client, whose timeout is set to True by
mistake, and whose `reconnect` is False for the same reason: three attempts to connect when tanner starts, 20 s apart;
after the first message that cannot be sent there are none until tanner is started again.
"""

import json
import socket
import sys

from console import commands, lost, report, sleep, wrote
from frames import INFO, auth, nonce_of, publish_head, take

CHANNEL = "tanner.events"
port, ident, secret = sys.argv[1:]


def connect():
    for _ in range(3):
        sock = socket.socket()
        sock.settimeout(True)
        try:
            sock.connect(("127.0.0.1", int(port)))
            received = bytearray(sock.recv(16384))
            opcode, body = take(received)
            assert opcode == INFO
            sock.send(auth(nonce_of(body), ident, secret))
        except OSError:
            sleep(20)
            continue
        sock.settimeout(None)
        return sock
    return None


sock = connect()
report(connected=sock is not None)
for command in commands():
    if sock is None:
        lost(CHANNEL)
        continue
    text = json.dumps(command["session"])
    payload = text.encode("latin1")
    try:
        sock.sendall(publish_head(ident, CHANNEL, len(payload)) + payload)
    except OSError:
        sock = None
        lost(CHANNEL)
    else:
        wrote(CHANNEL, text)
