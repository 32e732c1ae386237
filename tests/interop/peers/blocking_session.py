"""hpfeeds.blocking.ClientSession: PORT IDENT SECRET CHANNEL…"""

import sys
import threading

from commands import follow, received
from hpfeeds.blocking import ClientSession

port, ident, secret, *channels = sys.argv[1:]


class Session(ClientSession):
    """Knows when AUTH is queued. The original says that it is connected as soon as TCP is, and what is written then
    may overtake AUTH, which a broker refuses.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.ready = threading.Event()

    def _build_protocol(self):
        protocol = super()._build_protocol()
        protocol.connection_ready = self.ready.set
        return protocol


session = Session("127.0.0.1", int(port), ident, secret)
session.start()
assert session.ready.wait(10), "no INFO"
for name in channels:
    session.subscribe(name)
follow(session)
for message in session:
    received(*message)
