"""What is true of one memcached, however many connections lead to it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from memcload.log import LOG
from memcload.memcached.protocol import Refusal, numbers_of

ServerState = Literal["ok", "retrying", "down"]

EVICTED = (b"evictions", b"extstore_objects_evicted", b"slab_reassign_evictions_nomem")
_IDENTIFYING = {b"pid", b"time", b"uptime"}
_PROXY_STATS = (b"proxy_", b"num_servers")  # how memcached as a proxy, and mcrouter, call some of those of their own
_MAX_UNCERTAIN = 2  # beyond which a server just does not count what it stores
_ITEMS_PER_BUCKET = 1.5  # above which memcached doubles its hash table
_HASH_POWERS = range(13, 33)  # that memcached takes


class ServerDown(Exception):
    """A server could not be reached, or gave no sensible answer, within the timeouts and retries.

    server: its address
    cause: what happened, in words
    """

    def __init__(self, server: str, cause: str) -> None:
        super().__init__(f"{server}: {cause}")
        self.server = server
        self.cause = cause


class Identity(NamedTuple):
    """Who acknowledged something. What was acknowledged is lost once the server has another identity.

    pid, started: of the process, which may be the same in a container that restarts within a second
    flushes: how often the process was told to drop all items
    generation: how often a restart was noticed that pid and start do not show
    """

    pid: int = 0
    started: int = 0
    flushes: int = 0
    generation: int = 0

    def is_same_process(self, other: Identity) -> bool:
        """Return True if the other identity is that of the same process."""
        return self._replace(flushes=0) == other._replace(flushes=0)

    def loss(self, now: Identity) -> str:
        """Return what happened to a server that had this identity and has another one now."""
        happened = "was flushed" if self.is_same_process(now) else "restarted"
        return f"{happened} and lost what it had stored"


UNKNOWN = Identity()
"""The identity of a server that does not report its stats."""


class Stored(NamedTuple):
    """The answer to a request: who acknowledged its records, and which were refused."""

    identity: Identity
    refusals: list[Refusal]


class HashTable(NamedTuple):
    """How large a server's hash table is: for 2 ** power buckets."""

    power: int
    is_expanding: bool


