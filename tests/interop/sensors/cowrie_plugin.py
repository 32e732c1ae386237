"""Cowrie's output plugin hpfeeds3 in its reactor, without the honeypot: its settings come from the environment.

A command {"write": EVENT} is an event of the honeypot. What the plugin gives to its client is reported: `wrote` with a
connection that has sent AUTH, `lost` without one.
"""

import threading

from hpfeeds.twisted import service
from twisted.internet import reactor

from console import commands, lost, report, wrote
from cowrie.output.hpfeeds3 import Output


def also_report(method, value):
    original = getattr(service._Protocol, method)

    def replacement(self, *args):
        original(self, *args)
        report(connected=value)

    setattr(service._Protocol, method, replacement)


also_report("connectionReady", True)
also_report("connectionLost", False)
output = Output()
publish = output.client.publish


def watched(channel, payload):
    if output.client.protocol:
        wrote(channel, payload)
    else:
        lost(channel)
    publish(channel, payload)


output.client.publish = watched


def follow():
    for command in commands():
        reactor.callFromThread(output.write, command["write"])
    reactor.callFromThread(reactor.stop)


threading.Thread(target=follow, daemon=True).start()
reactor.run()
