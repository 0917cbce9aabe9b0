"""One persistent client for one memcached: timeouts, retries, acknowledged batches.

This is the only module that knows the memcached protocol
(https://github.com/memcached/memcached/blob/master/doc/protocol.txt). The connection is pymemcache's,
the retries are tenacity's; what is added here is what a bulk loader needs: a batch of records in one
request, each of them acknowledged, and an answer to "is that still the server that I wrote to?".
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import tenacity
from pymemcache.client.base import Client as Connection
from pymemcache.exceptions import MemcacheError, MemcacheUnexpectedCloseError, MemcacheUnknownCommandError

from memcload.connection import BadReply, BoundedSocket, Buffer, connect, parse_address

ServerState = Literal["ok", "retrying", "down"]
_Result = TypeVar("_Result")

_BACKOFF_BASE = 0.1  # seconds before the first retry, doubled before each further one
_BACKOFF_LIMIT = 2.0  # seconds
_FAILURES = (OSError, MemcacheError)
_ITEM_OVERHEAD = 59  # bytes that memcached counts beside key and value: the item's header, two line ends and a zero
_SMALLEST_ITEM_SIZE_MAX = 1024  # bytes; memcached takes no less for `-I`
_ANSWERED_BATCH = 256  # sets that wait for their replies together; these fit any socket's buffer


# --- the wire -----------------------------------------------------------------------------------

END_OF_BATCH = b"mn\r\n"


@dataclass(frozen=True)
class Batch:
    """Records for one server, in the order in which they are to be stored.

    `commands` holds a quiet meta set for each of the `count` records, closed by END_OF_BATCH: the
    server answers to the failures only, then `MN` when it has come to the end.
    """

    count: int
    commands: Buffer


def meta_set_flags(ttl: int) -> bytes:
    """Return what follows the length of the value in a quiet meta set, up to the value."""
    return b" T%d q\r\n" % _expiry(ttl) if ttl else b" q\r\n"


def meta_set_prefix(device_type: str) -> bytes:
    """Return how the quiet meta sets of a device type begin, up to the device's id."""
    return b"ms %b:" % device_type.encode()


def meta_set(key: bytes, value: bytes, flags: bytes) -> bytes:
    """Return the quiet meta set of one record; `flags` are meta_set_flags().

    The length has three digits at least: an encoder can leave room for it and write the value first.
    """
    return b"ms %b %03d%b%b\r\n" % (key, len(value), flags, value)


def split_batch(batch: Batch) -> Iterator[tuple[bytes, bytes]]:
    """Yield the key and the value of every record of a batch, in order."""
    commands = bytes(batch.commands)
    for start, value_start, end in _extents(commands, batch.count):
        yield commands[start:value_start].split(b" ", 2)[1], commands[value_start : end - 2]


def cut_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield a batch as batches of at most `size` records."""
    commands = bytes(batch.commands)
    extents = _extents(commands, batch.count)
    while piece := list(itertools.islice(extents, size)):
        yield Batch(len(piece), commands[piece[0][0] : piece[-1][2]] + END_OF_BATCH)


INQUIRY_SIZE = 512  # records; the requests for so many fit any socket's buffer while their replies come in


@dataclass(frozen=True)
class Inquiry:
    """A question for the values of `count` records: the requests, and the replies if all is as it should be."""

    count: int
    requests: bytes
    replies: bytes

    def asked_keys(self) -> list[bytes]:
        """Return the keys that are asked for, in order."""
        return [line[len(b"mg ") : -len(b" v")] for line in self.requests.split(b"\r\n")[:-1]]


def inquire(records: Iterable[tuple[bytes, bytes]]) -> Iterator[Inquiry]:
    """Yield the questions for the values of these records, by their keys."""
    remaining = iter(records)
    while piece := list(itertools.islice(remaining, INQUIRY_SIZE)):
        yield Inquiry(
            len(piece),
            b"".join([b"mg %b v\r\n" % key for key, _ in piece]),
            b"".join([b"VA %d\r\n%b\r\n" % (len(value), value) for _, value in piece]),
        )


def _extents(commands: bytes, count: int) -> Iterator[tuple[int, int, int]]:
    """Yield where each command of a batch starts, where its value starts, and where it ends."""
    start = 0
    for _ in range(count):
        value_start = commands.index(b"\r\n", start) + 2
        end = value_start + int(commands[start:value_start].split(b" ", 3)[2]) + 2
        yield start, value_start, end
        start = end


# --- what can go wrong --------------------------------------------------------------------------


class ServerUnavailable(Exception):
    """A server could not be reached, or gave no sensible answer, within the timeouts and retries."""

    def __init__(self, address: str, cause: str) -> None:
        super().__init__(f"{address}: {cause}")
        self.address = address
        self.cause = cause


class Refusal(NamedTuple):
    """A record that a server answered but did not store.

    `position` counts the records of its batch from 0. `too_large` tells that the value exceeds the
    server's limit; any other refusal (out of memory, say) may end well another time.
    """

    position: int
    too_large: bool
    reply: str


class Difference(NamedTuple):
    """A record that the server does not hold as it should. `position` counts the records asked for from 0.

    It is `too_large` where it is missing and the server would have refused it.
    """

    position: int
    kind: Literal["missing", "different", "too_large"]


def _cause(error: BaseException) -> str:
    """Say what happened in a few words, without the errno."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, MemcacheUnexpectedCloseError):
        return "connection closed by the server"
    if isinstance(error, MemcacheUnknownCommandError):  # pymemcache keeps the rest of the reply to itself
        return "answers ERROR: too many connections, or no memcached"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


