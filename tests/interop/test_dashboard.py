"""The dashboard's page in a real browser, on a real broker: who may look, what it shows of hostile clients, and that it
keeps up.
"""

import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack

import pytest
from selenium.webdriver.common.keys import Keys

from broker import binary
from dashboard import HOSTILE, HOSTILE_SHOWN, TOKENS, open_page, open_row, state_of, wait_for_state
from process import wait_until
from wire import Peer, publish, subscribe

pytestmark = [pytest.mark.rust, pytest.mark.timeout(180)]


def test_a_token_in_the_address_becomes_a_cookie_and_leaves_the_address(page, dashboard):
    open_page(page, dashboard)
    assert page.driver.current_url == f"{dashboard.origin}/"
    # Nor does going back bring it back.
    assert TOKENS["tail"] not in page.run("return JSON.stringify([location.href, document.referrer, document.cookie])")
    history = page.cdp("Page.getNavigationHistory")["entries"]
    assert TOKENS["tail"] not in json.dumps([entry["url"] for entry in history])
    (cookie,) = page.cdp("Network.getCookies")["cookies"]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["name"] == f"hpfeeds-{dashboard.web}"
    # The cookie is enough from now on.
    page.open(dashboard.origin)
    page.wait_for("!document.querySelector('#view').hidden", "the page by its cookie")


def test_a_throwaway_broker_prints_the_address_of_a_page_with_live_data(page, spawn):
    broker = spawn(binary("hpfeeds-broker"), "--dev", "--bind", "127.0.0.1:0", "--dashboard", "127.0.0.1:0")
    port = int(broker.wait_for(r"^listening on 127\.0\.0\.1:(\d+)$")[1])
    page.open(broker.wait_for(r"dashboard at (http://127\.0\.0\.1:\d+/#token=\w+)$")[1])
    page.wait_for("!document.querySelector('#view').hidden", "the page")
    with Peer(port) as sensor:
        sensor.send(sensor.auth("dev", "dev"), publish("dev", "cowrie.sessions", b'{"peerIP": "192.0.2.1"}'))
        wait_for_state(page, "dev", "learning")
    page.wait_for("document.querySelector('#sources tbody')?.textContent.includes('192.0.2.1')", "the source")


def test_a_form_takes_a_token_and_says_when_it_is_wrong(page, dashboard):
    page.open(dashboard.origin)
    page.wait_for("document.activeElement.id === 'token'", "the form, with the focus in its field")
    assert not page.is_shown("#view")
    nodes = page.cdp("Accessibility.getFullAXTree")["nodes"]
    named = [(node["role"]["value"], node["name"]["value"]) for node in nodes if node.get("name")]
    assert {("textbox", "Token"), ("button", "Log in")} <= set(named)
    page.press("wrong", Keys.ENTER)
    page.wait_for("document.querySelector('#login-why').textContent.includes('does not know')", "why it is wrong")
    page.press(TOKENS["view"], Keys.ENTER)
    page.wait_for("!document.querySelector('#view').hidden", "the page")
    assert page.run("return document.querySelector('#token').value") == "", "no token stays in the page"
    page.find("#logout").click()
    page.wait_for("!document.querySelector('#login').hidden", "the form")
    assert page.cdp("Network.getCookies")["cookies"] == []
    page.open(dashboard.origin)
    page.wait_for("!document.querySelector('#login').hidden", "the form, as the cookie is gone")


def test_a_token_to_look_shows_no_message_and_says_why(page, dashboard):
    with dashboard.connect() as sensor:
        open_page(page, dashboard, "view")
        wait_until(lambda: state_of(page, "sensor-1"), "the sensor")
        sensor.send(publish("sensor-1", "events", b"a secret"))
        page.wait_for("document.querySelector('#channels tbody')?.textContent.includes('events')", "the channel")
    assert page.is_shown("#tail-none") and "tail" in page.text("#tail-none")
    assert not page.is_shown("#messages") and not page.is_shown("#sources")
    assert "a secret" not in page.driver.page_source


