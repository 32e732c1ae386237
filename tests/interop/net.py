"""The peers of one scenario, by name."""

from wire import Peer, connect


class Net:
    def __init__(self, port):
        self.port = port
        self.peers = {}

    def dial(self, name):
        """A connection that has received INFO and sent nothing."""
        self.peers[name] = Peer(self.port)
        return self.peers[name]

    def connect(self, name, ident):
        """An authenticated connection."""
        self.peers[name] = connect(self.port, ident)
        return self.peers[name]

    def transcripts(self):
        """By peer, without INFO, which `test_greeting` looks at."""
        return {name: peer.transcript[1:] for name, peer in self.peers.items()}

    def close(self):
        for peer in self.peers.values():
            peer.close()
