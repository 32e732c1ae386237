import sys
from contextlib import closing
from pathlib import Path

import pytest

from broker import PYTHON_BIN, Broker, binary
from browser import Browser
from dashboard import Dashboard
from process import Process

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        kind = item.callspec.params.get("kind") if hasattr(item, "callspec") else None
        if kind in ("rust", "rust-plain") or "tool" in item.fixturenames or "our_broker" in item.fixturenames:
            item.add_marker(pytest.mark.rust)


@pytest.fixture(scope="module", params=["python", "rust"])
def kind(request):
    """Every test of a broker runs with both: with Python's as the control that proves the test itself."""
    return request.param


@pytest.fixture(scope="module")
def broker(kind, tmp_path_factory):
    """One broker for all the tests of a file that do not harm it."""
    with closing(Broker(kind, tmp_path_factory.mktemp(kind))) as running:
        yield running.start()


@pytest.fixture(scope="module")
def our_broker(tmp_path_factory):
    with closing(Broker("rust", tmp_path_factory.mktemp("rust"))) as running:
        yield running.start_anywhere()


@pytest.fixture
def start_broker(tmp_path):
    """Starts brokers that belong to one test, which may restart them."""
    started = []

    def start(kind, auth="json"):
        directory = tmp_path / f"broker{len(started)}"
        directory.mkdir()
        started.append(Broker(kind, directory, auth))
        return started[-1].start()

    yield start
    for running in started:
        running.close()


@pytest.fixture
def spawn():
    started = []

    def start(*argv, **options):
        started.append(Process(argv, **options))
        return started[-1]

    yield start
    for process in started:
        process.cleanup()


@pytest.fixture
def tool(spawn):
    """Runs our command-line tool."""
    path = binary("hpfeeds")
    return lambda *args, **options: spawn(path, *args, **options)


@pytest.fixture
def python_tool(spawn):
    """Runs the command-line tool of the Python package."""
    return lambda *args, **options: spawn(PYTHON_BIN / "hpfeeds", *args, **options)


@pytest.fixture
def run_peer(spawn):
    """Runs a script of peers/, which takes commands on stdin and prints what it receives."""
    return lambda name, *args: spawn(sys.executable, HERE / "peers" / name, *args, stdin=b"")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    with closing(Browser(tmp_path_factory.mktemp("browser"))) as running:
        yield running


@pytest.fixture
def page(browser):
    """The browser, as if it were new. At the end nothing was refused by a policy and no script has failed."""
    browser.forget()
    yield browser
    assert browser.complaints() == []


@pytest.fixture
def start_dashboard(tmp_path):
    """Starts a broker with a dashboard, and keys for the given idents."""
    started = []

    def start(*arguments):
        started.append(Dashboard(tmp_path, *arguments))
        return started[-1].serve()

    yield start
    for running in started:
        running.close()


@pytest.fixture
def dashboard(start_dashboard):
    return start_dashboard()
