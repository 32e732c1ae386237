"""Brokers that people have run for years, each played by a script that answers as its sources do."""

import hashlib
import socket
import struct
import threading
from typing import NamedTuple, Optional

from users import SECRETS, USERS
from wire import AUTH, ERROR, INFO, MAX_BODY, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, Frame, frame, publish, short


class Kind(NamedTuple):
    label: str
    name: bytes
    nonce: bytes
    # The ERROR for a wrong secret, and for a channel; None is silence.
    rejects: Optional[bytes]
    denies_publish: Optional[bytes]
    denies_subscribe: Optional[bytes]
    # After a denial, or the opcode of an extension.
    denial_closes: bool
    unknown_closes: bool
    unknown_says: Optional[bytes] = None


KINDS = [
    Kind("mhn-evnet", b"@hp2", b"evnt", b"authfail.", b"accessfail.", b"accessfail.", False, False),
    Kind("mhn-gevent", b"mhn", b"gvnt", b"authfail.", b"accessfail.", b"accessfail.", False, True, b"?"),
    Kind(
        "go",
        b"go-broker",
        b"\x00\xff\x00\xff",
        b"Bad credentials",
        b"Publish not authorized",
        b"Subscribe not authorized",
        False,
        False,
    ),
    # An uncounted length byte stands before its texts.
    Kind(
        "broker-1.2",
        b"hpfeeds-broker",
        b"1234",
        b"\x15Authentication failed",
        b"\x16Publish not authorized",
        b"\x18Subscribe not authorized",
        True,
        True,
    ),
    Kind("threatwise", b"hpfeeds-rs", bytes(range(16)), None, None, None, False, True),
    Kind("tentacool", b"tentacool", b"\x7f\xff\xff\xff", *[b"accessfail"] * 3, True, True, b"?"),
]
# Names that look nearly like an offer of the extension.
NEAR_OFFERS = [
    b"hpx/1",
    b"central hpx/1 eu",
    b"central hpx/10",
    b"central hpx/2",
    b"central HPX/1",
    b"central\thpx/1",
    b"central hpx/1 ",
    b"central hpx/1\n",
    b"",
]


class OldBroker:
    """Serves each connection in a thread. A subscriber gets one message for each SUBSCRIBE."""

    def __init__(self, kind):
        self.kind = kind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        # Opcodes that it does not know, of all connections.
        self.unknown = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with sock:
            try:
                sock.sendall(frame(INFO, short(self.kind.name) + self.kind.nonce))
                ident = None
                for got in frames_of(sock):
                    ident, answer, goes_on = self._act(ident, got)
                    if answer is not None:
                        sock.sendall(answer)
                    if not goes_on:
                        break
            except OSError:
                pass

    def _act(self, ident, got):
        """Who the peer is now, what it is sent, and whether the connection goes on."""
        kind = self.kind
        if got.opcode == AUTH:
            claimed, digest = got.fields(1)
            secret = SECRETS[claimed].encode()
            # A longer signature is a wrong one everywhere.
            if digest == hashlib.sha1(kind.nonce + secret).digest():
                return claimed, None, True
            return None, kind.rejects and frame(ERROR, kind.rejects), False
        if got.opcode == PUBLISH:
            _, channel, _ = got.fields(2)
            if channel in USERS[ident]["pubchans"]:
                return ident, None, True
            return ident, kind.denies_publish and frame(ERROR, kind.denies_publish), not kind.denial_closes
        if got.opcode == SUBSCRIBE:
            _, channel = got.fields(1)
            channel = channel.decode()
            if channel in USERS[ident]["subchans"]:
                return ident, publish("sensor", channel, b"for " + channel.encode()), True
            return ident, kind.denies_subscribe and frame(ERROR, kind.denies_subscribe), not kind.denial_closes
        if got.opcode == UNSUBSCRIBE:
            return ident, None, True
        self.unknown.append(got.opcode)
        return ident, kind.unknown_says and frame(ERROR, kind.unknown_says), not kind.unknown_closes


def frames_of(sock):
    """Frames as they come, until the peer ends its stream."""
    data = bytearray()
    while True:
        while len(data) >= 5:
            total, opcode = struct.unpack_from(">IB", data)
            assert 5 <= total <= 5 + MAX_BODY
            if len(data) < total:
                break
            yield Frame(opcode, bytes(data[5:total]))
            del data[:total]
        piece = sock.recv(1 << 16)
        if not piece:
            return
        data += piece
