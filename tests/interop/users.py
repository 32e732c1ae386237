"""Who may do what in the brokers of this suite, in the shape of both stores that need no database."""

import json

# Everyone may use "sync", by which the tests learn that the broker has handled what they sent (see wire.Peer.sync).
USERS = {
    # May publish what it also reads, so that it hears its own echo.
    "sensor": {"pubchans": ["events", "files", "sync"], "subchans": ["events", "sync"]},
    "collector": {"pubchans": ["sync"], "subchans": ["events", "files", "sync"]},
}
SECRETS = {ident: f"secret of {ident}" for ident in USERS}
# The env store looks idents up in upper case.
SECRETS["Sensor"] = SECRETS["sensor"]


def as_json():
    records = {
        ident: {"owner": f"owner of {ident}", "secret": SECRETS[ident], **channels} for ident, channels in USERS.items()
    }
    return json.dumps(records)


def as_env():
    variables = {}
    for ident, channels in USERS.items():
        prefix = f"HPFEEDS_{ident.upper()}"
        variables[f"{prefix}_SECRET"] = SECRETS[ident]
        variables[f"{prefix}_OWNER"] = f"owner of {ident}"
        variables[f"{prefix}_PUBCHANS"] = ",".join(channels["pubchans"])
        variables[f"{prefix}_SUBCHANS"] = ",".join(channels["subchans"])
    return variables
