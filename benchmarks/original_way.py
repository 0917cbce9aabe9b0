"""The original script's way, written afresh: one thread, a message object and a new connection for each record.

The original made a python-memcached client for every record, which connects at its first command and is dropped after
it. Here pymemcache does the same: connect, one `set` with its reply, close.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from contextlib import closing

from pymemcache.client.base import Client

from appsinstalled_pb2 import UserApps
from benchmarks.program import run


def load(paths: list[str], addresses: Mapping[str, str]) -> int:
    """Load the logs line by line; return the number of records stored."""
    stored = 0
    for path in paths:
        with gzip.open(path, "rt", encoding="ascii") as log:
            for line in log:
                device_type, device_id, latitude, longitude, apps = line.strip().split("\t")
                message = UserApps()
                message.lat = float(latitude)
                message.lon = float(longitude)
                message.apps.extend([int(app) for app in apps.split(",")])
                key = f"{device_type}:{device_id}"
                with closing(Client(addresses[device_type])) as client:
                    stored += client.set(key, message.SerializeToString(), noreply=False) is True
    return stored


if __name__ == "__main__":
    run(load)
