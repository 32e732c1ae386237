"""`hpfeeds-broker keys add --for`: what it prints is read by the parsers of the honeypots, and by two of them whole."""

import configparser
import json
import subprocess
import sys
from contextlib import closing

import pytest
import yaml

from broker import Broker, binary, pick_port
from process import Process, clean_environment, wait_until
from sensors.events import MAKERS
from sensors.sensor import Sensor
from wire import Peer, publish, subscribe

pytestmark = pytest.mark.rust


@pytest.fixture
def broker(tmp_path):
    with closing(Broker("rust", tmp_path)) as made:
        made.port = pick_port()
        yield made


def add(broker, ident, *arguments):
    """What is printed for a new key of a broker, and what is said about it."""
    store = broker.directory / "users.json"
    command = [binary("hpfeeds-broker"), "keys", "add", ident, f"--auth={store}", "--host=127.0.0.1", *arguments]
    done = subprocess.run([*command, f"--port={broker.port}"], check=True, capture_output=True, text=True, timeout=60)
    [key] = [entry for name, entry in json.loads(store.read_text()).items() if name == ident]
    assert key["secret"] not in done.stderr
    # One that is given may have characters that are escaped.
    assert done.stdout.count(key["secret"]) == 1 or any(each.startswith("--secret") for each in arguments)
    return done.stdout, {"port": broker.port, "ident": ident, "secret": key["secret"]}, key["pubchans"]


def ini(text, section, interpolation):
    parser = configparser.ConfigParser(interpolation=interpolation)
    parser.read_string(text)
    return dict(parser[section])


def test_cowrie_and_conpot_read_their_lines(broker):
    text, key, channels = add(broker, "cowrie-1", "--for=cowrie")
    settings = ini(text, "output_hpfeeds3", configparser.ExtendedInterpolation())
    assert settings == {
        "enabled": "true",
        "server": "127.0.0.1",
        "port": str(key["port"]),
        "identifier": "cowrie-1",
        "secret": key["secret"],
        "channel": "cowrie.sessions",
    }
    assert channels == ["cowrie.sessions"]
    text, key, channels = add(broker, "conpot-1", "--for=conpot", "--publish=mine.events")
    settings = ini(text, "hpfriends", configparser.BasicInterpolation())
    assert (settings["host"], int(settings["port"]), settings["ident"]) == ("127.0.0.1", key["port"], "conpot-1")
    assert (settings["secret"], json.loads(settings["channels"])) == (key["secret"], ["mine.events"])
    assert channels == ["mine.events"]


def test_yaml_has_the_key_where_the_honeypots_look(broker):
    # One that YAML would read otherwise without quotes.
    odd = 'no: "#\\ \u00fc'
    text, key, channels = add(broker, "dionaea-1", "--for=dionaea", f"--secret={odd}x")
    [handler] = yaml.safe_load(text)
    assert handler["name"] == "hpfeeds"
    assert handler["config"] == {"server": "127.0.0.1", **key, "dynip_resolve": ""}
    assert channels == ["dionaea.*", "mwbinary.dionaea.sensorunique"]
    text, key, channels = add(broker, "heralding-1", "--for=heralding")
    settings = yaml.safe_load(text)["activity_logging"]["hpfeeds"]
    assert {"enabled": True, "host": "127.0.0.1", **key}.items() <= settings.items()
    assert {settings["auth_channel"], settings["session_channel"]} == set(channels)
    text, key, channels = add(broker, "tpot-1", "--for=tpot")
    lines = yaml.safe_load(text)["services"]["ewsposter"]["environment"]
    settings = dict(line.split("=", 1) for line in lines)
    assert settings["EWS_HPFEEDS_SECRET"] == key["secret"]
    assert (settings["EWS_HPFEEDS_HOST"], int(settings["EWS_HPFEEDS_PORT"])) == ("127.0.0.1", key["port"])
    assert (settings["EWS_HPFEEDS_IDENT"], [settings["EWS_HPFEEDS_CHANNELS"]]) == ("tpot-1", channels)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["cowrie", "opencanary"])
def test_the_code_of_a_honeypot_publishes_with_its_lines(broker, tmp_path, name):
    """Cowrie's settings come from its environment here, and opencanary's handler from the object."""
    text, key, channels = add(broker, name, f"--for={name}")
    broker.start(broker.port)
    if name == "cowrie":
        settings = ini(text, "output_hpfeeds3", configparser.ExtendedInterpolation())
    else:
        handler = json.loads(text)["logger"]["kwargs"]["handlers"]["hpfeeds"]
        assert handler["class"] == "opencanary.logger.HpfeedsHandler"
        settings = handler
    with closing(Sensor.configured(name, settings, tmp_path)) as sensor:
        sensor.wait_for(**({"connected": True} if name == "cowrie" else {"ready": True}))
        broker.process.wait_for(f'connected ident="{name}"', stream="stderr")
        sensor.tell(*MAKERS[name](1))
        sensor.wait_for_results(1)
        assert [channel for channel, _ in sensor.written] == channels


@pytest.mark.parametrize("how", ["publish", "subscribe"])
def test_the_program_for_python_runs(broker, tmp_path, how):
    text, _, _ = add(broker, "program", "--for=python", f"--{how}=a.b")
    (tmp_path / "program.py").write_text(text)
    command = [binary("hpfeeds-broker"), "keys", "add", "other", f"--auth={tmp_path / 'users.json'}", "--secret=other"]
    subprocess.run([*command, "--publish=a.b", "--subscribe=a.b"], check=True, timeout=60)
    broker.start(broker.port)
    with closing(Peer(broker.port)) as peer:
        peer.send(peer.auth("other", "other"), subscribe("other", "a.b"), publish("other", "a.b", b"ready?"))
        peer.read()
        program = Process([sys.executable, tmp_path / "program.py"], env=clean_environment())
        try:
            if how == "publish":
                peer.read()
                assert peer.transcript[-1] == ("PUBLISH", "program", "a.b", b"hello")
                assert program.wait() == 0, program.report()
            else:
                printed = lambda: b"other a.b b'x'" in program.stdout  # noqa: E731
                wait_until(lambda: peer.send(publish("other", "a.b", b"x")) or printed(), "a message")
        finally:
            program.cleanup()
