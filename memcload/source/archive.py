"""Archives become the text they hold: one loop over members, streams and frames, whatever the format.

A damaged archive never ends early in silence: what the format's own tool (gzip, bzip2, xz, zstd) warns of is
reported as Damage, and what it reads without a warning is read whole. Memory is bounded whatever the archive says.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol

from memcload.source import decoders
from memcload.source.damage import HEAD, Damage, binary, foreign
from memcload.source.decoders import Decoder

_READ = 15 << 15  # bytes of the file at a time: usually a little less than a chunk of text
_CHUNK = 1 << 20  # bytes of text at a time: a moment's work
_SALVAGED = 1 << 12  # bytes of text at a time, where it is decoded byte by byte
_CHECKED = 8  # bytes at the start of a member that a format may object to
_COMPARED = 64  # bytes of text, where two decoders should have given the same


class _Format(NamedTuple):
    """A format: how its parts are known, read and judged.

    unit: what the format calls one of the parts that a file may be put together from
    magic: what each part begins with
    shortest_magic: to know a file that has only just begun to be written
    decoder, careful_decoder: the fast one, and one that gives every byte before a damaged place
    objection: why the format's own tool would refuse a part that begins with these bytes, or None
    needs_care: whether the fast decoder may misread a part that begins with these bytes
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
    needs_care: Callable[[bytes], bool] = lambda start: False
    padding: int = 0
    resumes_after_padding: bool = False


def _gzip_objection(start: bytes) -> str | None:
    return "has flags that gzip does not support" if len(start) > 3 and start[3] & 0xE0 else None


def _gzip_needs_care(start: bytes) -> bool:
    """Return True for a header with a checksum or several fields: isal misreads it where it comes in pieces."""
    flags = start[3] if len(start) > 3 else 0
    return bool(flags & 0x02) or (flags & 0x1C).bit_count() > 1


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
        needs_care=_gzip_needs_care,
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


class Bytes(Protocol):
    """A file that is read in order, and sometimes from an earlier position again."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end. Raises OSError."""

    def seek(self, position: int, /) -> int:
        """Go to a position. Raises io.UnsupportedOperation where that can't be done."""

    def tell(self) -> int:
        """Return the position."""

    def close(self) -> None:
        """Close the file. Once is enough."""


class Ending(NamedTuple):
    """What is known of a file once it is read: which archive it was, none if it is plain text, and its damage."""

    format: str | None
    damage: Damage | None


def decompress(file: Bytes, size: int) -> Generator[bytes, None, Ending]:
    """Yield the text of a file, plain or an archive, in pieces of at most `size` bytes; return how it ended.

    A piece may be empty: there is nothing yet, but the caller gets to look whether to go on. `file` needs no more
    than `read`. Where it can `seek`, all that can be decoded of a damaged member is given: the member is read twice.

    Raises:
        OSError: the file can't be read, or this Python lacks the library that its format needs
    """
    data = _Input(file)
    size = min(size, _CHUNK)
    head = data.peek(HEAD)
    format = next((format for format in _FORMATS if format.magic.match(head)), None)
    if format is None:
        return Ending(None, (yield from _plain(data, size)))
    damage = None
    first_read = _READ
    while not damage and data.peek(1):
        start = data.position
        damage = yield from _member(format, data, size, first_read)
        first_read = min(_READ, 2 * (data.position - start))  # what is read beyond a part has to be copied
        damage = damage or (yield from _gap(format, data))
    return Ending(format.name, damage)


class _Input:
    """The bytes of a file, from `position` on."""

    def __init__(self, file: Bytes) -> None:
        self._file = file
        self._data = b""
        self._offset = 0  # in the data, of the position
        self._is_at_end = False  # there is nothing to read behind the data
        self.position = 0

    def peek(self, count: int) -> bytes:
        """Return the next bytes, at most `count`, without going past them."""
        while len(self._data) - self._offset < count and (more := self._read()):
            self._data, self._offset = self._data[self._offset :] + more, 0
        return self._data[self._offset : self._offset + count]

    def take(self, count: int) -> bytes:
        """Return the next bytes, at most `count`; none at the end of the file."""
        if self._offset == len(self._data):
            self._data, self._offset = self._read(), 0
        taken = self._data[self._offset : self._offset + count]
        self._offset += len(taken)
        self.position += len(taken)
        return taken

    def give_back(self, count: int) -> None:
        """Go back over the last bytes that were taken."""
        self._offset -= count
        self.position -= count

    def go_back(self, position: int) -> bool:
        """Go back to an earlier position, if the file can; return True if it could."""
        try:
            self._file.seek(position)
        except (AttributeError, io.UnsupportedOperation):
            return False
        self._data, self._offset, self.position = b"", 0, position
        self._is_at_end = False
        return True

    def _read(self) -> bytes:
        data = b"" if self._is_at_end else self._file.read(_READ)
        self._is_at_end = not data
        return data


def _plain(data: _Input, size: int) -> Generator[bytes, None, Damage | None]:
    """Yield the bytes of a file that is no archive; refuse what is not text either."""
    head = data.peek(HEAD)
    for format in _FORMATS:
        if head and format.shortest_magic.startswith(head):
            return Damage("truncated", f"it ends within the first bytes of a {format.name} archive")
    if damage := foreign(head) or binary(head):
        return damage
    while piece := data.take(size):
        yield piece
    return None


