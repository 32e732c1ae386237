"""The extension `hpx/1`, written from its description and independent of both implementations of ours."""

import os
import struct
from typing import NamedTuple

from wire import DEADLINE, ERROR, PUBLISH, Peer, frame, publish, short

HELLO, ACK, REFUSED, SUBACK, HEARTBEAT, CONSUMED = 0x80, 0x81, 0x82, 0x83, 0x84, 0x85

# Flags of HELLO.
CONFIRM, REPLIES, BEATS, WINDOW, STORE, ORIGIN, KNOWN = 1, 2, 4, 8, 16, 32, 128
TLV_WINDOW, TLV_LARGEST, TLV_REFUSED = 1, 2, 4

# Codes of REFUSED and SUBACK.
DONE, NOT_ALLOWED, BAD_NAME = 0, 1, 2

FENCED = "The stream is used by another connection"


def tlv(kind, value):
    return struct.pack(">BH", kind, len(value)) + value


def hello(flags, stream, first=1, beats=0, version=1, tlvs=b"", software="test"):
    """A client's HELLO, whose next message is `first`."""
    return frame(HELLO, struct.pack(">BBH16sQ", version, flags, beats, stream, first) + short(software) + tlvs)


def consumed(size):
    """So many bytes of PUBLISH frames are taken, of all that this connection has brought."""
    return frame(CONSUMED, struct.pack(">QQQ", size, 0, 0) + short(""))


class Answer(NamedTuple):
    """A broker's HELLO."""

    version: int
    flags: int
    beats: int
    node: bytes
    decided: int
    level: int
    software: str
    tlvs: dict


class Refused(NamedTuple):
    first: int
    count: int
    code: int
    channel: str


class Suback(NamedTuple):
    code: int
    channel: str


def parse(got):
    """What a frame of the broker says. Bytes behind the last field are those of a newer version."""
    opcode, body = got
    if opcode == HELLO:
        version, flags, beats, node, decided, level = struct.unpack_from(">BBH16sQB", body)
        rest = body[29:]
        software, rest = rest[1 : 1 + rest[0]].decode(), rest[1 + rest[0] :]
        tlvs = {}
        while rest:
            kind, length = struct.unpack_from(">BH", rest)
            tlvs[kind], rest = rest[3 : 3 + length], rest[3 + length :]
        return Answer(version, flags, beats, node, decided, level, software, tlvs)
    if opcode == ACK:
        return ("ACK", struct.unpack_from(">Q", body)[0])
    if opcode == REFUSED:
        first, count, code, length = struct.unpack_from(">QIBB", body)
        return Refused(first, count, code, body[14 : 14 + length].decode())
    if opcode == SUBACK:
        return Suback(body[0], body[2 : 2 + body[1]].decode())
    if opcode == HEARTBEAT:
        return "HEARTBEAT"
    if opcode == ERROR:
        return ("ERROR", body.decode())
    if opcode == PUBLISH:
        ident, channel, payload = got.fields(2)
        return ("PUBLISH", ident, channel, payload)
    raise AssertionError(f"an unexpected frame: {got}")


def new_stream():
    return os.urandom(16)


class Client:
    """A peer that has the extension: it has said AUTH and HELLO in one segment, and has the answer."""

    def __init__(self, port, ident="sensor", flags=CONFIRM | REPLIES, stream=None, **fields):
        self.stream = stream or new_stream()
        self.ident = ident
        self.peer = Peer(port)
        self.peer.send(self.peer.auth(ident), hello(flags, self.stream, **fields))
        self.answer = self.read()
        assert isinstance(self.answer, Answer), self.answer

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.peer.close()

    def send(self, *frames):
        self.peer.send(*frames)

    def publish(self, channel, *payloads):
        self.send(*(publish(self.ident, channel, payload) for payload in payloads))

    def read(self, seconds=DEADLINE):
        """What comes next, or None at the end of the stream."""
        got = self.peer.read(seconds)
        return None if got is None else parse(got)

    def read_until_ack(self, number):
        """Everything before the ACK of this number. Each ACK must be higher than the one before."""
        before, last = [], -1
        while True:
            got = self.read()
            assert got is not None, f"the connection ended; before: {before}"
            if got[0] == "ACK":
                assert last < got[1] <= number, f"{got} after {last}, where {number} is the highest"
                last = got[1]
                if last == number:
                    return before
            else:
                before.append(got)

    def hello_again(self, flags, stream, **fields):
        self.stream = stream
        self.send(hello(flags, stream, **fields))
        self.answer = self.read()
        assert isinstance(self.answer, Answer), self.answer
