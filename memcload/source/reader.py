r"""From a file to texts: whole lines, in bounded memory whatever the file holds.

Every line of a text ends in `\n`, also the last line of a file that lacks it. A line longer than MAX_LINE_LENGTH is
cut to LONGEST_KEPT bytes while it is read: still too long, so still rejected.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterator

from memcload.records import MAX_LINE_LENGTH
from memcload.source.archive import Bytes, decompress
from memcload.source.damage import HEAD, Damage, foreign
from memcload.text import Slice, Text

_NOTHING = Text([])
_NEARLY = 8  # so much of a text may be missing: the rest would be another call of the decoder
_WORTH_A_SLICE = 1 << 16  # bytes: many short slices, as of an archive of many members, are cheaper to join

LONGEST_KEPT = MAX_LINE_LENGTH + 2  # with a `\r` at its end, taken for a line ending, still too long


class InputFile(ABC):
    """One input file of a source, opened once and read once. It is closed as soon as it is read.

    path: what the source calls it
    size: in bytes, when it was opened
    bytes_read: how many of them, compressed as they are, were read so far
    damage: what is wrong with the file, known once it is read
    read_error: what ended the reading, if the file could not be read to its end
    ends_within_line: the file is plain text whose last line lacks its ending, known once it is read: it may still be
        being written. (An archive that is complete is complete whatever its last line is.)
    arrives_whole: nobody sees the file before all of it is there, so that it is never still being written
    """

    arrives_whole = False

    def __init__(self, path: str, file: Bytes, size: int) -> None:
        self.path = path
        self.size = size
        self.bytes_read = 0
        self.damage: Damage | None = None
        self.read_error: OSError | None = None
        self.ends_within_line = False
        self._format: str | None = None
        self._file = file

    @property
    @abstractmethod
    def age(self) -> float:
        """Seconds since the file was last written to; negative if it is dated in the future."""

    @property
    @abstractmethod
    def mode(self) -> int:
        """Who may read and write the file, as permission bits."""

    @property
    @abstractmethod
    def version(self) -> object:
        """What was opened: equal where another host has opened the same, as it was then."""

    @abstractmethod
    def is_unchanged(self) -> bool:
        """Return True if the path still names the file that was opened, as it was then."""

    @abstractmethod
    def is_open_for_writing(self) -> bool:
        """Return True if some process has the file open for writing; False also where that can't be known."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def texts(self, size: int) -> Iterator[Text]:
        """Yield the file's lines in texts of about `size` bytes, in order.

        A text may be empty: there is nothing yet, but the caller gets to look whether to go on, some hundredths of a
        second after the last time at most. At a damaged place the texts end with the last whole line before it: a
        line that was cut off may look like a valid one. An error ends them, too: see `read_error`.
        """
        try:
            yield from self._texts(size)
        except OSError as error:
            self.read_error = error
        finally:
            self.close()

    def _texts(self, size: int) -> Iterator[Text]:
        slices: list[Slice] = []  # whole lines
        length = 0
        unfinished = bytearray()  # the beginning of a line whose end is not read yet
        for chunk in self._chunks(size):
            start, end = 0, chunk.rfind(b"\n") + 1
            if unfinished and end:
                start = chunk.index(b"\n") + 1
                slices.append(_finished_line(unfinished, chunk[: start - 1]))
                length += slices[-1].end
            if start < end:
                slices.append(Slice(chunk, start, end))
                length += end - start
            if end:
                unfinished = bytearray(chunk[end:])
            else:
                _extend_line(unfinished, chunk)
            if length + len(unfinished) >= size - size // _NEARLY:
                yield _text_of(slices)
                slices, length = [], 0
            else:
                yield _NOTHING
        self.ends_within_line = bool(unfinished) and self._format is None
        if unfinished and not self.damage:
            slices.append(_finished_line(unfinished, b""))
        yield _text_of(slices)

    def _chunks(self, size: int) -> Iterator[bytes]:
        """Yield the text in pieces, without its byte order mark; set `damage` if the text is none."""
        chunks = self._decompressed(size)
        head = b""
        for chunk in chunks:
            head += chunk
            if len(head) >= HEAD:
                break
            yield b""
        if damage := foreign(head):
            self.damage = damage
            return
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from chunks

    def _decompressed(self, size: int) -> Iterator[bytes]:
        chunks = decompress(self._file, size)
        while True:
            try:
                chunk = next(chunks)
            except StopIteration as end:
                self._format, self.damage = end.value
                return
            finally:
                self.bytes_read = max(self.bytes_read, self._file.tell())  # part of it may be read twice
            yield chunk


def _text_of(slices: list[Slice]) -> Text:
    """Return a text of lines that lie in these slices, or a copy of them where the slices are not worth keeping."""
    text = Text(slices)
    held = sum([len(buffer) for buffer, _, _ in slices])
    has_short_slices = len(text) < (len(slices) - 1) * _WORTH_A_SLICE
    return Text.of(bytes(text)) if has_short_slices or held > 2 * len(text) else text


def _finished_line(line: bytearray, rest: bytes) -> Slice:
    _extend_line(line, rest)
    whole = bytes(line) + b"\n"
    return Slice(whole, 0, len(whole))


def _extend_line(line: bytearray, piece: bytes) -> None:
    """Append to a line, keeping no more than LONGEST_KEPT bytes of it."""
    room = LONGEST_KEPT - len(line)
    line += piece[:room]
    if len(piece) > room and line[:1].isspace() and line[-1:].isspace() and (rest := piece[room:].strip()):
        line[-1:] = rest[:1]  # or the cut could make a blank line of one that is not


def cut_line(line: bytes) -> bytes:
    """Return a line as it is kept: cut where it is longer than LONGEST_KEPT."""
    kept = bytearray()
    _extend_line(kept, line)
    return bytes(kept)
