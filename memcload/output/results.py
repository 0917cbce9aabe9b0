"""What there is to tell about a run, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
