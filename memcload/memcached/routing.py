"""Which server a key belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from memcload.records import DEVICE_TYPES


class Partition(NamedTuple):
    """An ordered stream of batches: the records of one device type that belong to one server."""

    number: int
    device_type: str
    server: str  # its address as given


class Router:
    """The partitions of a run, and the choice among them.

    partitions: all of them, numbered from 0, in the order of DEVICE_TYPES and of the servers as given.

    Args:
        servers: the addresses of the servers of each device type that is to be loaded.
    """

    def __init__(self, servers: Mapping[str, Sequence[str]]) -> None:
        self.partitions: list[Partition] = []
        self._first: dict[str, int] = {}
        for device_type in DEVICE_TYPES:
            for address in servers.get(device_type, ()):
                self._first.setdefault(device_type, len(self.partitions))
                self.partitions.append(Partition(len(self.partitions), device_type, address))

    def loads(self, device_type: str) -> bool:
        """Return True if records of the device type are to be loaded."""
        return device_type in self._first

    def partition_of(self, device_type: str, key: bytes) -> int | None:
        """Return the number of the key's partition; None where the device type is not to be loaded."""
        return self._first.get(device_type)
