"""The lines of a recorded connection: each frame byte for byte, with nonce and digest masked.

A line is the side that has sent the frame, and the frame's bytes as Python writes them. The two directions
stand one after the other, as their order in time is not the same in each run.
"""

import hashlib
import os
import struct
from pathlib import Path

import pytest

from wire import AUTH, INFO

TOKEN = b" hpx/1"
FOLDER = Path(__file__).parent / "transcripts"
# Set, it writes the transcripts down instead of comparing them: for a change of what is said on purpose.
RECORD = "HPFEEDS_RECORD_TRANSCRIPTS"


def frames(data):
    """The frames of a stream. The last one may be cut, by a peer that has ended; it stands there as it is."""
    found = []
    while data:
        total = struct.unpack_from(">I", data)[0] if len(data) >= 5 else len(data)
        assert total >= 5 or len(data) < 5, f"a frame of {total} bytes in {data[:40]!r}"
        found.append(data[:total])
        data = data[total:]
    return found


def split_info(frame):
    """Name and nonce of INFO."""
    length = frame[5]
    return frame[6 : 6 + length], frame[6 + length :]


def offers_extension(recording):
    """True when the broker's name ends in the token of the extension."""
    name, _ = split_info(frames(recording.sent_by("broker"))[0])
    return name.endswith(TOKEN)


def lines(recording, secret):
    """The transcript of one connection, of a client that is to know this secret."""
    broker = frames(recording.sent_by("broker"))
    client = frames(recording.sent_by("client"))
    nonce = b""
    if broker and broker[0][4] == INFO:
        name, nonce = split_info(broker[0])
        name = name.removesuffix(TOKEN)
        body = bytes([len(name)]) + name + b"." * len(nonce)
        broker[0] = struct.pack(">IB", 5 + len(body), INFO) + body
    if client and client[0][4] == AUTH:
        digest = hashlib.sha1(nonce + secret.encode()).digest()
        mask = b"." if client[0][-20:] == digest else b"!"
        client[0] = client[0][:-20] + mask * 20
    return [f"client {frame!r}" for frame in client] + [f"broker {frame!r}" for frame in broker]


def text(recordings, secret):
    """All connections of a scenario, one after the other."""
    parts = []
    for number, recording in enumerate(recordings, 1):
        parts += [f"# connection {number}", *lines(recording, secret)]
    return "\n".join(parts) + "\n"


def compare(name, got):
    """Fails with the first line in which the transcript differs from the one in the folder."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get(RECORD):
        path.write_text(got)
        return
    wanted = path.read_text()
    for number, (one, other) in enumerate(zip(got.splitlines(), wanted.splitlines()), 1):
        if one != other:
            pytest.fail(f"{path.name}, line {number}: got {one:.300}, expected {other:.300}")
    assert got == wanted, f"{path.name}: {len(got.splitlines())} lines in place of {len(wanted.splitlines())}"