def test_the_form_comes_back_when_the_session_is_over(page, dashboard, tmp_path):
    open_page(page, dashboard)
    dashboard.process.terminate()
    (tmp_path / "tokens").write_text("view AnotherTokenToLook0\ntail AnotherTokenToRead0\n")
    dashboard.serve()
    page.wait_for(
        "document.querySelector('#login-why').textContent.includes('session is over')", "the form", seconds=30
    )
    assert not page.is_shown("#view")


def test_what_a_client_sends_stays_text(page, start_dashboard):
    dashboard = start_dashboard((HOSTILE, "sensor-1"))
    open_page(page, dashboard)
    with dashboard.connect(HOSTILE) as sensor, Peer(dashboard.port) as stranger:
        stranger.send(stranger.auth(f"stranger {HOSTILE}", "x"))
        stranger.read_until_closed()
        payloads = [
            HOSTILE.encode(),
            json.dumps({"peerIP": "192.0.2.1", HOSTILE: [HOSTILE]}).encode(),
            b"\x7fELF\xff\xfe",
        ]
        for payload in payloads:
            sensor.send(publish(HOSTILE, HOSTILE, payload))
        page.wait_for("document.querySelectorAll('#messages li').length === 3", "the messages")
        wait_until(lambda: state_of(page, HOSTILE_SHOWN), "the sensor by its name, as text")
        page.wait_for(
            "document.querySelector('#channels tbody').textContent.includes(arguments[0])", "the channel", HOSTILE_SHOWN
        )
        page.wait_for(
            "document.querySelector('#incidents tbody').textContent.includes(arguments[0])",
            "the refusal",
            HOSTILE_SHOWN,
        )
        shown = page.text("#messages")
        assert shown.count(HOSTILE_SHOWN) == 2 * 3 + 1, shown
        # In JSON the escapes are the sender's, as are the quotes.
        assert "\\u202egnp." in shown and '"peerIP": "192.0.2.1"' in shown
        assert "7f 45 4c 46 ff fe" in shown and ".ELF.." in shown
        # The dialog shows the whole of it, in the same way.
        open_row(page, HOSTILE_SHOWN)
        assert HOSTILE_SHOWN in page.text("#details-title") and HOSTILE_SHOWN in page.text("#details-body")
        assert "hpfeeds-broker" not in page.text("#details-body"), "no command holds what cannot be seen"
        page.press(Keys.ESCAPE)
    assert page.run("return document.querySelectorAll('img, script:not([src]), iframe, object, style').length") == 0
    text = page.run("return document.body.textContent")
    assert not {"\u202e", "\x1b"} & set(text)


