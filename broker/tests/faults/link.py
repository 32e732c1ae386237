#!/usr/bin/env python3
"""A network between two namespaces that delays, loses, duplicates and reorders packets, or passes none.

    link.py PID PID        the namespaces of these processes; prints "ready" when 10.213.0.1 and 10.213.0.2 are up

Reads lines from stdin, and ends with it: `LOSS DELAY JITTER DUPLICATES` (percent, ms, ms, percent), or `partition`,
or `largest BYTES`: longer packets vanish, as behind a tunnel that does not say so.
Packets overtake each other by the jitter. It does what `tc netem` would, which many kernels lack.
"""

import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def main():
    random.seed(1)
    ends = [device(f"hpf{pid}", pid, f"10.213.0.{number}/24") for number, pid in enumerate(sys.argv[1:3], 1)]
    for end in ends:
        os.set_blocking(end, False)
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    loss = delay = jitter = duplicates = 0.0
    largest = 65536
    late, count = [], 0
    selector = selectors.DefaultSelector()
    for source in [*ends, sys.stdin.fileno()]:
        selector.register(source, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        wait = max(0, late[0][0] - time.monotonic()) if late else None
        for key, _ in selector.select(wait):
            if key.fd == sys.stdin.fileno():
                line = sys.stdin.readline()
                if not line:
                    return
                if line.strip() == "partition":
                    loss, late = 100.0, []
                elif line.startswith("largest "):
                    largest = int(line.split()[1])
                else:
                    loss, delay, jitter, duplicates = map(float, line.split())
                print("done", flush=True)
                continue
            packet = os.read(key.fd, 65536)
            if len(packet) > largest:
                continue
            copies = (random.random() * 100 >= loss) * (1 + (random.random() * 100 < duplicates))
            for _ in range(copies):
                at = time.monotonic() + (delay + random.random() * jitter) / 1000
                heapq.heappush(late, (at, count, other[key.fd], packet))
                count += 1
        while late and late[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(late)
            try:
                os.write(end, packet)
            except OSError:
                pass  # Its queue is full: the packet is lost.


def device(name, pid, address):
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip"]
    subprocess.run(["ip", "link", "set", name, "netns", pid], check=True)
    subprocess.run([*inside, "addr", "add", address, "dev", name], check=True)
    subprocess.run([*inside, "link", "set", name, "up"], check=True)
    return end


if __name__ == "__main__":
    main()
