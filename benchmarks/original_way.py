"""The original script's way, written afresh: one thread, a message object and a new connection for each record.

The original made a python-memcached client for every record, which connects at its first command and is
dropped after it. Here pymemcache does the same: connect, one `set` with its reply, close.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from pymemcache.client.base import Client

from appsinstalled_pb2 import UserApps
from benchmarks.rival import Stopwatch, run


def load(path: Path, addresses: Mapping[str, str], stopwatch: Stopwatch) -> int:
    """Load the log line by line; return the number of records stored."""
    stored = 0
    with stopwatch, gzip.open(path, "rt", encoding="utf-8") as log:
        for line in log:
            device_type, device_id, latitude, longitude, apps = line.strip().split("\t")
            message = UserApps()
            message.lat = float(latitude)
            message.lon = float(longitude)
            message.apps.extend([int(app) for app in apps.split(",")])
            with closing(Client(addresses[device_type])) as client:
                stored += client.set(f"{device_type}:{device_id}", message.SerializeToString(), noreply=False) is True
    return stored


if __name__ == "__main__":
    run(load)
