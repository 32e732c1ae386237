"""The client `hpfeeds.new` of the Python package as honeypots use it, with a clock that the test turns.

hpfeeds3 0.9.10, hpfeeds 3.0.0 and 3.1.0 have the same client. It sleeps for 20 s between attempts to connect, without
end, and does not send again what it could not send.
"""

import hpfeeds
import hpfeeds.client

from console import Clock, lost, report, wrote

hpfeeds.client.time = Clock


class Watched(hpfeeds.client.Client):
    """Reports each connection, and what becomes of each message."""

    _taken = False

    def connect(self):
        super().connect()
        report(connected=True)

    def publish(self, chaninfo, data):
        for channel in [chaninfo] if isinstance(chaninfo, str) else chaninfo:
            self._taken = False
            try:
                super().publish(channel, data)
            finally:
                if self._taken:
                    wrote(channel, data)
                else:
                    lost(channel)

    def send(self, data):
        # The AUTH of a connection that `publish` makes comes after the message has failed.
        publishes = data[4] == hpfeeds.protocol.OP_PUBLISH
        super().send(data)
        self._taken = self._taken or publishes
        return True


hpfeeds.client.Client = Watched
