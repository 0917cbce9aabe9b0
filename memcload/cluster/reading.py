"""Stage 1, on any worker: files become parts, each with the records of each partition.

A file is one stream: the worker that has read a part of it keeps it open for the next. Where that is lost, the file is
read again from its beginning. A part ends with the line that reaches its size, so it is always the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from memcload.cluster.job import Array, Buffer, FileEnd, Segment
from memcload.counts import RejectedLines
from memcload.encode.encoder import Encoder
from memcload.source.source import Source
from memcload.text import Text


class Piece(NamedTuple):
    """Whole lines of one file, and how much of it was read so far; or its end."""

    file: int
    text: Text
    bytes_read: int
    end: FileEnd | None = None


class Stream:
    """Files that are read one after the other.

    is_over: everything was read
    """

    def __init__(self, source: Source, paths: Sequence[str], block_size: int) -> None:
        self._pieces = _read(source, paths, block_size)
        self._left: Piece | None = None
        self._position = 0  # bytes of lines
        self.is_over = False

    def pieces(self, size: int) -> Iterator[Piece]:
        """Yield the next part: up to the line that reaches this many bytes of lines. Pieces may be empty."""
        end = self._position + size
        while self._position < end:
            piece = self._left or next(self._pieces, None)
            self._left = None
            if piece is None:
                self.is_over = True
                return
            text, rest = piece.text.cut(end - self._position)
            if rest:
                piece, self._left = piece._replace(text=text), piece._replace(text=rest)
            self._position += len(text)
            yield piece

    def close(self) -> None:
        """Close the file that is open."""
        self._pieces.close()


def _read(source: Source, paths: Sequence[str], block_size: int) -> Generator[Piece, None, None]:
    for number, path in enumerate(paths):
        try:
            file = source.open(path)
        except OSError as error:
            yield Piece(number, Text([]), 0, FileEnd(read_error=error.strerror or str(error)))
            continue
        try:
            for text in file.texts(block_size):
                yield Piece(number, text, file.bytes_read)
        finally:
            file.close()
        error_text = (file.read_error.strerror or str(file.read_error)) if file.read_error else ""
        end = FileEnd(file.version, file.damage, error_text, file.ends_within_line)
        yield Piece(number, Text([]), file.bytes_read, end)


@dataclasses.dataclass
class _OpenSegment:
    file: int
    records: list[int]
    lines: int = 0
    rejects: RejectedLines = dataclasses.field(default_factory=RejectedLines)
    partial: int = 0
    blank: int = 0
    skipped: int = 0
    shown: list[str] = dataclasses.field(default_factory=list)
    bytes_read: int = 0
    end: FileEnd | None = None

    def close(self) -> Segment:
        return Segment(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


class PartBuilder:
    """Collects the records of a part."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._segments: list[_OpenSegment] = []
        self._commands: list[list[bytes | memoryview]] = [[] for _ in range(partitions)]
        self._ends: list[list[Array]] = [[] for _ in range(partitions)]
        self._lines: list[list[Array]] = [[] for _ in range(partitions)]
        self._sizes = [0] * partitions

    def add(self, piece: Piece, encoder: Encoder, shown: list[str]) -> None:
        """Add a piece."""
        if not self._segments or self._segments[-1].file != piece.file:
            self._segments.append(_OpenSegment(piece.file, [0] * self._partitions))
        segment = self._segments[-1]
        segment.bytes_read, segment.end = piece.bytes_read, piece.end
        segment.shown += shown
        if not piece.text:
            return
        batches, (text,) = encoder.encode([piece.text])
        for number, batch in enumerate(batches):
            if batch.count:
                self._commands[number].append(batch.commands)
                self._ends[number].append(np.array(batch.ends, np.int32) + np.int32(self._sizes[number]))
                self._lines[number].append(np.array(batch.lines, np.int32) + np.int32(segment.lines))
                self._sizes[number] += len(batch.commands)
                segment.records[number] += batch.count
        for reject in text.rejects:
            segment.rejects.append(reject._replace(line=reject.line + segment.lines))
        segment.lines += text.lines
        segment.partial += text.partial
        segment.blank += text.blank
        segment.skipped += text.skipped

    def segments(self) -> list[Segment]:
        """Return what the part holds of each file."""
        return [segment.close() for segment in self._segments]

    @property
    def size(self) -> int:
        """How many bytes of commands there are."""
        return sum(self._sizes)

    def buffers(self) -> list[Buffer | None]:
        """Return the records of each partition, None where there are none."""
        buffers: list[Buffer | None] = []
        for number, commands in enumerate(self._commands):
            if not commands:
                buffers.append(None)
                continue
            joined = np.frombuffer(b"".join(commands), np.uint8)
            commands.clear()
            ends, lines = np.concatenate(self._ends[number]), np.concatenate(self._lines[number])
            buffers.append(Buffer(joined, ends, lines, [segment.records[number] for segment in self._segments]))
        return buffers
