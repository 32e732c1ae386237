"""The client of the first years, hpfeeds.new: PORT IDENT SECRET CHANNEL…"""

import sys

import hpfeeds
from commands import follow, received

port, ident, secret, *channels = sys.argv[1:]
client = hpfeeds.new("127.0.0.1", int(port), ident, secret)
client.subscribe(channels)
follow(client)
# Sends the subscriptions, then receives until the process ends.
client.run(received, lambda text: sys.exit(f"error from the broker: {text}"))
