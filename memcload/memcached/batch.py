"""Records on their way to one server, in the order in which they are to be stored."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from memcload.memcached.protocol import (
    Difference,
    Refusal,
    keys_of_meta_gets,
    meta_get,
    split_meta_set,
    value_lengths_of,
    value_reply,
)

__all__ = ["LOOKUP_SIZE", "REQUEST_SIZE", "Batch", "Difference", "Lookup", "Numbers", "Refusal", "lookups"]

Numbers = Sequence[int]  # an array("i") or a memoryview of int32

LOOKUP_SIZE = 512  # records that are looked up in one request
REQUEST_SIZE = 1 << 20  # bytes of commands that are stored in one request


@dataclass(frozen=True)
class Batch:
    """Encoded records that own their bytes.

    count: how many records there are
    commands: one quiet meta set for each of them; the command that closes a batch is not part of it
    ends: where each record's command ends, counted from where `commands` begins plus `origin`
    lines: which line of its text, counted from 0, each record came from
    origin: what `ends` gives for the beginning of `commands`; not 0 in a slice
    """

    count: int
    commands: bytes | memoryview
    ends: Numbers
    lines: Numbers
    origin: int = 0

    def slices(self, max_count: int | None = None, max_bytes: int | None = None) -> Iterator[Batch]:
        """Yield the batch as batches of at most `max_count` records and `max_bytes`; one record always fits."""
        first, start = 0, self.origin
        view = memoryview(self.commands)
        while first < self.count:
            last = self.count
            if max_count is not None:
                last = min(last, first + max_count)
            if max_bytes is not None:
                last = max(first + 1, bisect_right(self.ends, start + max_bytes, first, last))
            if first == 0 and last == self.count:
                yield self
                return
            end = self.ends[last - 1]
            commands = view[start - self.origin : end - self.origin]
            yield Batch(last - first, commands, self.ends[first:last], self.lines[first:last], start)
            first, start = last, end

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the key and the value of every record."""
        view = memoryview(self.commands)
        start = 0
        for end in self.ends:
            yield split_meta_set(bytes(view[start : end - self.origin]))
            start = end - self.origin


@dataclass(frozen=True)
class Lookup:
    """Keys to be read back: the requests for `count` of them, and the replies if all is as it should be."""

    count: int
    requests: bytes
    replies: bytes

    def keys(self) -> list[bytes]:
        """Return the keys, in order."""
        return keys_of_meta_gets(self.requests)

    def value_lengths(self) -> list[int]:
        """Return how long the values should be, in order."""
        return value_lengths_of(self.replies)


def lookups(records: Iterable[tuple[bytes, bytes]]) -> Iterator[Lookup]:
    """Yield the lookups of these keys, which should have these values."""
    remaining = iter(records)
    while part := list(itertools.islice(remaining, LOOKUP_SIZE)):
        requests = b"".join([meta_get(key) for key, _ in part])
        yield Lookup(len(part), requests, b"".join([value_reply(value) for _, value in part]))