def test_hidden_characters_are_written_out(page, dashboard):
    open_page(page, dashboard)
    vector = [
        ("plain sensor-1", "plain sensor-1"),
        ("é ü 蜜 שלום 😀", "é ü 蜜 שלום 😀"),
        ("\x00\x1b[2J\x7f\x9b", "\\u{0}\\u{1b}[2J\\u{7f}\\u{9b}"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\u202a\u202e\u2066\u2069\u200e\u061c", "\\u{202a}\\u{202e}\\u{2066}\\u{2069}\\u{200e}\\u{61c}"),
        ("a\u200bb\u2060c\ufeffd\u00ade", "a\\u{200b}b\\u{2060}c\\u{feff}d\\u{ad}e"),
        ("a\u00a0b\u2003c\u3000d\u2028e", "a\\u{a0}b\\u{2003}c\\u{3000}d\\u{2028}e"),
        ("\u3164\uffa0\u2800\ufff9\U000e0041\ue000", "\\u{3164}\\u{ffa0}\\u{2800}\\u{fff9}\\u{e0041}\\u{e000}"),
    ]
    shown = page.run(
        "const { escape } = await import('/dashboard.js'); return arguments[0].map(escape)",
        [text for text, _ in vector],
    )
    assert shown == [expected for _, expected in vector]


def test_json_is_shown_as_it_was_sent(page, dashboard):
    open_page(page, dashboard)
    sent = '{"n": 12345678901234567890,"a":[1, {}, []], "a": "x\\"{", "e":{"d":null}}'
    shown = page.run("const { indent } = await import('/dashboard.js'); return indent(arguments[0])", sent)
    assert shown.splitlines() == [
        "{",
        '  "n": 12345678901234567890,',
        '  "a": [',
        "    1,",
        "    {},",
        "    []",
        "  ],",
        '  "a": "x\\"{",',
        '  "e": {',
        '    "d": null',
        "  }",
        "}",
    ]
    nested = "[" * 8000 + "]" * 8000
    length = page.run("const { indent } = await import('/dashboard.js'); return indent(arguments[0]).length", nested)
    assert length < 50 * len(nested), "the depth of blanks has a bound"


def test_commands_are_safe_to_paste(page, dashboard, tmp_path):
    """A shell hands them over word by word as they were meant, or there is none."""
    open_page(page, dashboard)
    made = page.run(
        """const { remedy } = await import("/dashboard.js");
        return arguments[0].map(([kind, ident, channel]) => remedy({ kind, ident, channel }).command ?? null)""",
        [
            ["denied-publish", "sensor-1", "cowrie.sessions"],
            ["denied-subscribe", "a b'c\"d`e$(touch f)!;", "$(x) | y"],
            ["unknown-ident", "-rf", None],
            ["wrong-secret", "--auth=/etc/passwd", None],
            ["denied-publish", "eve", "*"],
            ["denied-publish", "eve", "cowrie.*"],
            ["denied-publish", "eve\n", "a"],
            ["denied-publish", "eve", "a\u202eb"],
            ["unknown-ident", "", None],
            ["tls-failed", None, None],
        ],
    )
    echo = tmp_path / "hpfeeds-broker"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = [
        command
        and subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for command in made
    ]
    assert words == [
        ["keys", "set", "sensor-1", "--add-publish=cowrie.sessions"],
        ["keys", "set", "a b'c\"d`e$(touch f)!;", "--add-subscribe=$(x) | y"],
        ["keys", "add", "--", "-rf"],
        ["keys", "set", "--new-secret", "--grace=1d", "--", "--auth=/etc/passwd"],
        *[None] * 6,
    ]


def test_a_refusal_shows_the_command_that_mends_it(page, dashboard):
    open_page(page, dashboard)
    with dashboard.connect("denied") as sensor:
        sensor.send(publish("denied", "events", b"x"))
        sensor.read_until_closed()
    expected = "hpfeeds-broker keys set denied --add-publish=events"
    page.wait_for("document.querySelector('#incidents code')?.textContent === arguments[0]", "the command", expected)
    for name in ("clipboard-write", "clipboard-read"):
        page.cdp("Browser.setPermission", permission={"name": name}, setting="granted", origin=dashboard.origin)
    page.find("#incidents .copy").click()
    page.wait_for("document.querySelector('#incidents .copy').textContent === 'Copied'", "it to be copied")
    assert page.run("return navigator.clipboard.readText()") == expected


def test_a_sensor_that_stops_is_gone_within_five_seconds(page, dashboard):
    open_page(page, dashboard)
    sensor = dashboard.connect()
    sensor.send(publish("sensor-1", "events", b"x"))
    wait_for_state(page, "sensor-1", "learning")
    assert page.text("#summary") == "All is well: 1 sensor is connected"
    # The page tells the time itself: how often a test looks is no matter.
    page.run("""
        window.gone = 0;
        const see = () => { gone ||= document.querySelector("#sensors tr.gone") && Date.now(); };
        const all = { subtree: true, childList: true, attributes: true };
        new MutationObserver(see).observe(document.querySelector("#sensors"), all);
    """)
    stopped = time.time()
    sensor.close()
    page.wait_for("gone", "the sensor to be gone")
    assert page.run("return gone") / 1000 - stopped < 5
    page.wait_for("document.querySelector('#summary').textContent === '1 sensor is gone'", "the summary")
    assert page.text("#states button.gone b") == "1" and page.driver.title.startswith("1 gone")
    assert "closed the connection" in page.text("#sensors tbody tr")
    # And it comes back.
    with dashboard.connect() as sensor:
        sensor.send(publish("sensor-1", "events", b"x"))
        wait_for_state(page, "sensor-1", "learning")


def test_the_page_survives_a_restart_of_the_broker(page, dashboard):
    open_page(page, dashboard)
    with dashboard.connect() as sensor:
        sensor.send(publish("sensor-1", "before", b"x"))
        page.wait_for("document.querySelector('#channels tbody').textContent.includes('before')", "the channel")
    page.run("window.same = true")
    dashboard.process.kill()
    page.wait_for(
        "/unreachable since .*reconnecting/.test(document.querySelector('#summary').textContent)", "word of it"
    )
    assert state_of(page, "sensor-1"), "what was known stays"
    dashboard.serve()
    with dashboard.connect() as sensor:
        sensor.send(publish("sensor-1", "after", b"x"))
        page.wait_for(
            "document.querySelector('#channels tbody').textContent.includes('after')", "the channel", seconds=30
        )
    assert "unreachable" not in page.text("#summary")
    assert page.run("return window.same"), "the page was not loaded again"


def test_more_pages_than_the_broker_serves_say_so(page, dashboard):
    """Eight streams are open elsewhere: the page says what the broker answers, and comes when one of them ends."""
    request = f"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKENS['view']}\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(8):
            stream = stack.enter_context(socket.create_connection(("127.0.0.1", dashboard.web)))
            stream.sendall(request.encode())
            assert stream.recv(12) == b"HTTP/1.1 200"
        page.open(dashboard.address())
        page.wait_for("document.querySelector('#summary').textContent.startsWith('Broker answers 503')", "the summary")
        assert "too many pages are open" in page.text("#filter-fault")
    page.wait_for(
        "document.querySelector('#summary').textContent === 'No sensor has connected yet'", "a turn", seconds=30
    )
    assert not page.is_shown("#filter-fault")


def test_live_messages_pass_the_filters_and_can_be_held_and_saved(page, dashboard):
    open_page(page, dashboard)
    payload = json.dumps({"peerIP": "192.0.2.7", "session": "abc"}).encode()
    with dashboard.connect() as sensor:
        sensor.send(
            publish("sensor-1", "cowrie.sessions", payload), publish("sensor-1", "dionaea.capture", b"\x00\xffMZ")
        )
        page.wait_for("document.querySelectorAll('#messages li').length === 2", "both messages")
        assert page.text("#messages pre").count("\n") in (0, 3), "JSON has lines, and the other is a dump of one"
        page.wait_for("document.querySelector('#sources tbody')?.textContent.includes('192.0.2.7')", "the source")
        # A filter of the server's: what comes through is new.
        page.run("document.querySelector('#tail-filter [name=channel]').focus()")
        page.press("cowrie.*")
        page.run("document.querySelector('#tail-filter [name=field]').focus()")
        page.press("peerIP=192.0.2.8")
        wanted = json.dumps({"peerIP": "192.0.2.8"}).encode()

        def arrives():
            sensor.send(publish("sensor-1", "dionaea.capture", b"no"), publish("sensor-1", "cowrie.sessions", payload))
            sensor.send(publish("sensor-1", "cowrie.sessions", wanted))
            return "192.0.2.8" in page.text("#messages")

        wait_until(arrives, "what passes the filters", every=0.2)
        # The stream before this one may have shown what it had. From now on there is the filtered one alone.
        page.run("document.querySelector('#pretty').click()")
        before = page.run("return document.querySelectorAll('#messages li').length")
        more = "return document.querySelectorAll('#messages li').length > arguments[0]"
        wait_until(lambda: arrives() and page.run(more, before), "another one", every=0.2)
        assert page.text("#messages li:first-child pre") == wanted.decode()
        assert "showing" in page.text("#tail-rate") and "/s" in page.text("#tail-rate")
        # Held: nothing moves, and what is not shown is counted.
        page.find("#pause").click()
        first = page.text("#messages")
        arrives()
        page.wait_for("/paused · .* not shown/.test(document.querySelector('#tail-rate').textContent)", "the count")
        assert page.text("#messages") == first
        page.find("#pause").click()
        for name in ("channel", "field"):
            page.run("document.querySelector(`#tail-filter [name=${arguments[0]}]`).value = ''", name)
        page.run("document.querySelector('#tail-filter').dispatchEvent(new Event('input'))")
        saved = bytes(range(256))
        first = "document.querySelector('#messages li')"

        def is_first():
            sensor.send(publish("sensor-1", "raw", saved))
            return page.run(f"return {first}.textContent.includes('raw')")

        wait_until(is_first, "the bytes", every=0.3)
        page.run(f"{first}.querySelector('button').click()")
        assert "00f0  f0 f1 f2" in page.text("#details-body pre")
        page.find("#details-body button.main").click()
        file = wait_until(lambda: list(page.downloads.glob("payload-*.bin")), "the download")[0]
        assert wait_until(file.read_bytes, "its content") == saved


def test_a_filter_that_is_refused_leaves_the_page_with_the_one_before(page, start_dashboard):
    dashboard = start_dashboard(("sensor-1", "other"))
    idents = "[...document.querySelectorAll('#sensors tbody th')].map((cell) => cell.textContent).join()"
    open_page(page, dashboard)
    with dashboard.connect() as sensor:
        wait_for_state(page, "sensor-1", "learning")
        page.press("/", "sensor")
        page.wait_for(f"{idents} === 'sensor-1'", "the row that passes the filter")
        page.run("document.querySelector('#tail-filter [name=field]').focus()")
        page.press("peerIP")
        fault = "document.querySelector('#filter-fault')"
        page.wait_for(f"{fault}.checkVisibility() && {fault}.textContent.startsWith('field: ')", "what is wrong")

        def arrives():
            sensor.send(publish("sensor-1", "events", b"x"))
            return "events" in page.text("#messages")

        wait_until(arrives, "a message", every=0.3)
    wait_for_state(page, "sensor-1", "gone")
    assert page.is_shown("#filter-fault") and page.run(f"return {idents}") == "sensor-1"
    # It is so after another connection, too, until the filter is mended.
    dashboard.process.kill()
    page.wait_for("document.querySelector('#summary').textContent.includes('reconnecting')", "word of it")
    dashboard.serve()
    with dashboard.connect():
        wait_for_state(page, "sensor-1", "learning", seconds=30)
        assert page.is_shown("#filter-fault") and page.run(f"return {idents}") == "sensor-1"
        page.press("=192.0.2.1")
        page.wait_for(f"!{fault}.checkVisibility()", "no fault")


def test_a_logout_that_did_not_happen_is_not_claimed(page, dashboard):
    open_page(page, dashboard)
    page.run("""
        const { fetch } = window;
        const fails = () => Promise.reject(new TypeError("no network"));
        window.fetch = (path, ...more) => (path.endsWith("/logout") ? fails() : fetch(path, ...more));
    """)
    page.find("#logout").click()
    page.wait_for("document.querySelector('#login').checkVisibility()", "the form")
    assert page.text("#login-why").startswith("Not logged out: the cookie is still there.")
    page.open(dashboard.origin)
    page.wait_for("!document.querySelector('#view').hidden", "the page by its cookie")
    page.find("#logout").click()
    page.wait_for("document.querySelector('#login-why').textContent === 'Logged out.'", "the form")


def test_a_page_in_the_background_asks_for_no_messages(page, dashboard):
    # The minute that it waits passes at once, and the test says what is seen.
    hasten = """const later = window.setTimeout;
        window.setTimeout = (run, after, ...more) => later(run, after === 60_000 ? 0 : after, ...more);
        Object.defineProperty(document, "hidden", { get: () => window.isHidden ?? false });"""
    made = page.cdp("Page.addScriptToEvaluateOnNewDocument", source=hasten)
    try:
        open_page(page, dashboard)
        last = "performance.getEntriesByType('resource').findLast((one) => one.name.includes('/stream?')).name"
        for is_hidden in ("false", "true", "false"):
            page.run(f"window.isHidden = {is_hidden}; document.dispatchEvent(new Event('visibilitychange'))")
            # An entry is there when its request has ended: a stream that goes on has none yet.
            page.run("document.querySelector('#states .ok').click()")
            wanted = "false" if is_hidden == "true" else "true"
            page.wait_for(f"{last}.includes('tail=1') === {wanted}", f"the request of a page with hidden = {is_hidden}")
        # A page that sleeps when its session ends is awake after a login.
        page.run("window.isHidden = true; document.dispatchEvent(new Event('visibilitychange'))")
        page.run("await new Promise((resolve) => setTimeout(resolve, 100)); document.querySelector('#logout').click()")
        page.wait_for("document.querySelector('#login').checkVisibility()", "the form")
        page.run("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
        page.find("#token").click()
        page.press(TOKENS["tail"], Keys.ENTER)
        page.wait_for("!document.querySelector('#view').hidden", "the page")
        with dashboard.connect() as sensor:

            def arrives():
                sensor.send(publish("sensor-1", "events", b"x"))
                return "events" in page.text("#messages")

            wait_until(arrives, "a message", every=0.3)
    finally:
        page.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=made["identifier"])


def test_books_that_differ_are_reported(page, dashboard):
    watch = """const parse = JSON.parse;
        JSON.parse = (text) => { const made = parse(text); if (made.books) made.difference = 3; return made; };"""
    made = page.cdp("Page.addScriptToEvaluateOnNewDocument", source=watch)
    try:
        open_page(page, dashboard)
        assert "They differ by 3." in page.text("#books")
        page.wait_for("document.querySelector('#notice').checkVisibility()", "the notice", seconds=30)
        assert page.text("#notice").startswith("The books differ by 3: a fault in the broker.")
    finally:
        page.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=made["identifier"])


