r"""From a file to blocks of whole lines, in bounded memory whatever the file holds.

Every line of a block ends in `\n`, also the last line of a file that lacks it. A line longer than
MAX_LINE_LENGTH is cut to LONGEST_KEPT bytes while it is read: still too long, so still rejected.
"""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from typing import Literal

from xopen import xopen

from memcload.records import MAX_LINE_LENGTH

LONGEST_KEPT = MAX_LINE_LENGTH + 2  # with a `\r` at its end, taken for a line ending, still too long

Damage = Literal["truncated", "corrupt"]

_GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952
_MAGIC = {
    "gz": _GZIP_MAGIC,
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zst": b"\x28\xb5\x2f\xfd",  # RFC 8878
}


class LogFile:
    """One input file, opened once. Close it, or use it as a context manager.

    Compressed files (gzip, bz2, xz, zst) are known by their content. `damage` says, once the blocks
    have come to their end, what was wrong with the archive; `description` says it in words. `bytes_read`
    counts the bytes of the file, as it lies on disk, that were read so far.

    Raises OSError where the file can't be opened or read, or is no regular file. A symbolic link is
    not followed: it could lead anywhere.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.damage: Damage | None = None
        self.description = ""
        self.bytes_read = 0
        # O_NONBLOCK: opening a pipe that matches the pattern must not wait for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        self._file = os.fdopen(descriptor, "rb")
        try:
            self.stat = os.fstat(descriptor)
            if not stat.S_ISREG(self.stat.st_mode):
                raise OSError(None, "not a regular file", path)
            magic = self._file.peek(8)
            self._format = next((name for name, start in _MAGIC.items() if magic.startswith(start)), None)
        except BaseException:
            self._file.close()
            raise
        if 0 < self.stat.st_size < len(_GZIP_MAGIC) and _GZIP_MAGIC.startswith(magic):
            self._format = "gz"  # which has only just begun to be written

    def __enter__(self) -> LogFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def is_unchanged(self) -> bool:
        """Tell whether the path still names the file that was opened, as it was then."""
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        before = self.stat
        return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) == (
            before.st_dev,
            before.st_ino,
            before.st_size,
            before.st_mtime_ns,
        )

    def blocks(self, block_size: int) -> Iterator[bytes]:
        """Yield the file's lines in blocks of about `block_size` bytes, in order.

        At a damaged place the blocks end with the last whole line before it: a line that was cut off
        may look like a valid one.
        """
        unfinished = bytearray()  # the beginning of a line whose end is not read yet
        for chunk in self._chunks(block_size):
            end = chunk.rfind(b"\n") + 1
            if not end:
                _extend_line(unfinished, chunk)
                continue
            if unfinished:
                first = chunk.index(b"\n")
                _extend_line(unfinished, chunk[:first])
                yield b"".join((unfinished, memoryview(chunk)[first:end]))
            else:
                yield chunk[:end]
            unfinished = bytearray(chunk[end:])
        if unfinished and not self.damage:
            yield bytes(unfinished) + b"\n"

    def _chunks(self, size: int) -> Iterator[bytes]:
        """Yield the decompressed bytes, up to the damage if there is some; set `damage`."""
        # threads=0: without processes and pipes; gzip is then read by ISA-L, in this thread
        stream = self._file if self._format is None else xopen(self._file, "rb", threads=0, format=self._format)
        position = 0
        while not self.damage:
            try:
                chunk = stream.read(size)
            except EOFError as error:
                self.damage, self.description = "truncated", str(error)
            except Exception as error:  # each decompressor has an exception of its own for bad data
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                self.damage, self.description = "corrupt", str(error)
            else:
                if not chunk:
                    return
                position += len(chunk)
                self.bytes_read = self._file.tell()
                yield chunk
        if self._format == "gz":
            yield from self._salvage(position, size)

    def _salvage(self, position: int, size: int) -> Iterator[bytes]:
        """Yield what a damaged gzip file holds between `position` and the damage itself.

        The fast reader loses what it had decompressed of the chunk in which it met the damage. zlib,
        fed and asked byte by byte, gives each byte that can be had.
        """
        self._file.seek(0)
        salvaged = bytearray()
        decompressor = zlib.decompressobj(wbits=31)
        compressed = b""
        with contextlib.suppress(zlib.error):  # the damage
            while compressed or (compressed := self._file.read(4096)):
                if position:
                    data = decompressor.decompress(compressed, position)
                    position -= len(data)
                    compressed = decompressor.unconsumed_tail
                else:
                    data = decompressor.decompress(compressed[:1], 1)
                    salvaged += data
                    compressed = decompressor.unconsumed_tail + compressed[1:]
                if decompressor.eof:  # then comes the next member, or zeros that pad the file
                    compressed = (decompressor.unused_data + compressed).lstrip(b"\x00")
                    decompressor = zlib.decompressobj(wbits=31)
                if len(salvaged) >= size:
                    yield bytes(salvaged)
                    salvaged.clear()
            salvaged += decompressor.flush()  # the last bytes of a truncated file may stand for many
        if salvaged:
            yield bytes(salvaged)


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
