"""What an exporter exposes, and the differences between two."""

import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def fetch(port, path="/metrics", accept="text/plain"):
    asking = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(asking, timeout=10) as answer:
        return answer.headers, answer.read().decode()


def families(port, accept="text/plain"):
    """Every metric of hpfeeds by name, as the parser of the Prometheus project reads it."""
    headers, text = fetch(port, accept=accept)
    parse = parse_openmetrics if "openmetrics" in headers["Content-Type"] else parse_plain
    found = {family.name: family for family in parse(text)}
    # The moment at which a series came to be is a series of its own in Python's output. Ours has none.
    return {name: found[name] for name in found if name.startswith("hpfeeds_") and not name.endswith("_created")}


def samples(family):
    """Values by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def value(port, name, **labels):
    """The value of one sample, or None."""
    for family in families(port).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None
