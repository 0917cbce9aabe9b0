"""The client libraries themselves, asked for the server of a key without connecting; a missing one skips the test."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pymemcache.client.hash import HashClient

from memcload.memcached.address import parse_address
from memcload.memcached.routing_rules import RoutingName

Choose = Callable[[str], int]

_KETAMA_WEIGHTED = 16  # MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED


def python_library(name: str) -> Any:
    """Import a client library, or skip the test."""
    return pytest.importorskip(name, reason=f"{name} is not installed: see requirements-dev.txt")


def without_scheme(address: str) -> str:
    """Return an address as pymemcache, pylibmc and gomemcache write it: a Unix socket is its path."""
    return address.removeprefix("unix:")


def with_family(address: str) -> str:
    """Return an address as python-memcached writes it."""
    return f"inet6:{address}" if address.startswith("[") else address


def pymemcache(addresses: Sequence[str]) -> Choose:
    """Return the choice of pymemcache's HashClient."""
    client = HashClient([without_scheme(address) for address in addresses])
    nodes = list(client.clients)
    return lambda key: nodes.index(client.hasher.get_node(key))


def python_memcached(addresses: Sequence[str]) -> Choose:
    """Return the choice of python-memcached."""
    client = python_library("memcache").Client([with_family(address) for address in addresses])
    for server in client.servers:
        server.connect = lambda: 1
    return lambda key: int(client.servers.index(client._get_server(key.encode())[0]))


def gomemcache(addresses: Sequence[str]) -> Choose:
    """Return the choice of gomemcache as its selector.go makes it.

    A single server is not hashed; else `cs := crc32.ChecksumIEEE(key)` and `ss.addrs[cs%uint32(len(ss.addrs))]`.
    """

    def checksum_ieee(text: bytes) -> int:
        crc = 0xFFFFFFFF
        for byte in text:
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
        return crc ^ 0xFFFFFFFF

    return lambda key: checksum_ieee(key.encode()) % len(addresses) if len(addresses) > 1 else 0


def pylibmc(addresses: Sequence[str]) -> Choose:
    """Return the choice of pylibmc's client: its libmemcached is asked about the very memcached_st in the client."""
    library = python_library("pylibmc")
    client = library.Client([without_scheme(address) for address in addresses], behaviors={"ketama_weighted": True})
    libmemcached = ctypes.CDLL(importlib.import_module("_pylibmc").__file__)
    memcached = ctypes.c_void_p.from_address(id(client) + object.__basicsize__)  # the first field of the C struct

    def choose(key: str) -> int:
        assert client  # must live as long as what is in it
        return _generate_hash(libmemcached, memcached, key)

    return choose


class Libmemcached:
    """The system's libmemcached with weighted ketama, told of servers in C as PHP and others do."""

    def __init__(self, addresses: Sequence[str]) -> None:
        name = ctypes.util.find_library("memcached")
        if name is None:
            pytest.skip("libmemcached is not installed: apt install libmemcached11")
        self._library = ctypes.CDLL(name)
        self._library.memcached_create.restype = ctypes.c_void_p
        self._library.memcached_behavior_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)
        self._library.memcached_free.argtypes = (ctypes.c_void_p,)
        self._memcached = ctypes.c_void_p(self._library.memcached_create(None))
        assert self._library.memcached_behavior_set(self._memcached, _KETAMA_WEIGHTED, 1) == 0
        for address in addresses:
            place = parse_address(address)
            if isinstance(place, str):
                failed = self._library.memcached_server_add_unix_socket(self._memcached, place.encode())
            else:
                failed = self._library.memcached_server_add(
                    self._memcached, place[0].encode(), ctypes.c_uint16(place[1])
                )
            assert not failed

    def __call__(self, key: str) -> int:
        return _generate_hash(self._library, self._memcached, key)

    def __del__(self) -> None:
        if hasattr(self, "_memcached"):
            self._library.memcached_free(self._memcached)


def _generate_hash(library: ctypes.CDLL, memcached: ctypes.c_void_p, key: str) -> int:
    library.memcached_generate_hash.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
    library.memcached_generate_hash.restype = ctypes.c_uint32
    return int(library.memcached_generate_hash(memcached, key.encode(), len(key)))


CLIENTS: list[tuple[RoutingName, Callable[[Sequence[str]], Choose]]] = [
    ("rendezvous", pymemcache),
    ("crc32", gomemcache),
    ("python-memcached", python_memcached),
    ("ketama", pylibmc),
    ("ketama", Libmemcached),
]