def _member(format: _Format, data: _Input, size: int, first_read: int) -> Generator[bytes, None, Damage | None]:
    """Yield the text of the part at the current position, and go behind it."""
    start = data.position
    subject = f"the {format.name} {format.unit} that starts at byte {start:,}"
    head = data.peek(_CHECKED)
    if objection := format.objection(head):
        return Damage("unsupported", f"{subject} {objection}")
    new_decoder = format.careful_decoder if format.needs_care(head) else format.decoder
    attempt = yield from _decode(data, new_decoder(), size, first_read)
    problem = attempt.problem
    if problem and "memory" in str(problem).lower():  # so say liblzma and libzstd alike
        limit = decoders.MAX_WINDOW >> 20
        return Damage("unsupported", f"{subject} needs a window of more than {limit} MiB, which is the limit")
    gave_everything = isinstance(problem, EOFError) and new_decoder is format.careful_decoder
    if problem and not gave_everything and data.go_back(start):
        problem = yield from _decode_again(data, format.careful_decoder(), size, attempt)
    if isinstance(problem, EOFError):
        return Damage("truncated", f"{subject} ends early")
    return Damage("corrupt", f"{subject} is corrupt") if problem else None


class _Attempt(NamedTuple):
    """How far a part was read: how many bytes of text it gave, the last of them, where the last input began, and what
    went wrong.
    """

    given: int
    last_text: bytes
    last_input: int
    problem: Exception | None


def _decode(data: _Input, decoder: Decoder, size: int, first_read: int) -> Generator[bytes, None, _Attempt]:
    """Yield the text of one part and go behind it."""
    given = 0
    last_text = b""
    start = last_input = data.position
    while not decoder.eof:
        if decoder.needs_input:
            last_input = data.position
        text, problem = _step(data, first_read if data.position == start else _READ, decoder, size)
        if problem:
            return _Attempt(given, last_text, last_input, problem)
        if text:
            given += len(text)
            last_text = text[-_COMPARED:]
        yield text
    data.give_back(len(decoder.unused_data))
    return _Attempt(given, b"", last_input, None)


def _decode_again(
    data: _Input, decoder: Decoder, size: int, attempt: _Attempt
) -> Generator[bytes, None, Exception | None]:
    """Yield what else can be decoded of a damaged part, go behind it, and return what went wrong this time.

    A decoder that meets damage gives nothing of what it had read in that call. So where the damage was met, it gets
    its input byte by byte, and gives its text byte by byte.
    """
    position = 0
    known = b""  # the last bytes of what was given before
    salvaged = bytearray()
    problem = None
    while not decoder.eof and not problem:
        if data.position < attempt.last_input:
            count = min(_READ, attempt.last_input - data.position)
        else:
            count = 1 if data.position < attempt.last_input + _READ else _READ
        if position < attempt.given:
            limit = min(size, attempt.given - position)
        else:
            limit = 1 if position < attempt.given + size else size
        text, problem = _step(data, count, decoder, limit)
        if position >= attempt.given:
            salvaged += text
        else:
            known = (known + text)[-len(attempt.last_text) :]
        position += len(text)
        if position == attempt.given and known != attempt.last_text:
            return ValueError("two decoders give different text")
        if len(salvaged) >= _SALVAGED or decoder.needs_input:
            yield bytes(salvaged)
            salvaged.clear()
    yield bytes(salvaged)
    if not problem:
        data.give_back(len(decoder.unused_data))
    return problem


def _step(data: _Input, count: int, decoder: Decoder, limit: int) -> tuple[bytes, Exception | None]:
    """Return some text, at most `limit` bytes, and what went wrong: an EOFError where the file ends too early.

    count: how many bytes of input the decoder gets, if it needs some
    """
    needs_input = decoder.needs_input
    more = data.take(count) if needs_input else b""
    is_at_end = needs_input and not more
    try:
        text = decoder.decompress(more, limit)
    except MemoryError:
        raise
    except Exception as error:  # each library has one of its own
        return b"", EOFError() if is_at_end else error
    if is_at_end and not text:  # bz2 asks for input while it holds text
        return b"", EOFError()
    return text, None


def _gap(format: _Format, data: _Input) -> Generator[bytes, None, Damage | None]:
    """Go past the padding behind a part, to the next part or the end of the file; judge what is there."""
    place = f"after the {format.name} {format.unit} that ends at byte {data.position:,}"
    zeros = 0
    while format.padding and (some := data.take(_READ)):
        rest = some.lstrip(b"\x00")
        zeros += len(some) - len(rest)
        if rest:
            data.give_back(len(rest))
            break
        yield b""
    head = data.peek(_CHECKED)
    if not head:
        if zeros % (format.padding or 1):
            return Damage("truncated", f"the padding {place} is incomplete")
        return None
    if not zeros or (format.resumes_after_padding and not zeros % format.padding):
        if format.magic.match(head):
            return None
        if format.shortest_magic.startswith(head):
            return Damage("truncated", f"the data {place} ends early")
    return Damage("corrupt", f"the data {place} is not another {format.unit}")
