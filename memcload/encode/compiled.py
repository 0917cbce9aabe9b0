"""The compiled encoder: lines of the common shape become batches without the interpreter and its lock."""

from __future__ import annotations

import ctypes
import mmap
from array import array
from collections.abc import Callable, Iterator, Sequence

from memcload.encode.encoder import Encoded, EncodedText, LineReader, never
from memcload.encode.layout import WORD, Kernel, Lengths, Progress, Row, Shape, lookup_words, rules_for
from memcload.memcached.batch import LOOKUP_SIZE, Batch, Lookup
from memcload.memcached.protocol import meta_set, meta_set_flags
from memcload.memcached.routes import table_for
from memcload.memcached.routing import Router
from memcload.records import MAX_KEY_LENGTH, serialize
from memcload.text import Text

_SHORTEST_RECORD = len(b"idfa\tx\t0\t0\t1\n")
_ITEM = array("i").itemsize
_LINE_FEED = ord("\n")


def _row_records(length: int) -> int:
    """Return the most records that texts of `length` bytes in all can have, and one left unfinished."""
    return length // _SHORTEST_RECORD + 1


def _row_bytes(length: int, flags_length: int) -> int:
    """Return the most bytes of commands that are written for texts of `length` bytes in all.

    A record's line of n bytes becomes at most n + 26 + flags_length bytes: app ids grow by one byte in all (the last
    has no comma), the coordinates from 4 bytes to 18, and a command has 8 + 1 + 7 + 2 bytes beside its key, flags and
    value, where the line has 7. Prefixes and flags are written in whole words: a record that goes on overwrites the
    excess, and one that the kernel leaves unfinished lacks the coordinates, which are longer.
    """
    return length + _row_records(length) * (26 + flags_length)


class _Buffers:
    """Rows for what the kernel writes. Of this memory only what is written to becomes real.

    (NumPy or malloc would ask for huge pages, and get megabytes where kilobytes are written.)
    """

    def __init__(self, partitions: int, length: int, flags_length: int, table: array[int]) -> None:
        self.length = length  # of the texts that fit
        self.row_bytes = -(-_row_bytes(length, flags_length) // _ITEM) * _ITEM  # so that what follows is aligned
        self.row_records = _row_records(length)
        self.shape = Shape(partitions, self.row_bytes, self.row_records, len(table))
        ends_at = partitions * self.row_bytes
        lines_at = ends_at + partitions * self.row_records * _ITEM
        self._memory = mmap.mmap(-1, lines_at + partitions * self.row_records * _ITEM)
        self.bytes = memoryview(self._memory)
        self.ends = self.bytes[ends_at:lines_at].cast("i")
        self.lines = self.bytes[lines_at:].cast("i")
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._table = table  # the kernel's own: some routes write there
        self.addresses = (start, start + ends_at, start + lines_at, table.buffer_info()[0])


class CompiledEncoder:
    """Encodes texts with the kernel, in buffers that it keeps."""

    def __init__(self, kernel: Kernel, router: Router, ttl: int) -> None:
        self.kernel = kernel
        self._reader = LineReader(router)
        self._flags = meta_set_flags(ttl)
        self._rules = rules_for(router, self._flags)
        self._table = table_for(router) if router.hashes_keys else array("I", [0])
        self._new_rows = Row * len(router.partitions)
        self._rows = self._new_rows()
        self._progress = Progress()
        self._buffers = self._make_buffers(0)

    def encode(self, texts: Sequence[Text], stops: Callable[[], bool] = never) -> Encoded:
        """Encode texts, unless that has to stop."""
        length = sum(map(len, texts))
        if length > self._buffers.length:
            self._buffers = self._make_buffers(length + length // 8)  # the next block may be a little larger
        self._rows = self._new_rows()
        encoded = [self._encode_text(text, stops) for text in texts]
        return Encoded([self._batch(partition) for partition in range(len(self._rows))], encoded)

    def lookups(self, batch: Batch) -> Iterator[Lookup]:
        """Yield the lookups that tell whether a server holds the records of a batch."""
        commands = bytes(batch.commands)
        ends = array("i", batch.ends if not batch.origin else [end - batch.origin for end in batch.ends])
        words, lengths = lookup_words(), Lengths()
        # A reply is shorter than its record's command. Each buffer ends with room for the rest of a word.
        requests = ctypes.create_string_buffer(LOOKUP_SIZE * (MAX_KEY_LENGTH + 2 * WORD) + WORD)
        replies = ctypes.create_string_buffer(len(commands) + WORD)
        for first in range(0, batch.count, LOOKUP_SIZE):
            count = min(LOOKUP_SIZE, batch.count - first)
            self.kernel.look_up(
                commands, len(commands), ends.buffer_info()[0], first, count, words, requests, replies, lengths
            )
            yield Lookup(
                count, bytes(memoryview(requests)[: lengths.requests]), bytes(memoryview(replies)[: lengths.replies])
            )

    def _make_buffers(self, length: int) -> _Buffers:
        return _Buffers(len(self._rows), length, len(self._flags), self._table)

    def _encode_text(self, text: Text, stops: Callable[[], bool]) -> EncodedText:
        counts = [row.count for row in self._rows]
        found = EncodedText(0, [])
        progress = self._progress
        progress.line = progress.skipped = 0
        for buffer, start, end in text.slices:
            if buffer[end - 1] != _LINE_FEED:
                raise ValueError("a text consists of whole lines")
            progress.position = start
            self._encode_lines(buffer, end, found, stops)
        found.lines = progress.line
        found.skipped += progress.skipped
        found.records = [row.count - count for row, count in zip(self._rows, counts, strict=True)]
        return found

    def _encode_lines(self, buffer: bytes, end: int, found: EncodedText, stops: Callable[[], bool]) -> None:
        """Encode the lines of a buffer from where `progress` stands."""
        progress, rows, to = self._progress, self._rows, self._buffers
        while progress.position < end:
            self.kernel.encode(buffer, end, self._rules, progress, rows, *to.addresses, to.shape)
            if progress.position == end or stops():
                break
            line_end = buffer.index(b"\n", progress.position)
            record = self._reader.read(buffer[progress.position : line_end], progress.line, found)
            if record is not None:
                partition, apps_installed = record
                command = meta_set(apps_installed.key, serialize(apps_installed), self._flags)
                self._add(partition, command, progress.line)
            progress.position = line_end + 1
            progress.line += 1

    def _add(self, partition: int, command: bytes, line: int) -> None:
        row, buffers = self._rows[partition], self._buffers
        start = partition * buffers.row_bytes + row.length
        buffers.bytes[start : start + len(command)] = command
        row.length += len(command)
        place = partition * buffers.row_records + row.count
        buffers.ends[place] = row.length
        buffers.lines[place] = line
        row.count += 1

    def _batch(self, partition: int) -> Batch:
        row, buffers = self._rows[partition], self._buffers
        count, start, place = row.count, partition * buffers.row_bytes, partition * buffers.row_records
        return Batch(
            count,
            buffers.bytes[start : start + row.length].tobytes(),
            array("i", buffers.ends[place : place + count].tobytes()),
            array("i", buffers.lines[place : place + count].tobytes()),
        )
