"""The SQLite file of the Python broker, read and written by both; and the table of its other databases."""

import json
import sqlite3
import subprocess
from contextlib import closing

import pytest

from broker import binary

pytestmark = pytest.mark.rust

INSERT = "insert into authkeys (owner, ident, secret, pubchans, subchans) values (?, ?, ?, ?, ?)"


def keys(directory, *arguments):
    command = [binary("hpfeeds-broker"), "keys", *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=60).stdout


def authenticator(directory):
    from hpfeeds.broker.auth.sqlite import Authenticator

    return Authenticator(str(directory / "sqlite.db"))


def test_ours_reads_what_python_has_made(tmp_path):
    store = authenticator(tmp_path)
    with closing(store.sql), store.sql:
        store.sql.execute(INSERT, ("me", "sensor", "s3cret", '["a"]', "[]"))
    shown = keys(tmp_path, "show", "sensor", "--secret")
    assert shown.split() == "ident: sensor owner: me secret: s3cret publish: a subscribe: - state: enabled".split()


def test_python_reads_what_ours_has_made(tmp_path):
    secret = keys(tmp_path, "add", "sensor", "--owner", "me", "--publish", "a", "--publish", "b", "--subscribe", "c")
    store = authenticator(tmp_path)
    with closing(store.sql):
        assert store.get_authkey("sensor") == {
            "ident": "sensor",
            "owner": "me",
            "secret": secret.strip(),
            "pubchans": ["a", "b"],
            "subchans": ["c"],
        }


def test_the_table_of_databases_has_its_columns_where_python_looks(tmp_path):
    """The Python broker selects `*` there, and takes identifier, secret and lists by their position."""
    where = ["--auth", "database+sqlite:///keys"]
    secret = keys(tmp_path, "add", "sensor", *where, "--publish", "a", "--publish", "b", "--subscribe", "c")
    with closing(sqlite3.connect(tmp_path / "keys")) as database:
        [row] = database.execute("select * from auth_keys").fetchall()
    number, ident, stored, publish, subscribe = row
    found = (number, ident, stored, json.loads(publish), json.loads(subscribe))
    assert found == (1, "sensor", secret.strip(), ["a", "b"], ["c"])
