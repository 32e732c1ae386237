"""A TCP proxy between one client and one broker that keeps every byte of both directions."""

import socket
import threading

from process import DEADLINE, wait_until


class Recording:
    """One connection: what each side has sent, and in which order the pieces were passed on."""

    def __init__(self):
        self._lock = threading.Lock()
        self._pieces = []
        # The sides whose stream has ended.
        self.ended = set()

    def add(self, side, data):
        with self._lock:
            self._pieces.append((side, data))

    @property
    def pieces(self):
        with self._lock:
            return list(self._pieces)

    def sent_by(self, side):
        return b"".join(data for who, data in self.pieces if who == side)


class Recorder:
    """Listens on a port of its own and passes each connection on to the broker's port."""

    def __init__(self, broker_port):
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.recordings = []
        self._sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        # A thread that waits in accept() would keep the port open after close() alone.
        for each in (self._listener, *self._sockets):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._broker_port), timeout=DEADLINE)
            except OSError:
                client.close()
                continue
            recording = Recording()
            self._sockets += [client, broker]
            for each in (client, broker):
                each.settimeout(None)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for side, source, sink in (("client", client, broker), ("broker", broker, client)):
                pump = threading.Thread(target=self._pump, args=(recording, side, source, sink))
                pump.daemon = True
                pump.start()
            self.recordings.append(recording)

    @staticmethod
    def _pump(recording, side, source, sink):
        """Passes bytes on, then the end. A reset becomes an end of stream: what was read before it is what counts."""
        while True:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            # Before it is passed on, so that an answer never stands before what it answers.
            recording.add(side, data)
            try:
                sink.sendall(data)
            except OSError:
                # Read on: what this side still sends was sent, whether the other one is there or not.
                continue
        recording.ended.add(side)
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def wait_for(self, side, frame, connection=0):
        """Waits until this side of that connection has sent the bytes."""

        def sent():
            return len(self.recordings) > connection and frame in self.recordings[connection].sent_by(side)

        wait_until(sent, f"{frame!r} of the {side}", every=0.01)

    def wait_for_ends(self, connections=1):
        """Waits until so many connections were made, and both streams of each of them have ended."""

        def ended():
            made = self.recordings
            return len(made) >= connections and all(len(each.ended) == 2 for each in made[:connections])

        wait_until(ended, f"the end of {connections} connections", every=0.01)
        return self.recordings[:connections]
