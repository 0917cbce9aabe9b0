"""From the address of a server, as given, to the places that it can mean."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from queue import Empty, SimpleQueue
from typing import Any

from memcload.memcached.deadline import Deadline

Endpoint = tuple[Any, ...]
"""What `socket.getaddrinfo` tells of one place."""

_LOOK_EVERY = 0.05  # seconds


def parse_address(address: str) -> tuple[str, int] | str:
    """Return (host, port), or the path of a `unix:/path` address.

    Raises ValueError, which tells what an address looks like.
    """
    if address.startswith("unix:"):
        if not address.startswith("unix:/"):
            raise ValueError(f"{address!r}: write a Unix socket as unix:/path")
        return address.removeprefix("unix:")
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%[^\s/:%\[\]]+)?)\]|([^:\[\]\s/]+)):([0-9]{1,5})", address)
    if not match or not 0 < int(match[3]) < 65536:
        raise ValueError(f"{address!r} is not an address: write host:port, [v6]:port or unix:/path")
    if match[1]:
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError as error:
            raise ValueError(f"{address!r}: {error}") from None
    else:
        try:
            match[2].encode("idna")
        except UnicodeError:
            raise ValueError(f"{address!r}: {match[2]!r} is not a valid host name") from None
    return match[1] or match[2], int(match[3])


def look_up(host: str, port: int, deadline: Deadline) -> list[Endpoint]:
    """Return every place that a host can mean: `localhost` may be ::1 as well as 127.0.0.1.

    Resolvers know no time limit. So a name is looked up in a thread of its own, which is left alone in the end.

    Raises:
        TimeoutError: the deadline passed.
        OSError: there is no such host.
    """
    if _is_numeric(host):
        return _resolve(host, port)
    results: SimpleQueue[list[Endpoint] | OSError] = SimpleQueue()

    def resolve() -> None:
        try:
            results.put(_resolve(host, port))
        except OSError as error:
            results.put(error)

    threading.Thread(target=resolve, name=f"lookup of {host}", daemon=True).start()
    while True:
        try:
            result = results.get(timeout=min(deadline.check("while resolving its name"), _LOOK_EVERY))
        except Empty:
            continue
        if isinstance(result, OSError):
            raise result
        return result


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _resolve(host: str, port: int) -> list[Endpoint]:
    return list(dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)))
