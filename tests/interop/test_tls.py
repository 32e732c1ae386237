"""The clients of the Python package over TLS, against our broker. There is no control: with the Python of today the
Python broker ends every TLS connection at AUTH, as it looks for a part of asyncio that has gone (`_sslpipe`).
"""

import asyncio
import ssl
import subprocess
import sys

import pytest
from hpfeeds.asyncio import ClientSession

from broker import pick_port
from process import clean_environment
from users import SECRETS, as_json
from wire import connect, publish, subscribe

DEADLINE = 15.0


@pytest.fixture
def folder(tmp_path):
    """Where a broker finds its certificate, key and users."""
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    subprocess.run([*new, "-addext", names, *files], check=True, capture_output=True)
    (tmp_path / "users.json").write_text(as_json())
    return tmp_path


def openssl(folder, *argv):
    subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=folder)


def as_the_python_documentation_says(folder):
    """Self-signed and with CA:TRUE; without alternative names."""
    files = ["-out", "cert.pem", "-keyout", "key.pem"]
    openssl(folder, "req", "-new", "-x509", "-days", "365", "-nodes", *files, "-subj", "/CN=localhost")


def of_version_1(folder):
    """As the test certificate of the Python package was made."""
    files = ["-out", "csr", "-keyout", "key.pem"]
    openssl(folder, "req", "-new", "-newkey", "rsa:2048", "-nodes", *files, "-subj", "/CN=localhost")
    openssl(folder, "x509", "-req", "-days", "365", "-in", "csr", "-signkey", "key.pem", "-out", "cert.pem")


@pytest.fixture
def broker(our_broker, spawn, folder):
    """The ports of a broker, without TLS and with, and the certificate to trust."""
    plain, secure = pick_port(), pick_port()
    endpoint = f"tls:interface=127.0.0.1:port={secure}:key=key.pem:cert=cert.pem"
    argv = [our_broker.process.argv[0], "--bind", f"127.0.0.1:{plain}", "-e", endpoint, "--auth", "users.json"]
    process = spawn(*argv, env=clean_environment(), cwd=folder)
    for port in (plain, secure):
        process.wait_for(rf"^listening on 127\.0\.0\.1:{port}$")
    return plain, secure, folder / "cert.pem"


def exchange(port, certificate, host="127.0.0.1"):
    """The asyncio client reads what it has published."""

    async def main():
        context = ssl.create_default_context(cafile=certificate)
        async with ClientSession(host, port, "sensor", SECRETS["sensor"], ssl=context) as sensor:
            payloads = [b"small", b"", bytes(range(256)) * 4000]
            sensor.subscribe("events")
            for payload in payloads:
                sensor.publish("events", payload)
            for payload in payloads:
                assert await sensor.read() == ("sensor", "events", payload)

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_asyncio_session(broker):
    _, port, certificate = broker
    exchange(port, certificate)


def test_asyncio_session_where_bind_has_the_certificate(our_broker, spawn, folder):
    program = our_broker.process.argv[0]
    tls = ["--tlscert", "cert.pem", "--tlskey", "key.pem"]
    argv = [program, "--bind", "127.0.0.1:0", *tls, "--auth", "users.json"]
    process = spawn(*argv, env=clean_environment(), cwd=folder)
    port = int(process.wait_for(r"^listening on 127\.0\.0\.1:(\d+)$")[1])
    exchange(port, folder / "cert.pem")


def test_command_line(broker, python_tool):
    """The blocking client, which knows TLS by its flag `--tlscert`."""
    plain, port, certificate = broker
    with connect(plain, "sensor") as reader:
        reader.send(subscribe("sensor", "events"))
        reader.sync()
        who = ["-i", "sensor", "-s", SECRETS["sensor"], "-c", "events"]
        where = ["--host", "localhost", "-p", str(port), "--tlscert", certificate]
        sending = python_tool(*where, *who, "publish", "over TLS")
        reader.read()
        assert reader.transcript[-1] == ("PUBLISH", "sensor", "events", b"over TLS"), sending.report()


@pytest.mark.parametrize("make", [as_the_python_documentation_says, of_version_1])
def test_certificates_that_people_have(our_broker, tool, spawn, folder, make):
    """Broker, tool and Python take the same ones."""
    make(folder)
    tls = ["--tlscert", "cert.pem", "--tlskey", "key.pem"]
    argv = [our_broker.process.argv[0], "--bind", "127.0.0.1:0", *tls, "--auth", "users.json"]
    process = spawn(*argv, env=clean_environment(), cwd=folder)
    port = int(process.wait_for(r"^listening on 127\.0\.0\.1:(\d+)$")[1])
    exchange(port, folder / "cert.pem", "localhost")
    who = ["-i", "sensor", "-s", SECRETS["sensor"], "-c", "events"]
    where = ["--host", "localhost", "-p", str(port), "--tlscert", folder / "cert.pem"]
    sending = tool("publish", *where, *who, "over TLS")
    assert sending.wait() == 0, sending.report()


def test_a_web_server_is_named(tool, spawn, folder):
    """The tool says what it has met instead of TLS."""
    process = spawn(sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", cwd=folder)
    port = process.wait_for(r"^Serving HTTP on 127\.0\.0\.1 port (\d+)")[1]
    where = ["--host", "localhost", "-p", port, "--tlscert", folder / "cert.pem"]
    sending = tool("publish", "--timeout", "5", *where, "-i", "a", "-s", "b", "-c", "c", "x")
    assert sending.wait() == 1
    assert "HTTP answers there, and not TLS: check the port" in sending.stderr, sending.report()
