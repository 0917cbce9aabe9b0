"""Archives become the text they hold: one loop over members, streams and frames, whatever the format.

A damaged archive never ends early in silence: what the format's own tool (gzip, bzip2, xz, zstd) complains of is
reported as Damage, and what it reads without complaint is read whole. Memory is bounded whatever the archive says.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Generator
from typing import BinaryIO, NamedTuple

from memcload.source import decoders
from memcload.source.damage import HEAD, Damage, binary, foreign
from memcload.source.decoders import Decoder

_READ = 1 << 17  # bytes of the file at a time
_CHUNK = 1 << 18  # bytes of text at a time: even a slow decoder gives that many in some hundredths of a second
_SALVAGED = 1 << 12  # bytes of text at a time, where it is asked for byte by byte
_CHECKED = 8  # bytes at the start of a member that a format may object to


class _Format(NamedTuple):
    """A format: how its parts are known, read and judged.

    unit: what the format calls one of the parts that a file may be put together from
    magic: what each part begins with
    shortest_magic: to know a file that has only just begun to be written
    decoder, careful_decoder: the fast one, and one that gives every byte before a damaged place
    objection: why the format's own tool would refuse a part that begins with these bytes, or None
    padding: behind a part there may be zeros, a multiple of this many; 0 where there may be none
    resumes_after_padding: another part may follow the zeros
    """

    name: str
    unit: str
    magic: re.Pattern[bytes]
    shortest_magic: bytes
    decoder: Callable[[], Decoder]
    careful_decoder: Callable[[], Decoder]
    objection: Callable[[bytes], str | None] = lambda start: None
    padding: int = 0
    resumes_after_padding: bool = False


def _gzip_objection(start: bytes) -> str | None:
    return "has flags that gzip does not support" if len(start) > 3 and start[3] & 0xE0 else None


def _xz_objection(start: bytes) -> str | None:
    supported = (0, 1, 4, 10)  # none, CRC32, CRC64, SHA-256
    return (
        "has an integrity check that can't be verified" if len(start) > 7 and start[7] & 15 not in supported else None
    )


_FORMATS = (
    _Format(
        "gzip",
        "member",
        re.compile(rb"\x1f\x8b"),
        b"\x1f\x8b",
        decoders.fast_gzip_decoder,
        decoders.ZlibDecoder,
        objection=_gzip_objection,
        padding=1,
    ),
    _Format("bz2", "stream", re.compile(rb"BZh[1-9]"), b"BZh1", decoders.bz2_decoder, decoders.bz2_decoder),
    _Format(
        "xz",
        "stream",
        re.compile(rb"\xfd7zXZ\x00"),
        b"\xfd7zXZ\x00",
        decoders.xz_decoder,
        decoders.xz_decoder,
        objection=_xz_objection,
        padding=4,
        resumes_after_padding=True,
    ),
    _Format(
        "zst",
        "frame",
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # the second is a skippable frame's
        b"\x28\xb5\x2f\xfd",
        decoders.zst_decoder,
        decoders.zst_decoder,
    ),
)


def decompress(file: BinaryIO, size: int) -> Generator[bytes, None, Damage | None]:
    """Yield the text of a file, plain or an archive, in pieces of at most about `size` bytes; return its damage.

    A piece may be empty: there is nothing yet, but the caller gets to look whether to go on. `file` needs no more
    than `read`. Where it can `seek`, all that can be had of a damaged member is given: the member is read twice.

    Raises:
        OSError: the file can't be read, or this Python lacks the library that its format needs
    """
    data = _Input(file)
    data.fill(HEAD)
    format = next((format for format in _FORMATS if format.magic.match(data.held)), None)
    if format is None:
        return (yield from _plain(data.held, file, min(size, _CHUNK)))
    size = min(size, _CHUNK)
    while True:
        damage = yield from _member(format, data, size)
        damage = damage or (yield from _gap(format, data))
        if damage or not data.held:
            return damage


class _Input:
    """The bytes of a file from `position` on; `held` are those that were read already."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.held = b""
        self.position = 0

    def fill(self, count: int) -> None:
        """Read on until at least so many bytes are held, or the file has ended."""
        while len(self.held) < count and (more := self._file.read(_READ)):
            self.held += more

    def take(self) -> bytes:
        """Return the bytes that are held, or the next ones; none at the end of the file."""
        self.fill(1)
        taken, self.held = self.held, b""
        self.position += len(taken)
        return taken

    def give_back(self, unused: bytes) -> None:
        """Hold the last of the bytes that were taken again."""
        self.held = unused + self.held
        self.position -= len(unused)

    def go_back(self, position: int) -> bool:
        """Start again from an earlier position, if the file can; return True if it could."""
        try:
            self._file.seek(position)
        except (AttributeError, io.UnsupportedOperation):
            return False
        self.held, self.position = b"", position
        return True


