"""hpfeeds.twisted.ClientSessionService: PORT IDENT SECRET CHANNEL…"""

import sys

from commands import follow, received
from hpfeeds.twisted import ClientSessionService
from twisted.internet import reactor

port, ident, secret, *channels = sys.argv[1:]
service = ClientSessionService(f"tcp:127.0.0.1:{port}", ident, secret, retryPolicy=lambda attempt: 0.1)


class FromThread:
    """The service as the command thread may use it."""

    def __getattr__(self, method):
        return lambda *args: reactor.callFromThread(getattr(service, method), *args)


def read_next(message=None):
    if message:
        received(*message)
    service.read().addCallback(read_next)


for name in channels:
    service.subscribe(name)
read_next()
service.whenConnected.addCallback(lambda _: follow(FromThread()))
service.startService()
reactor.run()
