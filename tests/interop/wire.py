"""Frames and a raw peer, written from the protocol description and independent of both implementations under test."""

import hashlib
import itertools
import socket
import struct
import time
from typing import NamedTuple

from users import SECRETS

ERROR, INFO, AUTH, PUBLISH, SUBSCRIBE, UNSUBSCRIBE = range(6)

# The longest body of PUBLISH and ERROR: names and their length bytes count, the five header bytes do not.
MAX_BODY = 1 << 20
DEADLINE = 10.0

# A transcript line for the end of a connection. A reset is told apart: it may destroy an ERROR on its way.
EOF = ("END", "eof")
RESET = ("END", "reset")


def header(total, opcode):
    return struct.pack(">IB", total, opcode)


def frame(opcode, body=b""):
    return header(5 + len(body), opcode) + body


def short(text):
    """A field with its length byte."""
    data = text if isinstance(text, bytes) else text.encode()
    return bytes([len(data)]) + data


def publish(ident, channel, payload):
    return frame(PUBLISH, short(ident) + short(channel) + payload)


def subscribe(ident, channel):
    return frame(SUBSCRIBE, short(ident) + channel.encode())


def unsubscribe(ident, channel):
    return frame(UNSUBSCRIBE, short(ident) + channel.encode())


def max_payload(ident, channel):
    """The size of the largest payload that this ident can publish to this channel."""
    return MAX_BODY - len(short(ident)) - len(short(channel))


# The lines of a transcript. The nonce is masked, its length is not.
def info(name="hpfeeds", nonce_length=4):
    return ("INFO", name, nonce_length)


def error(text):
    return ("ERROR", text)


def message(ident, channel, payload):
    return ("PUBLISH", ident, channel, payload)


class Frame(NamedTuple):
    opcode: int
    body: bytes

    def fields(self, count):
        """Splits off `count` length-prefixed fields; the last item is the rest of the body."""
        found, rest = [], self.body
        for _ in range(count):
            assert rest and len(rest) > rest[0], f"truncated field in {self}"
            found.append(rest[1 : 1 + rest[0]].decode())
            rest = rest[1 + rest[0] :]
        return [*found, rest]

    def line(self):
        """The frame as a transcript line."""
        if self.opcode == INFO:
            name, nonce = self.fields(1)
            return info(name, len(nonce))
        if self.opcode == ERROR:
            return error(self.body.decode())
        if self.opcode == PUBLISH:
            return message(*self.fields(2))
        return ("UNEXPECTED", self.opcode, self.body)


class Peer:
    """A socket that speaks frames and writes down what comes back, until the broker closes or `sync` returns."""

    _markers = itertools.count()

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        # Without this the kernel would join the pieces of `send_slowly`.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ident = None
        self.transcript = []
        self._buffer = bytearray()
        self._in_sync = False
        self.dialled()
        greeting = self.read()
        assert greeting and greeting.opcode == INFO, f"expected INFO, got {self.transcript}"
        self.nonce = greeting.fields(1)[1]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def dialled(self):
        """What comes before the greeting is read: nothing."""

    def close(self):
        self.sock.close()

    def auth(self, ident, secret=None):
        """The AUTH frame that answers this connection's nonce; by default with the right secret."""
        secret = SECRETS.get(ident, "") if secret is None else secret
        self.ident = ident
        return frame(AUTH, short(ident) + hashlib.sha1(self.nonce + secret.encode()).digest())

    def send(self, *frames):
        """Sends all the frames with one call, in one segment if they fit."""
        self.sock.sendall(b"".join(frames))

    def send_slowly(self, *frames, piece=1):
        data = b"".join(frames)
        for start in range(0, len(data), piece):
            self.sock.sendall(data[start : start + piece])

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def read(self, seconds=DEADLINE):
        """The next frame, which is also added to the transcript, or None when the connection ended."""
        end = time.monotonic() + seconds
        while True:
            if len(self._buffer) >= 5:
                total, opcode = struct.unpack_from(">IB", self._buffer)
                assert 5 <= total <= 5 + MAX_BODY, f"the broker sent a frame of {total} bytes"
                if len(self._buffer) >= total:
                    got = Frame(opcode, bytes(self._buffer[5:total]))
                    del self._buffer[:total]
                    self.transcript.append(got.line())
                    return got
            left = end - time.monotonic()
            assert left > 0, f"nothing came within {seconds} s; so far: {self.transcript}"
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 18)
            except socket.timeout:
                continue
            except ConnectionResetError:
                self.transcript.append(RESET)
                return None
            if not data:
                assert not self._buffer, f"the connection ended within a frame: {bytes(self._buffer)!r}"
                self.transcript.append(EOF)
                return None
            self._buffer += data

    def read_until_closed(self, seconds=DEADLINE):
        end = time.monotonic() + seconds
        while self.read(end - time.monotonic()):
            pass

    def sync(self, through=None):
        """Waits until the broker has handled all that `through` (default: this peer) has sent, and this peer has
        received what came of it. That makes "and nothing else arrived" certain without waiting for silence: TCP and
        the broker keep the order, so an echo that arrives was preceded by everything before it.
        """
        if not self._in_sync:
            self._in_sync = True
            self.send(subscribe(self.ident, "sync"))
            self._await_marker(self)
        self._await_marker(through or self)

    def _await_marker(self, publisher):
        marker = b"marker %d" % next(self._markers)
        publisher.send(publish(publisher.ident, "sync", marker))
        end = time.monotonic() + DEADLINE
        while True:
            got = self.read(end - time.monotonic())
            assert got, f"the connection ended before the marker: {self.transcript}"
            line = self.transcript[-1]
            if line[0] == "PUBLISH" and line[2] == "sync":
                self.transcript.pop()
                if line[3] == marker:
                    return


def connect(port, ident):
    """A peer that is authenticated, and certain of it."""
    peer = Peer(port)
    peer.send(peer.auth(ident))
    peer.sync()
    return peer
