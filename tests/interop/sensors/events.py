"""Events of each honeypot, as commands to its script: what a sensor sees, made up, with names and bytes that hurt."""

import base64
import json
import random


def cowrie(number):
    """One session: several events of the honeypot, one message of the plugin."""
    session = {"session": f"{number:012x}", "timestamp": f"2026-11-30T12:00:{number % 60:02}.000000Z"}
    peer = {"src_ip": "192.0.2.7", "src_port": 40000 + number, "dst_ip": "198.51.100.1", "dst_port": 2222}
    events = [
        {"eventid": "cowrie.session.connect", "protocol": "ssh", **peer},
        {"eventid": "cowrie.client.version", "version": "SSH-2.0-Go"},
        {"eventid": "cowrie.login.failed", "username": "root", "password": "pässwörd\u0000\ud800"},
        {"eventid": "cowrie.login.success", "username": "root", "password": "1234"},
        {"eventid": "cowrie.command.input", "input": "cat /proc/cpuinfo | grep 'model name' " * (1 + number % 200)},
        {"eventid": "cowrie.session.file_download", "url": "http://192.0.2.9/x", "shasum": "ab" * 32},
        {"eventid": "cowrie.session.closed"},
    ]
    return [{"write": {**session, **event}} for event in events]


def opencanary(number):
    return [{"log": {"logtype": 4002, "src_host": "192.0.2.7", "logdata": {"PASSWORD": "ü", "number": number}}}]


def connection(number):
    return {"connection": {"connection_type": "accept", "remote_host": "192.0.2.7", "remote_port": number}}


def dionaea(number):
    if number % 3:
        return [connection(number)]
    return [{"capture": {"saddr": "192.0.2.7", "sport": str(number), "md5": "00" * 16, "url": "ftp://192.0.2.9/ü"}}]


def heralding(number):
    if number % 3:
        return [{"auth": {"session_id": number, "username": "admin", "password": "pässwörd"}}]
    return [{"session": {"session_id": number, "num_auth_attempts": 2, "auxiliary_data": {}}}]


def conpot(number):
    return [{"log": {"id": number, "data_type": "modbus", "request": "b'\\x00\\x01'", "response": "ü"}}]


def tanner(number):
    return [{"session": {"path": f"/index.php?id={number}", "headers": {"user-agent": "ü" * (number % 7)}}}]


def ewsposter(number, alerts=3):
    alert = '<Alert><Analyzer id="sensor"/><Request type="raw">{}-{} ü</Request></Alert>'
    return [{"round": [alert.format(number, index) for index in range(alerts)]}]


def glutton(number):
    """Binary, with a beginning like that of a gob stream: the length and the id of a type, then its definition."""
    body = bytes([0xFF, 0x81, 3, 1, 1, 5]) + b"Event" + random.Random(number).randbytes(200 + number)
    return [{"event": base64.b64encode(bytes([0xFE, *len(body).to_bytes(2, "big")]) + body).decode()}]


ALL = (cowrie, opencanary, dionaea, heralding, conpot, tanner, ewsposter, glutton)
MAKERS = {maker.__name__: maker for maker in ALL}


def number_of(payload):
    """The number of a JSON payload of cowrie, heralding or conpot."""
    event = json.loads(payload)
    return int(event["session"], 16) if "session" in event else event.get("session_id", event.get("id"))
