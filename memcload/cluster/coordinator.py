"""The load of a run on a cluster: windows of parts, one after the other.

Stage 1 reads and encodes files on any worker. A window is the next parts, in order, whichever files they are of.
Stage 2 stores the last record of each key of a window, one task a partition. A window is opened when the one before
is closed, and only then: what a task of an earlier window might still write would be older than what is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from memcload.cancel import Cancel
from memcload.cluster import tasks
from memcload.cluster.connection import Cluster
from memcload.cluster.job import Delivered, Job, Segment
from memcload.cluster.reader import Part, Reader, deal, note
from memcload.counts import Counts, Reject
from memcload.file_load import TextResult
from memcload.memcached.routing import Router
from memcload.memcached.server import Identity, ServerDown
from memcload.sink import Fleet
from memcload.tracker import Tracker

_LOOK_EVERY = 0.05  # seconds, at the cancel token


@dataclass(eq=False)
class _Window:
    """Parts whose records are stored together.

    deliveries: the partition and the parts that each future delivers
    """

    name: str
    parts: list[Part]
    deliveries: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    futures: list[Any] = field(default_factory=list)  # or Dask would forget the tasks
    results: dict[int, tuple[list[int], Delivered]] = field(default_factory=dict)  # by partition
    generations: dict[str, int] = field(default_factory=dict)  # of the servers when it was opened
    begun: dict[str, int] = field(default_factory=dict)

    @property
    def is_answered(self) -> bool:
        return len(self.results) == len(self.deliveries)


class Coordinator:
    """Loads and finalizes the files of a run, in order, until it is cancelled.

    Args:
        window_size: bytes of commands in a window.
        dry: store nothing.
    """

    def __init__(
        self,
        cluster: Cluster,
        job: Job,
        router: Router,
        fleet: Fleet,
        tracker: Tracker,
        cancel: Cancel,
        *,
        window_size: int,
        dry: bool,
    ) -> None:
        self._cluster = cluster
        self._job = job
        self._router = router
        self._fleet = fleet
        self._tracker = tracker
        self._cancel = cancel
        self._window_size = window_size
        self._dry = dry
        self._windows = 0
        self._attempts = 0
        self._marked_down: set[int] = set()  # partitions whose last delivery failed

    def load(self) -> None:
        """Load all files. Raises ClusterError."""
        first_look = threading.Thread(target=self._look_at_servers, daemon=True)
        if not self._dry:
            first_look.start()
        while not self._tracker.is_finished and not self._cancel.is_set:
            self._attempts += 1
            self._load_once(first_look)
            if self._tracker.must_rewind:
                self._tracker.rewind()

    def _look_at_servers(self) -> None:
        """Learn who the servers are and what they have evicted before; those that are down fail their records."""
        self._fleet.confirm(self._fleet.servers)

    def _load_once(self, first_look: threading.Thread) -> None:
        """Load what is to be read, until everything is finalized or has to be loaded again."""
        tracker, cancel = self._tracker, self._cancel
        reader = Reader(self._cluster, self._job, tracker.to_read(), 2 * self._window_size, f"{self._attempts}")
        window: _Window | None = None
        try:
            while not cancel.is_set and not tracker.must_rewind:
                reader.advance()
                if window is None and not first_look.is_alive() and (parts := reader.take(self._window_size)):
                    window = self._begin(parts)
                if window is not None and window.is_answered:
                    self._finish(window)
                    reader.release(window.parts)
                    window = None
                    continue
                if window is None and reader.is_done:
                    tracker.finalize_complete(last=True)
                    return
                future = self._cluster.next_finished(_LOOK_EVERY)
                if future is not None and not reader.add(future) and window is not None:
                    self._add_delivery(window, future)
        finally:
            reader.cancel()

    # -- windows

    def _begin(self, parts: list[Part]) -> _Window:
        """Open a window and begin its deliveries."""
        self._windows += 1
        window = _Window(f"{self._attempts}-{self._windows}", parts)
        if self._dry:
            return window
        self._wait_for(lambda: self._cluster.ask("open", window.name))
        if self._cancel.is_set:
            return window
        for address, server in self._fleet.servers.items():
            window.generations[address] = server.identity.generation
            window.begun[address] = server.begin()
        for dealt in deal(self._cluster, parts, len(self._router.partitions), window.name):
            future = self._cluster.submit(
                tasks.deliver,
                self._job,
                window.name,
                dealt.partition,
                dealt.partition not in self._marked_down,
                *dealt.groups,
                key=f"delivery-{window.name}-{dealt.partition}",
                priority=10,
                **dealt.options,
            )
            window.deliveries[future.key] = dealt.partition, dealt.places
            window.futures.append(future)
        return window

    def _wait_for(self, is_so: Callable[[], Any]) -> None:
        while not self._cancel.is_set and not is_so():
            self._cancel.wait(_LOOK_EVERY / 5)

    def _add_delivery(self, window: _Window, future: Any) -> None:
        if future.key not in window.deliveries:
            return
        number, of_parts = window.deliveries[future.key]
        delivered: Delivered = self._cluster.result(future)
        window.results[number] = of_parts, delivered
        server = self._fleet.servers[self._router.partitions[number].server]
        server.retries += delivered.retries
        server.acknowledge(delivered.stored, window.begun[server.address])
        if delivered.cause:
            self._marked_down.add(number)
        else:
            self._marked_down.discard(number)

    def _finish(self, window: _Window) -> None:
        """Close a window once nobody may write to it any more; add what has become of its records."""
        if not self._dry:
            self._wait_for(lambda: self._cluster.ask("close"))
        if self._cancel.is_set:
            return
        for at, part in enumerate(window.parts):
            self._add(window, at, part)
        self._tracker.finalize_complete()

    # -- results

    def _add(self, window: _Window, at: int, part: Part) -> None:
        """Add what has become of the records of a part."""
        results = [self._result(window, part, segment) for segment in part.segments]
        too_large: dict[int, list[int]] = {}
        for number, (of_parts, delivered) in window.results.items():
            if at not in of_parts:
                continue
            place = of_parts.index(at)
            partition = self._router.partitions[number]
            identities = self._identities(window, partition.server, delivered)
            for index, failed in enumerate(delivered.failed[place]):
                if not part.segments[index].records[number]:
                    continue
                result = results[index]
                result.acknowledged |= {(partition.server, identity) for identity in identities}
                if failed:
                    result.causes[partition.server] = ServerDown(partition.server, delivered.cause)
                    _move(result.counts, number, failed)
            for refused in delivered.refused:
                if refused.part != place:
                    continue
                result = results[refused.segment]
                if refused.too_large:
                    too_large.setdefault(refused.segment, []).append(refused.line)
                    result.counts.stored[number] -= 1
                    result.counts.rejected["too_large"] += 1
                else:
                    result.add_refusal(partition, refused.reply)
                    _move(result.counts, number, 1)
        if too_large:
            self._add_texts(window, part, results, too_large)
        for result, segment in zip(results, part.segments, strict=True):
            self._add_result(result, segment)

    def _result(self, window: _Window, part: Part, segment: Segment) -> TextResult:
        """Return the result of a segment as if all its records were stored."""
        counts = Counts(partial=segment.partial, blank=segment.blank, skipped=segment.skipped)
        for number, records in enumerate(segment.records):
            if records:
                counts.stored[number] = records
        counts.rejected.update(segment.rejects.by_reason())
        file = part.file(segment)
        return TextResult(file, segment.lines, counts, segment.rejects, shown=segment.shown)

    def _identities(self, window: _Window, address: str, delivered: Delivered) -> set[Identity]:
        """Return who acknowledged records, in the coordinator's terms: each process counts generations by itself."""
        if len(delivered.identities) > 1:
            return delivered.identities  # one of which is not the server's any more
        return {identity._replace(generation=window.generations[address]) for identity in delivered.identities}

    def _add_texts(
        self, window: _Window, part: Part, results: Sequence[TextResult], too_large: dict[int, list[int]]
    ) -> None:
        """Add refused lines to the rejects: where their text is gone by now, the part is read again."""
        future = self._cluster.begin(
            tasks.read_lines, self._job, part.stream.unit, part.number, too_large, key=f"lines-{part.first.key}"
        )
        self._wait_for(lambda: future.status != "pending")
        if self._cancel.is_set:
            return
        found = self._cluster.result(future)
        for segment, lines in too_large.items():
            for line in lines:
                results[segment].rejects.append(Reject(line, "too_large", found.get((segment, line), b"")))

    def _add_result(self, result: TextResult, segment: Segment) -> None:
        result.file.texts_out += 1
        note(result.file, segment)
        self._tracker.add(result)


def _move(counts: Counts, partition: int, failed: int) -> None:
    counts.stored[partition] -= failed
    counts.failed[partition] += failed
