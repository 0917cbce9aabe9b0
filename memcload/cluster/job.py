"""What the coordinator and the workers of a cluster tell each other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memcload import __version__
from memcload.counts import RejectedLines
from memcload.encode.choice import EngineName
from memcload.memcached.batch import Batch
from memcload.memcached.routing_rules import RoutingName
from memcload.memcached.server import Identity
from memcload.sink import NewClient
from memcload.source.damage import Damage

Array = Any  # a NumPy array


@dataclass(frozen=True, repr=False)
class Job:
    """One run, as every task gets it. Of secrets it has the paths only: Dask logs the arguments of tasks that fail.

    pattern: what files to read; it says where they lie
    servers: by device type, those that are to be loaded
    pending_bytes: how large all files are
    part_size: bytes of text in a part
    sample: what fraction of the keys to compare, where that is asked for
    run: names this run, and no other
    version: of the program
    """

    pattern: str
    servers: Mapping[str, Sequence[str]]
    routing: RoutingName
    new_client: NewClient
    engine: EngineName = "auto"
    pending_bytes: int = 0
    block_size: int = 1 << 20
    part_size: int = 8 << 20
    ttl: int = 0
    timeout: float = 3.0
    connect_timeout: float = 1.0
    retries: int = 3
    max_rate: int = 0
    shows_records: bool = False
    sample: float = 1.0
    tls: tuple[str | None, str | None, str | None] | None = None
    auth_file: str | None = None
    run: str = field(default_factory=lambda: f"memcload_{uuid.uuid4().hex[:12]}")
    version: str = __version__

    def __repr__(self) -> str:
        return f"<run {self.run}>"


class Unit(NamedTuple):
    """Files that are read one after the other by one worker: a large one, or several small ones."""

    name: str
    paths: tuple[str, ...]


class FileEnd(NamedTuple):
    """What is known of a file once a worker has read it to its end.

    version: what tells if another host sees the same file; None if it could not be opened
    """

    version: object = None
    damage: Damage | None = None
    read_error: str = ""
    ends_within_line: bool = False


class Segment(NamedTuple):
    """What a part holds of one file. Lines are counted from the beginning of the segment.

    file: its index in the unit
    records: by partition
    bytes_read: how much of the file, as it lies on disk, has been read by then
    end: where the file ends in this part
    """

    file: int
    lines: int
    records: list[int]
    rejects: RejectedLines
    partial: int
    blank: int
    skipped: int
    shown: list[str]
    bytes_read: int
    end: FileEnd | None


class Summary(NamedTuple):
    """What the coordinator needs to know of a part.

    size: bytes of commands
    is_last: the unit ends with this part
    """

    segments: list[Segment]
    size: int
    is_last: bool


class Buffer(NamedTuple):
    """The records of a part that belong to one partition.

    commands: their quiet meta sets, as bytes
    ends: where each of them ends
    lines: the line of its segment that each came from
    segments: how many of them each segment has
    """

    commands: Array
    ends: Array
    lines: Array
    segments: list[int]

    def batches(self) -> Iterator[Batch]:
        """Yield the records of each segment."""
        view, start, first = memoryview(self.commands), 0, 0
        for count in self.segments:
            last = first + count
            end = int(self.ends[last - 1]) if count else start
            ends, lines = memoryview(self.ends[first:last]), memoryview(self.lines[first:last])
            yield Batch(count, view[start:end], ends, lines, start)
            first, start = last, end


class Refused(NamedTuple):
    """A record that was not stored: the part and the segment that it came from, its line there, and the reply."""

    part: int
    segment: int
    line: int
    too_large: bool
    reply: str


class Delivered(NamedTuple):
    """What became of the records of one partition in a window.

    failed: how many of each part and segment failed, refusals not counted
    refused: records that were refused; a record that a later one of the window supersedes is not sent
    identities: who acknowledged the others
    cause: why records failed
    retries: requests that were tried again
    stored: how many records were sent and stored
    """

    failed: list[list[int]]
    refused: list[Refused]
    identities: set[Identity]
    cause: str
    retries: int
    stored: int
