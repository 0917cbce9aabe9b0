"""Records on their way to one server, in the order in which they are to be stored."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from memcload.memcached.protocol import split_meta_set

Numbers = Sequence[int]  # an array("i") or a memoryview of int32


@dataclass(frozen=True)
class Batch:
    """Encoded records that own their bytes.

    count: how many records there are
    commands: one quiet meta set for each of them; the command that closes a batch is not part of it
    ends: where in `commands` each record's command ends
    lines: which line of its text, counted from 0, each record came from
    """

    count: int
    commands: bytes | memoryview
    ends: Numbers
    lines: Numbers

    def slices(self, max_count: int | None = None, max_bytes: int | None = None) -> Iterator[Batch]:
        """Yield the batch as batches of at most so many records and bytes; one record always fits."""
        first, start = 0, 0
        view = memoryview(self.commands)
        while first < self.count:
            last = self.count
            if max_count is not None:
                last = min(last, first + max_count)
            if max_bytes is not None:
                last = max(first + 1, min(last, bisect_right(self.ends, start + max_bytes, first, last)))
            if first == 0 and last == self.count:
                yield self
                return
            end = self.ends[last - 1]
            ends = array("i", [position - start for position in self.ends[first:last]])
            yield Batch(last - first, view[start:end], ends, self.lines[first:last])
            first, start = last, end

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the key and the value of every record."""
        commands = bytes(self.commands)
        start = 0
        for end in self.ends:
            yield split_meta_set(commands[start:end])
            start = end


class Refusal(NamedTuple):
    """A record that a server answered but did not store.

    `position` counts the records of its request from 0. `too_large` tells that the value exceeds the server's
    limit; any other refusal (out of memory, say) may end well another time. `reply` is the server's own words.
    """

    position: int
    too_large: bool
    reply: str


class Lookup(NamedTuple):
    """Keys to be read back: the requests for `count` of them, and the replies if all is as it should be."""

    count: int
    requests: bytes
    replies: bytes


class Difference(NamedTuple):
    """A record that the server does not hold as it should. `position` counts the records looked up from 0."""

    position: int
    kind: Literal["missing", "different"]
