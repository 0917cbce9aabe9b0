"""Stage 2: the last record of each key of a partition in a window is stored, by whoever, however often."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from memcload.cluster.job import Array, Buffer, Delivered, Refused
from memcload.cluster.last_records import PADDING, keep_last, keys_of
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
        sizes = [0, *accumulate(len(buffer.commands) for buffer in buffers)]
        padding = np.zeros(PADDING, np.uint8)
        self._commands: Array = np.concatenate([*(buffer.commands for buffer in buffers), padding])
        self._ends: Array = np.concatenate([b.ends + np.int64(size) for b, size in zip(buffers, sizes, strict=False)])
        self._keep: Array | None = keep_last(self._commands, self._ends)

    def store(self) -> Delivered:
        """Store what is to be stored. Raises Superseded where the window is closed."""
        connected, permit = self._connected, self._connected.permit
        retries_before = connected.server.retries
        identities: set[Identity] = set()
        refused: list[tuple[int, bool, str]] = []
        cause, sent, stored_count = "", 0, 0
        requests = self._requests()
        for request in requests:
            try:
                identity, refusals = self._store(request)
            except ServerDown as error:
                cause = error.cause
                break
            identities.add(identity)
            refused += [(int(request.lines[at]), too_large, reply) for at, too_large, reply in refusals]
            sent += request.count
            stored_count += request.count - len(refusals)
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

    def _store(self, request: Batch) -> tuple[Identity, list[tuple[int, bool, str]]]:
        """Store a request while there is a permit; one that has run out meanwhile is asked for again."""
        permit, client = self._connected.permit, self._connected.client
        while True:
            permit.await_grant()
            if self._run.job.max_rate and permit.wait(self._run.ask("reserve", records=request.count)):
                continue
            try:
                identity, refusals = client.store([request], retry=self._retries)
            except ServerDown:
                if permit.is_set:
                    continue
                raise
            self._retries = True
            return identity, [(refusal.position, refusal.too_large, refusal.reply) for refusal in refusals]

    # -- what is sent

    def _requests(self) -> Iterator[Batch]:
        max_count = slice_size(self._run.job.max_rate)
        yield from self._kept().slices(max_count=max_count, max_bytes=REQUEST_SIZE)

    def _kept(self) -> Batch:
        """Return what is sent as a batch; its lines are the numbers of the records."""
        view = memoryview(self._commands)[:-PADDING]
        count = len(self._ends)
        if self._keep is None:
            return Batch(count, view, self._ends, range(count))
        numbers = np.flatnonzero(self._keep)
        breaks = np.flatnonzero(np.diff(numbers) != 1)
        first = numbers[np.concatenate(([0], breaks + 1))]
        last = numbers[np.concatenate((breaks, [len(numbers) - 1]))]
        starts = np.concatenate(([0], self._ends[:-1]))
        runs = zip(starts[first].tolist(), self._ends[last].tolist(), strict=True)
        commands = b"".join([view[start:end] for start, end in runs])
        ends: Array = np.cumsum((self._ends - starts)[numbers])
        lines: Array = numbers
        return Batch(len(numbers), commands, ends, lines)

    # -- what became of it

    def _failed_keys(self, sent: int | None, refused: list[tuple[int, bool, str]]) -> set[bytes]:
        """Return the keys of the records that failed: all that were not sent, if not all were, and some refused."""
        numbers = [at for at, too_large, _ in refused if not too_large]
        if sent is None and not numbers:
            return set()
        keys = keys_of(self._commands, self._ends)
        if sent is not None:
            kept = np.arange(len(keys)) if self._keep is None else np.flatnonzero(self._keep)
            numbers += kept[sent:].tolist()
        return {keys[number] for number in numbers}

    def _failed(self, failed_keys: set[bytes], refused: set[int]) -> list[list[int]]:
        """Return how many records of each part and segment failed: also those that a failed one supersedes."""
        counts = [[0] * len(buffer.segments) for buffer in self._buffers]
        if failed_keys:
            for number, key in enumerate(keys_of(self._commands, self._ends)):
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
        starts = np.concatenate(([0], self._ends[:-1]))
        # An item takes less than its command and what an item without key and value does.
        long_enough = self._ends - starts > SMALLEST_LIMIT - CAS_SIZE - item_size(0, 0)
        numbers = np.flatnonzero(~self._keep & long_enough).tolist()
        if not numbers:
            return []
        settings = dict(_USUAL_SETTINGS)
        with contextlib.suppress(ServerDown):
            settings.update(self._connected.client.settings())
        limit = largest_item(settings)
        found = []
        for number in numbers:
            key, value = split_meta_set(bytes(self._commands[starts[number] : self._ends[number]]))
            if limit is not None and item_size(len(key), len(value)) > limit:
                found.append((number, True, "too large, and superseded by a later record"))
        return found
