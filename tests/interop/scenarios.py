"""What both brokers do alike: scripts of raw frames, and the transcript that each peer must end up with.

A script gets a `Net`, opens peers by name and lets them send. The expectation has a list of lines for every peer: what
it received after INFO, up to the end of the connection or, where no end is listed, up to its last `sync`.
"""

from typing import Callable, NamedTuple

from net import Net
from users import USERS
from wire import (
    AUTH,
    EOF,
    MAX_BODY,
    PUBLISH,
    error,
    frame,
    max_payload,
    message,
    publish,
    short,
    subscribe,
    unsubscribe,
)


class Scenario(NamedTuple):
    name: str
    script: Callable[[Net], None]
    expect: dict


SCENARIOS = []


def scenario(**expect):
    def register(script):
        SCENARIOS.append(Scenario(script.__name__.replace("_", "-"), script, expect))
        return script

    return register


def hello(payload):
    return message("sensor", "events", payload)


# --- authentication


@scenario(a=[error("Authentication failed for sensor"), EOF])
def wrong_secret(net):
    a = net.dial("a")
    a.send(a.auth("sensor", "not it"))
    a.read_until_closed()


@scenario(a=[error("Authentication failed for sensor"), EOF])
def signature_of_zeros(net):
    a = net.dial("a")
    a.send(frame(AUTH, short("sensor") + bytes(20)))
    a.read_until_closed()


@scenario(a=[error("Authentication failed for sensor"), EOF])
def signature_of_the_wrong_nonce(net):
    a = net.dial("a")
    a.nonce = bytes(reversed(a.nonce)) + b"!"
    a.send(a.auth("sensor"))
    a.read_until_closed()


@scenario(a=[error("Authentication failed for stranger"), EOF])
def unknown_ident(net):
    a = net.dial("a")
    a.send(a.auth("stranger", "secret"))
    a.read_until_closed()


@scenario(a=[error("Authentication failed for stränger"), EOF])
def ident_that_is_not_ascii(net):
    a = net.dial("a")
    a.send(a.auth("stränger", "secret"))
    a.read_until_closed()


@scenario(a=[error("Authentication failed for " + "x" * 255), EOF])
def longest_ident_in_the_longest_auth(net):
    a = net.dial("a")
    a.send(a.auth("x" * 255, "secret"))
    a.read_until_closed()


@scenario(a=[error("Authentication failed for sensor"), EOF])
def wrong_secret_with_more_in_the_segment(net):
    """The first error is the only one, and what follows it is not acted on."""
    a = net.dial("a")
    a.send(a.auth("sensor", "not it"), subscribe("sensor", "events"), publish("sensor", "events", b"x"))
    a.read_until_closed()


@scenario(a=[error("First message was not AUTH"), EOF])
def publish_before_auth(net):
    a = net.dial("a")
    a.send(publish("sensor", "events", b"x"))
    a.read_until_closed()


@scenario(a=[error("First message was not AUTH"), EOF])
def subscribe_before_auth(net):
    a = net.dial("a")
    a.send(subscribe("sensor", "events"))
    a.read_until_closed()


@scenario(a=[error("First message was not AUTH"), EOF])
def unsubscribe_before_auth(net):
    a = net.dial("a")
    a.send(unsubscribe("sensor", "events"))
    a.read_until_closed()


@scenario(a=[hello(b"x")])
def pipelined(net):
    """Everything in one segment: what follows AUTH waits for it."""
    a = net.dial("a")
    a.send(a.auth("sensor"), subscribe("sensor", "events"), publish("sensor", "events", b"x"))
    a.sync()


# --- permissions


@scenario(a=[error("Invalid authkey in message, ident=collector"), EOF])
def publish_under_another_ident(net):
    a = net.connect("a", "sensor")
    a.send(publish("collector", "events", b"x"))
    a.read_until_closed()


@scenario(a=[error("Invalid authkey in message, ident=collector"), EOF])
def the_ident_is_looked_at_before_the_channel(net):
    a = net.connect("a", "sensor")
    a.send(publish("collector", "forbidden", b"x"))
    a.read_until_closed()


@scenario(a=[error("Authkey not allowed to pub here. ident=sensor, chan=forbidden"), EOF])
def denied_publish(net):
    a = net.connect("a", "sensor")
    a.send(publish("sensor", "forbidden", b"x"))
    a.read_until_closed()