def test_mailboxes_and_the_books_are_shown(page, start_dashboard):
    dashboard = start_dashboard(("sensor-1", "collector"), "--mailbox", "collector=events")
    cells = "(row) => [...row.children].map((cell) => cell.textContent)"
    rows = f"[...document.querySelectorAll('#mailboxes tbody tr')].map({cells})"
    with dashboard.connect() as sensor:
        open_page(page, dashboard)
        page.wait_for(f"({rows})[0]?.[0] === 'collector'", "the mailbox")
        sensor.send(*[publish("sensor-1", "events", b"x")] * 7)
        page.wait_for(f"({rows})[0][2] === '7'", "what waits")
        with dashboard.connect("collector") as collector:
            collector.send(subscribe("collector", "events"))
            page.wait_for(f"({rows})[0][1] === 'there'", "the collector")
            for _ in range(7):
                collector.read()
        page.wait_for(f"({rows})[0][1].startsWith('away')", "that it has left")
    page.wait_for(
        "document.querySelector('#books').textContent.includes('7 to be stored = 7 stored + 0 not stored')", "books"
    )
    assert page.text("#books").endswith("They add up.")
    page.wait_for(
        "[...document.querySelectorAll('#facts dt')].some((one) => one.textContent === 'journal')", "the journal"
    )
