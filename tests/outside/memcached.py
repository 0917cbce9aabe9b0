"""Where servers are, what they hold, and places where there is none."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from tests.outside.spec import TYPES, Item
from tools.servers import MemcachedServer

PATIENCE = 30.0  # seconds for a server to answer

Servers = Mapping[str, MemcachedServer]


def addresses(servers: Servers, **other: str) -> list[str]:
    """Return the options that lead to these servers; `other` are addresses in place of theirs."""
    return [part for name in TYPES for part in (f"--{name}", other.get(name) or servers[name].address)]


def everywhere(address: str) -> list[str]:
    """Return the options that lead all device types to one address."""
    return [part for name in TYPES for part in (f"--{name}", address)]


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """Give an address where nothing listens, and nothing will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[str, socket.socket]]:
    """Give an address where connections are taken and nothing is ever answered, and its listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        yield f"127.0.0.1:{listening.getsockname()[1]}", listening


def make_ready(servers: Servers) -> None:
    """Have these servers up and empty, whatever an earlier test did to them."""
    for server in servers.values():
        if server.running:
            server.thaw()
            server.flush()
        else:
            server.restart()


def contents(servers: Servers) -> dict[bytes, Item]:
    """Return everything that the servers hold; each key has to lie on the server of its device type."""
    items: dict[bytes, Item] = {}
    for name, server in servers.items():
        found = dict(_items(server))
        assert [key for key in found if not key.startswith(name.encode() + b":")] == []
        items.update(found)
    return items


def values(servers: Servers) -> dict[bytes, bytes]:
    """Return every value that the servers hold, by its key."""
    return {key: item.value for key, item in contents(servers).items()}


def _items(server: MemcachedServer) -> Iterator[tuple[bytes, Item]]:
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection, connection.makefile("rb") as file:
        keys = _keys(connection, file)
        for start in range(0, len(keys), 200):
            some = keys[start : start + 200]
            connection.sendall(b"".join(b"mg %b k f t v\r\n" % key for key in some))
            for asked in some:  # VA 12 kidfa:1 f0 t-1
                status, length, key, flags, expires_in = file.readline().split()
                assert (status, key) == (b"VA", b"k" + asked)
                value = file.read(int(length) + 2).removesuffix(b"\r\n")
                yield asked, Item(value, int(flags[1:]), int(expires_in[1:]))


def _keys(connection: socket.socket, file: BinaryIO) -> list[bytes]:
    keys = []
    connection.sendall(b"lru_crawler metadump hash\r\n")
    while (answer := file.readline()) != b"END\r\n":  # key=idfa%3A1 exp=-1 la=1506686400 cas=1 …
        if answer == b"OK\r\n":  # memcached 1.6.45 says so before the first
            continue
        if answer.startswith(b"BUSY"):  # now and then memcached does the same for itself
            time.sleep(0.01)
            connection.sendall(b"lru_crawler metadump hash\r\n")
            continue
        assert answer.startswith(b"key="), answer
        keys.append(unquote_to_bytes(answer.split(b" ")[0].removeprefix(b"key=")))
    return keys
