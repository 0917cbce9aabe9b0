"""Which server a key belongs to."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from memcload.memcached.address import parse_address
from memcload.memcached.routing_rules import RULES, Choose, RoutingName
from memcload.records import DEVICE_TYPES

MAX_SERVERS = 64  # of one device type


class Partition(NamedTuple):
    """An ordered stream of batches: the records of one device type that belong to one server."""

    number: int
    device_type: str
    server: str  # its address as given


class Router:
    """The partitions of a run, and the choice among them.

    Attributes:
        partitions: all of them, numbered from 0, in the order of DEVICE_TYPES and of the servers as given.
        servers: the addresses of the servers of each device type that is to be loaded.
        routing: the rule by which clients choose the server of a key, where a device type has several.
    """

    def __init__(self, servers: Mapping[str, Sequence[str]], routing: RoutingName = "rendezvous") -> None:
        """Make the partitions.

        Args:
            servers: addresses by device type: host:port, [v6]:port or unix:/path.
            routing: the rule of the clients that will read.

        Raises:
            ValueError: something is no address, a server is named twice for a device type, there are too many of
                them, or the clients that the rule stands for can't be given these addresses.
        """
        self.routing = routing
        self.servers = {name: tuple(servers[name]) for name in DEVICE_TYPES if servers.get(name)}
        self.partitions: list[Partition] = []
        self._first: dict[str, int] = {}
        self._choose: dict[str, Choose] = {}
        for device_type, addresses in self.servers.items():
            _check(device_type, addresses, routing)
            self._first[device_type] = len(self.partitions)
            if len(addresses) > 1:
                self._choose[device_type] = RULES[routing](addresses)
            for address in addresses:
                self.partitions.append(Partition(len(self.partitions), device_type, address))

    def loads(self, device_type: str) -> bool:
        """Return True if records of the device type are to be loaded."""
        return device_type in self._first

    def first_partition(self, device_type: str) -> int | None:
        """Return the number of the partition of the type's first server; None where the type is not to be loaded."""
        return self._first.get(device_type)

    @property
    def hashes_keys(self) -> bool:
        """Return True if some device type has several servers."""
        return bool(self._choose)

    def partition_of(self, device_type: str, key: bytes) -> int | None:
        """Return the number of the key's partition; None where the device type is not to be loaded."""
        first = self._first.get(device_type)
        choose = self._choose.get(device_type)
        return first + choose(key) if first is not None and choose is not None else first


def _check(device_type: str, addresses: Sequence[str], routing: RoutingName) -> None:
    if len(addresses) > MAX_SERVERS:
        raise ValueError(f"{device_type} has {len(addresses)} servers: give at most {MAX_SERVERS}")
    seen: dict[tuple[str, int] | str, str] = {}
    for address in addresses:
        place = _one_spelling(parse_address(address))
        if place in seen:
            again = "is named twice" if seen[place] == address else f"is the same server as {seen[place]}"
            raise ValueError(f"{device_type}: {address} {again}: name each server once")
        seen[place] = address
    paths = [address for place, address in seen.items() if isinstance(place, str)]
    if routing == "ketama" and 0 < len(paths) < len(addresses):
        raise ValueError(
            f"{device_type}: --routing ketama does not mix Unix sockets ({paths[0]}) and TCP servers: "
            "give only one kind"
        )


def _one_spelling(place: tuple[str, int] | str) -> tuple[str, int] | str:
    if isinstance(place, str):
        return place
    host, port = place
    return str(ipaddress.IPv6Address(host)) if ":" in host else host.lower(), port
