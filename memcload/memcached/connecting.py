"""Makes connections: names are looked up, every place that a name means is tried, TLS and password come first.

The connections are pymemcache's, which also does the classic `set`s on them.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import ssl
import time
import types
from dataclasses import dataclass
from typing import Any, cast

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheServerError

from memcload.cancel import Cancel
from memcload.memcached.address import Endpoint, look_up, parse_address
from memcload.memcached.deadline import Deadline
from memcload.memcached.protocol import SETTINGS, VERSION, ErrorReply, Refusal, authentication
from memcload.memcached.replies import OneLine, SetReplies, StatsReply, VersionReply
from memcload.memcached.tls import Credentials, WrongPassword
from memcload.memcached.transport import Buffer, Channel

_LOOK_EVERY = 0.05  # seconds
_TRY_AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK)  # a Unix socket whose queue of connections is full
_IN_PROGRESS = (errno.EINPROGRESS, errno.EALREADY, errno.EINTR)


@dataclass(frozen=True)
class Settings:
    """How connections are made.

    timeout, connect_timeout: seconds for one request and its reply, and for a connection
    tls: makes TLS connections; None for plain ones
    credentials: what each connection begins with; None if servers want no password
    """

    timeout: float
    connect_timeout: float
    cancel: Cancel | None = None
    tls: ssl.SSLContext | None = None
    credentials: Credentials | None = None


class Connection:
    """A connection to a server that has shown that it is a memcached.

    channel: where requests are exchanged for replies
    version: what the server told of its version
    """

    def __init__(self, client: _Client, channel: Channel, version: str) -> None:
        self._client = client
        self.channel = channel
        self.version = version

    def set(self, key: bytes, value: bytes, expires: int) -> Refusal | None:
        """Store one record; return the server's refusal, if any. Raises what Channel.exchange does."""
        exchange = _OneExchange(self.channel)
        self._client.sock = cast("socket.socket", exchange)
        with contextlib.suppress(MemcacheServerError):  # after which pymemcache would rather close the connection
            self._client.set(key, value, expires, noreply=False)
        return exchange.refusals[0] if exchange.refusals else None

    def settings(self) -> dict[bytes, bytes]:
        """Return the server's settings, none where it does not tell them. Raises what Channel.exchange does."""
        try:
            return dict(self.channel.exchange([SETTINGS], StatsReply()))
        except ErrorReply:
            return {}


def connect(address: str, settings: Settings) -> Connection:
    """Connect to the first place meant by an address that takes it.

    Raises:
        OSError: no place takes it in time.
        BadReply, ErrorReply, WrongPassword: what answers does not do what it should.
    """
    parsed = parse_address(address)
    if isinstance(parsed, str):
        return _greet(parsed, None, settings)
    failure = OSError(errno.EADDRNOTAVAIL, "its name resolves to no address")
    for endpoint in look_up(*parsed, _deadline(settings)):
        try:
            return _greet(parsed, endpoint, settings)
        except ssl.SSLError:
            raise
        except OSError as error:
            failure = error
    raise failure


def wants_tls(address: str, settings: Settings) -> bool:
    """Return True if a server answers the opening of a TLS connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    parsed = parse_address(address)
    if isinstance(parsed, str):
        return False
    with contextlib.suppress(OSError):
        for endpoint in look_up(*parsed, _deadline(settings)):
            try:
                _open(_Client(parsed, endpoint, settings), context, settings).close()
            except ssl.SSLError as error:
                if "ALERT" not in (error.reason or ""):
                    continue
            except OSError:
                continue
            return True
    return False


def _deadline(settings: Settings) -> Deadline:
    return Deadline(settings.connect_timeout, settings.timeout, settings.cancel)


def _greet(place: tuple[str, int] | str, endpoint: Endpoint | None, settings: Settings) -> Connection:
    """Connect to one place, and let it show that it is a memcached."""
    client = _Client(place, endpoint, settings)
    channel = _open(client, settings.tls, settings)
    try:
        if settings.credentials:
            _authenticate(channel, settings.credentials)
        version = channel.exchange([VERSION], VersionReply())[0]
    except BaseException:
        channel.close()
        raise
    return Connection(client, channel, version.decode("ascii", "backslashreplace"))


def _open(client: _Client, tls: ssl.SSLContext | None, settings: Settings) -> Channel:
    """Make a connection, TLS included."""
    deadline = _deadline(settings)
    sock = client.open()
    if _is_connected_to_itself(sock):
        sock.close()
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    try:
        if tls:
            host = client.server[0].partition("%")[0]
            sock = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        channel = Channel(sock, settings.timeout, settings.cancel)
        if tls:
            channel.handshake(deadline)
    except BaseException:
        sock.close()
        raise
    return channel


def _authenticate(channel: Channel, credentials: Credentials) -> None:
    reply = channel.exchange([authentication(credentials.user, credentials.password)], OneLine())[0]
    if reply != b"STORED":
        raise WrongPassword


class _Client(Client):
    """pymemcache's client, connected to one place."""

    def __init__(self, place: tuple[str, int] | str, endpoint: Endpoint | None, settings: Settings) -> None:
        def new_socket(*kind: int) -> _Socket:
            return _Socket(*kind, deadline=_deadline(settings))

        module: Any = types.SimpleNamespace(**vars(socket))
        module.socket = new_socket
        module.getaddrinfo = lambda *host: [endpoint]
        super().__init__(
            place,
            connect_timeout=settings.connect_timeout,
            timeout=settings.timeout,
            no_delay=True,
            socket_module=module,
        )

    def open(self) -> socket.socket:
        """Return a new connection."""
        self._connect()
        sock, self.sock = self.sock, None
        assert sock is not None
        return sock


class _Socket(socket.socket):
    """A socket whose connecting ends in time, also when a run is cancelled."""

    def __init__(self, *kind: int, deadline: Deadline) -> None:
        super().__init__(*kind)
        self._deadline = deadline

    def connect(self, address: Any, /) -> None:
        """Connect. Raises OSError."""
        self.setblocking(False)
        while (error := self.connect_ex(address)) in _TRY_AGAIN:
            time.sleep(min(self._deadline.check(), _LOOK_EVERY / 10))
        if error in _IN_PROGRESS:
            poll = select.poll()
            poll.register(self, select.POLLOUT)
            while not poll.poll(math.ceil(min(self._deadline.check(), _LOOK_EVERY) * 1000)):
                pass
            error = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))


class _OneExchange:
    """Stands in for the socket of a pymemcache client that stores one record."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._request: list[Buffer] = []
        self.refusals: list[Refusal] = []

    def sendall(self, data: bytes) -> None:
        """Take the request."""
        self._request = [data]

    def recv(self, size: int) -> bytes:
        """Send the request and return its reply."""
        self.refusals = self._channel.exchange(self._request, SetReplies(1))
        return (self.refusals[0].reply.encode() if self.refusals else b"STORED") + b"\r\n"

    def close(self) -> None:
        """Leave the connection open: what is to become of it is decided elsewhere."""


def _is_connected_to_itself(sock: socket.socket) -> bool:
    """Return True if a socket met itself: TCP allows it on a free port of the range that clients get theirs from."""
    return sock.family != socket.AF_UNIX and bool(sock.getsockname() == sock.getpeername())
