"""A broker with the extension `hpx/1`, played by scripts: one for each connection, in turn."""

import hashlib
import queue
import socket
import struct
import threading
import time

from hpx import ACK, HELLO, REFUSED, SUBACK
from process import DEADLINE
from users import SECRETS
from wire import AUTH, INFO, Frame, frame, short

NONCE = b"\x01\x02\x03\x04"


class Conn:
    """One connection, of which the script has read nothing yet."""

    def __init__(self, sock):
        self.sock = sock
        self._data = bytearray()

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))

    def greet(self, name=b"scripted hpx/1"):
        self.send(frame(INFO, short(name) + NONCE))

    def read(self, seconds=DEADLINE):
        """The next frame, or None at the end of the stream."""
        end = time.monotonic() + seconds
        while True:
            if len(self._data) >= 5:
                total, opcode = struct.unpack_from(">IB", self._data)
                if len(self._data) >= total:
                    got = Frame(opcode, bytes(self._data[5:total]))
                    del self._data[:total]
                    return got
            self.sock.settimeout(max(end - time.monotonic(), 0.001))
            piece = self.sock.recv(1 << 16)
            if not piece:
                return None
            self._data += piece

    def silence(self, seconds):
        try:
            got = self.read(seconds)
        except socket.timeout:
            return
        raise AssertionError(f"nothing may come here, and {got} did")

    def auth(self):
        got = self.read()
        assert got.opcode == AUTH, got
        ident, digest = got.fields(1)
        assert digest == hashlib.sha1(NONCE + SECRETS[ident].encode()).digest()
        return ident

    def hello(self):
        """The client's HELLO, taken apart."""
        got = self.read()
        assert got.opcode == HELLO, got
        version, flags, beats, stream, first = struct.unpack_from(">BBH16sQ", got.body)
        rest = got.body[28:]
        software, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
        tlvs = {}
        while rest:
            kind, length = struct.unpack_from(">BH", rest)
            assert len(rest) >= 3 + length
            tlvs[kind], rest = rest[3 : 3 + length], rest[3 + length :]
        software.decode()
        return {"version": version, "flags": flags, "beats": beats, "stream": stream, "first": first, "tlvs": tlvs}

    def answer(self, flags, decided=0, level=0, tlvs=b"", version=1, more=b""):
        body = struct.pack(">BBH16sQB", version, flags, 0, bytes(16), decided, level) + short("scripted")
        self.send(frame(HELLO, body + tlvs + more))

    def ack(self, number):
        self.send(frame(ACK, struct.pack(">Q", number)))

    def refuse(self, first, count, code, channel, text=b""):
        self.send(frame(REFUSED, struct.pack(">QIB", first, count, code) + short(channel) + text))

    def suback(self, code, channel, text=b""):
        self.send(frame(SUBACK, bytes([code]) + short(channel) + text))


class HpxBroker:
    """Each connection is served by the next script; the last serves all that follow."""

    def __init__(self, *scripts):
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        # For each script that has ended: None, or what it raised.
        self._ended = queue.Queue()
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
            script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
            threading.Thread(target=self._serve, args=(sock, script), daemon=True).start()

    def _serve(self, sock, script):
        with sock:
            try:
                script(Conn(sock))
                self._ended.put(None)
            except Exception as fault:
                self._ended.put(fault)

    def check(self, connections=1):
        """Waits until so many scripts have ended, and raises what went wrong in them."""
        for _ in range(connections):
            fault = self._ended.get(timeout=DEADLINE)
            if fault:
                raise fault
