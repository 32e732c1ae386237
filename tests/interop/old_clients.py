"""Clients that people have run for years, each played by a script that reads and writes as its sources do.

Each of them ends with `Died` where its sources exit, panic, or close the connection.
"""

import hashlib
import socket
import struct
import time
from typing import NamedTuple, Optional

from users import SECRETS
from wire import AUTH, DEADLINE, ERROR, INFO, PUBLISH, Frame, frame, publish, short, subscribe, unsubscribe


class Died(Exception):
    pass


class Kind(NamedTuple):
    label: str
    # The one length of a nonce that it can read; None for any.
    nonce: Optional[int] = None
    # Where the name's length is counted in one byte, so that 255 becomes 0.
    wraps: bool = False
    # Bytes that are not UTF-8 in a name end it.
    strict_name: bool = False
    unknown_kills: bool = True
    error_kills: bool = False
    # The longest ERROR that it reads, in all.
    longest_error: int = 5 + (1 << 20)
    # It writes a frame's header and then the rest in pieces of this size.
    piece: Optional[int] = None


KINDS = [
    Kind("python-asyncio", strict_name=True, error_kills=True),
    Kind("python-legacy", strict_name=True),
    Kind("go", wraps=True, unknown_kills=False),
    Kind("broker-1.2", nonce=4, error_kills=True),
    Kind("threatwise", longest_error=262),
    Kind("tentacool", nonce=4),
    Kind("libhpfeeds", nonce=4, error_kills=True),
    Kind("dionaea", unknown_kills=False, piece=16384),
    Kind("ruby", unknown_kills=False),
    Kind("node"),
]


class OldClient:
    """Reads INFO when it is made, and sends AUTH."""

    def __init__(self, port, kind, ident="sensor", secret=None):
        self.kind = kind
        self.ident = ident
        # Whatever has come, byte for byte, but for INFO.
        self.seen = []
        # Opcodes that it has read and does not know.
        self.unknown = []
        # What it shows to people, or logs.
        self.name = None
        self._data = bytearray()
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self._authenticate(SECRETS[ident] if secret is None else secret)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def _authenticate(self, secret):
        got = self.read()
        if got is None or got.opcode != INFO:
            raise Died(f"expected INFO, got {got}")
        length = got.body[0]
        after = 1 + length
        if self.kind.wraps:
            after &= 0xFF
        self.name = got.body[1 : 1 + length]
        nonce = got.body[after:]
        if self.kind.strict_name:
            try:
                self.name.decode()
            except UnicodeDecodeError:
                raise Died("the name is not UTF-8") from None
        if self.kind.nonce not in (None, len(nonce)):
            raise Died(f"a nonce of {len(nonce)} bytes")
        self.seen.clear()
        self.send(frame(AUTH, short(self.ident) + hashlib.sha1(nonce + secret.encode()).digest()))

    def send(self, *frames):
        for each in frames:
            if self.kind.piece is None:
                self.sock.sendall(each)
                continue
            self.sock.sendall(each[:5])
            for start in range(5, len(each), self.kind.piece):
                self.sock.sendall(each[start : start + self.kind.piece])

    def subscribe(self, channel):
        self.send(subscribe(self.ident, channel))

    def unsubscribe(self, channel):
        self.send(unsubscribe(self.ident, channel))

    def publish(self, channel, payload):
        self.send(publish(self.ident, channel, payload))

    def read(self, seconds=DEADLINE):
        """The next frame, or None at the end of the stream."""
        end = time.monotonic() + seconds
        while True:
            if len(self._data) >= 5:
                total, opcode = struct.unpack_from(">IB", self._data)
                if len(self._data) >= total:
                    got = Frame(opcode, bytes(self._data[5:total]))
                    self.seen.append(bytes(self._data[:total]))
                    del self._data[:total]
                    return self._take(got, total)
            self.sock.settimeout(max(end - time.monotonic(), 0.001))
            try:
                piece = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not piece:
                return None
            self._data += piece

    def _take(self, got, total):
        if got.opcode > 5:
            self.unknown.append(got.opcode)
            if self.kind.unknown_kills:
                raise Died(f"opcode {got.opcode}")
        if got.opcode == ERROR:
            if total > self.kind.longest_error:
                raise Died(f"an ERROR of {total} bytes")
            if self.kind.error_kills:
                raise Died(got.body.decode())
        return got

    def await_message(self, channel, payload):
        """Reads up to this message."""
        wanted = frame(PUBLISH, short(self.ident) + short(channel) + payload)
        while not self.seen or self.seen[-1] != wanted:
            assert self.read() is not None, f"the connection ended; seen: {self.seen}"

    def silence(self, seconds):
        """Reads for so long, in which nothing may come."""
        try:
            got = self.read(seconds)
        except socket.timeout:
            return
        raise AssertionError(f"expected silence, got {got}")
