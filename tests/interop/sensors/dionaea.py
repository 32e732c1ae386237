"""Dionaea's hpfeeds handler, played with its event loop: PORT IDENT SECRET.

{"connection": EVENT} is published at any time: it waits in a queue without a bound until AUTH has been sent and while
a file is being sent. {"capture": EVENT} and {"file": PATH} are left out while there is no connection. A file is one
PUBLISH frame: its header, then pieces of 16 KiB as the socket takes them. It is sent before AUTH when it comes before
INFO, and nothing that arrives is read while a file is under way, so a connection that breaks in the middle of one is
followed by connections without AUTH, until another file has been sent.

{"hold": true} keeps it from reading, and {"hold": false} lets it again: what comes meanwhile comes before INFO.
"""

import json
import os
import selectors
import socket
import sys

from console import lost, report, wrote
from frames import INFO, auth, nonce_of, publish_head, take

PIECE = 16384
RECONNECT = 10.0
FILES = "mwbinary.dionaea.sensorunique"


class Handler:
    def __init__(self, port, ident, secret):
        self.port, self.ident, self.secret = port, ident, secret
        self.selector = selectors.DefaultSelector()
        self.selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        self.typed = b""
        self.received = bytearray()
        self.queue, self.files, self.file = [], [], None
        self.held = self.open = True
        self.connect()
        self.hold(False)

    # --- the connection, as dionaea's core has it: a buffer, and a call when it has become empty

    def connect(self):
        self.out, self.marks, self.busy = bytearray(), [], False
        self.connected = self.authenticated = False
        self.sock = socket.socket()
        # So that a file is still under way when a test stops its broker.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        try:
            self.sock.connect(("127.0.0.1", self.port))
        except OSError:
            self.disconnected()
            return
        self.sock.setblocking(False)
        self.connected = True
        report(connected=True)
        self.watch()

    def watch(self):
        wanted = (0 if self.held else selectors.EVENT_READ) | (selectors.EVENT_WRITE if self.out else 0)
        if self.sock in self.selector.get_map():
            self.selector.unregister(self.sock)
        if wanted:
            self.selector.register(self.sock, wanted)

    def hold(self, held):
        self.held = held
        if self.connected:
            self.watch()

    def disconnected(self):
        if self.sock in self.selector.get_map():
            self.selector.unregister(self.sock)
        self.sock.close()
        for _, channel, _ in self.marks:
            lost(channel)
        self.out, self.marks = bytearray(), []
        self.connected = self.authenticated = False
        report(connected=False, sleeps=RECONNECT)

    def send(self, data, channel=None, payload=b""):
        """With a channel, what has been sent up to here is this message."""
        self.out += data
        if channel:
            self.marks.append([len(self.out), channel, payload])
        if self.connected and not self.busy:
            self.flush()

    def flush(self):
        """One piece each time, so other events come between those of a file."""
        try:
            sent = self.sock.send(self.out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.disconnected()
            return
        del self.out[:sent]
        for mark in self.marks:
            mark[0] -= sent
        while self.marks and self.marks[0][0] <= 0:
            wrote(*self.marks.pop(0)[1:])
        if not self.out:
            self.busy = True
            self.empty()
            self.busy = False
        self.watch()

    # --- the handler

    def empty(self):
        if self.file:
            self.send_piece()
        elif self.queue:
            self.send(*self.queue.pop(0))

    def read(self):
        try:
            data = self.sock.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.disconnected()
            return
        self.received += data
        self.handle()

    def handle(self):
        if self.file:
            return
        while found := take(self.received):
            opcode, body = found
            if opcode == INFO:
                self.send(auth(nonce_of(body), self.ident, self.secret))
                self.authenticated = True
                report(authenticated=True)

    def publish(self, channel, event):
        payload = json.dumps(event).encode("latin1")
        message = publish_head(self.ident, channel, len(payload)) + payload, channel, payload
        if self.file or not self.authenticated:
            self.queue.append(message)
            report(queued=len(self.queue))
        else:
            self.send(*message)

    def send_file(self, path):
        if self.file and self.authenticated:
            self.files.append(path)
            return
        self.send_header(path)
        self.send_piece()

    def send_header(self, path):
        self.file = open(path, "rb")
        self.content = b""
        self.size = os.stat(path).st_size
        report(begins=self.size)
        self.send(publish_head(self.ident, FILES, self.size))

    def send_piece(self):
        if not self.file:
            return
        piece = self.file.read(PIECE)
        if piece:
            self.content += piece
            whole = len(self.content) == self.size
            self.send(piece, *[FILES, self.content] if whole else [])
        elif self.files:
            self.send_header(self.files.pop(0))
        else:
            self.file = None
            self.handle()

    # --- the test

    def command(self, command):
        (name, value), *_ = command.items()
        if name == "wake":
            self.connect()
        elif name == "hold":
            self.hold(value)
        elif name == "connection":
            self.publish("dionaea.connections", value)
        elif not self.connected:
            lost("dionaea.capture" if name == "capture" else FILES)
        elif name == "capture":
            self.publish("dionaea.capture", value)
        else:
            self.send_file(value)

    def type(self):
        data = os.read(sys.stdin.fileno(), 1 << 16)
        self.open = bool(data)
        *lines, self.typed = (self.typed + data).split(b"\n")
        for line in lines:
            self.command(json.loads(line))

    def run(self):
        while self.open:
            for key, events in self.selector.select():
                if key.fileobj == sys.stdin.fileno():
                    self.type()
                elif key.fileobj is self.sock and self.connected:
                    if events & selectors.EVENT_WRITE:
                        self.flush()
                    if events & selectors.EVENT_READ and self.connected:
                        self.read()


Handler(int(sys.argv[1]), *sys.argv[2:]).run()
