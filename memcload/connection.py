"""From an address to a connection whose replies are bounded, whatever the server does.

The connection is pymemcache's, with its timeouts.
"""

from __future__ import annotations

import errno
import ipaddress
import math
import re
import socket
import time
import types
from typing import Any

from pymemcache.client.base import Client as Connection
from pymemcache.exceptions import MemcacheError

Buffer = bytes | bytearray | memoryview

_MAX_REPLY = 1 << 24  # bytes; more than this in answer to one request makes no sense


class BadReply(MemcacheError):
    """A reply that makes no sense: this connection can't be trusted any more."""


class BoundedSocket(socket.socket):
    """A socket that bounds a whole reply in time and size, however slowly or long a server talks.

    The timeout of an ordinary socket starts anew with every byte that arrives.
    """

    _limit: float | None = None
    _deadline = math.inf
    _received = 0
    _is_shortened = False  # the timeout, to what remained of it

    def settimeout(self, value: float | None, /) -> None:
        """Bound each request, and each whole reply, to so many seconds."""
        self._limit = value
        super().settimeout(value)

    def sendall(self, data: Buffer, flags: int = 0, /) -> None:  # type: ignore[override]
        """Send a request; the time for its reply begins when it is sent."""
        if self._is_shortened:
            super().settimeout(self._limit)
            self._is_shortened = False
        super().sendall(data, flags)
        self._deadline = math.inf if self._limit is None else time.monotonic() + self._limit
        self._received = 0

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive some of the reply. Raises TimeoutError, or BadReply when there is no end of it."""
        if self._received and self._deadline < math.inf:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            super().settimeout(remaining)
            self._is_shortened = True
        data = super().recv(bufsize, flags)
        self._received += len(data)
        if self._received > _MAX_REPLY:
            raise BadReply("an endless reply")
        return data


_SOCKET_MODULE: Any = types.SimpleNamespace(**{**vars(socket), "socket": BoundedSocket})


def parse_address(address: str) -> tuple[str, int] | str:
    """Return (host, port), or the path of a `unix:/path` address.

    Raises ValueError, which says what an address looks like.
    """
    if address.startswith("unix:"):
        if not address.startswith("unix:/"):
            raise ValueError(f"{address!r}: a unix address is unix:/path")
        return address.removeprefix("unix:")
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^:\[\]\s/]+)):([0-9]{1,5})", address)
    if not match or not 0 < int(match[3]) < 65536:
        raise ValueError(f"{address!r} is not an address: host:port, [v6]:port or unix:/path")
    if match[1]:
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError as error:
            raise ValueError(f"{address!r}: {error}") from None
    else:
        try:
            match[2].encode("idna")
        except UnicodeError:
            raise ValueError(f"{address!r}: {match[2]!r} can't be the name of a host") from None
    return match[1] or match[2], int(match[3])


def _endpoints(address: str) -> list[tuple[str, int] | str]:
    """Return every place the address can mean: `localhost` may be ::1 as well as 127.0.0.1."""
    parsed = parse_address(address)
    if isinstance(parsed, str):
        return [parsed]
    found = socket.getaddrinfo(*parsed, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found))


def connect(address: str, timeout: float, connect_timeout: float) -> Connection:
    """Open a connection to the first endpoint of an address that takes it.

    timeout, connect_timeout: seconds for one request and its reply, and for the connection
    Raises OSError or MemcacheError.
    """
    failure: OSError = ConnectionError("the address means no endpoint")
    for endpoint in _endpoints(address):
        connection = Connection(
            endpoint,
            connect_timeout=connect_timeout,
            timeout=timeout,
            no_delay=True,
            socket_module=_SOCKET_MODULE,
        )
        try:
            connection.version()
        except OSError as error:
            failure = error
            continue
        except MemcacheError:
            connection.close()
            raise
        if not _is_connected_to_itself(connection.sock):
            return connection
        connection.close()
        failure = ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
    raise failure


def _is_connected_to_itself(sock: socket.socket | None) -> bool:
    """Tell whether a socket met itself: TCP allows it on a free port of the range that clients get theirs from."""
    return sock is not None and sock.family != socket.AF_UNIX and sock.getsockname() == sock.getpeername()