@scenario(a=[hello(b"before"), error("Authkey not allowed to pub here. ident=sensor, chan=forbidden"), EOF])
def what_came_before_a_denied_publish_is_delivered(net):
    a = net.connect("a", "sensor")
    a.send(
        subscribe("sensor", "events"),
        publish("sensor", "events", b"before"),
        publish("sensor", "forbidden", b"x"),
    )
    a.read_until_closed()


@scenario(a=[error("Authkey not allowed to sub here. ident=sensor, chan=forbidden"), EOF])
def denied_subscribe(net):
    a = net.connect("a", "sensor")
    a.send(subscribe("sensor", "forbidden"))
    a.read_until_closed()


@scenario(a=[error("Authkey not allowed to sub here. ident=sensor, chan=forbidden"), EOF])
def denied_subscribe_names_the_authenticated_ident(net):
    a = net.connect("a", "sensor")
    a.send(subscribe("collector", "forbidden"))
    a.read_until_closed()


@scenario(a=[error("Authkey not allowed to sub here. ident=sensor, chan=files"), EOF])
def permission_to_publish_is_none_to_subscribe(net):
    a = net.connect("a", "sensor")
    a.send(subscribe("sensor", "files"))
    a.read_until_closed()


@scenario(a=[error("Authkey not allowed to pub here. ident=collector, chan=events"), EOF])
def permission_to_subscribe_is_none_to_publish(net):
    assert "events" in USERS["collector"]["subchans"]
    a = net.connect("a", "collector")
    a.send(publish("collector", "events", b"x"))
    a.read_until_closed()


@scenario(a=[error("Authkey not allowed to sub here. ident=sensor, chan=EVENTS"), EOF])
def channels_match_exactly(net):
    a = net.connect("a", "sensor")
    a.send(subscribe("sensor", "EVENTS"))
    a.read_until_closed()


@scenario(a=[hello(b"x")])
def the_ident_in_subscribe_is_not_checked(net):
    a = net.connect("a", "sensor")
    a.send(subscribe("whoever", "events"), publish("sensor", "events", b"x"))
    a.sync()


@scenario(a=[])
def the_ident_in_unsubscribe_is_not_checked(net):
    a = net.connect("a", "sensor")
    a.send(subscribe("sensor", "events"), unsubscribe("whoever", "events"), publish("sensor", "events", b"x"))
    a.sync()


@scenario(a=[])
def unsubscribe_needs_no_permission(net):
    a = net.connect("a", "sensor")
    a.send(unsubscribe("sensor", "forbidden"))
    a.sync()


# --- subscriptions


@scenario(a=[hello(b"x")])
def unsubscribe_when_not_subscribed(net):
    a = net.connect("a", "sensor")
    a.send(
        unsubscribe("sensor", "events"),
        unsubscribe("sensor", "events"),
        # It leaves no trace: the next subscription works.
        subscribe("sensor", "events"),
        publish("sensor", "events", b"x"),
    )
    a.sync()


@scenario(a=[hello(b"1"), hello(b"3")])
def subscribe_again_after_unsubscribe(net):
    a = net.connect("a", "sensor")
    on, off = subscribe("sensor", "events"), unsubscribe("sensor", "events")
    one, two, three = (publish("sensor", "events", payload) for payload in (b"1", b"2", b"3"))
    a.send(on, one, off, two, on, three)
    a.sync()


@scenario(a=[hello(b"x"), hello(b"y")])
def duplicate_subscribe(net):
    a = net.connect("a", "sensor")
    on, off = subscribe("sensor", "events"), unsubscribe("sensor", "events")
    a.send(on, on, publish("sensor", "events", b"x"), on, publish("sensor", "events", b"y"))
    # The Python broker keeps one entry for each SUBSCRIBE and removes only one when the connection ends. From then on
    # everybody who publishes to that channel is disconnected (an exception, on the entry that is dead), until the
    # broker is restarted.
    a.send(off, off, off)
    a.sync()


