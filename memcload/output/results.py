"""What there is to tell about a run, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memcload.counts import Counts
from memcload.file_load import FileLoad
from memcload.memcached.routing import Partition
from memcload.memcached.server import Server


@dataclass(frozen=True)
class Results:
    """A run that has ended, or could not begin.

    servers: by address
    seconds: how long it took
    """

    partitions: Sequence[Partition]
    servers: Mapping[str, Server]
    max_error_rate: float
    dry: bool
    files: Sequence[FileLoad] = ()
    totals: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    exit_code: int = 0


def server_figures(results: Results, device_type: str) -> list[dict[str, Any]]:
    """Return what became of the records of a device type, for each of its servers, and what the server went through."""
    return [
        {
            "address": partition.server,
            "stored": results.totals.stored[partition.number],
            "failed": results.totals.failed[partition.number],
            **_history(results.servers[partition.server]),
        }
        for partition in results.partitions
        if partition.device_type == device_type
    ]


def _history(server: Server) -> dict[str, Any]:
    return {
        "retries": server.retries,
        "evictions": server.evictions,
        "restarts": server.restarts,
        "detects_restarts": server.detects_restarts,
    }
