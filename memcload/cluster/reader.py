"""The coordinator's view of stage 1: which files are read where, and how far ahead of the deliveries."""

from __future__ import annotations

import itertools
import operator
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memcload.cluster import tasks
from memcload.cluster.connection import Cluster
from memcload.cluster.job import Job, Segment, Summary, Unit
from memcload.file_load import FileLoad
from memcload.source.places import absolute

_MOST_FILES = 256  # in a unit
_PARTS_AHEAD = 2  # of a unit that are asked for at a time


@dataclass(eq=False)
class Part:
    """A part of a unit that a worker reads, or has read."""

    stream: ReadAhead
    number: int
    whole: Any  # the future of all of it
    first: Any  # the future of its summary
    summary: Summary | None = None

    @property
    def segments(self) -> list[Segment]:
        """What it holds of each file, once it is read."""
        assert self.summary is not None
        return self.summary.segments

    def records(self, partition: int) -> int:
        """Return how many records of a partition it has."""
        return sum(segment.records[partition] for segment in self.segments)

    def file(self, segment: Segment) -> FileLoad:
        """Return the file that a segment is of."""
        return self.stream.files[segment.file]


@dataclass(eq=False)
class ReadAhead:
    """A unit that is being read by one worker."""

    unit: Unit
    files: list[FileLoad]
    worker: str
    asked: int = 0
    parts: deque[Part] = field(default_factory=deque)  # that are not in a window yet
    is_over: bool = False  # its last part is read

    @property
    def is_done(self) -> bool:
        """True once all its parts are in windows."""
        return self.is_over and not self.parts


def note(file: FileLoad, segment: Segment) -> None:
    """Note what is known of a file from what was read of it elsewhere."""
    if file.input is not None:
        file.input.bytes_read = segment.bytes_read
    end = segment.end
    if end is None:
        return
    file.is_read = True
    file.read_error = end.read_error
    if file.input is not None:
        file.input.damage = end.damage
        file.input.ends_within_line = end.ends_within_line
        file.was_replaced = end.version not in (None, file.input.version)


class Dealt(NamedTuple):
    """The records of a partition in a window: in which parts there are some, and where each of them has them.

    options: of the task that works on them
    """

    partition: int
    places: list[int]
    groups: list[Any]
    options: dict[str, Any]


def deal(cluster: Cluster, parts: Sequence[Part], partitions: int, name: str) -> Iterator[Dealt]:
    """Deal the records of parts to the workers: those of several partitions for the same worker together.

    It is mostly the same worker for a partition, which then keeps its connection.
    """
    workers = cluster.workers() or [""]
    for first, worker in enumerate(workers[:partitions]):
        options: dict[str, Any] = {"workers": [worker], "allow_other_workers": True} if worker else {}
        numbers = list(range(first, partitions, len(workers)))
        places = {number: [at for at, part in enumerate(parts) if part.records(number)] for number in numbers}
        groups = {
            at: cluster.begin(tasks.pick, parts[at].whole, numbers, key=f"records-{name}-{first}-{at}", priority=10)
            for at in sorted(set(itertools.chain(*places.values())))
        }
        for number in numbers:
            if places[number]:
                yield Dealt(number, places[number], [groups[at] for at in places[number]], options)


class Reader:
    """Reads files on the workers, in order, several at a time, as far ahead as `budget` allows.

    Args:
        files: opened by the coordinator, in order, or with the reason why that can't be done.
        budget: bytes of commands, read and not delivered.
        name: distinguishes the tasks of this reading from those of others in the run.
    """

    def __init__(self, cluster: Cluster, job: Job, files: Iterator[FileLoad], budget: int, name: str) -> None:
        self._cluster = cluster
        self._job = job
        self._files: Iterator[FileLoad] | None = files
        self._budget = budget
        self._name = name
        self._units = 0
        self._streams: deque[ReadAhead] = deque()
        self._by_future: dict[str, Part] = {}
        self._held = 0  # bytes of parts that are read and not released
        self._reading = 0  # parts

    @property
    def is_done(self) -> bool:
        """True once everything is read and in windows."""
        return self._files is None and not self._streams

    def advance(self) -> None:
        """Ask for what may be read now."""
        workers = self._cluster.workers()
        if not workers:
            return
        for stream in list(self._streams):
            self._ask(stream)
        while self._files is not None and self._active < len(workers) and self._has_room:
            files = self._next_files(self._files)
            if files:
                self._units += 1
                unit = Unit(f"{self._name}-{self._units}", tuple(absolute(file.path) for file in files))
                busy = Counter(stream.worker for stream in self._streams if not stream.is_over)
                stream = ReadAhead(unit, files, min(workers, key=lambda worker: busy[worker]))
                self._streams.append(stream)
                self._ask(stream)

    @property
    def _active(self) -> int:
        return sum(not stream.is_over for stream in self._streams)

    @property
    def _has_room(self) -> bool:
        return self._held + self._reading * self._job.part_size < self._budget

    def _next_files(self, files: Iterator[FileLoad]) -> list[FileLoad]:
        unit: list[FileLoad] = []
        size = 0
        for file in files:
            if file.input is None:
                file.is_read = True  # nothing can be read of it
                continue
            file.input.close()
            unit.append(file)
            size += file.input.size
            if size >= self._job.part_size // 4 or len(unit) >= _MOST_FILES:
                return unit
        self._files = None
        return unit

    def _ask(self, stream: ReadAhead) -> None:
        """Ask for the next parts of a unit; the first in line always gets one, whatever the others hold."""
        while not stream.is_over:
            being_read = sum(part.summary is None for part in stream.parts)
            is_stuck = stream is self._streams[0] and not stream.parts
            if not is_stuck and (being_read >= _PARTS_AHEAD or not self._has_room):
                return
            number = stream.asked
            previous = stream.parts[-1].first if stream.parts else None
            key, where = f"{stream.unit.name}-{number}", {"workers": [stream.worker], "allow_other_workers": True}
            whole = self._cluster.begin(
                tasks.read_part, self._job, stream.unit, number, previous, key=f"part-{key}", **where
            )
            first = self._cluster.submit(operator.getitem, whole, tasks.SUMMARY, key=f"summary-{key}", priority=5)
            part = Part(stream, number, whole, first)
            stream.asked += 1
            stream.parts.append(part)
            self._by_future[first.key] = part
            self._reading += 1

    def add(self, future: Any) -> bool:
        """Add what has become of a part; return False if the future is not that of a summary."""
        part = self._by_future.pop(future.key, None)
        if part is None:
            return False
        part.summary = self._cluster.result(future)
        assert part.summary is not None
        self._reading -= 1
        self._held += part.summary.size
        part.stream.is_over |= part.summary.is_last
        return True

    def take(self, size: int) -> list[Part]:
        """Return the next parts in order, those for a window of this size; none if it is worth waiting for more."""
        parts: list[Part] = []
        total, is_reading = 0, False
        for stream in self._streams:
            for part in stream.parts:
                if part.summary is None:
                    is_reading = True
                    break
                if total >= size:
                    break
                parts.append(part)
                total += part.summary.size
            if is_reading or total >= size or not stream.is_over:
                break
        if is_reading and total < size:
            return []
        for part in parts:
            part.stream.parts.popleft()
        while self._streams and self._streams[0].is_done:
            self._streams.popleft()
        return parts

    def release(self, parts: list[Part]) -> None:
        """Let go of parts that are delivered."""
        for part in parts:
            assert part.summary is not None
            self._held -= part.summary.size

    def cancel(self) -> None:
        """Let go of everything."""
        self._by_future.clear()
        self._streams.clear()
