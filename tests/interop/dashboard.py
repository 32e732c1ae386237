"""Our broker with a dashboard, and what its page shows."""

import json
import urllib.request
from pathlib import Path

from broker import Broker, pick_port
from process import wait_until
from wire import Peer

TOKENS = {"view": "TheTokenToLook0123456789", "tail": "TheTokenToRead0123456789"}
# Each kind of character that would do something if it were not text, and how the page shows it.
HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.\x1b[31m'\"&amp;</td>"
HOSTILE_SHOWN = "<img src=x onerror=alert(1)>\\u{202e}gnp.\\u{1b}[31m'\"&amp;</td>"


class Dashboard(Broker):
    """Our broker with a dashboard, and keys for the given idents."""

    def __init__(self, directory, idents=("sensor-1",), *flags, proxied=False, denied="denied", channels="*"):
        self.proxied = proxied
        self.web = pick_port()
        tokens = Path(directory) / "tokens"
        tokens.touch(0o600)
        tokens.write_text("".join(f"{scope} {token}\n" for scope, token in TOKENS.items()))
        dashboard = ("--dashboard", f"127.0.0.1:{self.web}", "--dashboard-tokens", tokens, "--data-dir", "data")
        super().__init__("rust", directory, flags=(*dashboard, *flags))
        keys = {
            ident: {"owner": "test", "secret": "s", "pubchans": [channels], "subchans": [channels]} for ident in idents
        }
        keys[denied] = {"owner": "test", "secret": "s", "pubchans": ["allowed"], "subchans": []}
        self._users.write_text(json.dumps(keys))
        self.origin = f"http://127.0.0.1:{self.web}"

    def listen(self, port):
        proxied = f"tcp:interface=127.0.0.1:port={port}:proxy=yes:proxyfrom=127.0.0.1"
        return ["-e", proxied] if self.proxied else super().listen(port)

    def serve(self):
        """On one port through all restarts: a browser's cookies know the dashboard by its own."""
        self.port = self.port or pick_port()
        self.process = self._spawn(self.port)
        self.process.wait_for(r"^listening on ")
        return self

    def address(self, scope="tail"):
        return f"{self.origin}/#token={TOKENS[scope]}"

    def remember(self, **presence):
        """What an earlier run has stored of idents."""
        folder = self.directory / "data"
        folder.mkdir()
        (folder / "presence.json").write_text(json.dumps({"version": 1, "idents": presence}))

    def snapshot(self, query=""):
        address = f"{self.origin}/api/v1/snapshot?{query}"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {TOKENS['view']}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def connect(self, ident="sensor-1"):
        """A client that has authenticated and has subscribed to nothing."""
        peer = Peer(self.port)
        peer.send(peer.auth(ident, "s"))
        return peer


def open_page(page, dashboard, scope="tail"):
    page.open(dashboard.address(scope))
    page.wait_for(
        "!document.querySelector('#view').hidden && document.querySelector('#summary').textContent", "the page"
    )


def state_of(page, ident):
    """The state that the page shows for a sensor."""
    script = """
        const rows = [...document.querySelectorAll("#sensors tbody tr")];
        const row = rows.find((row) => row.querySelector("th").textContent === arguments[0]);
        return row?.querySelector("td").textContent"""
    return page.run(script, ident)


def wait_for_state(page, ident, state, seconds=15):
    wait_until(lambda: state_of(page, ident) == state, f"{ident} to be {state}", seconds)


def open_row(page, ident):
    """Opens the dialog with everything about a sensor."""
    script = (
        "[...document.querySelectorAll('#sensors th button')].find((one) => one.textContent === arguments[0]).click()"
    )
    page.run(script, ident)
    page.wait_for("document.querySelector('#details').open", "the dialog")
