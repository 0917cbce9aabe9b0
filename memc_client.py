"""A client of one memcached: a persistent connection, timeouts, retries, acknowledged batches.

    from memc_client import MemcacheClient

    with MemcacheClient("127.0.0.1:11211", timeout=1.0) as client:
        client.set(b"key", b"value")

The connection and single records are pymemcache's. What is added here is what a bulk loader needs: many records in one
request, each of them acknowledged, retries, and an answer to "is that still the server that has stored them?".
"""

from __future__ import annotations

import contextlib
import random
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from memcload.cancel import Cancel
from memcload.memcached.address import parse_address
from memcload.memcached.batch import Batch, Difference, Lookup, Refusal
from memcload.memcached.causes import FAILURES, Failure, explain
from memcload.memcached.connecting import Connection, Settings, connect, wants_tls
from memcload.memcached.protocol import (
    PROBE,
    STATS,
    VERSION,
    ErrorReply,
    SpeaksTls,
    classic_gets,
    expiry,
)
from memcload.memcached.replies import BatchReply, LookupReplies, ProbeReply, SetReplies, StatsReply, VersionReply
from memcload.memcached.requests import classic_sets, meta_sets
from memcload.memcached.server import UNKNOWN, Identity, Server, ServerDown, ServerState, Stored
from memcload.memcached.tls import Credentials
from memcload.memcached.transport import Channel, Closed

__all__ = ["MemcacheClient", "ServerDown"]

_Result = TypeVar("_Result")

_BACKOFF_BASE = 0.1  # seconds before the first retry, doubled before each further one
_BACKOFF_LIMIT = 2.0  # seconds