class Server:
    """One memcached, as seen by all connections to it. Its methods may be called from any thread.

    Args:
        address: as given.
        label: what log messages call it; its address by default.

    Attributes:
        retries: requests that were tried again.
        restarts: restarts that were noticed; flushes: commands to drop all items that were noticed.
        evictions: items that were evicted during this run, over all restarts.
        identity: who answers there, as far as it is known.
        detects_restarts: False if the server does not report its stats.
        speaks_meta: whether it understands the commands of batches; None while that is not known.
        closes_at_probe: True if it closes the connection when it is asked that.
        wants_tls: whether it wants TLS, where that had to be found out.
        version: what it tells of its version.
        stats: its statistics, when it last reported them.
        items: the largest number of items that was seen.
        looking: held while a connection asks for statistics or tries what the server understands.
    """

    def __init__(self, address: str, label: str | None = None) -> None:
        self.address = address
        self.label = label or address
        self.retries = 0
        self.restarts = 0
        self.flushes = 0
        self.evictions = 0
        self.identity = UNKNOWN
        self.detects_restarts = True
        self.speaks_meta: bool | None = None
        self.closes_at_probe = False
        self.wants_tls: bool | None = None
        self.version = ""
        self.stats: Mapping[bytes, bytes] = {}
        self.items = 0
        self.looking = threading.RLock()
        self._lock = threading.Lock()
        self._states: dict[int, ServerState] = {}
        self._state: ServerState = "ok"
        self._has_told_stats = False
        self._look = 0  # counts the looks at its statistics
        self._sets = 0  # the least that `cmd_set` can be while the process is the same
        self._sets_seen = 0  # `cmd_set` at the last look
        self._uncertain_restarts = 0  # in a row: those that `cmd_set` alone showed
        self._evictions_seen = 0
        self._hash_table_before: HashTable | None = None
        self._hash_table: HashTable | None = None
        self._hash_table_has_grown = False

    # -- state

    @property
    def state(self) -> ServerState:
        """Whether the server answers; the worst of what its connections found."""
        return self._state

    def report(self, connection: object, state: ServerState, cause: str = "") -> None:
        """Take note of whether the server answers on one connection; log what that changes."""
        with self._lock:
            if state == "retrying":
                self.retries += 1
            self._states[id(connection)] = state
            before, self._state = self._state, _worst(self._states.values())
            after = self._state
        if after == before:
            return
        if after == "retrying":
            LOG.warning("%s: %s; trying again", self.label, cause)
        elif after == "down":
            LOG.error("%s: %s; marked down", self.label, cause)
        else:
            LOG.info("%s answers again", self.label)

    def drop(self, connection: object) -> None:
        """Take note that a connection is not used any more."""
        with self._lock:
            self._states.pop(id(connection), None)

    # -- what it has acknowledged

    def begin(self) -> int:
        """Return what `acknowledge` needs to know of when a request began."""
        return self._look

    def acknowledge(self, count: int, begun: int) -> None:
        """Take note that the server has stored records of a request."""
        with self._lock:
            if begun == self._look:  # or the last look at `cmd_set` may have seen them already
                self._sets += count

    # -- who it is

    @property
    def has_told_stats(self) -> bool:
        """True once the server has told its statistics."""
        return self._has_told_stats

    def tells_no_stats(self) -> None:
        """Take note that the server does not report its stats."""
        if self.detects_restarts:
            self.detects_restarts = False
            LOG.warning(
                "%s does not report its stats (is it a proxy?): a restart would go unnoticed, "
                'so "done" means acknowledged, no more',
                self.label,
            )

    def is_gone(self) -> None:
        """Take note that nobody listens there: what ended a connection may have been its end, and no proxy's way."""
        if not self._has_told_stats:
            self.detects_restarts = True
        if not self.speaks_meta:
            self.closes_at_probe = False

    def sets_acknowledged(self) -> int:
        """Return the least that `cmd_set` must be in statistics from now on if the process is the same."""
        return self._sets

    def learn(self, stats: Mapping[bytes, bytes], sets: int) -> Identity | None:
        """Learn from statistics who the server is and what happened to it.

        Args:
            stats: what it told.
            sets: what sets_acknowledged() was before it was asked.

        Returns:
            Who it is; None if the statistics do not tell.
        """
        numbers = numbers_of(stats)
        if not numbers.keys() >= _IDENTIFYING or any(name.startswith(_PROXY_STATS) for name in stats):
            return None
        pid, started = numbers[b"pid"], numbers[b"time"] - numbers[b"uptime"]
        with self._lock:
            before = self.identity if self._has_told_stats else None
            now = Identity(pid, started, numbers.get(b"cmd_flush", 0), self.identity.generation)
            if before and now.is_same_process(before) and self._has_restarted_unseen(numbers.get(b"cmd_set"), sets):
                now = now._replace(generation=before.generation + 1)
            self._count(before, now)
            self._count_evictions(before, now, sum(numbers.get(name, 0) for name in EVICTED))
            self._note_hash_table(before, now, numbers)
            self._look += 1
            self._sets = self._sets_seen = numbers.get(b"cmd_set", 0)
            self._has_told_stats = True
            self.identity = now
            self.stats = stats
        return now

    def _has_restarted_unseen(self, cmd_set: int | None, sets: int) -> bool:
        """Return True if a server that seems to be the same has not stored what it acknowledged."""
        if cmd_set is None:
            return False
        if cmd_set >= sets:
            if sets > self._sets_seen:
                self._uncertain_restarts = 0  # it does count what it stores
            return False
        self._uncertain_restarts += 1
        return self._uncertain_restarts <= _MAX_UNCERTAIN

    def _count(self, before: Identity | None, now: Identity) -> None:
        if before is None or before == now:
            return
        if now.is_same_process(before):
            self.flushes += 1
        else:
            self.restarts += 1
        LOG.warning("%s %s", self.label, before.loss(now))

    def _count_evictions(self, before: Identity | None, now: Identity, evictions: int) -> None:
        if before is None:
            self._evictions_seen = evictions  # what was evicted before is not of this run
        elif not now.is_same_process(before):
            self._evictions_seen = 0
        self.evictions += max(0, evictions - self._evictions_seen)
        self._evictions_seen = evictions

    # -- its hash table

    def _note_hash_table(self, before: Identity | None, now: Identity, numbers: Mapping[bytes, int]) -> None:
        self.items = max(self.items, numbers.get(b"curr_items", 0))
        if b"hash_power_level" not in numbers:
            return
        self._hash_table = HashTable(numbers[b"hash_power_level"], bool(numbers.get(b"hash_is_expanding")))
        if self._hash_table_before is None or before is None or not now.is_same_process(before):
            self._hash_table_before = self._hash_table
        self._hash_table_has_grown |= self._hash_table.power > self._hash_table_before.power

    @property
    def hash_table(self) -> HashTable | None:
        """How large its hash table is; None if it does not tell."""
        return self._hash_table

    @property
    def hash_table_before(self) -> HashTable | None:
        """How large its hash table was at first, in this run and since it last restarted; None if it does not tell."""
        return self._hash_table_before

    @property
    def advised_hash_power(self) -> int | None:
        """The `-o hashpower` that spares the server the growing of its hash table; None if it has not grown."""
        if not self._hash_table_has_grown:
            return None
        return hash_power_for(self.items)


def hash_power_for(items: int) -> int:
    """Return the smallest `-o hashpower` with which a server never grows its hash table for this many items."""
    return next((power for power in _HASH_POWERS if _ITEMS_PER_BUCKET * 2**power >= items), _HASH_POWERS.stop - 1)


def _worst(states: Collection[ServerState]) -> ServerState:
    return "down" if "down" in states else "retrying" if "retrying" in states else "ok"
