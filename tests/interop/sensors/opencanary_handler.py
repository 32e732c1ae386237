"""OpenCanary's logger with its HpfeedsHandler, without the honeypot: PORT IDENT SECRET CHANNEL…

A command {"log": EVENT} is an event of the honeypot. Each frame that its client has written is reported.
"""

import sys

import hpfeeds.client

from console import Clock, commands, report, wrote
from opencanary.logger import getLogger

port, ident, secret, *channels = sys.argv[1:]
hpfeeds.client.time = Clock
SETTINGS = {
    "device.node_id": "opencanary-1",
    "logger": {
        "class": "PyLogger",
        "kwargs": {
            "handlers": {
                "hpfeeds": {
                    "class": "opencanary.logger.HpfeedsHandler",
                    "host": "127.0.0.1",
                    "port": port,
                    "ident": ident,
                    "secret": secret,
                    "channels": channels,
                }
            }
        },
    },
}


class Config:
    """The two ways in which the logger asks opencanary's configuration."""

    @staticmethod
    def getVal(key, default=None):
        return SETTINGS.get(key, default)


msgpublish, send = hpfeeds.client.msgpublish, hpfeeds.client.Client.send
made = {}


def remember(ident, channel, payload):
    frame = msgpublish(ident, channel, payload)
    made[frame] = channel, payload
    return frame


def watched(self, data):
    sent = send(self, data)
    if data in made:
        wrote(*made[data])
    return sent


hpfeeds.client.msgpublish, hpfeeds.client.Client.send = remember, watched
logger = getLogger(Config)
report(ready=True)
for command in commands():
    logger.log(command["log"])
    report(logged=command["log"]["logdata"])
