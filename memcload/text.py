r"""Lines on their way from a file to the encoder, where the reader has put them: to join them would copy them."""

from __future__ import annotations

from typing import NamedTuple


class Slice(NamedTuple):
    """Some of the bytes of a buffer."""

    buffer: bytes
    start: int
    end: int


class Text:
    r"""Whole lines of one file, in order; each ends in `\n`, and lies in one slice.

    `len` tells how many bytes they are; `bytes` joins them.
    """

    __slots__ = ("_length", "slices")

    def __init__(self, slices: list[Slice]) -> None:
        self.slices = slices
        self._length = sum([end - start for _, start, end in slices])

    @classmethod
    def of(cls, lines: bytes) -> Text:
        """Make a text of lines that lie in one buffer."""
        return cls([Slice(lines, 0, len(lines))] if lines else [])

    def cut(self, size: int) -> tuple[Text, Text]:
        """Return the lines up to the one that reaches `size` bytes, and those behind it."""
        for number, (buffer, start, end) in enumerate(self.slices):
            if end - start >= size:
                at = buffer.index(b"\n", start + size - 1) + 1
                behind = [Slice(buffer, at, end)] if at < end else []
                return Text([*self.slices[:number], Slice(buffer, start, at)]), Text(behind + self.slices[number + 1 :])
            size -= end - start
        return self, Text([])

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return b"".join([memoryview(buffer)[start:end] for buffer, start, end in self.slices])