def _plain(head: bytes, file: BinaryIO, size: int) -> Generator[bytes, None, Damage | None]:
    """Yield the bytes of a file that is no archive; refuse what is not text either."""
    for format in _FORMATS:
        if head and format.shortest_magic.startswith(head):
            return Damage("truncated", f"it ends within the first bytes of a {format.name} archive")
    if damage := foreign(head) or binary(head[:HEAD]):
        return damage
    for start in range(0, len(head), size):
        yield head[start : start + size]
    while piece := file.read(size):
        yield piece
    return None


def _member(format: _Format, data: _Input, size: int) -> Generator[bytes, None, Damage | None]:
    """Yield the text of the part at the current position, and go behind it."""
    start = data.position
    subject = f"the {format.name} {format.unit} that starts at byte {start:,}"
    data.fill(_CHECKED)
    if objection := format.objection(data.held):
        return Damage("unsupported", f"{subject} {objection}")
    given, problem = yield from _decode(data, format.decoder(), size)
    if problem and "memory" in str(problem).lower():  # so say liblzma and libzstd alike
        limit = decoders.MAX_WINDOW >> 20
        return Damage("unsupported", f"{subject} needs a window of more than {limit} MiB, which is the limit")
    gave_everything = isinstance(problem, EOFError) and format.decoder is format.careful_decoder
    if problem and not gave_everything and data.go_back(start):
        problem = yield from _decode_again(data, format.careful_decoder(), size, given)
    if isinstance(problem, EOFError):
        return Damage("truncated", f"{subject} ends early")
    return Damage("corrupt", f"{subject} is corrupt") if problem else None


def _decode(data: _Input, decoder: Decoder, size: int) -> Generator[bytes, None, tuple[int, Exception | None]]:
    """Yield the text of one part and go behind it; return the text's length and what went wrong."""
    given = 0
    while not decoder.eof:
        text, problem = _step(data, decoder, size)
        if problem:
            return given, problem
        given += len(text)
        yield text
    data.give_back(decoder.unused_data)
    return given, None


def _decode_again(data: _Input, decoder: Decoder, size: int, given: int) -> Generator[bytes, None, Exception | None]:
    """Yield what else can be had of a damaged part, of whose text `given` bytes were yielded before.

    A decoder that meets damage gives nothing of what it had read in that call, which could be `size` bytes. So these
    are asked for one by one.
    """
    position = 0
    while position < given and not decoder.eof:
        text, problem = _step(data, decoder, min(size, given - position))
        if problem:
            return problem
        position += len(text)
        yield b""
    salvaged = bytearray()
    while not decoder.eof:
        text, problem = _step(data, decoder, 1 if position < given + size else size)
        if problem:
            yield bytes(salvaged)
            return problem
        position += len(text)
        salvaged += text
        if len(salvaged) >= _SALVAGED or decoder.needs_input:
            yield bytes(salvaged)
            salvaged.clear()
    yield bytes(salvaged)
    data.give_back(decoder.unused_data)
    return None


def _step(data: _Input, decoder: Decoder, limit: int) -> tuple[bytes, Exception | None]:
    """Return some text, at most `limit` bytes, and what went wrong: an EOFError where the file ends too early."""
    more = data.take() if decoder.needs_input else b""
    if decoder.needs_input and not more:
        return b"", EOFError()
    try:
        return decoder.decompress(more, limit), None
    except MemoryError:
        raise
    except Exception as error:  # each library has one of its own
        return b"", error


def _gap(format: _Format, data: _Input) -> Generator[bytes, None, Damage | None]:
    """Go past the padding behind a part, to the next part or the end of the file; judge what is there."""
    start = data.position
    zeros = 0
    while format.padding and (held := data.take()):
        rest = held.lstrip(b"\x00")
        zeros += len(held) - len(rest)
        data.give_back(rest)
        if rest:
            break
        yield b""
    data.fill(_CHECKED)
    subject = f"what follows the {format.name} {format.unit} that ends at byte {start:,}"
    if not data.held:
        if zeros % (format.padding or 1):
            return Damage("truncated", f"{subject} is no whole padding")
        return None
    if not zeros or (format.resumes_after_padding and not zeros % format.padding):
        if format.magic.match(data.held):
            return None
        if format.shortest_magic.startswith(data.held):
            return Damage("truncated", f"{subject} ends early")
    return Damage("corrupt", f"{subject} is not another {format.unit}")