class MemcacheClient:
    """A client for one memcached, with one persistent connection. Its methods may be called from any thread.

    It connects when it is first used, and again after `close`.

    Args:
        server: the server or its address: `host:port`, `[v6]:port` or `unix:/path`. Clients that share a Server
            count what happens to it together.
        timeout: seconds for one request and its reply.
        connect_timeout: seconds for a connection.
        retries: how often a request is tried again, with exponential backoff and jitter.
        ttl: seconds until a stored record expires, 0 for never.
        cancel: once set, what is in flight may take `timeout` seconds from then, and nothing is tried again.
        tls: makes TLS connections (see memcload.memcached.tls.make_tls_context); None for plain ones.
        credentials: a user and password, where the server wants them (`memcached -Y`).

    Raises:
        ValueError: the address is none, or TLS is to go over a Unix socket.
    """

    def __init__(
        self,
        server: Server | str,
        *,
        timeout: float = 3.0,
        connect_timeout: float = 1.0,
        retries: int = 3,
        ttl: int = 0,
        cancel: Cancel | None = None,
        tls: ssl.SSLContext | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.server = Server(server) if isinstance(server, str) else server
        if isinstance(parse_address(self.server.address), str) and tls:
            raise ValueError(f"{self.server.address}: TLS does not work over a Unix socket")
        self._cancel = cancel or Cancel()
        self._settings = Settings(timeout, connect_timeout, cancel, tls, credentials)
        self._retries = retries
        self._expires = expiry(ttl)
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._abandoned: Channel | None = None
        self._identity = UNKNOWN  # of who is at the other end of the connection
        self._speaks_meta = False
        self._is_ok = True

    def __enter__(self) -> MemcacheClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def set(self, key: bytes, value: bytes) -> Refusal | None:
        """Store one record; return the server's refusal, if any. Raises ServerDown."""

        def request() -> Refusal | None:
            connection = self._connected()
            begun = self.server.begin()
            refusal = connection.set(key, value, self._expires)
            self.server.acknowledge(not refusal, begun)
            return refusal

        return self._retrying(request)

    def store(self, batches: Sequence[Batch], *, retry: bool = True) -> Stored:
        """Store batches as one request; the positions of refusals count the records of all of them.

        Args:
            batches: the records, in order.
            retry: whether a failure is tried again.

        Returns:
            Who answered, and what was refused; all other records are acknowledged.

        Raises:
            ServerDown: there is no sensible answer: then any number of the records may have been stored.
        """
        count = sum(batch.count for batch in batches)
        if not count:
            return Stored(self.server.identity, [])
        return self._retrying(lambda: self._store(batches, count), retry=retry)

    def lookup(self, lookup: Lookup) -> list[Difference]:
        """Return where the server does not hold what it should. Raises ServerDown."""
        return self._retrying(lambda: self._look_up(lookup))

    def confirm(self) -> Identity:
        """Ask the server who it is now, and return that: what another identity acknowledged is lost. Raises ServerDown.

        A server that does not tell its statistics always has the same identity.
        """
        return self._retrying(self._confirm)

    def settings(self) -> dict[bytes, bytes]:
        """Return the server's settings, none where it does not tell them. Raises ServerDown."""
        return self._retrying(lambda: self._connected().settings() if self.server.detects_restarts else {})

    def close(self) -> None:
        """Close the connection, with a last look at the server's statistics. The next request opens a new one."""
        with self._lock:
            if self._connection is not None:
                if self._is_ok and self.server.detects_restarts:
                    with contextlib.suppress(*FAILURES):
                        self._look(self._connection.channel)
                self._connection.channel.close()
            self._connection = None
            if self._abandoned is not None:
                self._abandoned.close()
                self._abandoned = None
            self.server.drop(self)

    # -- retries

    def _retrying(self, request: Callable[[], _Result], *, retry: bool = True) -> _Result:
        """Return what a request returns; try it again after each failure that may pass."""
        failures = 0
        with self._lock:
            while True:
                try:
                    result = request()
                    break
                except FAILURES as error:
                    self._abandon()
                    failure = self._explain(error)
                failures += 1
                if retry and failure.is_transient and failures <= self._retries and not self._cancel.is_set:
                    self._report("retrying", failure.cause)
                    if not self._cancel.wait(_backoff(failures)):
                        continue
                    failure = Failure("no answer before the run was stopped", is_transient=False)
                if not (self._cancel.is_set or failure.is_ours):
                    self._report("down", failure.cause)
                raise ServerDown(self.server.address, failure.cause) from failure
            if not self._is_ok:
                self._report("ok")
            return result

    def _report(self, state: ServerState, cause: str = "") -> None:
        self._is_ok = state == "ok"
        self.server.report(self, state, cause)

    def _explain(self, error: Exception) -> Failure:
        """Return what an error means; find out whether a server that ends new connections wants TLS."""
        server = self.server
        if isinstance(error, ConnectionRefusedError):
            server.is_gone()
        if isinstance(error, ConnectionError) and not server.version and not self._settings.tls:
            if isinstance(error, Closed):
                return Failure("closed the connection at once: if it wants TLS, use --tls")
            if server.wants_tls is None and isinstance(error, (ConnectionResetError, BrokenPipeError)):
                server.wants_tls = wants_tls(server.address, self._settings)  # it may reset what is no TLS
            if server.wants_tls:
                return explain(SpeaksTls())
        return explain(error)

    # -- connecting, and letting go

    def _connected(self) -> Connection:
        """Return the connection, made anew where there is none, to a server whose identity is known."""
        if self._connection is not None and self._connection.channel.is_stale():
            self._abandon()
        if self._connection is None:
            self._await_release()
            self._connection = self._connect()
        elif self._identity != self.server.identity:  # another connection found that something has happened
            self._look(self._connection.channel)
        return self._connection

    def _connect(self) -> Connection:
        while True:
            connection = connect(self.server.address, self._settings)
            self.server.version = connection.version
            try:
                with self.server.looking:
                    if self._identify(connection.channel):
                        return connection
            except FAILURES:
                connection.channel.close()
                raise
            connection.channel.close()

    def _identify(self, channel: Channel) -> bool:
        """Learn who the server is and what it understands; return False if it closed the connection at that.

        A proxy may do so at a command that it does not know. Such a command is not sent again.
        """
        server = self.server
        if server.detects_restarts:
            stats = StatsReply()
            try:
                self._look(channel, stats)
            except (ErrorReply, ConnectionError) as error:
                is_cut = stats.has_begun and not stats.is_complete
                if server.has_told_stats or is_cut:
                    raise
                server.tells_no_stats()
                if isinstance(error, ConnectionError):
                    return False
        self._speaks_meta = False
        if not server.closes_at_probe:
            probe = ProbeReply()
            try:
                self._speaks_meta = server.speaks_meta = channel.exchange([PROBE], probe)[0]
            except ConnectionError:
                if server.speaks_meta or probe.has_begun:
                    raise
                server.closes_at_probe = True
                server.speaks_meta = False
                return False
        return True

    def _look(self, channel: Channel, reply: StatsReply | None = None) -> None:
        """Learn from its statistics who the server is."""
        with self.server.looking:
            sets = self.server.sets_acknowledged()
            identity = self.server.learn(dict(channel.exchange([STATS], reply or StatsReply())), sets)
        if identity is None:
            raise ErrorReply(b"statistics that do not show who it is")
        self._identity = identity

    def _abandon(self) -> None:
        """Stop using a broken connection, but keep it open until the server has closed it too.

        The server may still have requests of it to read. Were they read after newer records had gone over the next
        connection, older records would overwrite newer ones.
        """
        if self._connection is not None:
            self._abandoned = self._connection.channel
            self._abandoned.end_requests()
            self._connection = None

    def _await_release(self) -> None:
        """Wait until the server has read the abandoned connection to its end, and has closed it."""
        if self._abandoned is not None:
            self._abandoned.await_end()
            self._abandoned.close()
            self._abandoned = None

    # -- requests

    def _store(self, batches: Sequence[Batch], count: int) -> Stored:
        channel = self._connected().channel
        begun = self.server.begin()
        refusals: list[Refusal] = []
        is_tls = self._settings.tls is not None
        # A server that refuses something does not always tell which record. With a reply for each it is clear.
        if not self._speaks_meta or channel.exchange(meta_sets(batches, is_tls), BatchReply(count)):
            refusals = channel.exchange(classic_sets(batches, self._expires, is_tls), SetReplies(count))
        self.server.acknowledge(count - len(refusals), begun)
        return Stored(self._identity, refusals)

    def _look_up(self, lookup: Lookup) -> list[Difference]:
        channel = self._connected().channel
        requests = lookup.requests if self._speaks_meta else classic_gets(lookup.keys())
        return channel.exchange([requests], LookupReplies(lookup.count, lookup.replies))

    def _confirm(self) -> Identity:
        if self._connection is None:
            self._connected()  # which looks
        elif self.server.detects_restarts:
            self._look(self._connected().channel)
        else:
            self._connected().channel.exchange([VERSION], VersionReply())
        return self._identity


def _backoff(failures: int) -> float:
    """Return how many seconds to wait before another try: longer after each failure, and never quite the same."""
    return random.uniform(0, _BACKOFF_BASE) + min(_BACKOFF_LIMIT, _BACKOFF_BASE * 2.0 ** (failures - 1))
