"""Where batches go: memcached, or nowhere in a dry run."""

from __future__ import annotations

import itertools
import ssl
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Protocol

from memcload.cancel import Cancel
from memcload.memcached.batch import Batch, Difference, Lookup, Refusal
from memcload.memcached.routing import Partition
from memcload.memcached.server import Identity, Server, ServerDown, Stored
from memcload.memcached.tls import Credentials
from memcload.throttle import Throttle


class Client(Protocol):
    """A persistent connection to one server; memc_client.MemcacheClient is one."""

    def set(self, key: bytes, value: bytes) -> Refusal | None:
        """Store one record; return the server's refusal, if any. Raises ServerDown."""
        ...

    def store(self, batches: Sequence[Batch], *, retry: bool = True) -> Stored:
        """Store batches in one request; refusals count the records of all of them. Raises ServerDown."""
        ...

    def lookup(self, lookup: Lookup) -> list[Difference]:
        """Return where the server does not hold what it should. Raises ServerDown."""
        ...

    def confirm(self) -> Identity:
        """Return who the server is now. Raises ServerDown."""
        ...

    def settings(self) -> Mapping[bytes, bytes]:
        """Return the server's settings, none where it does not tell them. Raises ServerDown."""
        ...

    def close(self) -> None:
        """Close the connection, with a last look at the server's statistics."""
        ...


class NewClient(Protocol):
    """What makes a client of a server: memc_client.MemcacheClient."""

    def __call__(
        self,
        server: Server,
        *,
        timeout: float,
        connect_timeout: float,
        retries: int,
        ttl: int,
        cancel: Cancel,
        tls: ssl.SSLContext | None,
        credentials: Credentials | None,
    ) -> Client:
        """Make a client; it connects on first use."""
        ...


class Fleet:
    """The servers of a run, and a client for each partition. Connections open on first use.

    servers: by address; what is true of a server is known once, however many partitions lie on it
    clients: by partition number
    """

    def __init__(self, partitions: Sequence[Partition], new_client: Callable[[Server], Client]) -> None:
        types: dict[str, list[str]] = {}
        for partition in partitions:
            types.setdefault(partition.server, []).append(partition.device_type)
        self.servers = {address: Server(address, f"{', '.join(names)} {address}") for address, names in types.items()}
        self.clients = [new_client(self.servers[partition.server]) for partition in partitions]
        self._one_client = dict(zip((partition.server for partition in partitions), self.clients, strict=True))

    def confirm(self, addresses: Iterable[str]) -> dict[str, Identity | ServerDown]:
        """Return who the servers with these addresses are now, or why they can't tell."""
        answers: dict[str, Identity | ServerDown] = {}
        for address in addresses:
            try:
                answers[address] = self._one_client[address].confirm()
            except ServerDown as error:
                answers[address] = error
        return answers

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            client.close()


@dataclass
class Delivery:
    """What became of the records of a request, in their order.

    answered: how many the server answered: it stored them, but for the refusals
    failed: how many after those failed, for the cause; any others were not sent, because the run was cancelled
    identities: who answered
    """

    answered: int = 0
    failed: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    identities: set[Identity] = field(default_factory=set)
    cause: ServerDown | None = None

    def share(self, first: int, count: int) -> Delivery:
        """Return what became of `count` records from number `first` on."""
        end = first + count
        if not first and count >= self.answered + self.failed:
            return self  # all of it lies there
        answered = min(max(self.answered - first, 0), count)
        failed = min(max(self.answered + self.failed - first, 0), count) - answered
        refusals = self.refusals
        if refusals:
            low, high = (
                bisect_left(refusals, position, key=lambda refusal: refusal.position) for position in (first, end)
            )
            refusals = [refusal._replace(position=refusal.position - first) for refusal in refusals[low:high]]
        return Delivery(answered, failed, refusals, self.identities, self.cause)


class Sink(Protocol):
    """Takes the batches of each partition, in order."""

    def store(self, partition: Partition, batches: Sequence[Batch], files: Sequence[int]) -> list[Delivery]:
        """Store neighbouring batches, as one request if possible; return what became of each.

        Args:
            partition: what they belong to.
            batches: in order.
            files: the number of the file that each of them ends in.
        """
        ...


class MemcachedSink:
    """Stores batches in memcached. One thread at a time may use it for a partition."""

    def __init__(self, fleet: Fleet, throttle: Throttle) -> None:
        self._clients = fleet.clients
        self._throttle = throttle
        self._down: dict[str, tuple[int, ServerDown]] = {}  # by server: the file in which it was marked down, and why

    def store(self, partition: Partition, batches: Sequence[Batch], files: Sequence[int]) -> list[Delivery]:
        """Store neighbouring batches; return what became of each.

        A server that was marked down is not tried again for the rest of that file, and only once at each later one.
        """
        if partition.server not in self._down:
            return self._store(partition, batches, files[-1])
        deliveries = []
        for file, group in itertools.groupby(zip(files, batches, strict=True), key=itemgetter(0)):
            deliveries += self._store(partition, [batch for _, batch in group], file)
        return deliveries

    def _store(self, partition: Partition, batches: Sequence[Batch], file: int) -> list[Delivery]:
        marked = self._down.get(partition.server)
        count = sum(batch.count for batch in batches)
        delivery = Delivery()
        if marked and marked[0] >= file:
            delivery.failed, delivery.cause = count, marked[1]
        else:
            try:
                self._send(partition, batches, delivery, retry=marked is None)
            except ServerDown as error:
                self._down[partition.server] = file, error
                delivery.failed, delivery.cause = count - delivery.answered, error
        ends = itertools.accumulate(batch.count for batch in batches)
        return [delivery.share(end - batch.count, batch.count) for batch, end in zip(batches, ends, strict=True)]

    def _send(self, partition: Partition, batches: Sequence[Batch], delivery: Delivery, *, retry: bool) -> None:
        """Send batches as the throttle allows, until the run is cancelled; add what is answered. Raises ServerDown."""
        for request in self._requests(batches):
            count = sum(batch.count for batch in request)
            if not self._throttle.wait(count):
                return
            stored = self._clients[partition.number].store(request, retry=retry)
            retry = True
            self._down.pop(partition.server, None)
            delivery.refusals += [
                refusal._replace(position=delivery.answered + refusal.position) for refusal in stored.refusals
            ]
            delivery.answered += count
            delivery.identities.add(stored.identity)

    def _requests(self, batches: Sequence[Batch]) -> Iterable[Sequence[Batch]]:
        size = self._throttle.slice_size
        if size is None:
            return [batches]
        return ([part] for batch in batches for part in batch.slices(max_count=size))


class NoSink:
    """Takes everything and sends nothing: a dry run."""

    def store(self, partition: Partition, batches: Sequence[Batch], files: Sequence[int]) -> list[Delivery]:
        """Count the records as answered."""
        return [Delivery(answered=batch.count) for batch in batches]
