"""`hpfeeds doctor` against the Python broker, which has no extension, and against ours."""

import json

import pytest

from users import SECRETS


def diagnose(tool, broker, ident, *arguments, secret=None):
    """The exit code, and the checks by their names."""
    secret = SECRETS[ident] if secret is None else secret
    process = tool("doctor", "--json", "--host", "127.0.0.1", "-p", broker.port, "-i", ident, "-s", secret, *arguments)
    code = process.wait(60)
    report = json.loads(process.stdout)
    assert report["exit_code"] == code
    checks = {}
    for check in report["checks"]:
        checks.setdefault(check["check"], []).append(check)
    return code, checks


def statuses(checks):
    return {name: [check["status"] for check in found] for name, found in checks.items()}


def test_everything_passes(broker, kind, tool):
    code, checks = diagnose(tool, broker, "sensor", "-c", "events", "--echo", "events", "--strict")
    assert code == 0, checks
    expected = ["settings", "clock", "DNS", "TCP", "protocol", "INFO", "AUTH", "subscribe", "echo"]
    # Only ours names its version.
    expected[7:7] = ["version"] if kind == "rust" else []
    assert statuses(checks) == {name: ["passed"] for name in expected}
    assert checks["INFO"][0]["details"]["extension"] == (kind == "rust")
    assert checks["AUTH"][0]["details"]["confirmed"] == (kind == "rust")
    largest = max(message["bytes"] for message in checks["echo"][0]["details"]["messages"])
    assert largest == (1 << 20) - len(b"\x06sensor\x06events")


@pytest.mark.parametrize("ident, secret", [("sensor", "wrong"), ("sensor", SECRETS["sensor"] + "\n")])
def test_a_wrong_secret(broker, tool, ident, secret):
    code, checks = diagnose(tool, broker, ident, secret=secret)
    assert code == 3
    [auth] = checks["AUTH"]
    assert auth["status"] == "problem" and auth["details"]["text"] == "Authentication failed for sensor"
    assert ("line break" in auth["advice"][0]) == secret.endswith("\n")


def test_denied_channels(broker, tool):
    code, checks = diagnose(tool, broker, "sensor", "-c", "events", "-c", "files", "-c", "sync")
    assert code == 4
    assert statuses(checks)["subscribe"] == ["passed", "problem"]
    passed, denied = checks["subscribe"]
    assert passed["details"]["channels"] == ["events", "sync"]
    assert denied["details"]["channel"] == "files" and "--add-subscribe files" in denied["advice"][0]


def test_a_channel_that_may_not_be_published_to(broker, tool):
    code, checks = diagnose(tool, broker, "collector", "--echo", "events")
    assert code == 4
    assert "publishing to events denied" in checks["echo"][0]["summary"]


def test_listening(broker, tool):
    code, checks = diagnose(tool, broker, "collector", "-c", "events", "--listen", "0.3")
    assert code == 0 and statuses(checks)["listen"] == ["warning"]