class MemcacheClient:
    """A client for one memcached, with one persistent connection. Its methods may be called from any thread.

    address: `host:port`, `[v6]:port` or `unix:/path`
    timeout, connect_timeout: seconds for one request and its reply, and for a connection
    retries: how often a request is tried again, with exponential backoff and jitter
    ttl: seconds until a stored record expires, 0 for never
    on_state: called with the new state when the server stops or starts answering

    `state` tells whether the server answers. `retried`, `restarts` and `evictions` count, over the client's
    life, the requests that were tried again, the restarts of the server and the items that it evicted.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 3.0,
        connect_timeout: float = 1.0,
        retries: int = 3,
        ttl: int = 0,
        on_state: Callable[[ServerState, str], None] | None = None,
    ) -> None:
        parse_address(address)
        self.address = address
        self.retried = 0
        self.restarts = 0
        self.evictions = 0
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._retry = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(1 + retries),
            wait=tenacity.wait_exponential_jitter(multiplier=_BACKOFF_BASE, max=_BACKOFF_LIMIT, jitter=_BACKOFF_BASE),
            retry=tenacity.retry_if_exception_type(_FAILURES),
            before_sleep=self._count_retry,
            reraise=True,
        )
        self._expiry = _expiry(ttl)
        self._on_state = on_state or (lambda state, cause: None)
        self.state: ServerState = "ok"
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._abandoned: socket.socket | None = None
        self._tells_stats = True
        self._speaks_meta = True
        self._identity: object = None  # of the server process that was last written to
        self._evictions_seen = 0
        self._item_size_max: int | None = None  # bytes, as the server told it

    def set(self, key: bytes, value: bytes) -> Refusal | None:
        """Store one record and wait for the reply; return the server's refusal, if any.

        Raises ServerUnavailable when there is no sensible answer after all retries.
        """
        with self._lock:
            refusals = self._retrying(lambda: self._store_answered([(key, value)]))
        return refusals[0] if refusals else None

    def store(self, batch: Batch, *, patient: bool = True) -> list[Refusal]:
        """Store a batch and return what was refused; all other records are acknowledged.

        With `patient` false a failure is not tried again. Raises ServerUnavailable when there is no
        sensible answer: then any number of the records may have been stored.
        """
        if not batch.count:
            return []
        with self._lock:
            return self._retrying(lambda: self._store_once(batch), patient=patient)

    def compare(self, inquiry: Inquiry) -> list[Difference]:
        """Ask for the values of records; return where the server does not hold the record's value.

        Raises ServerUnavailable.
        """
        with self._lock:
            return self._retrying(lambda: self._compare(inquiry))

    def confirm(self) -> int:
        """Ask the server who it is; return how often it has been found restarted so far.

        What was acknowledged before a restart is lost. A server that does not tell its `stats` is
        taken as restarted whenever its connection breaks. Raises ServerUnavailable.
        """
        with self._lock:
            self._retrying(self._examine)
            return self.restarts

    def close(self) -> None:
        """Close the connection, with a last look at the evictions. The next request opens a new one."""
        with self._lock:
            if self._connection is not None and self.state == "ok":
                with contextlib.suppress(OSError, MemcacheError):
                    self._examine()
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            if self._abandoned is not None:
                self._abandoned.close()
                self._abandoned = None

    # -- retries

    def _retrying(self, request: Callable[[], _Result], *, patient: bool = True) -> _Result:
        def attempt() -> _Result:
            try:
                return request()
            except _FAILURES:
                self._abandon()
                raise

        def attempt_again() -> _Result:
            if failures:
                raise failures.pop()
            return attempt()

        failures: list[Exception] = []
        try:
            try:
                result = attempt()
            except _FAILURES as error:
                if not patient:
                    raise
                failures.append(error)  # which is what the machinery of retries sees of the first attempt
                result = self._retry(attempt_again)
        except _FAILURES as error:
            self._set_state("down", _cause(error))
            raise ServerUnavailable(self.address, _cause(error)) from error
        self._set_state("ok", "")
        return result

    def _count_retry(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._set_state("retrying", _cause(error) if error else "")
        self.retried += 1

    def _set_state(self, state: ServerState, cause: str) -> None:
        if state != self.state:
            self.state = state
            self._on_state(state, cause)

    # -- connecting, and letting go

    def _connected(self) -> BoundedSocket:
        if self._connection is None:
            self._await_release()
            self._connection = connect(self.address, self._timeout, self._connect_timeout)
            self._get_to_know(self._connection)
        if self._connection.sock is None:  # the server closed it at a command that it doesn't know
            self._connection.version()
        connected = self._connection.sock
        assert isinstance(connected, BoundedSocket)
        return connected

    def _get_to_know(self, connection: Connection) -> None:
        """Learn who answers a new connection, and whether it tells its stats and speaks meta commands."""
        try:
            self._tells_stats = self._read_stats(connection)
        except (MemcacheUnknownCommandError, MemcacheUnexpectedCloseError):
            self._tells_stats = False
        if not self._tells_stats:
            self._recognize(connection, 0)
        try:
            self._speaks_meta = self._request(END_OF_BATCH, lambda reply: reply.endswith(b"\n")) == b"MN\r\n"
        except MemcacheUnexpectedCloseError:
            self._speaks_meta = False
            connection.close()

    def _examine(self) -> None:
        """Learn whether it is still the same process that answers, and what it evicted."""
        if self._connection is None:
            self._connected()  # which learns it
        elif not self._tells_stats:
            self._connection.version()  # or the connection has broken
        elif not self._read_stats(self._connection):
            raise BadReply("stats that make no sense")

    def _read_stats(self, connection: Connection) -> bool:
        """Learn from its stats which process answers and what it evicted; return whether they tell."""
        try:
            stats = connection.stats()
            identity, evictions = (stats[b"pid"], stats[b"time"] - stats[b"uptime"]), int(stats[b"evictions"])
        except (LookupError, TypeError, ValueError):
            return False
        self._recognize(identity, evictions)
        return True

    def _recognize(self, identity: object, evictions: int) -> None:
        if self._identity is None:
            self._evictions_seen = evictions  # what was evicted before is not of this run
        elif identity != self._identity:
            self.restarts += 1
            self._evictions_seen = 0
        self._identity = identity
        self.evictions += max(0, evictions - self._evictions_seen)
        self._evictions_seen = evictions

    def _abandon(self) -> None:
        """Give a broken connection up, but keep hold of it until the server has let go of it too.

        The server may still have requests of it to read. Were they read after newer records had gone
        over the next connection, older records would overwrite newer ones.
        """
        sock = self._connection.sock if self._connection is not None else None
        if sock is not None and self._abandoned is None:
            self._abandoned = sock
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        self._connection = None

    def _await_release(self) -> None:
        """Wait until the server has read the abandoned connection to its end, and closed it."""
        if self._abandoned is None:
            return
        deadline = time.monotonic() + self._timeout
        self._abandoned.settimeout(self._timeout)
        try:
            while socket.socket.recv(self._abandoned, 1 << 16):
                if time.monotonic() > deadline:
                    raise TimeoutError
        except TimeoutError:
            raise
        except OSError:
            pass  # reset, so closed
        self._abandoned.close()
        self._abandoned = None

    # -- requests

    def _request(self, request: Buffer, is_complete: Callable[[bytes], bool]) -> bytes:
        """Send one request and return its reply, which ends where `is_complete` says."""
        sock = self._connected()
        sock.sendall(request)
        reply = sock.recv(1 << 16)
        while reply and not is_complete(reply):
            more = sock.recv(1 << 16)
            if not more:
                break
            reply += more
        if not reply or not is_complete(reply):
            raise MemcacheUnexpectedCloseError
        return reply

    def _store_once(self, batch: Batch) -> list[Refusal]:
        self._connected()
        if self._speaks_meta:
            reply = self._request(batch.commands, lambda reply: reply.endswith(b"MN\r\n"))
            if reply == b"MN\r\n":
                return []
        # Either the server knows no meta commands, or it refused something; some of its error lines
        # do not say what. With a reply for each record it is clear.
        return self._store_answered(split_batch(batch))

    def _store_answered(self, records: Iterable[tuple[bytes, bytes]]) -> list[Refusal]:
        """Store records with classic `set`s, pipelined, and read a reply for each of them."""
        refusals: list[Refusal] = []
        remaining = iter(records)
        position = 0
        while piece := list(itertools.islice(remaining, _ANSWERED_BATCH)):
            request = b"".join(
                b"set %b 0 %d %d\r\n%b\r\n" % (key, self._expiry, len(value), value) for key, value in piece
            )
            lines = self._request(request, _has_lines(len(piece))).split(b"\r\n")
            if len(lines) != len(piece) + 1 or lines[-1]:
                raise BadReply("more replies than requests")
            for line in lines[:-1]:
                if line != b"STORED":
                    refusals.append(_refusal(position, line))
                position += 1
        return refusals

    def _compare(self, inquiry: Inquiry) -> list[Difference]:
        def is_whole(reply: bytes) -> bool:
            if inquiry.replies.startswith(reply):
                return len(reply) == len(inquiry.replies)
            return _values(reply, inquiry.count) is not None

        self._connected()
        requests = inquiry.requests
        if not self._speaks_meta:
            requests = b"".join([b"get %b\r\n" % key for key in inquiry.asked_keys()])
        reply = self._request(requests, is_whole)
        if reply == inquiry.replies:  # which is nearly always so: then nothing has to be taken apart
            return []
        records = zip(
            _values(reply, inquiry.count) or (),
            _values(inquiry.replies, inquiry.count) or (),
            inquiry.asked_keys(),
            strict=True,
        )
        differences = []
        for position, (held, wanted, key) in enumerate(records):
            if held is None and wanted is not None and self._is_too_large(key, wanted):
                differences.append(Difference(position, "too_large"))
            elif held != wanted:
                differences.append(Difference(position, "missing" if held is None else "different"))
        return differences

    def _is_too_large(self, key: bytes, value: bytes) -> bool:
        """Return True if the server refuses the record for its size; it is asked where any server could."""
        size = len(key) + len(value) + _ITEM_OVERHEAD
        if size <= _SMALLEST_ITEM_SIZE_MAX:
            return False
        if self._item_size_max is None and self._connection is not None and self._tells_stats:
            with contextlib.suppress(MemcacheUnknownCommandError, LookupError, TypeError, ValueError):
                self._item_size_max = int(self._connection.stats("settings")[b"item_size_max"])
        return self._item_size_max is not None and size > self._item_size_max


def _values(reply: bytes, count: int) -> list[bytes | None] | None:
    """Return the values in a reply to so many `mg` or `get` commands, None for a miss; None if it is not whole.

    Raises BadReply.
    """
    values: list[bytes | None] = []
    start = 0
    while len(values) < count:
        end = reply.find(b"\r\n", start)
        if end < 0:
            return None
        words = reply[start:end].split(b" ")
        start = end + 2
        if words[0] in (b"EN", b"END"):
            values.append(None)
            continue
        try:
            length = int(words[{b"VA": 1, b"VALUE": 3}[words[0]]])
        except (KeyError, IndexError, ValueError):
            raise BadReply(f"a reply that makes no sense: {reply[start:end][:40]!r}") from None
        values.append(reply[start : start + length])
        start += length + 2
        if words[0] == b"VALUE":
            start += len(b"END\r\n")
        if start > len(reply):
            return None
    return values


def _has_lines(count: int) -> Callable[[bytes], bool]:
    """Return a test for a reply of so many lines."""
    return lambda reply: reply.count(b"\r\n") >= count and reply.endswith(b"\r\n")


def _refusal(position: int, line: bytes) -> Refusal:
    """Make a refusal of one reply line, or raise BadReply if it is no refusal of a `set`."""
    if not line.startswith((b"SERVER_ERROR", b"NOT_STORED")):
        raise BadReply(f"a reply that makes no sense: {line[:40]!r}")
    return Refusal(position, b"too large" in line, line[:80].decode("ascii", "backslashreplace"))


def _expiry(ttl: int) -> int:
    """Return the expiry to send: memcached takes more than 30 days for a point in time."""
    return ttl if ttl <= 30 * 24 * 3600 else int(time.time()) + ttl