@scenario(a=[hello(b"1"), hello(b"2")], b=[hello(b"1"), hello(b"2")], c=[])
def everyone_who_subscribed_gets_it_and_nobody_else(net):
    a, b, c = net.connect("a", "sensor"), net.connect("b", "collector"), net.connect("c", "collector")
    for peer in (a, b):
        peer.send(subscribe(peer.ident, "events"))
        peer.sync()
    c.send(subscribe("collector", "files"))
    c.sync()
    a.send(publish("sensor", "events", b"1"), publish("sensor", "events", b"2"))
    for peer in (a, b, c):
        peer.sync(through=a)


@scenario(a=[], b=[hello(b"x")], c=[hello(b"x")])
def two_connections_of_one_ident(net):
    """They are separate: each has its own subscriptions, and each gets its own copy."""
    a, b, c = net.connect("a", "sensor"), net.connect("b", "sensor"), net.connect("c", "sensor")
    for peer in (b, c):
        peer.send(subscribe("sensor", "events"))
        peer.sync()
    a.send(unsubscribe("sensor", "events"), publish("sensor", "events", b"x"))
    for peer in (a, b, c):
        peer.sync(through=a)


# --- framing


@scenario(a=[hello(b"slowly")])
def byte_by_byte(net):
    a = net.dial("a")
    a.send_slowly(a.auth("sensor"), subscribe("sensor", "events"), publish("sensor", "events", b"slowly"))
    a.sync()


@scenario(a=[hello("ünï".encode())])
def several_frames_and_a_split_header(net):
    """The segment ends within the header of the second frame."""
    a = net.connect("a", "sensor")
    data = subscribe("sensor", "events") + frame(PUBLISH, short("sensor") + short("events") + "ünï".encode())
    cut = len(subscribe("sensor", "events")) + 3
    a.send(data[:cut])
    a.send(data[cut:])
    a.sync()


@scenario(a=[hello(b"")])
def empty_payload(net):
    a = net.connect("a", "sensor")
    a.send(subscribe("sensor", "events"), publish("sensor", "events", b""))
    a.sync()


@scenario(a=[hello(bytes(range(256)))])
def payload_is_opaque(net):
    a = net.connect("a", "sensor")
    a.send(subscribe("sensor", "events"), publish("sensor", "events", bytes(range(256))))
    a.sync()


LARGEST = b"x" * max_payload("sensor", "events")


@scenario(a=[hello(LARGEST), hello(b"next")])
def payload_at_the_limit(net):
    a = net.connect("a", "sensor")
    largest = publish("sensor", "events", LARGEST)
    assert len(largest) == 5 + MAX_BODY
    a.send(subscribe("sensor", "events"), largest, publish("sensor", "events", b"next"))
    a.sync()


@scenario(a=[hello(LARGEST)])
def payload_at_the_limit_in_pieces(net):
    """As clients send it that stream a file after the header."""
    a = net.connect("a", "sensor")
    a.send(subscribe("sensor", "events"))
    a.send_slowly(publish("sensor", "events", LARGEST), piece=16384)
    a.sync()


BURST = [b"%d" % number for number in range(5000)]


@scenario(a=[], b=[hello(payload) for payload in BURST])
def a_burst_keeps_its_order(net):
    a, b = net.connect("a", "sensor"), net.connect("b", "collector")
    b.send(subscribe("collector", "events"))
    b.sync()
    a.send(*(publish("sensor", "events", payload) for payload in BURST))
    b.sync(through=a)


# --- the end of a connection


@scenario(a=[EOF], b=[hello(b"1"), hello(b"2")])
def half_close_after_publish(net):
    """Frames before the end are acted on, then the broker closes too: clients take that EOF as a confirmation."""
    b = net.connect("b", "collector")
    b.send(subscribe("collector", "events"))
    b.sync()
    a = net.dial("a")
    a.send(a.auth("sensor"), publish("sensor", "events", b"1"), publish("sensor", "events", b"2"))
    a.half_close()
    a.read_until_closed()
    # The EOF says that the broker had read everything, so it comes before any marker.
    b.sync()


@scenario(a=[hello(b"x"), EOF])
def half_close_after_echo(net):
    """What was already on its way to the peer that closes is delivered first."""
    a = net.dial("a")
    a.send(a.auth("sensor"), subscribe("sensor", "events"), publish("sensor", "events", b"x"))
    a.half_close()
    a.read_until_closed()


@scenario(a=[EOF])
def half_close_at_once(net):
    a = net.dial("a")
    a.half_close()
    a.read_until_closed()
