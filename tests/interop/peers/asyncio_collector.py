"""A collector on the asyncio client of the Python package, as mnemosyne and hpfeeds-logger are: unmodified, it acknowledges
nothing. What it has processed it prints.

    asyncio_collector.py PORT IDENT SECRET CHANNEL MODE

MODE is `all`; `none` (its client reads into its queue, and it processes nothing); `N` (it processes N messages and ends its
process at once); or `poison:TEXT` (its process ends at a message with this payload).
"""

import asyncio
import os
import sys

from hpfeeds.asyncio import ClientSession


async def main(port, ident, secret, channel, mode):
    left = int(mode) if mode.isdigit() else None
    poison = mode.partition("poison:")[2].encode()
    async with ClientSession("127.0.0.1", int(port), ident, secret) as session:
        session.subscribe(channel)
        print("subscribed", flush=True)
        while mode == "none":
            await asyncio.sleep(0.05)
            print("queued", session.read_queue.qsize(), flush=True)
        async for _, _, payload in session:
            if poison and bytes(payload) == poison:
                print("crashed", flush=True)
                os._exit(1)
            print("got", bytes(payload).decode(), flush=True)
            if left is not None:
                left -= 1
                if left == 0:
                    os._exit(1)


asyncio.run(main(*sys.argv[1:]))
