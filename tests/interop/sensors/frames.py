"""Frames as the sensors with clients of their own write them: names and text in Latin-1."""

import hashlib
import struct

ERROR, INFO, AUTH, PUBLISH = range(4)


def header(opcode, length):
    return struct.pack("!iB", 5 + length, opcode)


def short(text):
    data = text.encode("latin1")
    return bytes([len(data)]) + data


def auth(nonce, ident, secret):
    body = short(ident) + hashlib.sha1(nonce + secret.encode("latin1")).digest()
    return header(AUTH, len(body)) + body


def publish_head(ident, channel, size):
    """A PUBLISH frame up to its payload of that size."""
    names = short(ident) + short(channel)
    return header(PUBLISH, len(names) + size) + names


def take(received):
    """Cuts the first frame off a bytearray: opcode and body, or nothing when it is not whole."""
    if len(received) < 5:
        return None
    length, opcode = struct.unpack_from("!iB", received)
    if len(received) < length:
        return None
    body = bytes(received[5:length])
    del received[:length]
    return opcode, body


def nonce_of(info):
    return info[1 + info[0] :]
