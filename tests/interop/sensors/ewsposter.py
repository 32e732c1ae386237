"""T-Pot's ewsposter, played: PORT IDENT SECRET.

{"round": [ALERT, …]} is a batch. Each round begins with a connection that is made and closed without reading, and is
skipped when that fails. The second connection is never closed by the program: here it stays open until the program
ends, so that nothing is confirmed by its end.
"""

import socket
import sys

import hpfeeds

import legacy  # noqa: F401, sets up the client
from console import commands, report

port, ident, secret = sys.argv[1:]
clients = []
for command in commands():
    probe = socket.socket()
    probe.settimeout(2)
    failed = probe.connect_ex(("127.0.0.1", int(port)))
    probe.close()
    if failed:
        report(skipped=len(command["round"]))
        continue
    clients.append(hpfeeds.new("127.0.0.1", int(port), ident, secret, reconnect=False))
    try:
        for alert in command["round"]:
            clients[-1].publish("ews.xml", alert.encode())
    except hpfeeds.Disconnect:
        pass
    report(done=len(command["round"]))
