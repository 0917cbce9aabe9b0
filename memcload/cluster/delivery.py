"""Stage 2: the last record of each key of a partition in a window is stored, by whoever, however often."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain

import numpy as np

from memcload.cluster.job import Array, Buffer, Delivered, Refused
from memcload.cluster.last_records import Records, keep_last
from memcload.cluster.worker import Connected, WorkerRun
from memcload.memcached.batch import REQUEST_SIZE, Batch
from memcload.memcached.item_size import CAS_SIZE, SMALLEST_LIMIT, item_size, largest_item
from memcload.memcached.protocol import split_meta_set
from memcload.memcached.server import Identity, ServerDown
from memcload.throttle import slice_size

_USUAL_SETTINGS = {b"item_size_max": b"%d" % (1 << 20)}


class Delivery:
    """The records of one partition in one window."""

    def __init__(self, run: WorkerRun, connected: Connected, buffers: Sequence[Buffer], retries: bool) -> None:
        self._run = run
        self._connected = connected
        self._buffers = buffers
        self._retries = retries
        self._offsets = [0, *accumulate(len(buffer.ends) for buffer in buffers)]
        self._parts = [Records(buffer.commands, buffer.ends) for buffer in buffers]
        self._keep = keep_last(self._parts)

    def store(self) -> Delivered:
        """Store what is to be stored. Raises Superseded where the window is closed."""
        connected, permit = self._connected, self._connected.permit
        retries_before = connected.server.retries
        identities: set[Identity] = set()
        refused: list[tuple[int, bool, str]] = []
        cause, sent, stored_count = "", 0, 0
        for request in self._requests():
            try:
                identity, refusals = self._store(request)
            except ServerDown as error:
                cause = error.cause
                break
            identities.add(identity)
            numbers = list(chain.from_iterable(batch.lines for batch in request)) if refusals else []
            refused += [(int(numbers[at]), too_large, reply) for at, too_large, reply in refusals]
            sent += _count(request)
            stored_count += _count(request) - len(refusals)
        failed_keys = self._failed_keys(sent if cause else None, refused)
        with_limit = self._keep is not None and not permit.is_set
        if with_limit and not cause:
            refused += self._superseded_too_large()
        return Delivered(
            self._failed(failed_keys, {at for at, _, _ in refused}),
            [self._refused(*refusal) for refusal in sorted(refused)],
            identities,
            cause,
            connected.server.retries - retries_before,
            stored_count,
        )

    def _store(self, request: Sequence[Batch]) -> tuple[Identity, list[tuple[int, bool, str]]]:
        """Store a request while there is a permit; one that has run out meanwhile is asked for again."""
        permit, client = self._connected.permit, self._connected.client
        while True:
            permit.await_grant()
            if self._run.job.max_rate and permit.wait(self._run.ask("reserve", records=_count(request))):
                continue
            try:
                identity, refusals = client.store(request, retry=self._retries)
            except ServerDown:
                if permit.is_set:
                    continue
                raise
            self._retries = True
            return identity, [(refusal.position, refusal.too_large, refusal.reply) for refusal in refusals]

    # -- what is sent

    def _requests(self) -> Iterator[list[Batch]]:
        """Yield what is sent, some batches in each request; their lines are the numbers of the records."""
        max_count = slice_size(self._run.job.max_rate)
        request: list[Batch] = []
        for part in range(len(self._parts)):
            for batch in self._kept(part).slices(max_count=max_count, max_bytes=REQUEST_SIZE):
                size = sum(len(other.commands) for other in request) + len(batch.commands)
                if request and (max_count is not None or size > REQUEST_SIZE):
                    yield request
                    request = []
                request.append(batch)
        if request:
            yield request

    def _kept(self, part: int) -> Batch:
        """Return what is sent of a part."""
        records, first_number = self._parts[part], self._offsets[part]
        view, count = memoryview(records.commands), len(records.ends)
        if self._keep is None:
            return Batch(count, view, records.ends, range(first_number, first_number + count))
        numbers = np.flatnonzero(self._keep[part])
        if not len(numbers):
            return Batch(0, b"", [], [])
        breaks = np.flatnonzero(np.diff(numbers) != 1)
        first = numbers[np.concatenate(([0], breaks + 1))]
        last = numbers[np.concatenate((breaks, [len(numbers) - 1]))]
        starts = records.starts
        runs = zip(starts[first].tolist(), records.ends[last].tolist(), strict=True)
        commands = b"".join([view[start:end] for start, end in runs])
        ends: Array = np.cumsum((records.ends - starts)[numbers])
        lines: Array = numbers + first_number
        return Batch(len(numbers), commands, ends, lines)

    # -- what became of it

    def _failed_keys(self, sent: int | None, refused: list[tuple[int, bool, str]]) -> set[bytes]:
        """Return the keys of the records that failed: all that were not sent, if not all were, and some refused."""
        numbers = [at for at, too_large, _ in refused if not too_large]
        if sent is None and not numbers:
            return set()
        keys = self._keys()
        if sent is not None:
            kept = range(len(keys)) if self._keep is None else np.flatnonzero(np.concatenate(self._keep)).tolist()
            numbers += kept[sent:]
        return {keys[number] for number in numbers}

    def _failed(self, failed_keys: set[bytes], refused: set[int]) -> list[list[int]]:
        """Return how many records of each part and segment failed: also those that a failed one supersedes."""
        counts = [[0] * len(buffer.segments) for buffer in self._buffers]
        if failed_keys:
            for number, key in enumerate(self._keys()):
                if key in failed_keys and number not in refused:
                    part, segment = self._place(number)
                    counts[part][segment] += 1
        return counts

    def _refused(self, number: int, too_large: bool, reply: str) -> Refused:
        part, segment = self._place(number)
        line = int(self._buffers[part].lines[number - self._offsets[part]])
        return Refused(part, segment, line, too_large, reply)

    def _place(self, number: int) -> tuple[int, int]:
        part = bisect_right(self._offsets, number) - 1
        segments = [0, *accumulate(self._buffers[part].segments)]
        return part, bisect_right(segments, number - self._offsets[part]) - 1

    def _superseded_too_large(self) -> list[tuple[int, bool, str]]:
        """Return the records that were not sent, but would have been refused for their size.

        Whether they are counted as rejected must not depend on what else is in the window.
        """
        assert self._keep is not None
        # An item takes less than its command and what an item without key and value does.
        shortest = SMALLEST_LIMIT - CAS_SIZE - item_size(0, 0)
        suspects = [
            (first + place, bytes(records.commands[records.starts[place] : records.ends[place]]))
            for first, records, keep in zip(self._offsets, self._parts, self._keep, strict=False)
            for place in np.flatnonzero(~keep & (records.ends - records.starts > shortest)).tolist()
        ]
        if not suspects:
            return []
        settings = dict(_USUAL_SETTINGS)
        with contextlib.suppress(ServerDown):
            settings.update(self._connected.client.settings())
        limit = largest_item(settings)
        found = []
        for number, command in suspects:
            key, value = split_meta_set(command)
            if limit is not None and item_size(len(key), len(value)) > limit:
                found.append((number, True, "too large, and superseded by a later record"))
        return found

    def _keys(self) -> list[bytes]:
        return list(chain.from_iterable(records.keys() for records in self._parts))


def _count(request: Sequence[Batch]) -> int:
    return sum(batch.count for batch in request)
